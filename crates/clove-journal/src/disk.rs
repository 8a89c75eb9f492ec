//! The seam between the journal and the file system.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::io_failure::IoFailure;

/// Every call by which the journal changes the disk. Tests put short writes, full disks, failing syncs and the loss of
/// power here; everything else uses [`HostDisk`].
pub trait Disk: fmt::Debug + Send + Sync {
    /// Create a file that doesn't exist yet, for reading and writing, mode 0600.
    fn create(&self, path: &Path) -> io::Result<File>;
    /// Reserve `bytes` for the file and make them its size, so that later writes change no metadata.
    fn allocate(&self, file: &File, path: &Path, bytes: u64) -> io::Result<()>;
    /// pwrite(2): may write less than asked.
    fn write_at(&self, file: &File, path: &Path, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// ftruncate(2).
    fn set_len(&self, file: &File, path: &Path, bytes: u64) -> io::Result<()>;
    /// fdatasync(2).
    fn sync_data(&self, file: &File, path: &Path) -> io::Result<()>;
    /// fsync(2) of a directory.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// rename(2).
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// unlink(2).
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostDisk;

impl Disk for HostDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
    }

    fn allocate(&self, file: &File, _path: &Path, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(()),
            // Some file systems have no fallocate (NFSv3, 9p). A sparse file keeps the size stable at least; a full
            // disk then shows at the write instead of here.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(bytes.max(file.metadata()?.len())),
            Err(errno) => Err(errno.into()),
        }
    }

    fn write_at(&self, file: &File, _path: &Path, bytes: &[u8], offset: u64) -> io::Result<usize> {
        file.write_at(bytes, offset)
    }

    fn set_len(&self, file: &File, _path: &Path, bytes: u64) -> io::Result<()> {
        file.set_len(bytes)
    }

    fn sync_data(&self, file: &File, _path: &Path) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

/// Write all of `bytes` at `offset`, however often the system writes less than asked.
pub(crate) fn write_all_at(
    disk: &dyn Disk,
    file: &File,
    path: &Path,
    mut bytes: &[u8],
    mut offset: u64,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match disk.write_at(file, path, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Put a whole file in place durably: readers see the old content or the new, never a part.
pub(crate) fn replace_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), IoFailure> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    match disk.remove(&temporary) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(IoFailure::new("remove", &temporary, error)),
    }
    let file = disk.create(&temporary).map_err(IoFailure::of("create", &temporary))?;
    write_all_at(disk, &file, &temporary, bytes, 0).map_err(IoFailure::of("write", &temporary))?;
    disk.sync_data(&file, &temporary).map_err(IoFailure::of("make durable", &temporary))?;
    disk.rename(&temporary, path).map_err(IoFailure::of("put in place", path))?;
    sync_parent(disk, path)
}

/// Make the names in the directory of `path` durable.
pub(crate) fn sync_parent(disk: &dyn Disk, path: &Path) -> Result<(), IoFailure> {
    let dir = path.parent().unwrap_or(Path::new("."));
    disk.sync_dir(dir).map_err(IoFailure::of("make durable", dir))
}
