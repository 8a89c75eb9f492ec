//! The reference of all commands, as docs/cli.md has it; a test compares the two.

use crate::cli::failure::Outcome;
use crate::cli::page::Page;
use crate::cli::{Cli, stdio};
use clap::{Command, CommandFactory};

/// Prints it.
pub fn run() -> Outcome {
    let mut page = Page::new();
    page.own(&reference());
    stdio::show(&page);
    Ok(0)
}

/// Every command's long help, in the order of `clove --help`.
pub fn reference() -> String {
    let mut out = String::from(
        "# Commands\n\nThe help of every command, made by `clove markdown-help > docs/cli.md`; a test keeps it so.\n",
    );
    let mut top = Cli::command().term_width(100).max_term_width(100);
    top.build();
    add(&top, 2, &mut out);
    out
}

fn add(command: &Command, level: usize, out: &mut String) {
    let name = command.get_bin_name().unwrap_or("clove").to_owned();
    let help = command.clone().term_width(100).max_term_width(100).render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    out.push_str(&format!(
        "\n{} {name}\n\n```text\n{}\n```\n",
        "#".repeat(level),
        help.join("\n").trim_end()
    ));
    for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        add(below, (level + 1).min(4), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_in_docs_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md");
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(kept == reference(), "docs/cli.md is out of date: run `clove markdown-help > docs/cli.md`");
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
