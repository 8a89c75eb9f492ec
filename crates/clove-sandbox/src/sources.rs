//! Opening the mounts of a plan as detached trees, outside the cell.

use crate::idmap::Idmaps;
use crate::plan::{PlannedMount, Source};
use crate::stage::Stage;
use clove_sys::clone::SingleThreaded;
use clove_sys::mounts::{self, NODEV, NOEXEC, NOSUID, RDONLY};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// A mount that couldn't be opened.
#[derive(Debug, thiserror::Error)]
#[error("{source_shown} -> {target}: {why}")]
pub struct SourceError {
    pub source_shown: String,
    pub target: String,
    pub errno: i32,
    pub why: String,
    pub hint: String,
}

/// Whose files are shown, and to whom: host ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owners {
    pub operator: (u32, u32),
    pub agent: (u32, u32),
}

/// Opens every mount, in the plan's order.
pub fn open_all(
    mounts: &[PlannedMount],
    stage: &Stage,
    idmaps: &mut Idmaps,
    proof: &SingleThreaded,
    owners: Owners,
) -> Result<Vec<OwnedFd>, SourceError> {
    mounts.iter().map(|m| open(m, stage, idmaps, proof, owners)).collect()
}

fn open(
    m: &PlannedMount,
    stage: &Stage,
    idmaps: &mut Idmaps,
    proof: &SingleThreaded,
    owners: Owners,
) -> Result<OwnedFd, SourceError> {
    match &m.source {
        Source::Stage(name) => {
            let failed =
                |e: Errno| error(m, name, e, "the launcher's stage is damaged: stop and start the kernel");
            let (folder, set) = match name.as_str() {
                "dev" => (stage.dev(), RDONLY | NOSUID | NOEXEC),
                _ => (stage.etc(), RDONLY | NOSUID | NODEV | NOEXEC),
            };
            let tree = mounts::clone_tree(folder).map_err(failed)?;
            mounts::set_tree_attributes(tree.as_fd(), set, None).map_err(failed)?;
            Ok(tree)
        }
        Source::Host { path, .. } => host_tree(m, path, idmaps, proof, owners),
    }
}

fn host_tree(
    m: &PlannedMount,
    path: &str,
    idmaps: &mut Idmaps,
    proof: &SingleThreaded,
    owners: Owners,
) -> Result<OwnedFd, SourceError> {
    let gone = |e| error(m, path, e, "check that it still exists");
    let place = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(gone)?;
    // What the plan allowed is the resolved path: a link that was swapped in since then must not lead elsewhere.
    let opened = std::fs::read_link(format!("/proc/self/fd/{}", place.as_raw_fd()));
    if opened.as_deref().ok() != Some(std::path::Path::new(path)) {
        return Err(SourceError {
            source_shown: path.into(),
            target: m.target.clone(),
            errno: libc::ELOOP,
            why: "its path changed while it was being opened".into(),
            hint: "try again".into(),
        });
    }
    let tree = mounts::clone_tree(place.as_fd()).map_err(gone)?;
    let read_only = if m.writable { 0 } else { RDONLY };
    let set = read_only | NOSUID | NODEV;
    if m.idmap {
        let mapped = idmaps
            .namespace(proof, owners)
            .and_then(|ns| mounts::set_tree_attributes(tree.as_fd(), set, Some(ns)));
        match mapped {
            Ok(()) => return Ok(tree),
            Err(e) if m.writable => {
                let hint = "this file system can't map owners: mount it read-only, or use one that can (ext4, xfs, \
                            btrfs, tmpfs)";
                return Err(error(m, path, e, hint));
            }
            // Still useful for what everybody may read.
            Err(_) => {}
        }
    }
    mounts::set_tree_attributes(tree.as_fd(), set, None).map_err(|e| error(m, path, e, ""))?;
    Ok(tree)
}

fn error(m: &PlannedMount, source: &str, e: Errno, hint: &str) -> SourceError {
    SourceError {
        source_shown: source.into(),
        target: m.target.clone(),
        errno: e.raw_os_error(),
        why: std::io::Error::from(e).to_string(),
        hint: hint.into(),
    }
}
