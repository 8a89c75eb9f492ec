//! Runs a small program for its answer, with an end to the patience: an interpreter on a dead mount, or one that isn't
//! one, may never answer, or never stop.

use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Longest answer in bytes; the rest isn't read.
const LONGEST: u64 = 4 << 20;

/// What came of it.
#[derive(Debug)]
pub struct Answer {
    pub status: ExitStatus,
    pub out: Vec<u8>,
    pub err: Vec<u8>,
}

/// Runs `command` to its end; it, and what it has started, is killed after `patience`.
///
/// # Errors
/// It can't be started, or (`TimedOut`) it didn't end.
pub fn ask(command: &mut Command, patience: Duration) -> io::Result<Answer> {
    let deadline = Instant::now() + patience;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let out = child.stdout.take().map(read_aside);
    let err = child.stderr.take().map(read_aside);
    let left = || deadline.saturating_duration_since(Instant::now());
    // What it has started may hold its streams open longer than it lives.
    let read = |from: Option<mpsc::Receiver<Vec<u8>>>| from.and_then(|r| r.recv_timeout(left()).ok());
    let (out, err) = (read(out), read(err));
    let ended = loop {
        match child.try_wait()? {
            Some(status) => break Some(status),
            None if left().is_zero() => break None,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    match (ended, out, err) {
        (Some(status), Some(out), Some(err)) => Ok(Answer { status, out, err }),
        _ => {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = child.wait();
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}

fn read_aside(stream: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (done, answer) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // Closed at the bound: a flood ends by SIGPIPE.
        let _ = stream.take(LONGEST).read_to_end(&mut bytes);
        let _ = done.send(bytes);
    });
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, patience: Duration) -> io::Result<Answer> {
        ask(Command::new("sh").args(["-c", script]), patience)
    }

    #[test]
    fn answers_come_whole_and_floods_are_cut() {
        let long = Duration::from_secs(60);
        let a = sh("echo yes; echo no >&2; exit 3", long).expect("answer");
        assert_eq!(
            (a.status.code(), a.out.as_slice(), a.err.as_slice()),
            (Some(3), &b"yes\n"[..], &b"no\n"[..])
        );
        let a = sh("yes", long).expect("cut");
        assert_eq!((a.status.success(), a.out.len() as u64), (false, LONGEST));
        assert!(ask(&mut Command::new("/no/such/program"), long).is_err());
    }

    #[test]
    fn what_never_answers_is_killed_with_what_it_started() {
        let t = tempfile::tempdir().expect("tempdir");
        let file = t.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let e = sh(&script, Duration::from_millis(300)).expect_err("hangs");
        assert_eq!(e.kind(), io::ErrorKind::TimedOut);
        let pid: u32 = std::fs::read_to_string(&file).expect("pid").trim().parse().expect("number");
        let end = Instant::now() + Duration::from_secs(20);
        let runs = || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "));
        while runs() {
            assert!(Instant::now() < end, "the sleep outlived it");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
