//! Warm agents: embryos of a Python template, verified from outside.
#![allow(clippy::unwrap_used)]

mod rig;

use clove_sandbox::protocol::{Event, Request, Status};
use rig::Rig;
use rig::warm::{embryo, ready, started, template};
use std::io::Write;

fn an_embryo_runs_with_what_the_template_has(rig: &mut Rig) {
    let t = ready(
        rig,
        "print(shared['answer'], os.getpid(), os.getuid(), sorted(os.listdir('/proc/self/fd')), open('/proc/self/uid_map').read().split()[0])",
        "",
    );
    for _ in 0..3 {
        let (end, out, err) = embryo(rig, t).finish(rig);
        assert!(matches!(end, Event::Exited { status: Status::Code(0), .. }), "{end:?} {err}");
        // 4 is the listing itself.
        assert_eq!(out, "42 2 1000 ['0', '1', '2', '3', '4'] 1000\n");
    }
    rig.send(Request::Kill { token: t }, &[]);
    rig.expect_end(t);
}

fn a_template_that_keeps_threads_is_refused(rig: &mut Rig) {
    let (t, _log) = template(
        rig,
        "",
        "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    );
    let (event, _) =
        rig.expect("refusal", |e| matches!(e, Event::TemplateFailed { token, .. } if *token == t));
    assert!(format!("{event:?}").contains("2 threads"), "{event:?}");
    rig.expect_end(t);
}

fn an_import_error_is_told(rig: &mut Rig) {
    let (t, log) = template(rig, "", "import no_such_module");
    let (event, _) =
        rig.expect("failure", |e| matches!(e, Event::TemplateFailed { token, .. } if *token == t));
    assert!(format!("{event:?}").contains("exit code 1"), "{event:?}");
    assert!(matches!(rig.expect_end(t), Event::Exited { status: Status::Code(1), .. }));
    assert!(rig::text(log).contains("No module named"));
}

/// What a template answers fork requests with, and how it is caught; `hostile_templates.rs` has the finer lies.
fn a_template_that_lies_is_caught(rig: &mut Rig) {
    // A host module that answers fork requests with processes of its own making, none of which is confined.
    let forger = r#"
import array, struct, time
def serve(how):
    c = socket.socket(fileno=3)
    c.send(json.dumps({"event": "ready", "threads": 1}).encode())
    libc = ctypes.CDLL(None, use_errno=True)
    while True:
        data, anc, _, _ = c.recvmsg(200000, 1024)
        if not data: os._exit(0)
        fds = array.array("i", anc[0][2])
        token = struct.unpack_from("<Q", data, 4)[0]
        pidfd = -1
        if how == "self":
            pid = os.getpid(); pidfd = os.pidfd_open(pid)
        elif how == "child":
            pid = os.fork()
            if pid == 0: time.sleep(60); os._exit(0)
            pidfd = os.pidfd_open(pid)
        elif how in ("sibling", "half"):
            # CLONE_PARENT: a child of the launcher, as an embryo is; but with no wall around it.
            if how == "half":
                for i, flag in ((2, 0x20000000),):
                    libc.setns(fds[i], flag)
            got = ctypes.c_int(-1)
            pid = libc.syscall(56, 0x8000 | 0x1000, None, ctypes.byref(got), None, None)
            if pid == 0:
                if how == "half":
                    for i, flag in ((0, 0x10000000), (1, 0x20000), (3, 0x40000000), (4, 0x8000000), (5, 0x4000000), (6, 0x2000000)):
                        libc.setns(fds[i], flag)
                    os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)
                os.write(fds[10], b"\0" * 8)
                time.sleep(60); os._exit(0)
            pidfd = got.value
        elif how == "nothing":
            pid = 1
        if how not in ("half", "sibling"): os.write(fds[10], b"\0" * 8)
        reply = struct.pack("<IiQii", 0x31524c43, 0, token, pid, 0)
        c.sendmsg([reply], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]))] if pidfd >= 0 else [])
        for f in fds: os.close(f)
"#;
    for (how, what) in [
        ("self", "child of the launcher"),
        ("child", "child of the launcher"),
        ("nothing", "child of the launcher"),
        ("sibling", "namespace isn't its cell's"),
        ("half", "Cap"),
    ] {
        let t = ready(rig, "", &format!("{forger}\nserve({how:?})"));
        let (event, ..) = embryo(rig, t).finish(rig);
        let Event::SpawnFailed { stage, message, .. } = &event else { panic!("{how}: {event:?}") };
        assert_eq!(stage, "verify", "{how}: {message}");
        assert!(message.contains(what), "{how}: {message}");
        rig.send(Request::Kill { token: t }, &[]);
        rig.expect_end(t);
    }
}

