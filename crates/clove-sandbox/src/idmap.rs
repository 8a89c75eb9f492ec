//! User namespaces for idmapped mounts, one for each pair of owners, kept.

use crate::sources::Owners;
use clove_sys::clone::SingleThreaded;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Agent uids are reused, so this stays as small as the most agents that ever ran at once; it is emptied beyond that.
const KEPT: usize = 4096;

#[derive(Debug, Default)]
pub struct Idmaps {
    namespaces: BTreeMap<Owners, OwnedFd>,
}

impl Idmaps {
    /// The namespace that shows the operator's files as the agent's.
    pub fn namespace(&mut self, proof: &SingleThreaded, owners: Owners) -> Result<BorrowedFd<'_>, Errno> {
        if self.namespaces.len() >= KEPT {
            self.namespaces.clear();
        }
        match self.namespaces.entry(owners) {
            std::collections::btree_map::Entry::Occupied(e) => Ok(OwnedFd::as_fd(e.into_mut())),
            std::collections::btree_map::Entry::Vacant(e) => {
                let ns = clove_sys::mounts::idmap_namespace(proof, owners.operator, owners.agent)?;
                Ok(OwnedFd::as_fd(e.insert(ns)))
            }
        }
    }
}
