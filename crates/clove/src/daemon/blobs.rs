//! Content-addressed bytes on disk: `blobs/ab/abcdef...`, named by their SHA-256.

use super::allowance::Hold;
use super::foreign::Foreign;
use clove_sandbox::protocol::Token;
use rustix::fs::SealFlags;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Where a blob lies.
pub fn path_of(dir: &Path, digest: &str) -> PathBuf {
    dir.join(digest.get(..2).unwrap_or("xx")).join(digest)
}

/// A descriptor may only bring bytes that nobody can change any more (memfd_create(2)).
pub fn is_sealed_memfd(fd: BorrowedFd<'_>) -> bool {
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_get_seals(fd).is_ok_and(|s| s.contains(all))
}

/// Stores what `source` holds. The name is its digest, so storing twice is storing once.
pub fn put(dir: &Path, source: Source) -> io::Result<(String, u64)> {
    let tmp = dir.join("incoming");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&tmp)?;
    let path = tmp.join(format!("{:?}-{:x}", std::thread::current().id(), nanos()));
    let mut out = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
    let stored = copy(source, &mut out).and_then(|done| {
        let to = path_of(dir, &done.0);
        if let Some(parent) = to.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        std::fs::rename(&path, to)?;
        Ok(done)
    });
    if stored.is_err() {
        let _ = std::fs::remove_file(&path);
    }
    stored
}

/// Where a blob's bytes come from.
pub enum Source {
    Bytes(Vec<u8>),
    Memfd(Foreign),
}

/// One on its way into the store.
pub struct Incoming {
    pub source: Source,
    /// The cell of the agent that sent it.
    pub token: Option<Token>,
    pub hold: Hold,
}

impl Source {
    /// How many bytes it holds.
    pub fn bytes(&self) -> u64 {
        match self {
            Source::Bytes(b) => b.len() as u64,
            Source::Memfd(fd) => memfd_bytes(fd.as_fd()),
        }
    }
}

/// Length of a memfd; sealed, so it stays that.
pub fn memfd_bytes(fd: BorrowedFd<'_>) -> u64 {
    rustix::fs::fstat(fd).map_or(0, |s| s.st_size.unsigned_abs())
}

/// Removes every blob.
pub fn clear(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for e in entries.flatten() {
        let _ = std::fs::remove_dir_all(e.path());
    }
}

fn copy(source: Source, out: &mut File) -> io::Result<(String, u64)> {
    let mut hash = Sha256::new();
    let mut total = 0u64;
    match source {
        Source::Bytes(b) => {
            hash.update(&b);
            out.write_all(&b)?;
            total = b.len() as u64;
        }
        Source::Memfd(fd) => {
            let mut chunk = vec![0u8; 1 << 20];
            loop {
                let n = rustix::io::pread(&fd, &mut chunk, total)?;
                if n == 0 {
                    break;
                }
                hash.update(&chunk[..n]);
                out.write_all(&chunk[..n])?;
                total += n as u64;
            }
        }
    }
    Ok((hash.finalize().iter().map(|b| format!("{b:02x}")).collect(), total))
}

/// A blob's length. `Ok(None)` when there is none of this digest.
pub fn stat(dir: &Path, digest: &str) -> io::Result<Option<u64>> {
    match std::fs::metadata(path_of(dir, digest)) {
        Ok(m) => Ok(Some(m.len())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// A part of a blob, and its whole length. `Ok(None)` when there is none of this digest.
pub fn get(dir: &Path, digest: &str, offset: u64, max: u64) -> io::Result<Option<(Vec<u8>, u64)>> {
    let file = match File::open(path_of(dir, digest)) {
        Ok(f) => f,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let whole = file.metadata()?.len();
    let want = whole.saturating_sub(offset).min(max);
    let mut bytes = Vec::with_capacity(want as usize);
    let mut at = &file;
    io::Seek::seek(&mut at, io::SeekFrom::Start(offset))?;
    at.take(want).read_to_end(&mut bytes)?;
    Ok(Some((bytes, whole)))
}

fn nanos() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_in_parts() {
        let dir = tempfile::tempdir().expect("folder");
        let (digest, n) = put(dir.path(), Source::Bytes(b"hello world".to_vec())).expect("stored");
        assert_eq!((digest.len(), n), (64, 11));
        assert_eq!(get(dir.path(), &digest, 6, 3).expect("read"), Some((b"wor".to_vec(), 11)));
        assert_eq!(get(dir.path(), &digest, 600, 3).expect("read"), Some((Vec::new(), 11)));
        assert_eq!(get(dir.path(), &"0".repeat(64), 0, 3).expect("read"), None);
        assert_eq!(stat(dir.path(), &digest).expect("looked up"), Some(11));
        assert_eq!(stat(dir.path(), &"0".repeat(64)).expect("looked up"), None);
        assert_eq!(
            std::fs::read_dir(dir.path().join("incoming")).expect("folder").count(),
            0,
            "nothing left over"
        );
    }
}
