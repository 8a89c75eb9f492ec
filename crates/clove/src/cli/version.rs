//! `clove version`.

use crate::cli::failure::Outcome;
use crate::cli::{json, stdio};
use clap::Args;
use clove_abi::ABI_VERSION;
use clove_client::build_id;
use serde_json::json;

/// Prints the version and build
#[derive(Args, Debug)]
pub struct VersionArgs {
    /// Print one object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &VersionArgs) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    if args.json {
        json::print(&json!({"id": "clove", "version": version, "build": build_id(), "abi": ABI_VERSION}));
    } else {
        stdio::line(format_args!("clove {version} (build {}, abi {ABI_VERSION})", build_id()));
    }
    Ok(0)
}
