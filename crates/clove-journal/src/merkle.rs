//! The Merkle root of a segment (RFC 6962, section 2.1), kept up to date record by record.

use sha2::{Digest, Sha256};

use crate::chain::ChainHash;

/// Roots of the complete subtrees to the left, largest first. Sealing a segment must not hash 50,000 records at once
/// on the kernel's loop, so each append pays its share (one inner node on average).
#[derive(Clone, Debug, Default)]
pub(crate) struct RunningRoot {
    subtrees: Vec<ChainHash>,
    count: u64,
}

impl RunningRoot {
    pub(crate) fn push(&mut self, leaf: ChainHash) {
        let mut node = leaf;
        for _ in 0..self.count.trailing_ones() {
            if let Some(left) = self.subtrees.pop() {
                node = inner(left, node);
            }
        }
        self.subtrees.push(node);
        self.count += 1;
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn root(&self) -> ChainHash {
        let mut rightmost_first = self.subtrees.iter().rev();
        match rightmost_first.next() {
            None => ChainHash(Sha256::digest([]).into()),
            Some(&last) => rightmost_first.fold(last, |right, &left| inner(left, right)),
        }
    }
}

fn inner(left: ChainHash, right: ChainHash) -> ChainHash {
    ChainHash(Sha256::new_with_prefix([0x01]).chain_update(left.0).chain_update(right.0).finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of RFC 6962, word for word: split at the largest power of two smaller than n.
    fn by_definition(leaves: &[ChainHash]) -> ChainHash {
        match leaves {
            [] => ChainHash(Sha256::digest([]).into()),
            [one] => *one,
            many => {
                let split = many.len().next_power_of_two() / 2;
                inner(by_definition(&many[..split]), by_definition(&many[split..]))
            }
        }
    }

    #[test]
    fn equals_the_recursive_definition() {
        let leaves: Vec<_> = (0..70u8).map(|n| ChainHash::of_record(&[n])).collect();
        let mut running = RunningRoot::default();
        assert_eq!(running.root(), by_definition(&[]));
        for n in 0..leaves.len() {
            running.push(leaves[n]);
            assert_eq!(running.root(), by_definition(&leaves[..=n]), "{} leaves", n + 1);
        }
    }

    #[test]
    fn equals_the_published_vectors() {
        // The inputs of certificate-transparency's merkle_tree_test: "", 00, 10.
        let mut running = RunningRoot::default();
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(running.root().to_string(), empty);
        running.push(ChainHash::of_record(&[]));
        let one = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d";
        assert_eq!(running.root().to_string(), one);
        running.push(ChainHash::of_record(&[0x00]));
        let two = "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125";
        assert_eq!(running.root().to_string(), two);
        running.push(ChainHash::of_record(&[0x10]));
        let three = "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77";
        assert_eq!(running.root().to_string(), three);
    }
}
