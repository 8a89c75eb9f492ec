//! `clove ping`: how long a call takes there and back.

use crate::cli::failure::Outcome;
use crate::cli::session::Session;
use crate::cli::{json, stdio};
use clap::Args;
use clove_abi::calls::KernelPing;
use serde_json::json;
use std::time::Instant;

/// Measures round trips to the kernel
#[derive(Args, Debug)]
#[command(hide = true)]
pub struct PingArgs {
    /// How many
    #[arg(short = 'n', default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    count: u32,
    /// Print one object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &PingArgs) -> Outcome {
    let mut session = Session::open("clove ping")?;
    // The first calls find cold caches.
    for _ in 0..10 {
        session.call(&KernelPing {})?;
    }
    let mut times_ns = Vec::with_capacity(args.count as usize);
    for _ in 0..args.count {
        let begun = Instant::now();
        session.call(&KernelPing {})?;
        times_ns.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    times_ns.sort_unstable();
    let at = |percent: usize| times_ns[(times_ns.len() - 1) * percent / 100] as f64 / 1000.0;
    let mean = times_ns.iter().map(|t| *t as f64).sum::<f64>() / times_ns.len() as f64 / 1000.0;
    if args.json {
        json::print(&json!({
            "id": "ping", "count": args.count, "min_us": at(0), "p50_us": at(50), "p90_us": at(90), "p99_us": at(99),
            "max_us": at(100), "mean_us": mean,
        }));
    } else {
        stdio::line(format_args!(
            "{} round trips: p50 {:.1} us, p90 {:.1}, p99 {:.1}, min {:.1}, max {:.1}, mean {mean:.1}",
            args.count,
            at(50),
            at(90),
            at(99),
            at(0),
            at(100)
        ));
    }
    Ok(0)
}
