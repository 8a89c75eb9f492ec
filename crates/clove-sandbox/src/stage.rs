//! The launcher's small tmpfs with the /dev and /etc that every cell shows.

use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::MountFlags;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Where the tmpfs is mounted, in the launcher's own mount namespace only. It stays attached there: before Linux 6.15,
/// a detached tree can't be cloned again.
const PLACE: &str = "/run/clove/stage";
/// Device nodes: name, major, minor (Linux' devices.txt).
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// Of the host's /etc, what programs need and what says nothing about its people.
const ETC: [&str; 14] = [
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "localtime",
    "timezone",
    "ssl",
    "ca-certificates",
    "pki",
    "mime.types",
    "services",
    "protocols",
    "os-release",
    "magic",
];
/// Never copied, wherever it lies: private keys live in /etc/ssl/private.
const NEVER: [&str; 1] = ["private"];
/// More than a host's certificates ever take.
const MAX_FILE: u64 = 4 << 20;

/// Holds the two folders open.
#[derive(Debug)]
pub struct Stage {
    dev: OwnedFd,
    etc: OwnedFd,
}

impl Stage {
    /// Builds it. The caller has a mount namespace of its own.
    pub fn build() -> io::Result<Stage> {
        fs::create_dir_all(PLACE)?;
        rustix::mount::mount(
            "tmpfs",
            PLACE,
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NOEXEC,
            c"mode=700,size=64m",
        )?;
        Stage::fill(Path::new(PLACE))
    }

    fn fill(root: &Path) -> io::Result<Stage> {
        let dev = root.join("dev");
        let etc = root.join("etc");
        make_dev(&dev)?;
        make_etc(&etc)?;
        let open =
            |p: &Path| rustix::fs::open(p, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        Ok(Stage { dev: open(&dev)?, etc: open(&etc)? })
    }

    pub fn dev(&self) -> BorrowedFd<'_> {
        self.dev.as_fd()
    }

    pub fn etc(&self) -> BorrowedFd<'_> {
        self.etc.as_fd()
    }
}

fn folder(path: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn make_dev(dev: &Path) -> io::Result<()> {
    folder(dev, 0o755)?;
    for (name, major, minor) in DEVICES {
        let path = dev.join(name);
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            device,
        )?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    }
    for (name, to) in LINKS {
        symlink(to, dev.join(name))?;
    }
    folder(&dev.join("pts"), 0o755)?;
    folder(&dev.join("shm"), 0o1777)
}

fn make_etc(etc: &Path) -> io::Result<()> {
    folder(etc, 0o755)?;
    for name in ETC {
        copy(&Path::new("/etc").join(name), &etc.join(name), 0)?;
    }
    let write = |name: &str, text: &str| {
        fs::write(etc.join(name), text)?;
        fs::set_permissions(etc.join(name), fs::Permissions::from_mode(0o644))
    };
    write(
        "passwd",
        "root:x:0:0:root:/nonexistent:/usr/sbin/nologin\nagent:x:1000:1000:agent:/work:/bin/sh\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    )?;
    write("group", "root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n")?;
    write(
        "nsswitch.conf",
        "passwd: files\ngroup: files\nshadow: files\nhosts: files\nservices: files\nprotocols: files\n",
    )?;
    // Each cell writes its own.
    symlink("/run/clove/hosts", etc.join("hosts"))?;
    symlink("/run/clove/hostname", etc.join("hostname"))
}

/// Copies files, folders and links; what can't be read is left out.
fn copy(from: &Path, to: &Path, depth: u32) -> io::Result<()> {
    let Ok(meta) = fs::symlink_metadata(from) else { return Ok(()) };
    if meta.is_symlink() {
        let target = fs::read_link(from)?;
        // Links into /usr and within the copied folders hold inside too; /etc/localtime and /etc/os-release are such.
        return symlink(target, to);
    }
    if meta.is_dir() && depth < 6 {
        folder(to, 0o755)?;
        for entry in fs::read_dir(from)?.flatten() {
            if !NEVER.iter().any(|n| entry.file_name() == *n) {
                copy(&entry.path(), &to.join(entry.file_name()), depth + 1)?;
            }
        }
    } else if meta.is_file() && meta.len() <= MAX_FILE && meta.permissions().mode() & 0o004 != 0 {
        fs::copy(from, to)?;
        fs::set_permissions(to, fs::Permissions::from_mode(meta.permissions().mode() & 0o755))?;
    }
    Ok(())
}
