//! Raw bytes behind calls and results (pickled inputs and outputs), which the core only names by keys.

use std::collections::HashMap;
use std::sync::Arc;

/// Inputs are refused while there are so many bytes in all; their owner waits until some tasks have ended.
pub const MOST_INPUTS: u64 = 1 << 30;
/// Results are refused with so many: their owner doesn't collect them.
pub const MOST_RESULTS: u64 = 2 << 30;

/// All of them, by key.
pub struct Opaque {
    kept: HashMap<u64, Arc<Vec<u8>>>,
    bytes: u64,
    next: u64,
}

impl Opaque {
    /// None; keys begin with `next`.
    pub fn new(next: u64) -> Opaque {
        Opaque { kept: HashMap::new(), bytes: 0, next }
    }

    /// The first of `n` new keys that follow each other.
    pub fn keys(&mut self, n: u64) -> u64 {
        let first = self.next;
        self.next += n;
        first
    }

    /// Keeps bytes; the key is 0 for none.
    pub fn keep(&mut self, bytes: Vec<u8>) -> u64 {
        if bytes.is_empty() {
            return 0;
        }
        let key = self.keys(1);
        self.put(key, bytes);
        key
    }

    /// Keeps bytes under a key that [`Opaque::keys`] has given.
    pub fn put(&mut self, key: u64, bytes: Vec<u8>) {
        self.bytes += bytes.len() as u64;
        if let Some(old) = self.kept.insert(key, Arc::new(bytes)) {
            self.bytes -= old.len() as u64;
        }
    }

    /// What is kept under a key.
    pub fn get(&self, key: u64) -> Option<&Arc<Vec<u8>>> {
        self.kept.get(&key)
    }

    /// Keeps it no longer.
    pub fn remove(&mut self, key: u64) -> Option<Arc<Vec<u8>>> {
        let bytes = self.kept.remove(&key)?;
        self.bytes -= bytes.len() as u64;
        Some(bytes)
    }

    /// How many bytes are kept.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_counted_once() {
        let mut o = Opaque::new(5);
        assert_eq!(o.keep(Vec::new()), 0);
        let a = o.keep(vec![1; 10]);
        let b = o.keys(3);
        o.put(b + 1, vec![2; 7]);
        o.put(b + 1, vec![2; 8]);
        assert_eq!((a, b, o.bytes()), (5, 6, 18));
        assert_eq!(o.get(b + 1).map(|b| b.len()), Some(8));
        assert!(o.remove(b).is_none());
        assert_eq!(o.remove(a).map(|b| b.len()), Some(10));
        assert!(o.remove(a).is_none());
        assert_eq!(o.bytes(), 8);
    }
}
