//! The plan of a plain policy, and everything that is refused.

use crate::protocol::{CellPolicy, Profile};
use clove_abi::Limits;

pub(crate) fn policy() -> CellPolicy {
    CellPolicy {
        label: "a1-1".into(),
        limits: Limits {
            memory_bytes: 512 << 20,
            memory_reserve_bytes: 512 << 20,
            cpu_milli: 0,
            cpu_weight: 100,
            pids: 64,
            disk_bytes: 64 << 20,
            nofile: 1024,
            wall_ms: 0,
            output_bytes: 1 << 20,
        },
        mounts: Vec::new(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        cwd: "/work".into(),
        profile: Profile::Default,
        tty: None,
        files: Vec::new(),
        operator_uid: 0,
        operator_gid: 0,
        allow_degraded: false,
    }
}

use super::{CellKind, Op, Plan, PlanError, Source, plan};
use crate::host::{HostFacts, PathView, Resolved, SystemPath};
use clove_abi::run::Mount;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Paths of a made-up host: name, where it leads, whether it is a folder.
struct Paths(BTreeMap<PathBuf, (PathBuf, bool)>);

impl PathView for Paths {
    fn resolve(&self, path: &Path) -> Option<Resolved> {
        self.0.get(path).map(|(path, is_folder)| Resolved { path: path.clone(), is_folder: *is_folder })
    }
}

fn host() -> HostFacts {
    let mut paths = BTreeMap::new();
    for folder in [
        "/",
        "/home/u",
        "/home/u/proj",
        "/home/u/proj/venv",
        "/usr",
        "/usr/local",
        "/data",
        "/var/lib/clove/x",
        "/proc",
    ] {
        paths.insert(folder.into(), (folder.into(), true));
    }
    paths.insert("/home/u/file".into(), ("/home/u/file".into(), false));
    paths.insert("/home/u/link".into(), ("/var/lib/clove/x".into(), true));
    paths.insert("/var".into(), ("/var".into(), true));
    HostFacts {
        system: vec![SystemPath::Folder("/usr".into()), SystemPath::Link("/bin".into(), "usr/bin".into())],
        protected: vec!["/var/lib/clove".into()],
        landlock_abi: Some(7),
        nofile_max: 4096,
        paths: Box::new(Paths(paths)),
    }
}

fn mounts(list: &[(&str, &str, bool)]) -> CellPolicy {
    let mut p = policy();
    p.mounts = list
        .iter()
        .map(|(s, t, w)| Mount { source: (*s).into(), target: (*t).into(), writable: *w })
        .collect();
    p
}

fn agent(p: &CellPolicy) -> Result<Plan, PlanError> {
    plan(CellKind::Agent, p, &host())
}

/// Targets of the user's mounts, in the order in which they are made.
fn targets(p: &Plan) -> Vec<&str> {
    let user = p.mounts.iter().filter(|m| m.idmap);
    user.map(|m| m.target.as_str()).collect()
}

#[test]
fn a_plain_plan_reads_as_it_always_did() {
    let plan =
        agent(&mounts(&[("/home/u/proj", "/home/u/proj", false), ("/data", "/data", true)])).expect("a plan");
    let expected = include_str!("plain_plan.txt");
    let text = plan.to_string();
    assert_eq!(text, expected, "if the change is meant, put this into plain_plan.txt:\n{text}");
}

#[test]
fn a_template_has_neither_listener_nor_a_proc_of_its_own() {
    let plan = plan(CellKind::Template, &policy(), &host()).expect("a plan");
    assert!(!plan.ops.iter().any(|p| matches!(p.op, Op::Listen { .. } | Op::Proc { .. })));
    assert!(plan.mounts.iter().any(|m| m.source == Source::HiddenProc && m.target == "/proc"));
}

#[test]
fn mounts_are_made_from_the_outside_in_and_not_twice() {
    let p = mounts(&[
        ("/home/u/proj/venv", "/home/u/proj/venv", false), // seen through the next one
        ("/home/u/proj", "/home/u/proj", false),
        ("/home/u/proj", "/home/u/proj", false),
        ("/usr/local", "/usr/local", false), // there anyway
        ("/data", "/home/u/proj/venv/", true),
    ]);
    let error = agent(&p).expect_err("two sources for one target");
    assert!(error.why.contains("two sources") || error.why.contains("mount on"), "{error}");
    let p = mounts(
        &[p.mounts[0].clone(), p.mounts[1].clone(), p.mounts[2].clone(), p.mounts[3].clone()].map(|m| {
            (
                Box::leak(m.source.into_boxed_str()) as &str,
                Box::leak(m.target.into_boxed_str()) as &str,
                m.writable,
            )
        }),
    );
    assert_eq!(targets(&agent(&p).expect("a plan")), ["/home/u/proj"]);
    let p = mounts(&[("/data", "/in/a/b", false), ("/home/u", "/in", false)]);
    assert!(agent(&p).expect_err("no such folder to mount on").why.contains("no folder of that name"));
    let p = mounts(&[("/data", "/in/proj", true), ("/home/u", "/in", false)]);
    assert_eq!(targets(&agent(&p).expect("a plan")), ["/in", "/in/proj"]);
}

#[test]
fn what_would_be_a_hole_is_refused_with_a_reason_and_a_way_out() {
    for (source, target, part) in [
        ("/", "/data", "the whole host"),
        ("/var", "/data", "journal"),
        ("/var/lib/clove/x", "/data", "journal"),
        ("/home/u/link", "/data", "journal"),
        ("/proc", "/data", "kernel interface"),
        ("/absent", "/data", "doesn't exist"),
        ("relative", "/data", "absolute"),
        ("/data", "data", "absolute"),
        ("/data", "/", "`/`"),
        ("/data", "/a/../etc", "`..`"),
        ("/data", "/a//b", "`//`"),
        ("/data", "/proc/x", "sandbox itself"),
        ("/data", "/dev", "sandbox itself"),
        ("/data", "/run/clove/kernel.sock", "sandbox itself"),
        ("/data", "/work", "sandbox itself"),
        ("/data", "/etc/ssl", "sandbox itself"),
        ("/data", "/bin/x", "mount on"),
        ("/data", "/usr/x\0y", "NUL"),
    ] {
        let error = agent(&mounts(&[(source, target, false)])).expect_err(target);
        assert!(error.why.contains(part), "{source} {target}: {error}");
        assert!(!error.hint.is_empty(), "{error}");
    }
    assert!(agent(&mounts(&[("/home/u/file", "/opt/file", false)])).is_ok());
}

#[test]
fn bad_labels_environments_files_and_profiles_are_refused() {
    let refused = |change: &dyn Fn(&mut CellPolicy)| {
        let mut p = policy();
        change(&mut p);
        agent(&p).expect_err("refused").what
    };
    assert_eq!(refused(&|p| p.label = "A/B".into()), "label \"A/B\"");
    assert_eq!(refused(&|p| p.label.clear()), "label \"\"");
    assert_eq!(refused(&|p| p.env.push(("A=B".into(), String::new()))), "env \"A=B\"");
    assert_eq!(refused(&|p| p.env.push((String::new(), String::new()))), "env \"\"");
    assert_eq!(refused(&|p| p.env.push(("A".into(), "\0".into()))), "env A");
    assert_eq!(refused(&|p| p.cwd = "work".into()), "cwd work");
    assert_eq!(refused(&|p| p.files.push(("/etc/passwd".into(), String::new()))), "file /etc/passwd");
    assert_eq!(refused(&|p| p.files.push(("/work/../x".into(), String::new()))), "file /work/../x");
    assert_eq!(
        refused(&|p| p.files.push((super::SOCKET_PATH.into(), String::new()))),
        "file /run/clove/kernel.sock"
    );
    assert_eq!(refused(&|p| p.profile = Profile::Strict), "profile strict");
    for argv in [vec![], vec![String::new()], vec!["a".into(), "b\0".into()]] {
        assert!(super::check_argv(&argv).is_err());
    }
}

#[test]
fn the_hosts_own_limit_of_open_files_bounds_ours() {
    let mut p = policy();
    p.limits.nofile = 1 << 20;
    assert_eq!(agent(&p).expect("a plan").nofile, 4096);
}
