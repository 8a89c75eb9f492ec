//! What the plan must know about this host, gathered once, plus a view of its paths.

use std::path::{Path, PathBuf};

/// A top-level system path as it is on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SystemPath {
    /// A folder, seen read-only at the same place.
    Folder(String),
    /// A link of a merged-/usr system: path, and what it points to.
    Link(String, String),
}

/// A path after every link in it has been followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub path: PathBuf,
    pub is_folder: bool,
}

/// How the plan looks at host paths; a map in tests.
pub trait PathView {
    fn resolve(&self, path: &Path) -> Option<Resolved>;
    /// What the path holds, when it is a link itself.
    fn link(&self, path: &Path) -> Option<PathBuf>;
}

/// The real file system.
#[derive(Debug)]
pub struct RealPaths;

impl PathView for RealPaths {
    fn resolve(&self, path: &Path) -> Option<Resolved> {
        let path = path.canonicalize().ok()?;
        let is_folder = path.metadata().ok()?.is_dir();
        Some(Resolved { path, is_folder })
    }

    fn link(&self, path: &Path) -> Option<PathBuf> {
        path.read_link().ok()
    }
}

pub struct HostFacts {
    pub system: Vec<SystemPath>,
    /// Folders of CloveOS itself: no agent may see them, or anything that contains them.
    pub protected: Vec<PathBuf>,
    pub landlock_abi: Option<u32>,
    /// The host's hard limit for open files: no agent's can be higher without CAP_SYS_RESOURCE.
    pub nofile_max: u64,
    pub paths: Box<dyn PathView>,
}

const SYSTEM: [&str; 8] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix"];

impl HostFacts {
    /// Looks at this host.
    pub fn gather(protected: &[PathBuf]) -> HostFacts {
        let mut system = Vec::new();
        for name in SYSTEM {
            let path = format!("/{name}");
            match std::fs::symlink_metadata(&path) {
                Ok(m) if m.is_dir() => system.push(SystemPath::Folder(path)),
                Ok(m) if m.is_symlink() => {
                    if let Ok(to) = std::fs::read_link(&path) {
                        system.push(SystemPath::Link(path, to.to_string_lossy().into_owned()));
                    }
                }
                _ => {}
            }
        }
        let protected = protected.iter().map(|p| p.canonicalize().unwrap_or_else(|_| p.clone())).collect();
        HostFacts {
            system,
            protected,
            landlock_abi: clove_sys::landlock::abi(),
            nofile_max: rustix::process::getrlimit(rustix::process::Resource::Nofile)
                .maximum
                .unwrap_or(1 << 20),
            paths: Box::new(RealPaths),
        }
    }
}
