//! The user's mounts: which are refused, which are there already, and in which order they are made.

use super::{PlanError, refuse};
use crate::host::{HostFacts, Resolved, SystemPath};
use crate::protocol::CellPolicy;
use clove_abi::run::Mount;
use std::path::{Component, Path, PathBuf};

/// A mount that will be made.
pub struct UserMount {
    /// All links followed.
    pub source: String,
    pub target: String,
    pub writable: bool,
    pub is_folder: bool,
    /// Its mount point lies in a mount made before it, and exists there.
    pub inside_another: bool,
    /// Not mounted, but made as a link to this absolute path.
    pub link: Option<String>,
}

/// Folders of the cell itself that can't be covered, nor anything below them.
const CLOSED: [&str; 5] = ["/proc", "/dev", "/sys", "/run/clove", "/etc"];
/// Folders that can't be covered, but can have mounts below them.
const FIXED: [&str; 8] = ["/work", "/tmp", "/out", "/checkpoint", "/run", "/var", "/var/tmp", "/var/run"];
/// Kernel interfaces of the host.
const HOST_KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

fn error(m: &Mount, why: impl Into<String>, hint: impl Into<String>) -> PlanError {
    PlanError { what: format!("mount {}:{}", m.source, m.target), why: why.into(), hint: hint.into() }
}

/// Checks, resolves, sorts by depth, and leaves out what is visible anyway.
pub fn user_mounts(policy: &CellPolicy, host: &HostFacts) -> Result<Vec<UserMount>, PlanError> {
    let mut wanted = Vec::new();
    for m in &policy.mounts {
        let target = check_target(m, host)?;
        let source = check_source(m, host)?;
        wanted.push((target, source, m));
    }
    let links: Vec<_> = wanted.iter().map(|w| link(w, &wanted, host)).collect();
    let mut wanted: Vec<_> = wanted.into_iter().zip(links).map(|((t, s, m), l)| (t, s, m, l)).collect();
    wanted.sort_by_key(|(target, _, m, _)| (target.matches('/').count(), target.clone(), !m.writable));
    let mut done: Vec<UserMount> = Vec::new();
    for (target, source, m, link) in wanted {
        if let Some(same) = done.iter().find(|d| d.target == target) {
            if same.source == source.path.to_string_lossy() && same.writable >= m.writable {
                continue;
            }
            let why = format!("two sources for one target ({} and {})", same.source, source.path.display());
            return Err(error(m, why, "drop one of them"));
        }
        let above = above(&target, &done, host);
        if let Some(above) = &above {
            if above.shows(&target) == source.path && above.writable >= m.writable {
                continue;
            }
            // It is there as the link that it is.
            if link.is_some() && above.shows(&target) == Path::new(&m.source) {
                continue;
            }
            let point = host.paths.resolve(&above.shows(&target));
            if point.as_ref().map(|p| (&p.path, p.is_folder))
                != Some((&above.shows(&target), source.is_folder))
            {
                let kind = if source.is_folder { "folder" } else { "file" };
                let why = format!(
                    "its target lies in {}, which shows {} read-only, and there is no {kind} of that name to mount on",
                    above.target, above.source
                );
                return Err(error(m, why, "choose a target outside of it, or make an empty one on the host"));
            }
        }
        done.push(UserMount {
            source: source.path.to_string_lossy().into_owned(),
            target,
            writable: m.writable,
            is_folder: source.is_folder,
            inside_another: above.is_some(),
            link: link.filter(|_| above.is_none()),
        });
    }
    Ok(done)
}

/// Where a link leads, if it is to be a link inside too: a file's, shown read-only at its own path, when that which it
/// leads to is shown there as well. A Python finds its library by following the links to its file, so one in
/// `~/.local/bin` that were seen as a file would look for it in `~/.local`.
fn link(
    (target, source, m): &(String, Resolved, &Mount),
    wanted: &[(String, Resolved, &Mount)],
    host: &HostFacts,
) -> Option<String> {
    if m.writable || source.is_folder || m.source != *target {
        return None;
    }
    let to = without_dots(&Path::new(target).parent()?.join(host.paths.link(Path::new(target))?))?;
    let to = behind_system_links(to, host);
    // A `..` behind a linked folder leads elsewhere than it reads.
    let same = |path: &Path| host.paths.resolve(path).is_some_and(|r| r.path == source.path);
    let shown = |at: &str, shows: &Path| {
        to == at && shows == source.path
            || to
                .strip_prefix(at)
                .and_then(|rest| rest.strip_prefix('/'))
                .is_some_and(|rest| same(&shows.join(rest)))
    };
    let users = wanted.iter().filter(|(at, _, _)| at != target).any(|(at, s, _)| shown(at, &s.path));
    let system = || {
        host.system.iter().any(|s| match s {
            SystemPath::Folder(path) => shown(path, Path::new(path)),
            SystemPath::Link(..) => false,
        })
    };
    (same(Path::new(&to)) && (users || system())).then_some(to)
}

