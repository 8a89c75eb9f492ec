//! `kernel.ping`, one after the other: the way to the kernel and back.

use crate::Failure;
use crate::clock::monotonic_ns;
use clove_abi::calls::KernelPing;
use clove_client::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How many, and how far apart.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Orders {
    /// How many; without it, until standard input is closed.
    #[serde(default)]
    count: Option<usize>,
    /// Made before, and not reported.
    #[serde(default)]
    warm_up: usize,
    /// Rest between two pings in microseconds; without one, the next follows at once.
    #[serde(default)]
    rest_us: u64,
}

/// `ns`: each round trip; `at_ns`: when each began.
pub fn run(client: &mut Client, orders: &Orders) -> Result<Value, Failure> {
    for _ in 0..orders.warm_up {
        client.call(&KernelPing {})?;
    }
    let over = Arc::new(AtomicBool::new(false));
    if orders.count.is_none() {
        let over = Arc::clone(&over);
        std::thread::spawn(move || {
            // Whatever way it ends, that is the end.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            over.store(true, Ordering::Relaxed);
        });
    }
    let rest = Duration::from_micros(orders.rest_us);
    let (mut ns, mut at_ns) = (Vec::new(), Vec::new());
    while ns.len() < orders.count.unwrap_or(usize::MAX) && !over.load(Ordering::Relaxed) {
        if !rest.is_zero() {
            std::thread::sleep(rest);
        }
        let began = monotonic_ns();
        client.call(&KernelPing {})?;
        ns.push(monotonic_ns() - began);
        at_ns.push(began);
    }
    Ok(json!({ "ns": ns, "at_ns": at_ns }))
}
