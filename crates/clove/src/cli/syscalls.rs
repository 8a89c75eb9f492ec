//! `clove syscalls`: the one table.

use crate::cli::failure::Outcome;
use crate::cli::table::{Listing, shortened};
use crate::cli::{json, stdio};
use clap::Args;
use clove_abi::table::{Audit, From, TABLE, schemas};
use serde_json::{Value, json};

/// Lists the kernel's syscalls
#[derive(Args, Debug)]
pub struct SyscallsArgs {
    /// Print a list of objects, with the JSON schemas of arguments and replies
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &SyscallsArgs) -> Outcome {
    if args.json {
        let all: Vec<Value> = schemas()
            .into_iter()
            .map(|(spec, arguments, reply)| {
                let mut v = serde_json::to_value(spec).unwrap_or_default();
                v["id"] = json!(spec.name);
                v["doc"] = json!(spec.doc.trim());
                v["arguments"] = arguments.to_value();
                v["reply"] = reply.to_value();
                v
            })
            .collect();
        json::print(&all);
        return Ok(0);
    }
    let mut listing = Listing::new(&["number", "name", "from", "journal", "what it does"]);
    for s in TABLE {
        let from = match s.from {
            From::Operator => "operator",
            From::Agent => "agent",
            From::Any => "any",
        };
        let audit = match s.audit {
            Audit::State => "state",
            Audit::Record => "record",
            Audit::Counted => "counted",
        };
        listing.row(&[
            format!("0x{:04x}", s.number),
            s.name.to_owned(),
            from.to_owned(),
            audit.to_owned(),
            shortened(s.doc.trim(), 110),
        ]);
    }
    stdio::show(&listing.page());
    Ok(0)
}
