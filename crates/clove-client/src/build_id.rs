//! Which build of the program this is, so that a newer command and an older kernel notice each other.

use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

/// First 8 bytes, in hex, of SHA-256 over the crate's version and the running executable's size and modification
/// time. Taken once: a kernel whose file is replaced by a new build keeps the id that it started with.
pub fn build_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        let mut h = Sha256::new();
        h.update(env!("CARGO_PKG_VERSION"));
        // /proc/self/exe names the file that was executed, even if another has taken its path since (proc(5)).
        if let Ok(m) = std::fs::metadata("/proc/self/exe") {
            h.update(m.size().to_le_bytes());
            h.update(m.mtime().to_le_bytes());
            h.update(m.mtime_nsec().to_le_bytes());
        }
        hex(&h.finalize()[..8])
    })
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        // Writing to a String can't fail.
        let _ = write!(s, "{b:02x}");
        s
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_stable_within_a_process() {
        assert_eq!(super::build_id(), super::build_id());
        assert_eq!(super::build_id().len(), 16);
    }
}