fn an_agent_outlives_its_template_and_dies_alone(rig: &mut Rig) {
    let t = ready(rig, "import time; time.sleep(0.5); print('done')", "");
    let a = embryo(rig, t);
    let b = embryo(rig, t);
    assert!(matches!(started(rig, a.token), Event::Started { .. }));
    assert!(matches!(started(rig, b.token), Event::Started { .. }));
    rig.send(Request::Kill { token: t }, &[]);
    rig.expect_end(t);
    rig.send(Request::Kill { token: b.token }, &[]);
    assert!(matches!(rig.expect_end(b.token), Event::Exited { status: Status::Signal(9), .. }));
    let mut kernel = &a.kernel;
    kernel.write_all(b"g").unwrap();
    let end = rig.expect_end(a.token);
    assert!(matches!(end, Event::Exited { status: Status::Code(0), .. }), "{end:?}");
    assert_eq!(rig::text(a.out), "done\n");
    // And nobody forks from what is gone.
    let late = embryo(rig, t);
    assert!(matches!(started(rig, late.token), Event::SpawnFailed { .. }));
}

fn crashes_and_hunger_of_warm_agents_are_told(rig: &mut Rig) {
    let t = ready(rig, "import signal; os.kill(os.getpid(), signal.SIGSEGV)", "");
    let (event, ..) = embryo(rig, t).finish(rig);
    assert!(matches!(event, Event::Exited { status: Status::Signal(libc::SIGSEGV), .. }), "{event:?}");
    let t2 = ready(rig, "x = bytearray(600 << 20)", "");
    let (event, ..) = embryo(rig, t2).finish(rig);
    let Event::Exited { status: Status::Signal(9), usage, .. } = &event else { panic!("{event:?}") };
    assert!(usage.oom_kills > 0, "{usage:?}");
    // The templates are none the worse.
    let (event, ..) = embryo(rig, t).finish(rig);
    assert!(matches!(event, Event::Exited { status: Status::Signal(libc::SIGSEGV), .. }), "{event:?}");
    for t in [t, t2] {
        rig.send(Request::Kill { token: t }, &[]);
        rig.expect_end(t);
    }
}

/// Prints a figure; asserts only that nothing waits for seconds.
fn how_long_an_embryo_takes(rig: &mut Rig) {
    let t = ready(rig, "", "");
    let mut times = Vec::new();
    for _ in 0..40 {
        let w = embryo(rig, t);
        let began = w.asked;
        assert!(matches!(started(rig, w.token), Event::Started { .. }));
        times.push(began.elapsed());
        rig.send(Request::Kill { token: w.token }, &[]);
        rig.expect_end(w.token);
    }
    times.sort();
    println!(
        "embryo of a bare Python, request to verified: p10 {:?}, p50 {:?}, p90 {:?}",
        times[4], times[20], times[36]
    );
    assert!(times[20] < std::time::Duration::from_secs(1));
    rig.send(Request::Kill { token: t }, &[]);
    rig.expect_end(t);
}

fn kills_at_any_moment_leave_nothing(rig: &mut Rig) {
    let t = ready(rig, "import time; time.sleep(60)", "");
    let (mut tokens, mut warm) = (Vec::new(), Vec::new());
    for delay in 0..40u64 {
        let w = embryo(rig, t);
        std::thread::sleep(std::time::Duration::from_micros(delay * 150));
        rig.send(Request::Kill { token: w.token }, &[]);
        tokens.push(w.token);
        // Its end of the syscall socket stays open: else it would end by itself.
        warm.push(w);
        let (cold, ..) = rig.start(rig::policy(), &["/bin/sleep", "60"]);
        std::thread::sleep(std::time::Duration::from_micros(delay * 100));
        rig.send(Request::Kill { token: cold }, &[]);
        tokens.push(cold);
    }
    for token in tokens {
        let event = rig.expect_end(token);
        assert!(matches!(event, Event::Exited { status: Status::Signal(9), .. }), "{event:?}");
    }
    // The template still works.
    let w = embryo(rig, t);
    assert!(matches!(started(rig, w.token), Event::Started { .. }));
    rig.send(Request::Kill { token: w.token }, &[]);
    rig.expect_end(w.token);
    rig.send(Request::Kill { token: t }, &[]);
    rig.expect_end(t);
    // Its init goes after it.
    let children = format!("/proc/{0}/task/{0}/children", rig.launcher_pid);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !std::fs::read_to_string(&children).unwrap().trim().is_empty() {
        assert!(std::time::Instant::now() < until, "the launcher has children left");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn main() {
    if rig::host_python().is_none() {
        eprintln!("SKIPPED: no python3");
        return;
    }
    rig::run_all(&[
        ("an_embryo_runs_with_what_the_template_has", an_embryo_runs_with_what_the_template_has),
        ("a_template_that_keeps_threads_is_refused", a_template_that_keeps_threads_is_refused),
        ("an_import_error_is_told", an_import_error_is_told),
        ("a_template_that_lies_is_caught", a_template_that_lies_is_caught),
        ("an_agent_outlives_its_template_and_dies_alone", an_agent_outlives_its_template_and_dies_alone),
        ("crashes_and_hunger_of_warm_agents_are_told", crashes_and_hunger_of_warm_agents_are_told),
        ("how_long_an_embryo_takes", how_long_an_embryo_takes),
        ("kills_at_any_moment_leave_nothing", kills_at_any_moment_leave_nothing),
    ]);
}
