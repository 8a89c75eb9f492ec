//! `clove serve`: the kernel itself.

use crate::cli::failure::{Failure, Outcome};
use crate::cli::limit_flags;
use crate::daemon;
use clap::Args;
use clove_client::Paths;
use clove_client::start::TRY;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Runs the kernel in the foreground, for systemd and the like; other commands start one by themselves
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// As commands start it: without a terminal, its words in kernel.log
    #[arg(long, hide = true)]
    background: bool,
    /// Descriptor to say on that it listens: `1`, or why it can't
    #[arg(long, hide = true, value_name = "N")]
    ready_fd: Option<i32>,
    /// Leave after this long without work; never in the foreground when absent
    #[arg(long, value_name = "TIME", value_parser = limit_flags::duration)]
    idle_timeout: Option<u64>,
}

/// How long a kernel that a command started stays without work, in milliseconds.
const IDLE_MS: u64 = 10 * 60 * 1000;

/// Runs the command.
pub fn run(args: &ServeArgs) -> Outcome {
    if args.background {
        clove_sys::inherit::close_others(args.ready_fd);
    }
    let ready = match args.ready_fd {
        Some(n) => Some(Arc::new(inherited(n)?)),
        None => None,
    };
    let told = |f: Failure| {
        if let Some(fd) = &ready {
            // Nobody else tells the one who waits.
            let hint = if f.hint.is_empty() { String::new() } else { format!("{TRY}{}", f.hint) };
            let why = if f.why.is_empty() { String::new() } else { format!(": {}", f.why) };
            let _ = rustix::io::write(&**fd, format!("{}{why}{hint}", f.what).as_bytes());
        }
        f
    };
    let options = daemon::Options {
        background: args.background,
        ready: ready.clone(),
        idle_timeout_ms: idle_timeout(args).map_err(told)?,
        started_by: started_by(),
        paths: Paths::from_env().map_err(|e| told(e.into()))?,
    };
    drop(ready);
    daemon::serve(options).map_err(|e| Failure::new(format!("the kernel can't serve: {e}")).hint(e.hint))
}

/// A descriptor that the starting command left open.
fn inherited(number: i32) -> Result<OwnedFd, Failure> {
    clove_sys::inherit::take(number)
        .ok_or_else(|| Failure::usage(format!("--ready-fd {number} isn't an open descriptor")))
}

/// The flag, else `CLOVE_IDLE_TIMEOUT`, else ten minutes in the background and for ever in the foreground.
fn idle_timeout(args: &ServeArgs) -> Result<Option<u64>, Failure> {
    if args.idle_timeout.is_some() {
        return Ok(args.idle_timeout);
    }
    match std::env::var("CLOVE_IDLE_TIMEOUT") {
        Ok(text) => limit_flags::duration(&text)
            .map(Some)
            .map_err(|e| Failure::usage(format!("CLOVE_IDLE_TIMEOUT: {e}"))),
        Err(_) => Ok(args.background.then_some(IDLE_MS)),
    }
}

/// The command that started this kernel says so in a variable.
fn started_by() -> String {
    std::env::var("CLOVE_STARTED_BY").unwrap_or_else(|_| {
        let words: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
        let here = std::env::current_dir().unwrap_or_default();
        format!("{} (in {})", words.join(" "), here.display())
    })
}
