//! The key that signs heads, in a file that only its owner reads.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use rustix::fs::OFlags;

use crate::disk::{HostDisk, replace_file};
use crate::io_failure::IoFailure;

/// Load the 32-byte secret key from `path`, or make one (mode 0600) when there is none. It should lie outside the
/// journal's directory, so that a copy of the journal isn't a copy of the key.
pub fn load_or_create_key(path: &Path) -> Result<SigningKey, KeyError> {
    let failed = |kind| KeyError { path: path.to_owned(), kind };
    // A planted symbolic link must not make us trust a key elsewhere, nor a FIFO make us wait.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let mut file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut secret = [0; 32];
            rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty()).map_err(|errno| {
                failed(KeyErrorKind::Io(IoFailure::new("draw a key for", path, errno.into())))
            })?;
            replace_file(&HostDisk, path, &secret).map_err(|failure| failed(KeyErrorKind::Io(failure)))?;
            return Ok(SigningKey::from_bytes(&secret));
        }
        Err(error) => return Err(failed(KeyErrorKind::Io(IoFailure::new("open", path, error)))),
    };
    let io_failed = |error| failed(KeyErrorKind::Io(IoFailure::new("read", path, error)));
    let metadata: fs::Metadata = file.metadata().map_err(io_failed)?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(failed(KeyErrorKind::Exposed { mode }));
    }
    let mut secret = Vec::new();
    Read::by_ref(&mut file).take(33).read_to_end(&mut secret).map_err(io_failed)?;
    match <[u8; 32]>::try_from(secret) {
        Ok(secret) if metadata.is_file() => Ok(SigningKey::from_bytes(&secret)),
        _ => Err(failed(KeyErrorKind::NotAKey)),
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[error("the signing key {} can't be used: {kind}", path.display())]
pub struct KeyError {
    /// The key file.
    pub path: PathBuf,
    /// What happened.
    #[source]
    pub kind: KeyErrorKind,
}

/// What happened with a key file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyErrorKind {
    #[error("{0}")]
    Io(IoFailure),
    #[error("others may read it (mode {mode:03o}); make a new one, or chmod 600 if nobody has")]
    Exposed { mode: u32 },
    #[error("it isn't a regular file of 32 bytes; move it away to have a new one made")]
    NotAKey,
}
