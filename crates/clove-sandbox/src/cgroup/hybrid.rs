//! Hosts with the controllers in v1 hierarchies, with or without a v2 tree beside them (hybrid).

use super::hierarchies::{Hierarchies, Hierarchy};
use super::v1::{cpu, cpuacct, freezer, memory, pids};
use super::{Backend, CgroupError, Doors, Group, Now, files};
use clove_abi::Limits;
use clove_abi::certificate::Usage;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Our folder in one hierarchy.
#[derive(Debug)]
struct Tree {
    folder: PathBuf,
    /// As /proc/PID/cgroup shows it, from the root of what is mounted.
    shown: String,
    controllers: String,
}

/// Each tree is there when a group could be made in it and (for limits) a limit set.
#[derive(Debug)]
pub struct Hybrid {
    memory: Option<Tree>,
    cpu: Option<Tree>,
    cpuacct: Option<Tree>,
    pids: Option<Tree>,
    freezer: Option<Tree>,
    unified: Option<Tree>,
}

impl Tree {
    /// Makes our folder and tries `works` on a throw-away group in it.
    fn try_new(
        hierarchy: Option<&Hierarchy>,
        folder: &str,
        limited: impl Fn(&Path) -> bool,
        works: impl Fn(&Path) -> bool,
    ) -> Option<Tree> {
        let h = hierarchy?;
        let folder = h.place(limited).join(folder);
        let trial = files::make_trial(&folder)?;
        let good = works(&trial);
        files::remove(&trial);
        let below = folder.strip_prefix(&h.root).ok()?;
        let shown = format!("/{}", below.display());
        good.then_some(Tree { folder, shown, controllers: h.controllers.clone() })
    }

    fn group(&self, g: &Group) -> PathBuf {
        self.folder.join(&g.0)
    }
}

impl Hybrid {
    pub fn try_new(h: &Hierarchies, folder: &str) -> Hybrid {
        let never = |_: &Path| false;
        let memory = Tree::try_new(h.v1.get("memory"), folder, memory::is_limited, |g| {
            memory::set_limit(g, 64 << 20).is_ok()
        });
        let cpu = Tree::try_new(h.v1.get("cpu"), folder, cpu::is_limited, |g| cpu::set(g, 100, 500).is_ok());
        if let Some(t) = &cpu {
            // Left at its default, all agents together would weigh as much as one process of the host beside them. With
            // this they weigh as the processes that they are: one for each CPU. A host that refuses is as before.
            let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
            let _ = cpu::set(&t.folder, 100u32.saturating_mul(cpus).min(10_000), 0);
        }
        let cpuacct =
            Tree::try_new(h.v1.get("cpuacct"), folder, never, |g| g.join("cpuacct.usage_user").exists());
        let pids = Tree::try_new(h.v1.get("pids"), folder, pids::is_limited, |g| pids::set(g, 10).is_ok());
        // The v2 tree could freeze and kill, too; but entering a v2 group makes every process wait some 15 ms (RCU), and
        // entering a v1 group by oneself doesn't. A PID namespace is killed by its init anyway.
        let freezer = Tree::try_new(h.v1.get("freezer"), folder, never, |g| freezer::set(g, false).is_ok());
        let unified = match freezer {
            Some(_) => None,
            None => Tree::try_new(h.v2.as_ref(), folder, never, |g| g.join("cgroup.freeze").exists()),
        };
        Hybrid { memory, cpu, cpuacct, pids, freezer, unified }
    }

    /// Every tree once: cpu and cpuacct are often one.
    fn trees(&self) -> Vec<&Tree> {
        let mut trees: Vec<&Tree> = Vec::new();
        for t in [&self.memory, &self.cpu, &self.cpuacct, &self.pids, &self.freezer, &self.unified]
            .into_iter()
            .flatten()
        {
            if !trees.iter().any(|o| o.folder == t.folder) {
                trees.push(t);
            }
        }
        trees
    }

    fn read<T: Default>(tree: &Option<Tree>, g: &Group, f: impl Fn(&Path) -> T) -> T {
        tree.as_ref().map(|t| f(&t.group(g))).unwrap_or_default()
    }
}

