//! The end of the chain, and the signature that pins it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::chain::ChainHash;
use crate::disk::{HostDisk, sync_parent};
use crate::io_failure::IoFailure;
use crate::layout::Layout;

/// A record's number and hash: whoever knows it knows all that came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// 0 when there is no record.
    pub seq: u64,
    pub hash: ChainHash,
}

/// A head somebody vouches for. A line of `heads.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedHead {
    pub seq: u64,
    /// Hex.
    pub hash: String,
    /// When it was signed, ms since 1970.
    pub wall_ms: u64,
    /// The public key, hex.
    pub key: String,
    /// Ed25519 over `"clove-journal head 1\0" || seq || wall_ms || hash`, integers little-endian; hex.
    pub signature: String,
}

impl Head {
    /// Sign this head. Sign durable ones only ([`SyncHandle::durable_head`](crate::SyncHandle::durable_head)): a loss
    /// of power would else make an honest journal look cut.
    pub fn sign(&self, key: &SigningKey, wall_ms: u64) -> SignedHead {
        SignedHead {
            seq: self.seq,
            hash: self.hash.to_string(),
            wall_ms,
            key: hex(key.verifying_key().as_bytes()),
            signature: hex(&key.sign(&signed_bytes(self, wall_ms)).to_bytes()),
        }
    }
}

impl SignedHead {
    /// The head, if `key` has signed it. The key must come from elsewhere: the one in the line proves nothing.
    pub fn verify(&self, key: &VerifyingKey) -> Option<Head> {
        let head = Head { seq: self.seq, hash: ChainHash(unhex(&self.hash)?) };
        let signature = Signature::from_bytes(&unhex(&self.signature)?);
        key.verify_strict(&signed_bytes(&head, self.wall_ms), &signature).ok().map(|()| head)
    }
}

fn signed_bytes(head: &Head, wall_ms: u64) -> Vec<u8> {
    let mut bytes = b"clove-journal head 1\0".to_vec();
    bytes.extend_from_slice(&head.seq.to_le_bytes());
    bytes.extend_from_slice(&wall_ms.to_le_bytes());
    bytes.extend_from_slice(&head.hash.0);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    let mut out = [0; N];
    // Checked digit by digit: from_str_radix alone would take "+f".
    if digits.len() != 2 * N || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

/// Add a line to the journal's `heads.jsonl`, durably. A line that a crash cut short is taken away first.
pub fn append_signed_head(dir: &Path, head: &SignedHead) -> Result<(), HeadsError> {
    let path = Layout::new(dir).heads();
    let failed = |action| {
        let path = path.clone();
        move |error| HeadsError {
            kind: HeadsErrorKind::Io(IoFailure::new(action, &path, error)),
            path: path.clone(),
        }
    };
    let old = match fs::read(&path) {
        Ok(old) => old,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(failed("read")(error)),
    };
    let whole = old.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let mut line = Vec::new();
    serde_json::to_writer(&mut line, head).map_err(|error| failed("encode a line for")(error.into()))?;
    line.push(b'\n');
    let mut file =
        OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(failed("open"))?;
    if whole < old.len() {
        file.set_len(whole as u64).map_err(failed("cut"))?;
    }
    file.write_all(&line).map_err(failed("write"))?;
    file.sync_all().map_err(failed("make durable"))?;
    let synced = if old.is_empty() { sync_parent(&HostDisk, &path) } else { Ok(()) };
    synced.map_err(|failure| HeadsError { kind: HeadsErrorKind::Io(failure), path: path.clone() })
}

/// All lines of the journal's `heads.jsonl`; none of them is verified. A last line without its end is passed over: the
/// crash that cut it came before it was acknowledged.
pub fn read_signed_heads(dir: &Path) -> Result<Vec<SignedHead>, HeadsError> {
    let path = Layout::new(dir).heads();
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            let kind = HeadsErrorKind::Io(IoFailure::new("read", &path, error));
            return Err(HeadsError { path, kind });
        }
    };
    let mut heads = Vec::new();
    for (number, line) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
        match serde_json::from_slice(line) {
            Ok(head) => heads.push(head),
            Err(_) if !line.ends_with(b"\n") => {}
            Err(source) => {
                let kind = HeadsErrorKind::Line { number: number as u64 + 1, source };
                return Err(HeadsError { path, kind });
            }
        }
    }
    Ok(heads)
}

/// Why signed heads can't be kept or read.
#[derive(Debug, thiserror::Error)]
#[error("signed heads in {}: {kind}", path.display())]
pub struct HeadsError {
    /// The file.
    pub path: PathBuf,
    /// What happened.
    #[source]
    pub kind: HeadsErrorKind,
}

/// What happened with the file of signed heads.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeadsErrorKind {
    #[error("{0}")]
    Io(IoFailure),
    #[error("line {number} is no signed head ({source}); restore the file from a backup")]
    Line { number: u64, source: serde_json::Error },
}
