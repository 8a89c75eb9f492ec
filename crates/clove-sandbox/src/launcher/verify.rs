//! Looking at an embryo from outside: what a template has forked is not believed.

use super::cell::Failure;
use super::setup::pid_of;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

/// What an embryo must be.
pub struct Expected {
    pub pid: i32,
    /// The first process of its cell, which the launcher's own stub is.
    pub init: i32,
    /// Host uid and gid.
    pub uid: u32,
    /// (controllers, path) of its groups.
    pub cgroups: Vec<(String, String)>,
}

/// The template's own filter, and the agent's.
const FILTERS: &str = "2";
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
const CAPABILITY_SETS: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

/// Any difference is an error that names it.
pub fn verify(want: &Expected, pidfd: &OwnedFd) -> Result<(), Failure> {
    let compared = compare(want).map_err(|difference| Failure {
        stage: "verify".into(),
        errno: libc::EPERM,
        message: format!("the embryo isn't what was asked for: {difference}"),
        hint: "a library in the template tampers with forks: start it cold, or leave that library out".into(),
    });
    // If it had ended meanwhile, its number could have been another process's.
    if pid_of(pidfd) != u32::try_from(want.pid).ok() {
        return Err(Failure {
            stage: "verify".into(),
            errno: libc::ESRCH,
            message: "the embryo ended before it was let go".into(),
            hint: "see the template's output".into(),
        });
    }
    compared
}

fn compare(want: &Expected) -> Result<(), String> {
    let (pid, init) = (want.pid, want.init);
    for ns in NAMESPACES {
        let of = |pid: i32| {
            fs::read_link(format!("/proc/{pid}/ns/{ns}")).map_err(|e| format!("{ns} namespace: {e}"))
        };
        if of(pid)? != of(init)? {
            return Err(format!("its {ns} namespace isn't its cell's"));
        }
    }
    let root = |pid: i32| {
        let m = fs::metadata(format!("/proc/{pid}/root/.")).map_err(|e| format!("root folder: {e}"))?;
        Ok::<_, String>((m.dev(), m.ino()))
    };
    if root(pid)? != root(init)? {
        return Err("its root folder isn't its cell's".into());
    }
    let text = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|e| format!("status: {e}"))?;
    let status: BTreeMap<&str, &str> =
        text.lines().filter_map(|l| l.split_once(':')).map(|(k, v)| (k, v.trim())).collect();
    let field = |name: &str| status.get(name).copied().unwrap_or("absent");
    let expect = |name: &str, value: &str| {
        let normal = field(name).split_whitespace().collect::<Vec<_>>().join(" ");
        if normal == value { Ok(()) } else { Err(format!("{name} is {normal}, not {value}")) }
    };
    let ids =
        [want.uid.to_string(), want.uid.to_string(), want.uid.to_string(), want.uid.to_string()].join(" ");
    expect("Uid", &ids)?;
    expect("Gid", &ids)?;
    expect("Groups", "")?;
    for set in CAPABILITY_SETS {
        expect(set, "0000000000000000")?;
    }
    expect("NoNewPrivs", "1")?;
    expect("Seccomp", "2")?;
    expect("Seccomp_filters", FILTERS)?;
    expect("Threads", "1")?;
    expect("TracerPid", "0")?;
    let map = |file: &str| -> Result<String, String> {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).map_err(|e| format!("{file}: {e}"))?;
        Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let wanted_map = format!("{} {} 1", crate::plan::AGENT_ID, want.uid);
    for file in ["uid_map", "gid_map"] {
        let found = map(file)?;
        if found != wanted_map {
            return Err(format!("{file} is {found}, not {wanted_map}"));
        }
    }
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(|e| format!("cgroup: {e}"))?;
    for (controllers, path) in &want.cgroups {
        let line =
            text.lines().filter_map(|l| l.split_once(':')?.1.split_once(':')).find(|(c, _)| c == controllers);
        match line {
            Some((_, found)) if found.ends_with(path.as_str()) => {}
            found => return Err(format!("its {controllers} group is {found:?}, not {path}")),
        }
    }
    Ok(())
}
