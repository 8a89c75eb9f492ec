//! Warm agents: embryos of a Python template, verified from outside.
#![allow(clippy::unwrap_used)]

mod rig;

use clove_abi::run::Mount;
use clove_sandbox::protocol::{CellPolicy, Event, Request, Status};
use rig::{Rig, policy, text};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

fn library() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let deps = exe.parent().unwrap();
    let found = [deps.join("libclove_sys.so"), deps.parent().unwrap().join("libclove_sys.so")];
    found.into_iter().find(|p| p.exists()).expect("libclove_sys.so is built with clove-sys")
}

fn mount(path: &Path) -> Mount {
    let path = path.to_str().unwrap().to_owned();
    Mount { source: path.clone(), target: path, writable: false }
}

fn python_policy() -> (CellPolicy, String) {
    let python = rig::host_python().expect("python3");
    let prefix = python.parent().unwrap().parent().unwrap().to_owned();
    let mut p = policy();
    p.mounts = vec![
        mount(&prefix),
        Mount { source: library().to_str().unwrap().into(), target: "/opt/libclove_sys.so".into(), writable: false },
        Mount {
            source: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rig/template_host.py").to_str().unwrap().into(),
            target: "/opt/template_host.py".into(),
            writable: false,
        },
    ];
    (p, python.to_str().unwrap().to_owned())
}

struct Warm {
    token: u64,
    kernel: UnixStream,
    out: std::fs::File,
    err: std::fs::File,
}

/// A template whose embryos run `code`; `setup` runs in the template itself.
fn template(rig: &mut Rig, code: &str, setup: &str) -> (u64, std::fs::File) {
    let (cell, python) = python_policy();
    let token = rig.token();
    let log = tempfile::tempfile().unwrap();
    let argv = vec![python, "/opt/template_host.py".into(), "/opt/libclove_sys.so".into(), code.into(), setup.into()];
    rig.send(Request::Template { token, cell, argv }, &[log.as_fd(), log.as_fd()]);
    (token, log)
}

fn ready(rig: &mut Rig, code: &str, setup: &str) -> u64 {
    let (token, log) = template(rig, code, setup);
    let (event, _) = rig.expect("template", |e| {
        matches!(e, Event::TemplateReady { token: t, .. } | Event::TemplateFailed { token: t, .. }
            | Event::SpawnFailed { token: t, .. } | Event::Exited { token: t, .. } if *t == token)
    });
    assert!(matches!(event, Event::TemplateReady { .. }), "{event:?}\n{}", text(log));
    token
}

fn embryo(rig: &mut Rig, template: u64) -> Warm {
    let token = rig.token();
    let (kernel, agents) = UnixStream::pair().unwrap();
    let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let (cell, _) = python_policy();
    rig.send(Request::Embryo { token, template, cell }, &[agents.as_fd(), out.as_fd(), err.as_fd()]);
    Warm { token, kernel, out, err }
}

fn started(rig: &mut Rig, token: u64) -> Event {
    rig.expect("embryo", |e| {
        matches!(e, Event::Started { token: t, .. } | Event::SpawnFailed { token: t, .. }
            | Event::Exited { token: t, .. } if *t == token)
    })
    .0
}

fn an_embryo_runs_with_what_the_template_has(rig: &mut Rig) {
    let t = ready(rig, "print(shared['answer'], os.getpid(), os.getuid(), sorted(os.listdir('/proc/self/fd')), open('/proc/self/uid_map').read().split()[0])", "");
    for _ in 0..3 {
        let mut w = embryo(rig, t);
        let event = started(rig, w.token);
        assert!(matches!(event, Event::Started { .. }), "{event:?} {}", text(w.err));
        w.kernel.write_all(b"g").unwrap();
        let end = rig.expect_end(w.token);
        let stderr = text(w.err);
        assert!(matches!(end, Event::Exited { status: Status::Code(0), .. }), "{end:?} {stderr}");
        // 4 is the listing itself.
        assert_eq!(text(w.out), "42 2 1000 ['0', '1', '2', '3', '4'] 1000\n");
        let mut rest = Vec::new();
        w.kernel.read_to_end(&mut rest).unwrap();
    }
    rig.send(Request::Kill { token: t }, &[]);
    rig.expect_end(t);
}

fn a_template_that_keeps_threads_is_refused(rig: &mut Rig) {
    let (t, _log) = template(rig, "", "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()");
    let (event, _) = rig.expect("refusal", |e| matches!(e, Event::TemplateFailed { token, .. } if *token == t));
    assert!(format!("{event:?}").contains("2 threads"), "{event:?}");
    rig.expect_end(t);
}

fn main() {
    if rig::host_python().is_none() {
        eprintln!("SKIPPED: no python3");
        return;
    }
    rig::run_all(&[
        ("an_embryo_runs_with_what_the_template_has", an_embryo_runs_with_what_the_template_has),
        ("a_template_that_keeps_threads_is_refused", a_template_that_keeps_threads_is_refused),
    ]);
}
