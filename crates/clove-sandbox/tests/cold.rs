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

fn everything_dies_with_the_kernel(_: &mut Rig) {
    let mut rig = Rig::new();
    let mut uids = Vec::new();
    for _ in 0..3 {
        let (token, ..) = rig.start(policy(), &["/bin/sh", "-c", "sleep 100 & sleep 100"]);
        rig.expect("start", |e| matches!(e, Event::Started { token: t, .. } if *t == token));
        let (event, _) =
            rig.expect("cell", |e| matches!(e, Event::CellReady { token: t, .. } if *t == token));
        let Event::CellReady { uid, .. } = event else { unreachable!() };
        uids.push(uid);
    }
    uids.dedup();
    assert_eq!(uids.len(), 3, "each live agent has a uid of its own");
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !uids.iter().all(|u| rig::processes_of(*u) >= 3) {
        assert!(std::time::Instant::now() < until);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let launcher = rustix::process::Pid::from_raw(rig.launcher_pid);
    drop(rig.link);
    rustix::process::waitpid(launcher, rustix::process::WaitOptions::empty()).unwrap();
    assert!(uids.iter().all(|u| rig::processes_of(*u) == 0));
}

fn a_killed_launcher_takes_its_agents_along(_: &mut Rig) {
    let mut rig = Rig::new();
    let (token, ..) = rig.start(policy(), &["/bin/sh", "-c", "sleep 100 & sleep 100"]);
    rig.expect("start", |e| matches!(e, Event::Started { token: t, .. } if *t == token));
    let (event, _) = rig.expect("cell", |e| matches!(e, Event::CellReady { token: t, .. } if *t == token));
    let Event::CellReady { uid, .. } = event else { unreachable!() };
    let launcher = rustix::process::Pid::from_raw(rig.launcher_pid).unwrap();
    rustix::process::kill_process(launcher, rustix::process::Signal::KILL).unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while rig::processes_of(uid) > 0 {
        assert!(std::time::Instant::now() < until, "agents outlive their launcher");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // The next launcher of the same directory clears away its groups.
    let (mut next, data) = (Rig::new_in(rig.data_dir), uid);
    assert_eq!(next.sh("exit 3").status(), Status::Code(3), "{data}");
}

/// The folder of the groups goes when a launcher of the same directory leaves late.
fn a_lost_folder_is_made_again(_: &mut Rig) {
    let first = Rig::new();
    let data = first.data_dir.path().to_owned();
    let config = clove_sandbox::LauncherConfig { data_dir: data, protected: vec![] };
    let (pid, mut link) = clove_sandbox::fork_launcher(config).unwrap();
    // Both are up: the second has answered something.
    link.send(&clove_sandbox::protocol::Request::Measure { token: 1 }, &[]).unwrap();
    let launcher = rustix::process::Pid::from_raw(first.launcher_pid);
    let data_dir = first.data_dir;
    drop(first.link);
    rustix::process::waitpid(launcher, rustix::process::WaitOptions::empty()).unwrap();
    let mut second = Rig::with_link(link, pid, data_dir);
    for _ in 0..3 {
        assert_eq!(second.sh("exit 4").status(), Status::Code(4));
    }
}

fn many_at_once(rig: &mut Rig) {
    let tokens: Vec<u64> =
        (0..60).map(|i| rig.start(policy(), &["/bin/sh", "-c", &format!("exit {i}")]).0).collect();
    for (i, token) in tokens.into_iter().enumerate() {
        let event = rig.expect_end(token);
        assert!(matches!(event, Event::Exited { status: Status::Code(c), .. } if c == i as i32), "{event:?}");
    }
}

fn compilers_and_threads_work(rig: &mut Rig) {
    if !std::path::Path::new("/usr/bin/gcc").exists() {
        eprintln!("SKIPPED: no gcc");
        return;
    }
    let line = "printf '#include <pthread.h>\n#include <stdio.h>\nvoid*f(void*a){return a;}\nint main(){pthread_t t;\
                if(pthread_create(&t,0,f,0))return 1;pthread_join(t,0);puts(\"ok\");}' > a.c && \
                gcc -pthread a.c -o a && ./a";
    let end = rig.sh(line);
    assert_eq!(end.stdout, "ok\n", "{end:?}");
}

fn main() {
    rig::run_all(&[
        ("exit_codes", exit_codes),
        ("signals_end_programs_though_they_have_an_init", signals_end_programs_though_they_have_an_init),
        ("a_missing_program_is_told_apart", a_missing_program_is_told_apart),
        ("the_environment_is_built_from_nothing", the_environment_is_built_from_nothing),
        ("a_lost_folder_is_made_again", a_lost_folder_is_made_again),
        ("many_at_once", many_at_once),
        ("compilers_and_threads_work", compilers_and_threads_work),
        ("everything_dies_with_the_kernel", everything_dies_with_the_kernel),
        ("a_killed_launcher_takes_its_agents_along", a_killed_launcher_takes_its_agents_along),
    ]);
}
