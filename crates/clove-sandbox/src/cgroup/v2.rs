//! cgroup v2: one tree with all controllers.

use super::hierarchies::Hierarchies;
use super::{Backend, CgroupError, Doors, Group, Now, files, quota};
use clove_abi::Limits;
use clove_abi::certificate::Usage;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Controllers that limits need.
const WANTED: [&str; 3] = ["memory", "cpu", "pids"];

#[derive(Debug)]
pub struct V2 {
    folder: PathBuf,
    shown: String,
    /// Of `WANTED`, those that can't be had.
    missing: Vec<String>,
}

impl V2 {
    /// `None` when there is no v2 tree, or v1 holds the controllers.
    pub fn try_new(h: &Hierarchies, folder: &str) -> Option<V2> {
        let tree = h.v2.as_ref()?;
        if WANTED.iter().any(|c| h.v1.contains_key(*c)) {
            return None;
        }
        let parent = tree.place(is_limited);
        let folder = parent.join(folder);
        let trial = files::make_trial(&folder)?;
        // Down from the root: at each level the controllers must be handed on, or limits silently don't exist below.
        let mut missing = Vec::new();
        for c in WANTED {
            let levels = folder.ancestors().take_while(|p| p.starts_with(&tree.root)).collect::<Vec<_>>();
            let handed = levels.into_iter().rev().all(|level| hand_on(level, c));
            if !handed {
                missing.push(c.to_owned());
            }
        }
        files::remove(&trial);
        let shown = format!("/{}", folder.strip_prefix(&tree.root).ok()?.display());
        Some(V2 { folder, shown, missing })
    }

    fn group(&self, g: &Group) -> PathBuf {
        self.folder.join(&g.0)
    }

    fn has(&self, controller: &str) -> bool {
        !self.missing.iter().any(|m| m == controller)
    }
}

fn is_limited(group: &Path) -> bool {
    ["memory.max", "cpu.max", "pids.max"].iter().any(|f| {
        let text = fs::read_to_string(group.join(f)).unwrap_or_default();
        !text.is_empty() && !text.starts_with("max")
    })
}

fn hand_on(level: &Path, controller: &str) -> bool {
    let enabled = || {
        let text = fs::read_to_string(level.join("cgroup.subtree_control")).unwrap_or_default();
        text.split_whitespace().any(|c| c == controller)
    };
    enabled()
        || (files::write(&level.join("cgroup.subtree_control"), &format!("+{controller}")).is_ok()
            && enabled())
}

impl Backend for V2 {
    fn name(&self) -> &'static str {
        "v2"
    }

    fn missing(&self) -> Vec<String> {
        self.missing.clone()
    }

    fn create(&self, group: &Group, limits: &Limits) -> Result<(), CgroupError> {
        let path = self.group(group);
        if files::make_in(&self.folder, &path)? {
            for c in WANTED.iter().filter(|c| self.has(c)) {
                hand_on(&self.folder, c);
            }
        }
        let set = self.set_limits(group, limits).and_then(|()| {
            // One process that runs out takes the whole agent with it.
            files::write_if_there(&path.join("memory.oom.group"), "1")
        });
        if set.is_err() {
            self.remove(group);
        }
        set
    }

    fn doors(&self, group: &Group) -> Result<Doors, CgroupError> {
        let path = self.group(group);
        let v2 = (files::open(&path, false)?, files::open(&path.join("cgroup.procs"), true)?);
        Ok(Doors { tasks: Vec::new(), v2: Some(v2) })
    }

    fn set_limits(&self, group: &Group, limits: &Limits) -> Result<(), CgroupError> {
        let path = self.group(group);
        if self.has("memory") {
            files::write_if_there(&path.join("memory.swap.max"), "0")?;
            files::write(&path.join("memory.max"), &limits.memory_bytes.to_string())?;
        }
        if self.has("cpu") {
            files::write(&path.join("cpu.weight"), &limits.cpu_weight.clamp(1, 10_000).to_string())?;
            let max = match quota(limits.cpu_milli) {
                Some((quota, period)) => format!("{quota} {period}"),
                None => "max".to_owned(),
            };
            files::write(&path.join("cpu.max"), &max)?;
        }
        if self.has("pids") {
            files::write(&path.join("pids.max"), &limits.pids.to_string())?;
        }
        Ok(())
    }

    fn watch_oom(&self, _group: &Group) -> Option<OwnedFd> {
        None // memory.oom.group
    }

    fn freeze(&self, group: &Group, frozen: bool) -> Result<(), CgroupError> {
        files::write(&self.group(group).join("cgroup.freeze"), if frozen { "1" } else { "0" })
    }

    fn kill(&self, group: &Group) -> bool {
        files::write(&self.group(group).join("cgroup.kill"), "1").is_ok()
    }

    fn usage(&self, group: &Group) -> Usage {
        let path = self.group(group);
        let cpu = fs::read_to_string(path.join("cpu.stat")).unwrap_or_default();
        Usage {
            cpu_user_us: files::keyed_in(&cpu, "user_usec"),
            cpu_system_us: files::keyed_in(&cpu, "system_usec"),
            // Linux 5.19 and later; before that there is only what is left at the end.
            peak_memory_bytes: match files::number(&path.join("memory.peak")) {
                0 => files::number(&path.join("memory.current")),
                peak => peak,
            },
            tmpfs_bytes: files::keyed(&path.join("memory.stat"), "shmem"),
            oom_kills: files::keyed(&path.join("memory.events"), "oom_kill"),
            pids_refused: files::keyed(&path.join("pids.events"), "max"),
            throttled_periods: files::keyed_in(&cpu, "nr_throttled"),
            disk_full: false,
        }
    }

    fn now(&self, group: &Group) -> Now {
        let path = self.group(group);
        Now {
            memory_bytes: files::number(&path.join("memory.current")),
            pids: files::number(&path.join("pids.current")),
        }
    }

    fn processes(&self, group: &Group) -> Vec<i32> {
        files::processes(&self.group(group))
    }

    fn remove(&self, group: &Group) -> bool {
        files::remove(&self.group(group))
    }

    fn remove_folder(&self) {
        files::remove(&self.folder);
    }

    fn groups(&self) -> Vec<Group> {
        let names = files::below(&self.folder).into_iter();
        names.filter(|n| !files::is_trial_of_the_living(n)).map(Group).collect()
    }

    fn paths(&self, group: &Group) -> Vec<(String, String)> {
        vec![(String::new(), format!("{}/{}", self.shown, group.0))]
    }
}
