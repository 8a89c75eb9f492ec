//! The command that `--notify` names, run when a sweep ends or stalls.

use clove_abi::calls::RunInfo;
use std::process::{Command, Stdio};

/// Runs `sh -c COMMAND` with what happened in its environment, and doesn't wait for it. It is the operator's own
/// command, so it runs as the operator, outside any sandbox.
pub fn run(command: &str, info: &RunInfo, state: &str) {
    let child = Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .env("CLOVE_NOTIFY_RUN", info.id.to_string())
        .env("CLOVE_NOTIFY_NAME", &info.name)
        .env("CLOVE_NOTIFY_STATE", state)
        .env("CLOVE_NOTIFY_DONE", info.done.to_string())
        .env("CLOVE_NOTIFY_TOTAL", info.total.to_string())
        .env("CLOVE_NOTIFY_FAILED", (info.failed + info.quarantined).to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match child {
        Ok(mut c) => {
            // Somebody has to reap it.
            let _ = std::thread::Builder::new()
                .name("notify".into())
                .stack_size(128 << 10)
                .spawn(move || c.wait());
        }
        Err(e) => say!("the notify command can't be run: {e}"),
    }
}
