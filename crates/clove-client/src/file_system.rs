//! Which file systems a data directory can't lie on.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a file system is, as far as one can see from a path on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// `f_type` of statfs(2).
    pub magic: u32,
    /// Its name in /proc/self/mountinfo; looked up for FUSE only, which is one number for hundreds of programs.
    pub name: String,
}

const FUSE: u32 = 0x6573_5546;

/// What lies below a path.
///
/// # Errors
/// What statfs(2) says.
pub fn kind_of(path: &Path) -> io::Result<FileSystem> {
    // The field is signed; the magic numbers are 32 bits.
    let magic = rustix::fs::statfs(path)?.f_type as u32;
    let name = if magic == FUSE { mounted_as(path).unwrap_or_default() } else { String::new() };
    Ok(FileSystem { magic, name })
}

/// The name of a file system on which flock and fdatasync don't mean what the journal needs: that nobody else writes,
/// on this machine or another, and that what was synced is there after a loss of power. Magic numbers: statfs(2),
/// linux/magic.h.
pub fn network(fs: &FileSystem) -> Option<&'static str> {
    match fs.magic {
        0x6969 => Some("NFS"),
        0xff53_4d42 => Some("CIFS"),
        0x517b | 0xfe53_4d42 => Some("SMB"),
        0x5346_414f | 0x6b41_4653 => Some("AFS"),
        0x564c => Some("NCP"),
        0x7375_7245 => Some("Coda"),
        0x0102_1997 => Some("9P (a folder shared by another system)"),
        FUSE => REMOTE_FUSE.iter().find(|(name, _)| fs.name == *name).map(|(_, shown)| *shown),
        _ => None,
    }
}

/// Others of FUSE are local (ntfs-3g, mergerfs, virtiofs), and can be had.
const REMOTE_FUSE: &[(&str, &str)] = &[
    ("fuse.sshfs", "sshfs"),
    ("fuse.rclone", "rclone"),
    ("fuse.s3fs", "s3fs"),
    ("fuse.gcsfuse", "gcsfuse"),
    ("fuse.goofys", "goofys"),
    ("fuse.blobfuse", "blobfuse"),
    ("fuse.blobfuse2", "blobfuse"),
    ("fuse.davfs", "WebDAV"),
    ("fuse.curlftpfs", "FTP"),
    ("fuse.glusterfs", "GlusterFS"),
];

/// The type of the mount that a path lies on, by its device (proc(5), mountinfo).
fn mounted_as(path: &Path) -> Option<String> {
    let dev = path.metadata().ok()?.dev();
    let device = format!("{}:{}", rustix::fs::major(dev), rustix::fs::minor(dev));
    type_of_device(&std::fs::read_to_string("/proc/self/mountinfo").ok()?, &device)
}

fn type_of_device(mountinfo: &str, device: &str) -> Option<String> {
    mountinfo.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        (mount.split(' ').nth(2)? == device).then(|| source.split(' ').next().map(str::to_owned))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(magic: u32, name: &str) -> Option<&'static str> {
        network(&FileSystem { magic, name: name.into() })
    }

    #[test]
    fn network_file_systems_are_known_by_their_numbers() {
        for (magic, name) in [(0x6969, "NFS"), (0xff53_4d42, "CIFS"), (0xfe53_4d42, "SMB"), (0x517b, "SMB")] {
            assert_eq!(verdict(magic, ""), Some(name));
        }
        assert!(verdict(0x0102_1997, "").is_some_and(|n| n.starts_with("9P")));
        // ext4, xfs, btrfs, tmpfs, overlayfs, f2fs, zfs.
        for magic in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0xf2f5_2010, 0x2fc1_2fc1] {
            assert_eq!(verdict(magic, ""), None, "{magic:#x}");
        }
    }

    #[test]
    fn fuse_is_told_apart_by_name() {
        assert_eq!(verdict(FUSE, "fuse.sshfs"), Some("sshfs"));
        for local in ["virtiofs", "fuseblk", "fuse.mergerfs", ""] {
            assert_eq!(verdict(FUSE, local), None, "{local}");
        }
        let mountinfo = "25 1 254:0 / / rw - ext4 /dev/vda rw\n\
            90 25 0:51 / /home/u/far rw,nosuid shared:7 - fuse.sshfs u@far:/data rw,user_id=0\n";
        assert_eq!(type_of_device(mountinfo, "0:51").as_deref(), Some("fuse.sshfs"));
        assert_eq!(type_of_device(mountinfo, "0:52"), None);
    }

    #[test]
    fn what_is_mounted_here_is_seen() {
        let proc = kind_of(Path::new("/proc")).expect("statfs");
        assert_eq!(proc.magic, 0x9fa0);
        assert_eq!(mounted_as(Path::new("/proc")).as_deref(), Some("proc"));
    }
}
