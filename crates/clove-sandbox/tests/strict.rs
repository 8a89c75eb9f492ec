//! The `strict` profile: what it refuses and the default doesn't, and that ordinary programs run under it.
//!
//! Each refusal has a positive control: the same probe, in the same kind of cell, under the default profile.
#![allow(clippy::unwrap_used)]

mod rig;

use clove_abi::run::Mount;
use clove_sandbox::protocol::{CellPolicy, Event, Profile, Status};
use rig::{Rig, policy, warm};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

const STRICT: Profile = Profile::Strict;

fn probe_source() -> &'static str {
    concat!(include_str!("rig/probe_kit.py"), include_str!("rig/strict_probe.py"))
}

fn results(text: &str, stderr: &str) -> BTreeMap<String, Value> {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}\n{text}\n{stderr}"))
}

/// Everything that works under the default profile, and nothing of it under strict.
fn compare(kind: &str, default: &BTreeMap<String, Value>, strict: &BTreeMap<String, Value>) {
    let without_control: Vec<_> = default.iter().filter(|(_, r)| *r != "ok").collect();
    // What the host's kernel was built without: few, or this proves little.
    assert!(default.len() - without_control.len() >= 28, "{kind}: no positive control: {without_control:?}");
    let worked: Vec<_> = strict.iter().filter(|(_, r)| *r == "ok").map(|(name, _)| name).collect();
    assert!(worked.is_empty(), "{kind}: these worked under strict: {worked:?}");
    assert_eq!(default.len(), strict.len());
    // An errno is an answer; a death isn't.
    assert!(strict.values().all(|r| r.as_str().is_some_and(|r| r.starts_with('E'))), "{kind}: {strict:?}");
}

fn cold_programs_get_less(rig: &mut Rig) {
    let mut run = |profile| {
        let (mut cell, python) = rig::python_policy();
        cell.profile = profile;
        let end = rig.run(cell, &[&python, "-c", probe_source()]);
        results(&end.stdout, &end.stderr)
    };
    let (default, strict) = (run(Profile::Default), run(STRICT));
    compare("cold", &default, &strict);
    // Unknown calls look like an old kernel's, refused arguments like what the call would say.
    for (name, errno) in [
        ("shmget", "ENOSYS"),
        ("io_setup", "ENOSYS"),
        ("clone_parent", "EPERM"),
        ("prctl_keepcaps", "EINVAL"),
        ("ioctl_figetbsz", "ENOTTY"),
        ("netlink_route", "EAFNOSUPPORT"),
        ("unix_raw", "ESOCKTNOSUPPORT"),
        ("socket_filter", "ENOPROTOOPT"),
        ("mknod_socket", "EPERM"),
    ] {
        assert_eq!(strict[name], errno, "{name}");
    }
}

fn warm_programs_get_less(rig: &mut Rig) {
    let mut run = |profile| {
        let t = warm::ready_under(rig, profile, probe_source(), "");
        let w = warm::embryo_under(rig, profile, t);
        let (event, out, err) = w.finish(rig);
        assert!(matches!(event, Event::Exited { status: Status::Code(0), .. }), "{event:?} {err}");
        results(&out, &err)
    };
    let (default, strict) = (run(Profile::Default), run(STRICT));
    compare("warm", &default, &strict);
}

/// What a template imports is under the allow-list too; it may fork agents into cells, and lacks the rest.
fn templates_get_less(rig: &mut Rig) {
    let setup = format!("{}\nsys.stdout.flush()", probe_source());
    let mut run = |profile| {
        let (token, log) = warm::template_under(rig, profile, "", &setup);
        rig.expect("template", |e| matches!(e, Event::TemplateReady { token: t, .. } if *t == token));
        results(&rig::text(log), "")
    };
    let (default, mut strict) = (run(Profile::Default), run(STRICT));
    // Which version of Landlock there is, for its agents; and an agent is its parent's child.
    for own in ["landlock_version", "clone_parent"] {
        assert_eq!(strict[own], "ok");
        strict.insert(own.to_owned(), "EPERM".into());
    }
    compare("template", &default, &strict);
}

/// The default's refusals hold as well: each attempt of the escape suite, under strict.
fn nothing_of_the_escape_suite_works(rig: &mut Rig) {
    let (mut cell, python) = rig::python_policy();
    cell.profile = STRICT;
    let probe = concat!(include_str!("rig/probe_kit.py"), include_str!("rig/probe.py"));
    let end = rig.run(cell, &[&python, "-c", probe]);
    let inside = results(&end.stdout, &end.stderr);
    let worked: Vec<_> = inside.iter().filter(|(_, r)| *r == "ok").collect();
    assert!(inside.len() > 50 && worked.is_empty(), "{worked:?}");
}

