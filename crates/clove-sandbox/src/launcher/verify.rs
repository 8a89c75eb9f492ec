//! Looking at an embryo from outside: what a template has forked is not believed.

use super::cell::Failure;
use super::setup::pid_of;
use clove_sys::program::NO_DUMP;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, statx};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::{fs, io};

/// What an embryo must be.
pub struct Expected<'a> {
    pub pid: i32,
    /// The first process of its cell, which the launcher's own stub is.
    pub init: i32,
    /// Host uid and gid.
    pub uid: u32,
    /// (controllers, path) of its groups.
    pub cgroups: Vec<(String, String)>,
    /// Limit of open files.
    pub nofile: u64,
    /// Its working folder, as it is called inside.
    pub cwd: String,
    /// What its standard output, standard error, syscall socket and report are (`held`).
    pub given: &'a [String],
}

/// The template's own filter, and the agent's.
const FILTERS: &str = "2";
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
const CAPABILITY_SETS: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

/// Any difference is an error that names it.
pub fn verify(want: &Expected<'_>, pidfd: &OwnedFd) -> Result<(), Failure> {
    let compared = compare(want).map_err(|difference| refused(&difference));
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

pub fn refused(difference: &str) -> Failure {
    Failure {
        stage: "verify".into(),
        errno: libc::EPERM,
        message: format!("the embryo isn't what was asked for: {difference}"),
        hint: "a library in the template tampers with forks: start it cold, or leave that library out".into(),
    }
}

/// Which namespace of this kind a process is in.
fn namespace(pid: i32, kind: &str) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/{kind}"))
}

/// What a process holds under this number, as /proc tells it: `pipe:[17]`, `socket:[18]`, a path.
pub fn held(pid: i32, fd: i32) -> io::Result<String> {
    Ok(fs::read_link(format!("/proc/{pid}/fd/{fd}"))?.to_string_lossy().into_owned())
}

/// 0 when there is no such process.
pub fn threads_of(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("Threads:"));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

fn compare(want: &Expected<'_>) -> Result<(), String> {
    let (pid, init) = (want.pid, want.init);
    for ns in NAMESPACES {
        let of = |pid: i32| namespace(pid, ns).map_err(|e| format!("{ns} namespace: {e}"));
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
    if place_of_work(pid).map_err(|e| format!("working folder: {e}"))? != folder_inside(init, &want.cwd)? {
        return Err(format!("its working folder isn't its cell's {}", want.cwd));
    }
    descriptors(want)?;
    limits(want)
}

/// Nothing but the four that it was given, and /dev/null: of a copy of the template's memory these are what could lead out
/// of its cell. The names alone are read: what they lead to may be on a file system that doesn't answer.
fn descriptors(want: &Expected<'_>) -> Result<(), String> {
    let folder = fs::read_dir(format!("/proc/{}/fd", want.pid)).map_err(|e| format!("descriptors: {e}"))?;
    for entry in folder {
        let name = entry.map_err(|e| format!("descriptors: {e}"))?.file_name();
        let number = name.to_str().and_then(|n| n.parse().ok()).unwrap_or(-1);
        let found = held(want.pid, number).map_err(|e| format!("descriptor {number}: {e}"))?;
        let wanted = match number {
            0 => Some("/dev/null"),
            n => usize::try_from(n - 1).ok().and_then(|n| want.given.get(n)).map(String::as_str),
        };
        match wanted {
            Some(wanted) if wanted == found => {}
            _ => return Err(format!("it holds descriptor {number}: {found}")),
        }
    }
    Ok(())
}

fn limits(want: &Expected<'_>) -> Result<(), String> {
    let text =
        fs::read_to_string(format!("/proc/{}/limits", want.pid)).map_err(|e| format!("limits: {e}"))?;
    let values = |name: &str| -> Vec<&str> {
        let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().take(2).collect()
    };
    for (name, value) in [
        ("Max open files", want.nofile),
        ("Max core file size", NO_DUMP),
        ("Max realtime priority", 0),
        ("Max nice priority", 0),
    ] {
        let found = values(name);
        let value = value.to_string();
        if found != [&value, &value] {
            return Err(format!("{name} is {}, not {value}", found.join(" and ")));
        }
    }
    Ok(())
}

/// Mount, device and inode of a folder.
type Place = (u64, u32, u32, u64);

fn place(dir: impl AsFd, path: &str, flags: AtFlags) -> rustix::io::Result<Place> {
    // Without asking whatever file system it is (statx(2), AT_STATX_DONT_SYNC).
    let s = statx(dir, path, flags | AtFlags::STATX_DONT_SYNC, StatxFlags::INO | StatxFlags::MNT_ID)?;
    // Linux before 5.8 doesn't tell mounts; all that run this do.
    Ok((s.stx_mnt_id, s.stx_dev_major, s.stx_dev_minor, s.stx_ino))
}

fn place_of_work(pid: i32) -> rustix::io::Result<Place> {
    place(CWD, &format!("/proc/{pid}/cwd"), AtFlags::empty())
}

/// The folder of that name in init's root; links in it lead no further than that.
fn folder_inside(init: i32, path: &str) -> Result<Place, String> {
    let find = || -> rustix::io::Result<Place> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(format!("/proc/{init}/root"), flags, Mode::empty())?;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let folder = rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve)?;
        place(&folder, "", AtFlags::EMPTY_PATH)
    };
    find().map_err(|e| format!("its cell's {path}: {e}"))
}