impl Backend for Hybrid {
    fn name(&self) -> &'static str {
        "v1"
    }

    fn missing(&self) -> Vec<String> {
        [("memory", &self.memory), ("cpu", &self.cpu), ("pids", &self.pids)]
            .into_iter()
            .filter(|(_, t)| t.is_none())
            .map(|(name, _)| name.to_owned())
            .collect()
    }

    fn create(&self, group: &Group, limits: &Limits) -> Result<(), CgroupError> {
        let made = || {
            for t in self.trees() {
                files::make_in(&t.folder, &t.group(group))?;
            }
            self.set_limits(group, limits)
        };
        let made = made();
        if made.is_err() {
            self.remove(group);
        }
        made
    }

    fn doors(&self, group: &Group) -> Result<Doors, CgroupError> {
        let mut doors = Doors { tasks: Vec::new(), v2: None };
        for t in self.trees() {
            let path = t.group(group);
            match &self.unified {
                Some(u) if u.folder == t.folder => {
                    doors.v2 =
                        Some((files::open(&path, false)?, files::open(&path.join("cgroup.procs"), true)?));
                }
                _ => doors.tasks.push(files::open(&path.join("tasks"), true)?),
            }
        }
        Ok(doors)
    }

    fn set_limits(&self, group: &Group, limits: &Limits) -> Result<(), CgroupError> {
        if let Some(t) = &self.memory {
            memory::set_limit(&t.group(group), limits.memory_bytes)?;
        }
        if let Some(t) = &self.cpu {
            cpu::set(&t.group(group), limits.cpu_weight, limits.cpu_milli)?;
        }
        if let Some(t) = &self.pids {
            pids::set(&t.group(group), limits.pids)?;
        }
        Ok(())
    }

    fn watch_oom(&self, group: &Group) -> Option<OwnedFd> {
        self.memory.as_ref().and_then(|t| memory::watch_oom(&t.group(group)))
    }

    fn freeze(&self, group: &Group, frozen: bool) -> Result<(), CgroupError> {
        match (&self.unified, &self.freezer) {
            (Some(t), _) => {
                files::write(&t.group(group).join("cgroup.freeze"), if frozen { "1" } else { "0" })
            }
            (None, Some(t)) => freezer::set(&t.group(group), frozen),
            (None, None) => Err(CgroupError {
                action: "freeze",
                path: group.0.clone(),
                source: std::io::ErrorKind::Unsupported.into(),
            }),
        }
    }

    fn kill(&self, group: &Group) -> bool {
        if let Some(t) = &self.freezer {
            let _ = freezer::set(&t.group(group), false);
        }
        self.unified.as_ref().is_some_and(|t| files::write(&t.group(group).join("cgroup.kill"), "1").is_ok())
    }

    fn usage(&self, group: &Group) -> Usage {
        let (cpu_user_us, cpu_system_us) = Self::read(&self.cpuacct, group, cpuacct::times);
        Usage {
            cpu_user_us,
            cpu_system_us,
            peak_memory_bytes: Self::read(&self.memory, group, memory::peak),
            tmpfs_bytes: Self::read(&self.memory, group, memory::shmem),
            oom_kills: Self::read(&self.memory, group, memory::oom_kills),
            pids_refused: Self::read(&self.pids, group, pids::refused),
            throttled_periods: Self::read(&self.cpu, group, cpu::throttled_periods),
            disk_full: false,
        }
    }

    fn now(&self, group: &Group) -> Now {
        Now {
            memory_bytes: Self::read(&self.memory, group, memory::now),
            pids: Self::read(&self.pids, group, pids::now),
        }
    }

    fn processes(&self, group: &Group) -> Vec<i32> {
        // A template may have entered only some of them.
        let mut all: Vec<i32> = self.trees().iter().flat_map(|t| files::processes(&t.group(group))).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn remove(&self, group: &Group) -> bool {
        // All of them, also when one isn't ready yet: no short cut.
        let left = self.trees().iter().filter(|t| !files::remove(&t.group(group))).count();
        left == 0
    }

    fn remove_folder(&self) {
        for t in self.trees() {
            files::remove(&t.folder);
        }
    }

    fn groups(&self) -> Vec<Group> {
        let mut names: Vec<String> = self.trees().iter().flat_map(|t| files::below(&t.folder)).collect();
        names.retain(|n| !files::is_trial_of_the_living(n));
        names.sort();
        names.dedup();
        names.into_iter().map(Group).collect()
    }

    fn paths(&self, group: &Group) -> Vec<(String, String)> {
        self.trees().iter().map(|t| (t.controllers.clone(), format!("{}/{}", t.shown, group.0))).collect()
    }
}
