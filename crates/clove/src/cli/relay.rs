//! An attached agent's streams: its output to ours as the bytes are, our standard input to its.

use crate::cli::stdio::Stream;
use crate::cli::terminal_view::TerminalView;
use crate::cli::{stdio, terminal};
use clove_abi::ErrorCode;
use clove_abi::calls::{ProcKill, ProcLogs, ProcResize, ProcStdin};
use clove_client::{Client, ClientError};
use rustix::fs::FileType;
use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes asked for at a time.
const CHUNK: u32 = 1 << 20;
/// A second Ctrl-C within this time ends the agent for good.
const TWICE: Duration = Duration::from_secs(2);

/// How much of the stream didn't come to us, once it has ended.
pub type Pumped = Result<u64, ClientError>;

/// Writes one stream (`out` or `err`; both when absent) to ours until the agent has ended and all is written.
/// When ours is closed, the agent is ended: that is what SIGPIPE would have done to it without CloveOS.
pub fn pump(client: Client, target: String, stream: Option<&'static str>, to: Stream) -> JoinHandle<Pumped> {
    copy(client, target, stream, to, None, true)
}

/// As [`pump`], but only looks on: the agent goes on when ours is closed, and what it writes may be shown otherwise.
pub fn show(
    client: Client,
    target: String,
    stream: Option<&'static str>,
    to: Stream,
    view: Option<TerminalView>,
) -> JoinHandle<Pumped> {
    copy(client, target, stream, to, view, false)
}

fn copy(
    mut client: Client,
    target: String,
    stream: Option<&'static str>,
    to: Stream,
    mut view: Option<TerminalView>,
    ours: bool,
) -> JoinHandle<Pumped> {
    thread::spawn(move || {
        let (mut offset, mut missed) = (0, 0);
        loop {
            let call = ProcLogs {
                target: target.clone(),
                offset,
                max: Some(CHUNK),
                follow: true,
                stream: stream.map(str::to_owned),
            };
            let (reply, bytes) = client.call_with_tail(&call, &[])?;
            let written = match &mut view {
                Some(view) => to.write_raw(&view.push(&bytes)),
                None => to.write_raw(&bytes),
            };
            if let (Err(e), Stream::Out) = (&written, to) {
                if ours {
                    let _ = client.call(&ProcKill { target: target.clone(), signal: None });
                }
                terminal::put_back();
                std::process::exit(stdio::unwritable(e));
            }
            missed += reply.next.saturating_sub(offset + bytes.len() as u64);
            offset = reply.next;
            if reply.eof {
                let held_back = view.map(|mut v| v.finish()).unwrap_or_default();
                let _ = to.write_raw(&held_back);
                return Ok(missed);
            }
        }
    })
}

/// Standard input has something for a program: it is a pipe, a socket or a file, not a terminal or a device.
pub fn stdin_is_piped() -> bool {
    rustix::fs::fstat(io::stdin()).is_ok_and(|s| {
        matches!(
            FileType::from_raw_mode(s.st_mode),
            FileType::Fifo | FileType::Socket | FileType::RegularFile
        )
    })
}

/// Sends our standard input to the agent until either ends. The thread may stay in its read for ever: the process's
/// end ends it.
pub fn feed(mut client: Client, target: String) {
    thread::spawn(move || {
        let mut buffer = vec![0u8; 64 << 10];
        loop {
            let n = match io::stdin().lock().read(&mut buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            let call = ProcStdin { target: target.clone(), eof: n == 0 };
            let sent = client.call_with_tail(&call, &buffer[..n]);
            if n == 0 || sent.is_err() {
                return;
            }
        }
    });
}

/// Hands our signals on: the first Ctrl-C is the program's, a second one soon after ends its whole tree.
/// The flag says whether any was handed on.
///
/// # Errors
/// The handlers can't be set.
pub fn hand_on_signals(mut client: Client, target: String) -> io::Result<Arc<AtomicBool>> {
    let handed_on = Arc::new(AtomicBool::new(false));
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH])?;
    let flag = Arc::clone(&handed_on);
    thread::spawn(move || {
        let mut last_end: Option<Instant> = None;
        for signal in signals.forever() {
            if signal == SIGWINCH {
                if let Some((rows, columns)) = terminal::size() {
                    let _ = client.call(&ProcResize { target: target.clone(), rows, columns });
                }
                continue;
            }
            flag.store(true, Ordering::Relaxed);
            let ends = signal == SIGINT || signal == SIGTERM;
            let again = ends && last_end.is_some_and(|at| at.elapsed() < TWICE);
            let call = ProcKill { target: target.clone(), signal: (!again).then_some(signal) };
            match client.call(&call) {
                Ok(_) => {}
                // It has ended by itself in the meantime.
                Err(e)
                    if matches!(
                        e.code(),
                        Some(ErrorCode::Dead | ErrorCode::WrongState | ErrorCode::NoAgent)
                    ) => {}
                Err(_) => {
                    terminal::put_back();
                    std::process::exit(128 + signal);
                }
            }
            if ends {
                last_end = Some(Instant::now());
            }
        }
    });
    Ok(handed_on)
}
