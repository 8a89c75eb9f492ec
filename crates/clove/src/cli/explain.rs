//! `clove explain`: an error code's page.

use crate::cli::failure::{Failure, Outcome};
use crate::cli::page::Page;
use crate::cli::{json, stdio};
use clap::Args;
use clove_abi::ErrorCode;
use clove_manifest::suggestion::nearest;
use serde_json::json;

/// Explains an error code, or lists them
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// For example E0201; all of them when absent
    #[arg(value_name = "CODE")]
    code: Option<String>,
    /// Print a list of objects
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &ExplainArgs) -> Outcome {
    let codes: Vec<ErrorCode> = match &args.code {
        None => ErrorCode::ALL.to_vec(),
        Some(text) => {
            let code = ErrorCode::parse(text.trim()).ok_or_else(|| {
                let f = Failure::new(format!("there is no error code `{text}`"));
                match nearest(text, ErrorCode::ALL.iter().map(|c| c.code())) {
                    Some(near) => f.hint(format!("clove explain {near}")),
                    None => f.hint("`clove explain` lists all codes"),
                }
            })?;
            vec![code]
        }
    };
    if args.json {
        let all: Vec<_> =
            codes.iter().map(|c| json!({"id": c.code(), "title": c.title(), "page": page(*c)})).collect();
        json::print(&all);
        return Ok(0);
    }
    let text: String = if args.code.is_some() {
        codes.iter().map(|c| format!("{}: {}\n\n{}", c.code(), c.title(), page(*c))).collect()
    } else {
        codes.iter().map(|c| format!("{}  {}\n", c.code(), c.title())).collect()
    };
    let mut shown = Page::new();
    shown.own(&text);
    stdio::show(&shown);
    Ok(0)
}

/// The page without the blanks that doc comments begin with; what to do next stands alone.
fn page(c: ErrorCode) -> String {
    c.page().lines().map(|l| l.strip_prefix(' ').unwrap_or(l)).fold(String::new(), |mut out, l| {
        if l.starts_with("Next:") && !out.is_empty() {
            out.push('\n');
        }
        out.push_str(l);
        out.push('\n');
        out
    })
}