fn one_filter_and_no_foreign_calls(rig: &mut Rig) {
    let mut cell = policy();
    cell.profile = STRICT;
    let end =
        rig.run(cell, &["/bin/grep", "-E", "^(NoNewPrivs|Seccomp|Seccomp_filters):", "/proc/self/status"]);
    assert_eq!(end.stdout, "NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n", "{end:?}");
    // int 0x80 is the i386 table, whose numbers mean other things: the process is ended, as under the default.
    let (mut cell, python) = rig::python_policy();
    cell.profile = STRICT;
    let i386 = "import ctypes, mmap; m = mmap.mmap(-1, 4096, prot=7)\n\
                m.write(bytes([0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3]))\n\
                ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()";
    let end = rig.run(cell, &[&python, "-c", i386]);
    assert_eq!(end.status(), Status::Signal(libc::SIGSYS), "{end:?}");
}

/// A cell with the workloads of `tests/strict` in it.
fn workshop(mut cell: CellPolicy) -> CellPolicy {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/strict/workloads").canonicalize().unwrap();
    cell.mounts.push(Mount {
        source: folder.to_str().unwrap().into(),
        target: "/workloads".into(),
        writable: false,
    });
    cell.profile = STRICT;
    cell.limits.memory_bytes = 1 << 30;
    cell.limits.memory_reserve_bytes = 1 << 30;
    cell.limits.disk_bytes = 512 << 20;
    cell.limits.pids = 400;
    cell.limits.nofile = 1024;
    cell.env = vec![
        ("PATH".into(), "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".into()),
        ("HOME".into(), "/work".into()),
        ("LANG".into(), "C.UTF-8".into()),
    ];
    cell
}

/// A program that isn't on this host can't be tried.
fn work(rig: &mut Rig, needs: &str, cell: CellPolicy, argv: &[&str]) {
    if !["/usr/local/bin", "/usr/bin", "/bin"].iter().any(|d| Path::new(d).join(needs).exists()) {
        eprintln!("SKIPPED: no {needs}");
        return;
    }
    let end = rig.run_patiently(workshop(cell), argv);
    assert_eq!(end.status(), Status::Code(0), "{argv:?}\n{}{}", end.stdout, end.stderr);
    assert!(end.stdout.lines().last().is_some_and(|l| l.trim() == "ok"), "{argv:?}: {end:?}");
}

fn python_works(rig: &mut Rig) {
    let (cell, python) = rig::python_policy();
    let end = rig.run_patiently(workshop(cell), &[&python, "/workloads/python_core.py"]);
    assert_eq!(end.status(), Status::Code(0), "{}{}", end.stdout, end.stderr);
    assert!(end.stdout.ends_with("ok\n"), "{end:?}");
}

fn node_works(rig: &mut Rig) {
    work(rig, "node", policy(), &["node", "/workloads/node.js"]);
}

fn shell_and_coreutils_work(rig: &mut Rig) {
    work(rig, "bash", policy(), &["bash", "/workloads/shell.sh"]);
}

fn a_terminal_works(rig: &mut Rig) {
    let mut cell = policy();
    cell.tty = Some((24, 80));
    let (token, ..) = rig.start(workshop(cell), &["/bin/bash", "/workloads/terminal.sh"]);
    let (_, fds) = rig.expect("cell", |e| matches!(e, Event::CellReady { token: t, .. } if *t == token));
    let event = rig.expect_end_within(token, rig::PATIENCE);
    let master = fds.last().unwrap();
    rustix::io::ioctl_fionbio(master, true).unwrap();
    let mut said = Vec::new();
    let mut buffer = [0u8; 4096];
    while let Ok(n @ 1..) = rustix::io::read(master, &mut buffer) {
        said.extend_from_slice(&buffer[..n]);
    }
    let said = String::from_utf8_lossy(&said);
    assert!(matches!(event, Event::Exited { status: Status::Code(0), .. }), "{event:?}\n{said}");
    assert!(said.trim_end().ends_with("ok"), "{said}");
}

fn compilers_and_what_they_build_work(rig: &mut Rig) {
    work(rig, "gcc", policy(), &["bash", "/workloads/compiler.sh"]);
}

fn main() {
    if rig::host_python().is_none() {
        eprintln!("SKIPPED: no python3");
        return;
    }
    if clove_sys::landlock::abi().is_none() {
        eprintln!("SKIPPED: strict needs Landlock, and this host has none");
        return;
    }
    rig::run_all(&[
        ("cold_programs_get_less", cold_programs_get_less),
        ("warm_programs_get_less", warm_programs_get_less),
        ("templates_get_less", templates_get_less),
        ("nothing_of_the_escape_suite_works", nothing_of_the_escape_suite_works),
        ("one_filter_and_no_foreign_calls", one_filter_and_no_foreign_calls),
        ("python_works", python_works),
        ("node_works", node_works),
        ("shell_and_coreutils_work", shell_and_coreutils_work),
        ("a_terminal_works", a_terminal_works),
        ("compilers_and_what_they_build_work", compilers_and_what_they_build_work),
    ]);
}
