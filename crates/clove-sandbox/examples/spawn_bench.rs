//! Times cells from the request to their last event: `cargo run --release -p clove-sandbox --example spawn_bench [N]`.
//! As root. Prints p50 and p99 in microseconds; also of a plain fork and exec of the same program, interleaved.

use clove_abi::Limits;
use clove_sandbox::protocol::{CellPolicy, Event, Profile, Request};
use clove_sandbox::{LauncherConfig, Link, fork_launcher};
use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let rounds: u64 = std::env::args().nth(1).map_or(Ok(300), |n| n.parse())?;
    let program = std::env::args().nth(2).unwrap_or_else(|| "/bin/true".into());
    let data_dir = std::env::temp_dir().join(format!("clove-bench-{}", std::process::id()));
    std::fs::create_dir_all(&data_dir)?;
    let (_, mut link) = fork_launcher(LauncherConfig { data_dir: data_dir.clone(), protected: vec![] })?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let (mut ready, mut started, mut ended, mut plain) = (vec![], vec![], vec![], vec![]);
    for token in 1..=rounds {
        let began = Instant::now();
        let argv = vec![program.clone()];
        link.send(
            &Request::Spawn { token, cell: policy(), argv, hold: false },
            &[null.as_fd(), null.as_fd(), null.as_fd()],
        )?;
        'events: loop {
            for (event, _fds) in next(&mut link)? {
                match event {
                    Event::CellReady { .. } => ready.push(began.elapsed()),
                    Event::Started { .. } => started.push(began.elapsed()),
                    Event::Exited { .. } => {
                        ended.push(began.elapsed());
                        break 'events;
                    }
                    Event::Hello { .. } => {}
                    other => return Err(format!("{other:?}").into()),
                }
            }
        }
        let began = Instant::now();
        std::process::Command::new(&program).status()?;
        plain.push(began.elapsed());
    }
    println!("{rounds} rounds of {program}; microseconds: p50 p99");
    for (what, times) in [
        ("walls stand", &mut ready),
        ("program runs", &mut started),
        ("all gone, measured", &mut ended),
        ("plain fork and exec, for comparison", &mut plain),
    ] {
        times.sort();
        let at =
            |p: usize| times.get((times.len() * p / 100).min(times.len() - 1)).map_or(0, Duration::as_micros);
        println!("{what:36} {:>7} {:>7}", at(50), at(99));
    }
    let _ = std::fs::remove_dir(data_dir);
    Ok(())
}

fn next(link: &mut Link) -> Result<Vec<(Event, Vec<std::os::fd::OwnedFd>)>, Failure> {
    let mut poll = [rustix::event::PollFd::new(&*link, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut poll, None)?;
    if link.is_closed() {
        return Err("the launcher is gone".into());
    }
    Ok(link.recv()?)
}

fn policy() -> CellPolicy {
    CellPolicy {
        label: "bench".into(),
        limits: Limits {
            memory_bytes: 256 << 20,
            memory_reserve_bytes: 256 << 20,
            cpu_milli: 0,
            cpu_weight: 100,
            pids: 64,
            disk_bytes: 64 << 20,
            nofile: 256,
            wall_ms: 0,
            output_bytes: 1 << 20,
        },
        mounts: vec![],
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        cwd: "/work".into(),
        profile: Profile::Default,
        tty: None,
        files: vec![],
        operator_uid: 0,
        operator_gid: 0,
        allow_degraded: false,
    }
}
