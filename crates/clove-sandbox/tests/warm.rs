//! Warm agents: embryos of a Python template, verified from outside.
#![allow(clippy::unwrap_used)]

mod rig;

use clove_sandbox::protocol::{Event, Request, Status};
use rig::Rig;
use rig::warm::{embryo, ready, template};

fn an_embryo_runs_with_what_the_template_has(rig: &mut Rig) {
    let t = ready(rig, "print(shared['answer'], os.getpid(), os.getuid(), sorted(os.listdir('/proc/self/fd')), open('/proc/self/uid_map').read().split()[0])", "");
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
