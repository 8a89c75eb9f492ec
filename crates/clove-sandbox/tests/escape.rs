//! What a hostile program tries, from inside; each attempt works outside (the positive control).
#![allow(clippy::unwrap_used)]

mod rig;

use clove_sandbox::protocol::{CellPolicy, Event, Status};
use rig::{Rig, policy, warm};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

struct Bait {
    _tcp: TcpListener,
    _abstract: UnixListener,
    _folder: tempfile::TempDir,
    env: String,
}

/// Things on the host that a program might get at.
fn bait() -> Bait {
    let folder =
        tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir();
    let folder = folder.unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "s3cret").unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("clove-probe-{}", std::process::id());
    let unix = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let env = serde_json::json!({
        "secret": secret, "tcp": tcp.local_addr().unwrap().port(), "abstract": name, "host_pid": std::process::id(),
    });
    Bait { _tcp: tcp, _abstract: unix, _folder: folder, env: env.to_string() }
}

fn probe_source() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rig/probe.py")).unwrap()
}

/// What works without a sandbox.
fn control(bait: &Bait) -> BTreeMap<String, Value> {
    let out =
        std::process::Command::new("python3").arg("-c").arg(probe_source()).env("PROBE", &bait.env).output();
    let out = out.unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn compare(kind: &str, inside: &str, stderr: &str, control: &BTreeMap<String, Value>) {
    let inside: BTreeMap<String, Value> =
        serde_json::from_str(inside).unwrap_or_else(|e| panic!("{kind}: {e}\n{inside}\n{stderr}"));
    let mut escaped = Vec::new();
    let mut controlled = 0;
    for (name, result) in &inside {
        match control.get(name).and_then(Value::as_str) {
            Some("ok") => controlled += 1,
            other => eprintln!("SKIPPED: {kind} {name}: no positive control on this host ({other:?})"),
        }
        if result == "ok" {
            escaped.push(name.clone());
        }
    }
    assert!(escaped.is_empty(), "{kind}: these worked inside: {escaped:?}");
    assert!(controlled >= 40, "only {controlled} attempts have a positive control");
}

fn cold_programs_get_nothing(rig: &mut Rig) {
    let bait = bait();
    let control = control(&bait);
    let (mut cell, python) = rig::python_policy();
    cell.env.push(("PROBE".into(), bait.env.clone()));
    let end = rig.run(cell, &[&python, "-c", &probe_source()]);
    let expected: &[&str] = if clove_sys::landlock::abi().is_some() { &[] } else { &["landlock"] };
    assert_eq!(end.missing_walls, expected);
    compare("cold", &end.stdout, &end.stderr, &control);
}

fn warm_programs_get_nothing(rig: &mut Rig) {
    let bait = bait();
    let control = control(&bait);
    let code = format!("os.environ['PROBE'] = {:?}\n{}", bait.env, probe_source());
    let t = warm::ready(rig, &code, "");
    let w = warm::embryo(rig, t);
    let (event, out, err) = w.finish(rig);
    assert!(matches!(event, Event::Exited { status: Status::Code(0), .. }), "{event:?} {err}");
    compare("warm", &out, &err, &control);
}

/// The template runs third-party code too. It keeps CAP_SYS_ADMIN in its own user namespace only.
fn templates_get_little(rig: &mut Rig) {
    let bait = bait();
    let setup = format!("os.environ['PROBE'] = {:?}\n{}\nsys.stdout.flush()", bait.env, probe_source());
    let (token, log) = warm::template(rig, "", &setup);
    rig.expect("template", |e| matches!(e, Event::TemplateReady { token: t, .. } if *t == token));
    let text = rig::text(log);
    let inside: BTreeMap<String, Value> =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    // Within its own namespaces only: entering the one that it is in, and naming it.
    let own = ["setns", "sethostname"];
    let worked: Vec<_> =
        inside.iter().filter(|(k, v)| *v == "ok" && !own.contains(&k.as_str())).map(|(k, _)| k).collect();
    assert!(worked.is_empty(), "in a template these worked: {worked:?}");
}

fn seven_namespaces_differ(rig: &mut Rig) {
    let end = rig.sh("for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done");
    let lines: Vec<&str> = end.stdout.lines().collect();
    assert_eq!(lines.len(), 7, "{end:?}");
    for line in lines {
        let (name, _) = line.split_once(':').unwrap();
        let outside = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(outside.to_str().unwrap(), line);
    }
}

fn nothing_is_held_but_the_three(rig: &mut Rig) {
    let end = rig.run(policy(), &["/bin/ls", "/proc/self/fd"]);
    // 3 is the listing itself.
    assert_eq!(end.stdout, "0\n1\n2\n3\n", "{end:?}");
}

fn status_lines_say_no_privileges(rig: &mut Rig) {
    let end = rig.sh("cat /proc/self/status; cat /proc/self/uid_map; cat /proc/self/cgroup");
    for (field, value) in [
        ("CapInh", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("Seccomp_filters", "1"),
        ("Uid", "1000\t1000\t1000\t1000"),
        ("Gid", "1000\t1000\t1000\t1000"),
    ] {
        assert!(end.stdout.contains(&format!("{field}:\t{value}\n")), "{field}\n{}", end.stdout);
    }
    assert!(end.stdout.contains("0::/\n"), "its own group is its root: {}", end.stdout);
}

fn only_own_processes_are_seen(rig: &mut Rig) {
    let end = rig.sh("ls /proc | grep -c '^[0-9]'; cat /proc/1/comm >/dev/null 2>&1; echo $$");
    let lines: Vec<&str> = end.stdout.lines().collect();
    // init, the shell, ls, grep
    assert!(lines[0].parse::<u32>().unwrap() <= 4, "{end:?}");
    assert_eq!(lines[1], "2");
}

fn a_user_namespace_cant_even_be_asked_for(rig: &mut Rig) {
    let end = rig.sh("cat /proc/sys/user/max_user_namespaces");
    assert_eq!(end.stdout, "0\n");
}

fn one_agent_cant_reach_another(rig: &mut Rig) {
    let mut victim: CellPolicy = policy();
    victim.env.push(("SECRET".into(), "victims".into()));
    let (token, ..) =
        rig.start(victim, &["/bin/sh", "-c", "echo s > /work/s; echo s > /dev/shm/s; sleep 30"]);
    let (event, _) = rig.expect("start", |e| matches!(e, Event::Started { token: t, .. } if *t == token));
    let Event::Started { pid, .. } = event else { unreachable!() };
    let end = rig.sh(&format!("ls /work /dev/shm /tmp; kill -0 {pid}; ls /proc/{pid}"));
    assert!(!end.stdout.contains("s\n"), "{end:?}");
    assert!(end.stderr.contains("No such process"), "{end:?}");
    rig.send(clove_sandbox::protocol::Request::Kill { token }, &[]);
    rig.expect_end(token);
}

fn main() {
    if rig::host_python().is_none() {
        eprintln!("SKIPPED: no python3");
        return;
    }
    rig::run_all(&[
        ("cold_programs_get_nothing", cold_programs_get_nothing),
        ("warm_programs_get_nothing", warm_programs_get_nothing),
        ("templates_get_little", templates_get_little),
        ("seven_namespaces_differ", seven_namespaces_differ),
        ("nothing_is_held_but_the_three", nothing_is_held_but_the_three),
        ("status_lines_say_no_privileges", status_lines_say_no_privileges),
        ("only_own_processes_are_seen", only_own_processes_are_seen),
        ("a_user_namespace_cant_even_be_asked_for", a_user_namespace_cant_even_be_asked_for),
        ("one_agent_cant_reach_another", one_agent_cant_reach_another),
    ]);
}
