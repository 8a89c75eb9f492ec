//! The user's files inside: what is seen, with whose eyes, and what is written back.
#![allow(clippy::unwrap_used)]

mod rig;

use clove_abi::run::Mount;
use clove_sandbox::protocol::{CellPolicy, Event, Request, Status};
use rig::{Rig, policy};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

fn with(mounts: &[(&Path, &str, bool)]) -> CellPolicy {
    let mut p = policy();
    p.mounts = mounts
        .iter()
        .map(|(s, t, w)| Mount { source: s.to_str().unwrap().into(), target: (*t).into(), writable: *w })
        .collect();
    p
}

fn private(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Whether owners can be mapped where temporary folders lie (tmpfs: Linux 6.3).
fn can_idmap(rig: &mut Rig) -> bool {
    let d = tempfile::tempdir().unwrap();
    let end = rig.run(with(&[(d.path(), "/data", true)]), &["/bin/true"]);
    let can = !matches!(&end.event, Event::SpawnFailed { stage, .. } if stage == "mounts");
    if !can {
        eprintln!("SKIPPED: no idmapped mounts on {}", std::env::temp_dir().display());
    }
    can
}

fn the_operators_private_files_can_be_read(rig: &mut Rig) {
    if !can_idmap(rig) {
        return;
    }
    let d = tempfile::tempdir().unwrap();
    private(d.path(), 0o700);
    std::fs::write(d.path().join("key"), "private\n").unwrap();
    private(&d.path().join("key"), 0o600);
    let end =
        rig.run(with(&[(d.path(), "/data", false)]), &["/bin/sh", "-c", "cat /data/key; echo x > /data/new"]);
    assert_eq!(end.stdout, "private\n", "{end:?}");
    assert!(end.stderr.contains("Read-only"), "{end:?}");
}

fn what_is_written_belongs_to_the_operator(rig: &mut Rig) {
    if !can_idmap(rig) {
        return;
    }
    let d = tempfile::tempdir().unwrap();
    let line = "echo out > /data/result; mkdir /data/sub; stat -c %u /data/result";
    let end = rig.run(with(&[(d.path(), "/data", true)]), &["/bin/sh", "-c", line]);
    assert_eq!((end.status(), end.stdout.as_str()), (Status::Code(0), "1000\n"), "{end:?}");
    let m = d.path().join("result").metadata().unwrap();
    assert_eq!((m.uid(), m.gid()), (0, 0));
    // Another operator's folder.
    let d = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(d.path(), Some(4242), Some(4243)).unwrap();
    private(d.path(), 0o700);
    let mut p = with(&[(d.path(), "/data", true)]);
    (p.operator_uid, p.operator_gid) = (4242, 4243);
    let end = rig.run(p, &["/bin/sh", "-c", "echo out > /data/result"]);
    assert_eq!(end.status(), Status::Code(0), "{end:?}");
    let m = d.path().join("result").metadata().unwrap();
    assert_eq!((m.uid(), m.gid()), (4242, 4243));
}

fn single_files_and_nested_mounts_work(rig: &mut Rig) {
    let d = tempfile::tempdir().unwrap();
    std::fs::write(d.path().join("one"), "1\n").unwrap();
    std::fs::create_dir_all(d.path().join("a/b")).unwrap();
    std::fs::write(d.path().join("a/b/deep"), "deep\n").unwrap();
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("x"), "other\n").unwrap();
    let p = with(&[
        (other.path(), "/data/b", false),
        (&d.path().join("a"), "/data", false),
        (&d.path().join("one"), "/opt/deeply/nested/one", false),
        (other.path(), "/work/in", false),
        (other.path(), "/tmp/in", false),
    ]);
    let line = "cat /opt/deeply/nested/one /data/b/x /work/in/x /tmp/in/x; echo w > /work/ok && cat /work/ok; ls /opt";
    let end = rig.run(p, &["/bin/sh", "-c", line]);
    assert_eq!(end.stdout, "1\nother\nother\nother\nw\ndeeply\n", "{end:?}");
}

fn an_interpreter_in_a_private_home_works(rig: &mut Rig) {
    let Some(python) = rig::host_python() else {
        eprintln!("SKIPPED: no python3");
        return;
    };
    if !python.starts_with("/root") {
        eprintln!("SKIPPED: python3 isn't under a private home here");
        return;
    }
    assert_eq!(std::fs::metadata("/root").unwrap().mode() & 0o777, 0o700);
    let (cell, python) = rig::python_policy();
    let end = rig.run(cell, &[&python, "-c", "import os, ssl, sqlite3; print(os.listdir('/root'))"]);
    assert_eq!(end.stdout, "['.pyenv']\n", "{end:?}");
}

