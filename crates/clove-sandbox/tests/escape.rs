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
    /// Mounted read-only; the operator's.
    shown: tempfile::TempDir,
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
    let shown = tempfile::tempdir().unwrap();
    std::fs::write(shown.path().join("owned"), "").unwrap();
    let env = serde_json::json!({
        "secret": secret, "bait": shown.path(), "tcp": tcp.local_addr().unwrap().port(), "abstract": name, "host_pid": std::process::id(),
    });
    Bait { _tcp: tcp, _abstract: unix, _folder: folder, shown, env: env.to_string() }
}

fn probe_source() -> &'static str {
    concat!(include_str!("rig/probe_kit.py"), include_str!("rig/probe.py"))
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
    assert!(controlled >= 70, "only {controlled} attempts have a positive control");
}

fn cold_programs_get_nothing(rig: &mut Rig) {
    let bait = bait();
    let control = control(&bait);
    let (mut cell, python) = rig::python_policy();
    cell.env.push(("PROBE".into(), bait.env.clone()));
    cell.mounts.push(rig::mount(bait.shown.path()));
    let end = rig.run(cell, &[&python, "-c", probe_source()]);
    let expected: &[&str] = if clove_sys::landlock::abi().is_some() { &[] } else { &["landlock"] };
    assert_eq!(end.missing_walls, expected);
    compare("cold", &end.stdout, &end.stderr, &control);
}

fn warm_programs_get_nothing(rig: &mut Rig) {
    let bait = bait();
    let control = control(&bait);
    let code = format!("os.environ['PROBE'] = {:?}\n{}", bait.env, probe_source());
    let t = warm::ready(rig, &code, "");
    let mut cell = rig::python_policy().0;
    cell.mounts.push(rig::mount(bait.shown.path()));
    let w = warm::embryo_with(rig, cell, t);
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
    assert!(inside.len() > 75);
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

/// Ended or stopped from inside, it would take the whole agent along, and leave nobody to tell what became of it.
fn init_doesnt_listen_to_its_agent(rig: &mut Rig) {
    let line = "sleep 100 & kill -KILL $!; wait $!; kill -KILL 1; kill -STOP 1; kill -SEGV 1; exit 7";
    let end = rig.sh(line);
    assert_eq!(end.status(), Status::Code(7), "{end:?}");
    // The control: `wait` tells of the child that was killed the same way.
    let end = rig.sh("sleep 100 & kill -KILL $!; wait $!; exit $?");
    assert_eq!(end.status(), Status::Code(137), "{end:?}");
}

/// A program that belongs to root and is to run as root, in a folder that is shown.
fn a_setuid_program_gains_nothing(rig: &mut Rig) {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let program = folder.path().join("whoami");
    std::fs::copy("/usr/bin/id", &program).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).unwrap();
    let name = program.to_str().unwrap();
    let mut cell = policy();
    cell.mounts.push(rig::mount(folder.path()));
    let inside = rig.run(cell, &[name, "-u"]);
    assert_eq!(inside.stdout, "1000\n", "{inside:?}");
    let outside = std::process::Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", name, "-u"])
        .output();
    match outside {
        Ok(out) if out.stdout == b"0\n" => {}
        other => {
            eprintln!("SKIPPED: a_setuid_program_gains_nothing: no positive control on this host ({other:?})")
        }
    }
}

/// What is run from memory runs within the same walls.
fn a_program_without_a_file_is_no_way_out(rig: &mut Rig) {
    let (cell, python) = rig::python_policy();
    let code = "import os\nfd = os.memfd_create('x', 0)\nos.write(fd, open('/bin/cat', 'rb').read())\n\
                os.execve(fd, ['cat', '/proc/self/status', '/root/x', '/etc/shadow'], {})";
    let end = rig.run(cell, &[&python, "-c", code]);
    assert!(end.stdout.contains("NoNewPrivs:\t1\n") && end.stdout.contains("Seccomp:\t2\n"), "{end:?}");
    assert!(end.stdout.contains("CapEff:\t0000000000000000\n"), "{end:?}");
    assert_eq!(end.stderr.matches("No such file").count(), 2, "{end:?}");
}

/// A uid is given to one agent after the other: what the first one leaves behind is nobody's.
fn a_uid_that_is_given_again_brings_nothing_along(rig: &mut Rig) {
    let (cell, python) = rig::python_policy();
    let leave = "import ctypes, os\nlibc = ctypes.CDLL(None)\nid = libc.shmget(4711, 4096, 0o1777)\n\
                 print(id, libc.semget(4711, 1, 0o1777), os.getuid())\n\
                 for d in '/tmp', '/dev/shm', '/work': open(d + '/left', 'w').write('x')\n\
                 if os.fork() == 0:\n    os.setsid()\n    os.fork()\n    import time; time.sleep(1000)";
    let look = "import ctypes, os\nlibc = ctypes.CDLL(None)\n\
                print(libc.shmget(4711, 4096, 0), libc.semget(4711, 1, 0), [d for d in ('/tmp', '/dev/shm', '/work') \
                if os.path.exists(d + '/left')], len([p for p in os.listdir('/proc') if p.isdigit()]))";
    let uid_of = |rig: &mut Rig, code: &str| {
        let (token, out, err) = rig.start(cell.clone(), &[&python, "-c", code]);
        let (event, _) =
            rig.expect("cell", |e| matches!(e, Event::CellReady { token: t, .. } if *t == token));
        let Event::CellReady { uid, .. } = event else { unreachable!() };
        let end = rig.expect_end(token);
        assert!(matches!(end, Event::Exited { status: Status::Code(0), .. }), "{end:?} {}", rig::text(err));
        (uid, rig::text(out))
    };
    let (first, left) = uid_of(rig, leave);
    let words: Vec<i64> = left.split_whitespace().map(|w| w.parse().unwrap()).collect();
    assert!(words[0] >= 0 && words[1] >= 0, "the control: it could leave something: {left}");
    // Its processes are gone before its uid is free.
    assert_eq!(rig::processes_of(first), 0);
    let (second, found) = uid_of(rig, look);
    assert_eq!(first, second);
    assert_eq!(found, "-1 -1 [] 2\n");
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
        ("init_doesnt_listen_to_its_agent", init_doesnt_listen_to_its_agent),
        ("a_setuid_program_gains_nothing", a_setuid_program_gains_nothing),
        ("a_program_without_a_file_is_no_way_out", a_program_without_a_file_is_no_way_out),
        ("a_uid_that_is_given_again_brings_nothing_along", a_uid_that_is_given_again_brings_nothing_along),
        ("only_own_processes_are_seen", only_own_processes_are_seen),
        ("a_user_namespace_cant_even_be_asked_for", a_user_namespace_cant_even_be_asked_for),
        ("one_agent_cant_reach_another", one_agent_cant_reach_another),
    ]);
}
