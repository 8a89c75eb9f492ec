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

use super::{CellKind, Op, Plan, PlanError, plan};
use crate::host::{HostFacts, PathView, Resolved, SystemPath};
use clove_abi::run::Mount;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Paths of a made-up host: name, where it leads, whether it is a folder; and what links hold.
struct Paths(BTreeMap<PathBuf, (PathBuf, bool)>, BTreeMap<PathBuf, PathBuf>);

impl PathView for Paths {
    fn resolve(&self, path: &Path) -> Option<Resolved> {
        self.0.get(path).map(|(path, is_folder)| Resolved { path: path.clone(), is_folder: *is_folder })
    }

    fn link(&self, path: &Path) -> Option<PathBuf> {
        self.1.get(path).cloned()
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
    // What installers of Pythons leave: a command that links to a folder named for the minor version, itself a link.
    let python = "/home/u/py/3.10.4/bin/python3.10";
    let mut links = BTreeMap::new();
    for (link, to) in [
        ("/home/u/.local/bin/python3.10", "../../py/3.10/bin/python3.10"),
        ("/home/u/v/bin/python", "/home/u/.local/bin/python3.10"),
        ("/home/u/bin/tool", "/bin/tool"),
    ] {
        links.insert(link.into(), to.into());
        let leads = if to == "/bin/tool" { "/usr/bin/tool" } else { python };
        paths.insert(link.into(), (leads.into(), false));
    }
    for (name, leads, is_folder) in [
        ("/home/u/py/3.10", "/home/u/py/3.10.4", true),
        ("/home/u/py/3.10.4", "/home/u/py/3.10.4", true),
        ("/home/u/py/3.10/bin/python3.10", python, false),
        (python, python, false),
        ("/home/u/v", "/home/u/v", true),
        ("/usr/bin/tool", "/usr/bin/tool", false),
    ] {
        paths.insert(name.into(), (leads.into(), is_folder));
    }
    HostFacts {
        system: vec![SystemPath::Folder("/usr".into()), SystemPath::Link("/bin".into(), "usr/bin".into())],
        protected: vec!["/var/lib/clove".into()],
        landlock_abi: Some(7),
        nofile_max: 4096,
        paths: Box::new(Paths(paths, links)),
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
fn a_template_has_no_listener_and_sees_only_itself() {
    let plan = plan(CellKind::Template, &policy(), &host()).expect("a plan");
    let has = |wanted: fn(&Op) -> bool| plan.ops.iter().any(|p| wanted(&p.op));
    assert!(has(|op| matches!(op, Op::Proc { hidden: true, .. })));
    // Its agents' user namespaces are made below its own.
    assert!(!has(|op| matches!(op, Op::Listen { .. } | Op::Setting { .. } | Op::Proc { hidden: false, .. })));
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

/// Links that are made after the root was entered: path, where they lead.
fn links(p: &Plan) -> Vec<(&str, &str)> {
    let made = p.ops.iter().skip_while(|o| o.op != Op::Pivot);
    made.filter_map(|o| match &o.op {
        Op::Link { to, path } => Some((path.as_str(), to.as_str())),
        _ => None,
    })
    .collect()
}

#[test]
fn a_file_that_is_a_link_stays_one_where_what_it_leads_to_is_shown() {
    let command = "/home/u/.local/bin/python3.10";
    let prefix = ("/home/u/py/3.10", "/home/u/py/3.10", false);
    let p = agent(&mounts(&[(command, command, false), prefix])).expect("a plan");
    assert_eq!(links(&p), [(command, "/home/u/py/3.10/bin/python3.10")]);
    assert_eq!(targets(&p), ["/home/u/py/3.10"]);
    // Nothing else of its folder: that is made empty.
    let made = |path: &str| p.ops.iter().any(|o| o.op == Op::Folder { path: path.into(), mode: 0o755 });
    assert!(made("/home/u/.local/bin"));

    // Over another link, and one that a mount shows anyway.
    let venv = [("/home/u/v", "/home/u/v", false), ("/home/u/v/bin/python", "/home/u/v/bin/python", false)];
    let p = agent(&mounts(&[venv[0], venv[1], (command, command, false), prefix])).expect("a plan");
    assert_eq!(links(&p), [(command, "/home/u/py/3.10/bin/python3.10")]);
    assert_eq!(targets(&p), ["/home/u/v", "/home/u/py/3.10"]);
    let p = agent(&mounts(&[("/home/u/bin/tool", "/home/u/bin/tool", false)])).expect("a plan");
    assert_eq!(links(&p), [("/home/u/bin/tool", "/usr/bin/tool")]);

    // Otherwise it is what it leads to: at another place, writable, or without its surroundings.
    for (list, expected) in [
        (vec![(command, "/data/python", false), prefix], "/data/python"),
        (vec![(command, command, true), prefix], command),
        (vec![(command, command, false)], command),
        (vec![(command, command, false), ("/data", "/home/u/py/3.10", false)], command),
    ] {
        let p = agent(&mounts(&list)).expect("a plan");
        assert_eq!(links(&p), []);
        assert!(targets(&p).contains(&expected), "{list:?}: {:?}", targets(&p));
    }
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
    for argv in [vec![], vec![String::new()], vec!["a".into(), "b\0".into()]] {
        assert!(super::check_argv(&argv).is_err());
    }
}

/// Landlock may be missing otherwise: then that is listed.
#[test]
fn strict_needs_landlock_and_the_default_names_it() {
    let mut p = policy();
    p.profile = Profile::Strict;
    let text = agent(&p).expect("a plan").to_string();
    assert!(text.contains("seccomp (strict)") && text.contains("landlock (ABI 7)"), "{text}");
    let without = HostFacts { landlock_abi: None, ..host() };
    for kind in [CellKind::Agent, CellKind::Template] {
        let error = plan(kind, &p, &without).expect_err("refused");
        assert_eq!(error.what, "profile strict");
        assert!(error.why.contains("Landlock") && error.hint.contains("default profile"), "{error:?}");
        assert_eq!(plan(kind, &policy(), &without).expect("a plan").missing_walls, ["landlock"]);
    }
}

#[test]
fn the_hosts_own_limit_of_open_files_bounds_ours() {
    let mut p = policy();
    p.limits.nofile = 1 << 20;
    assert_eq!(agent(&p).expect("a plan").nofile, 4096);
}