/// /bin/x is /usr/bin/x where /bin is a link.
fn behind_system_links(path: String, host: &HostFacts) -> String {
    for s in &host.system {
        if let SystemPath::Link(link, to) = s
            && let Some(rest) =
                path.strip_prefix(link.as_str()).filter(|r| r.is_empty() || r.starts_with('/'))
        {
            return format!("/{}{rest}", to.trim_start_matches('/'));
        }
    }
    path
}

/// An absolute path read from left to right, as text.
fn without_dots(path: &Path) -> Option<String> {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::Normal(name) => out.push(name),
            _ => {}
        }
    }
    out.to_str().map(str::to_owned)
}

/// A mount that a deeper target would lie in.
struct Above {
    source: String,
    target: String,
    writable: bool,
}

impl Above {
    /// The host path that `target` shows before something is mounted there.
    fn shows(&self, target: &str) -> PathBuf {
        let rest = target.strip_prefix(self.target.as_str()).unwrap_or_default();
        Path::new(&self.source).join(rest.trim_start_matches('/'))
    }
}

fn above(target: &str, done: &[UserMount], host: &HostFacts) -> Option<Above> {
    let users = done.iter().map(|d| (d.source.as_str(), d.target.as_str(), d.writable));
    let system = host.system.iter().filter_map(|s| match s {
        SystemPath::Folder(path) => Some((path.as_str(), path.as_str(), false)),
        SystemPath::Link(..) => None,
    });
    users
        .chain(system)
        .filter(|(_, at, _)| target == *at || is_below(target, at))
        .max_by_key(|(_, at, _)| at.len())
        .map(|(source, target, writable)| Above { source: source.into(), target: target.into(), writable })
}

fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

fn check_target(m: &Mount, host: &HostFacts) -> Result<String, PlanError> {
    let trimmed = if m.target.len() > 1 { m.target.trim_end_matches('/') } else { &m.target };
    refuse::check_path(trimmed)
        .map_err(|why| error(m, format!("bad target: {why}"), "use a path such as /data"))?;
    let target = behind_system_links(trimmed.to_owned(), host);
    let closed = CLOSED.iter().any(|c| target == *c || is_below(&target, c));
    let fixed = FIXED.contains(&target.as_str());
    if closed || fixed {
        let why = format!("{target} belongs to the sandbox itself");
        return Err(error(m, why, "choose a target such as /data or /work/data"));
    }
    Ok(target)
}

fn check_source(m: &Mount, host: &HostFacts) -> Result<Resolved, PlanError> {
    let given = Path::new(&m.source);
    if !given.is_absolute() || m.source.contains('\0') {
        return Err(error(m, "the source isn't an absolute path", "give the whole path"));
    }
    let Some(source) = host.paths.resolve(given) else {
        return Err(error(m, "the source doesn't exist on the host", "check the path"));
    };
    if source.path == Path::new("/") {
        return Err(error(m, "the source is the whole host", "mount the folder that is needed"));
    }
    if source.path.to_str().is_none() {
        return Err(error(m, "the source's real name isn't UTF-8", "mount a folder above it"));
    }
    if HOST_KERNEL.iter().any(|k| source.path.starts_with(k)) {
        let why = format!("{} is a kernel interface of the host", source.path.display());
        return Err(error(m, why, "an agent has a /proc and a /dev of its own"));
    }
    for p in &host.protected {
        if p.starts_with(&source.path) || source.path.starts_with(p) {
            let why = format!(
                "{} contains or lies in {}, where CloveOS keeps its journal and sockets",
                source.path.display(),
                p.display()
            );
            return Err(error(m, why, "mount a smaller folder, or move CLOVE_HOME"));
        }
    }
    Ok(source)
}