fn the_clove_folders_and_the_host_are_refused(rig: &mut Rig) {
    let data = rig.data_dir.path().to_owned();
    for (source, target) in [
        (data.as_path(), "/data"),
        (data.parent().unwrap(), "/data"),
        (Path::new("/"), "/data"),
        (Path::new("/proc"), "/data"),
        (Path::new("/usr/share"), "/proc/x"),
        (Path::new("/usr/share"), "/etc"),
        (Path::new("/nonexistent/x"), "/data"),
        (Path::new("/usr/share"), "/usr/nowhere"),
    ] {
        let end = rig.run(with(&[(source, target, false)]), &["/bin/true"]);
        let Event::SpawnFailed { stage, message, .. } = &end.event else {
            panic!("{source:?} {target} {end:?}")
        };
        assert_eq!(stage, "policy", "{message}");
    }
    // By a link, too.
    let d = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&data, d.path().join("link")).unwrap();
    let end = rig.run(with(&[(&d.path().join("link"), "/data", false)]), &["/bin/true"]);
    assert!(matches!(end.event, Event::SpawnFailed { .. }), "{end:?}");
}

fn small_files_and_the_scratch_folder_reach_the_program(rig: &mut Rig) {
    let mut cell = policy();
    cell.files = vec![("/work/in/config.json".into(), "{}".into()), ("/run/clove/x".into(), "x".into())];
    let token = rig.token();
    let null = std::fs::File::open("/dev/null").unwrap();
    let out = tempfile::tempfile().unwrap();
    let line = "cat /work/in/config.json /run/clove/x /checkpoint/old; stat -c %u /checkpoint/old; echo r > /out/result; hostname";
    let argv = ["/bin/sh", "-c", line].map(String::from).to_vec();
    rig.send(Request::Spawn { token, cell, argv, hold: true }, &[null.as_fd(), out.as_fd(), out.as_fd()]);
    let (event, fds) = rig.expect("cell", |e| matches!(e, Event::CellReady { token: t, .. } if *t == token));
    let Event::CellReady { uid, .. } = event else { unreachable!() };
    assert_eq!(fds.len(), 2);
    let scratch = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fds[1]));
    let old = Path::new(&scratch).join("checkpoint/old");
    clove_sys::fsuid::with_fsuid(uid, uid, || std::fs::write(&old, "old\n")).unwrap().unwrap();
    rig.send(Request::Start { token }, &[]);
    assert!(
        matches!(rig.expect_end(token), Event::Exited { status: Status::Code(0), .. }),
        "{}",
        rig::text(out)
    );
    assert_eq!(rig::text(out), "{}xold\n1000\ntest-1\n");
    assert_eq!(std::fs::read_to_string(Path::new(&scratch).join("out/result")).unwrap(), "r\n");
}

fn the_listener_is_the_agents_own(rig: &mut Rig) {
    let Some(python) = rig::host_python() else { return };
    let (cell, _) = rig::python_policy();
    let token = rig.token();
    let null = std::fs::File::open("/dev/null").unwrap();
    let out = tempfile::tempfile().unwrap();
    let code = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/clove/kernel.sock'); print(s.recv(9))";
    let argv = vec![python.to_str().unwrap().into(), "-c".into(), code.into()];
    rig.send(Request::Spawn { token, cell, argv, hold: false }, &[null.as_fd(), out.as_fd(), out.as_fd()]);
    let (_, mut fds) = rig.expect("cell", |e| matches!(e, Event::CellReady { token: t, .. } if *t == token));
    let listener = std::os::unix::net::UnixListener::from(fds.remove(0));
    listener.set_nonblocking(false).unwrap();
    use std::io::Write;
    listener.accept().unwrap().0.write_all(b"hello").unwrap();
    rig.expect_end(token);
    assert_eq!(rig::text(out), "b'hello'\n");
}

fn a_terminal_of_its_own(rig: &mut Rig) {
    let mut cell = policy();
    cell.tty = Some((33, 99));
    let token = rig.token();
    let argv = ["/bin/sh", "-c", "tty; stty size; echo > /dev/tty && echo control; exit 4"]
        .map(String::from)
        .to_vec();
    rig.send(Request::Spawn { token, cell, argv, hold: false }, &[]);
    let (_, mut fds) = rig.expect("cell", |e| matches!(e, Event::CellReady { token: t, .. } if *t == token));
    assert_eq!(fds.len(), 3);
    let mut master = std::fs::File::from(fds.remove(2));
    let mut seen = Vec::new();
    let mut buffer = [0; 1024];
    use std::io::Read;
    while let Ok(n @ 1..) = master.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..n]);
    }
    let seen = String::from_utf8_lossy(&seen).replace('\r', "");
    assert_eq!(seen, "/dev/pts/0\n33 99\n\ncontrol\n");
    assert!(matches!(rig.expect_end(token), Event::Exited { status: Status::Code(4), .. }));
}

fn main() {
    rig::run_all(&[
        ("the_operators_private_files_can_be_read", the_operators_private_files_can_be_read),
        ("what_is_written_belongs_to_the_operator", what_is_written_belongs_to_the_operator),
        ("single_files_and_nested_mounts_work", single_files_and_nested_mounts_work),
        ("an_interpreter_in_a_private_home_works", an_interpreter_in_a_private_home_works),
        ("the_clove_folders_and_the_host_are_refused", the_clove_folders_and_the_host_are_refused),
        (
            "small_files_and_the_scratch_folder_reach_the_program",
            small_files_and_the_scratch_folder_reach_the_program,
        ),
        ("the_listener_is_the_agents_own", the_listener_is_the_agents_own),
        ("a_terminal_of_its_own", a_terminal_of_its_own),
    ]);
}
