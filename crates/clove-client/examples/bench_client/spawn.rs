//! Cold spawn: a program that ends at once, in the whole sandbox, beside other tools that start it in theirs.

use crate::Failure;
use crate::clock::monotonic_ns;
use clove_abi::calls::{ProcSpawn, ProcWait};
use clove_abi::limits::LimitsSpec;
use clove_abi::run::Mount;
use clove_client::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::{Command, Stdio};

/// What is started, how often, and by whom else.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Orders {
    /// Program inside the sandbox.
    program: String,
    limits: LimitsSpec,
    #[serde(default)]
    mounts: Vec<Mount>,
    rounds: usize,
    warm_up: usize,
    /// Command lines that do the same; they must exit with 0.
    peers: BTreeMap<String, Vec<String>>,
}

/// `ours`: from the call to the certificate; `started`: to the reply of `proc.spawn`, when the program runs;
/// `peers`: from fork to reaped. All interleaved, one after the other in each round.
pub fn run(client: &mut Client, orders: &Orders) -> Result<Value, Failure> {
    let (mut ours, mut started) = (Vec::new(), Vec::new());
    let mut peers: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for round in 0..orders.warm_up + orders.rounds {
        let counts = round >= orders.warm_up;
        let (running, ended) = in_our_sandbox(client, orders)?;
        if counts {
            started.push(running);
            ours.push(ended);
        }
        for (name, argv) in &orders.peers {
            let took = in_a_peers(name, argv)?;
            if counts {
                peers.entry(name).or_default().push(took);
            }
        }
    }
    Ok(json!({ "ours": ours, "started": started, "peers": peers }))
}

fn in_our_sandbox(client: &mut Client, orders: &Orders) -> Result<(u64, u64), Failure> {
    let call = ProcSpawn {
        argv: vec![orders.program.clone()],
        limits: orders.limits.clone(),
        mounts: orders.mounts.clone(),
        attached: true,
        remove: true,
        ..ProcSpawn::default()
    };
    let began = monotonic_ns();
    let agent = client.call(&call)?.agent;
    let running = monotonic_ns() - began;
    let end = client.call(&ProcWait { target: agent.to_string(), timeout_ms: None })?;
    let ended = monotonic_ns() - began;
    let certificate = end.certificate.ok_or("proc.wait answered without a certificate")?;
    if certificate.exit_code != Some(0) {
        return Err(format!("{} ended badly: {}", orders.program, certificate.message).into());
    }
    Ok((running, ended))
}

fn in_a_peers(name: &str, argv: &[String]) -> Result<u64, Failure> {
    let (program, args) = argv.split_first().ok_or("a peer's command line is empty")?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
    let began = monotonic_ns();
    let status = command.status()?;
    let took = monotonic_ns() - began;
    if !status.success() {
        return Err(format!("{name} failed with {status}").into());
    }
    Ok(took)
}
