//! The Rust client's half of the benchmark suite (docs/benchmarks.md): takes its orders as JSON, prints what it measured as JSON.
//!
//! `bench_client SOCKET ORDERS`, for example `bench_client "$(clove kernel socket --start)" '{"ping": {"count": 10000}}'`.
//! Times are nanoseconds of CLOCK_MONOTONIC, one for each round; the runner makes the percentiles.

mod activation;
mod clock;
mod load;
mod ping;
mod spawn;

use clove_client::Client;
use serde::Deserialize;
use std::path::PathBuf;

/// What can be measured. One line of JSON comes back.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Orders {
    Ping(ping::Orders),
    Load(load::Orders),
    Spawn(spawn::Orders),
    Activation(Box<activation::Orders>),
}

/// A benchmark that can't be carried out says why in one sentence.
type Failure = Box<dyn std::error::Error>;

fn main() {
    let done = run();
    match done {
        Ok(measured) => println!("{measured}"),
        Err(why) => {
            eprintln!("bench_client: error: {why}");
            std::process::exit(1);
        }
    }
}

fn run() -> Result<serde_json::Value, Failure> {
    let mut args = std::env::args_os().skip(1);
    let (Some(socket), Some(orders), None) = (args.next(), args.next(), args.next()) else {
        return Err("usage: bench_client SOCKET ORDERS".into());
    };
    let socket = PathBuf::from(socket);
    let orders: Orders = serde_json::from_str(&orders.to_string_lossy())?;
    // Without a hello: an idle kernel of another build than this program's would take one for a hand-over.
    let mut client = Client::connect(&socket)?;
    match orders {
        Orders::Ping(orders) => ping::run(&mut client, &orders),
        Orders::Load(orders) => load::run(client, Client::connect(&socket)?, &orders),
        Orders::Spawn(orders) => spawn::run(&mut client, &orders),
        Orders::Activation(orders) => activation::run(&mut client, *orders),
    }
}
