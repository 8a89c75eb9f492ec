//! Which control-group hierarchies are mounted, and where this process stands in each.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its root, as mounted.
    pub root: PathBuf,
    /// This process's group, below `root`; `None` when it lies outside of what is mounted.
    pub own: Option<PathBuf>,
    /// `0` for v2: the first field of /proc/PID/cgroup is matched by controllers instead, as numbers change.
    pub controllers: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hierarchies {
    /// By controller: `memory`, `cpu`, `pids`, ...
    pub v1: BTreeMap<String, Hierarchy>,
    pub v2: Option<Hierarchy>,
}

impl Hierarchies {
    /// Of this process.
    pub fn find() -> Hierarchies {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Hierarchies::parse(&mounts, &own)
    }

    fn parse(mounts: &str, own: &str) -> Hierarchies {
        let mut found = Hierarchies::default();
        for line in mounts.lines() {
            // proc(5): ID PARENT MAJ:MIN ROOT MOUNTPOINT OPTIONS [TAGS] - TYPE SOURCE SUPER
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let left: Vec<&str> = left.split(' ').collect();
            let mut right = right.split(' ');
            let (Some(kind), Some(_), Some(super_options)) = (right.next(), right.next(), right.next())
            else {
                continue;
            };
            let (Some(root_in_fs), Some(point)) = (left.get(3), left.get(4)) else { continue };
            match kind {
                "cgroup2" if found.v2.is_none() => {
                    let own = own_group(own, "", root_in_fs, point);
                    found.v2 = Some(Hierarchy { root: point.into(), own, controllers: String::new() });
                }
                "cgroup" => {
                    let line = own.lines().filter_map(|l| l.split(':').nth(1)).find(|controllers| {
                        controllers.split(',').any(|c| super_options.split(',').any(|o| o == c))
                    });
                    let Some(controllers) = line else { continue };
                    for c in controllers.split(',') {
                        found.v1.entry(c.to_owned()).or_insert_with(|| Hierarchy {
                            root: point.into(),
                            own: own_group(own, controllers, root_in_fs, point),
                            controllers: controllers.to_owned(),
                        });
                    }
                }
                _ => {}
            }
        }
        found
    }
}

/// The mounted path of the group that /proc/self/cgroup names for these controllers.
fn own_group(own: &str, controllers: &str, root_in_fs: &str, point: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|l| {
        let (_, rest) = l.split_once(':')?;
        let (c, path) = rest.split_once(':')?;
        (c == controllers).then_some(path)
    })?;
    let below = Path::new(path).strip_prefix(root_in_fs).ok()?;
    Some(Path::new(point).join(below))
}

impl Hierarchy {
    /// Where a folder of ours goes: below the own group when that, or a group above it, is limited (leaving it would be
    /// an escape from a limit that somebody set), else at the root of what is mounted.
    pub fn place(&self, limited: impl Fn(&Path) -> bool) -> PathBuf {
        let Some(own) = &self.own else { return self.root.clone() };
        let bound = own.ancestors().take_while(|p| *p != self.root && p.starts_with(&self.root)).any(limited);
        if bound { own.clone() } else { self.root.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 /docker/x /sys/fs/cgroup/memory rw,relatime shared:3 - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
    const OWN: &str = "5:memory:/docker/x/y\n3:cpu,cpuacct:/\n0::/user.slice\n";

    #[test]
    fn mounts_and_own_groups_are_found() {
        let h = Hierarchies::parse(MOUNTS, OWN);
        assert_eq!(h.v1["memory"].own.as_deref(), Some(Path::new("/sys/fs/cgroup/memory/y")));
        assert_eq!(h.v1["cpuacct"].root, Path::new("/sys/fs/cgroup/cpu"));
        assert_eq!(h.v1["cpu"].controllers, "cpu,cpuacct");
        let v2 = h.v2.expect("v2");
        assert_eq!(v2.own.as_deref(), Some(Path::new("/sys/fs/cgroup/unified/user.slice")));
        assert!(!h.v1.contains_key("pids"));
    }

    #[test]
    fn a_limited_group_is_not_left() {
        let h = Hierarchies::parse(MOUNTS, OWN).v1["memory"].clone();
        assert_eq!(h.place(|_| false), Path::new("/sys/fs/cgroup/memory"));
        assert_eq!(h.place(|p| p.ends_with("y")), Path::new("/sys/fs/cgroup/memory/y"));
        assert_eq!(h.place(|p| p == Path::new("/sys/fs/cgroup/memory")), Path::new("/sys/fs/cgroup/memory"));
    }
}
