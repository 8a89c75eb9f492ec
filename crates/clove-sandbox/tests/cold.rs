//! Cold agents: how they start, end, and what they are given.
#![allow(clippy::unwrap_used)]

mod rig;

use clove_sandbox::protocol::{Event, Status};
use rig::{Rig, policy};

fn exit_codes(rig: &mut Rig) {
    for (line, code) in [("true", 0), ("false", 1), ("exit 42", 42)] {
        let end = rig.sh(line);
        assert_eq!(end.status(), Status::Code(code), "{end:?}");
    }
}

fn signals_end_programs_though_they_have_an_init(rig: &mut Rig) {
    for signal in [libc::SIGSEGV, libc::SIGKILL, libc::SIGTERM, libc::SIGABRT] {
        let end = rig.sh(&format!("kill -{signal} $$"));
        assert_eq!(end.status(), Status::Signal(signal), "{end:?}");
    }
}

fn a_missing_program_is_told_apart(rig: &mut Rig) {
    let end = rig.run(policy(), &["no-such-program"]);
    let Event::SpawnFailed { stage, errno, hint, .. } = &end.event else { panic!("{end:?}") };
    assert_eq!((stage.as_str(), *errno), ("exec", libc::ENOENT));
    assert!(hint.contains("--mount"));
    assert_eq!(clove_sandbox::exec_failure_code(*errno), 127);
    let end = rig.run(policy(), &["/etc/passwd"]);
    let Event::SpawnFailed { errno, .. } = &end.event else { panic!("{end:?}") };
    assert_eq!(clove_sandbox::exec_failure_code(*errno), 126);
}

fn the_environment_is_built_from_nothing(rig: &mut Rig) {
    let end = rig.run(policy(), &["/usr/bin/env"]);
    assert_eq!(end.stdout, "PATH=/usr/bin:/bin\nHOME=/work\n");
}

fn main() {
    rig::run_all(&[
        ("exit_codes", exit_codes),
        ("signals_end_programs_though_they_have_an_init", signals_end_programs_though_they_have_an_init),
        ("a_missing_program_is_told_apart", a_missing_program_is_told_apart),
        ("the_environment_is_built_from_nothing", the_environment_is_built_from_nothing),
    ]);
}
