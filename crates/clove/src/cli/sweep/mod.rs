//! `clove sweep`: many configurations of one program.

mod artifacts;
mod control;
mod follow;
mod listing;
mod loading;
mod results;
mod submit;
mod summary;
mod task;
mod warm_inputs;
mod watch;
mod which;
mod workload;

use crate::cli::failure::Outcome;
use clap::Subcommand;

/// What to do with sweeps.
#[derive(Subcommand, Debug)]
pub enum SweepCommand {
    Run(Box<submit::RunArgs>),
    Attach(follow::AttachArgs),
    Ls(listing::LsArgs),
    Show(summary::ShowArgs),
    Results(results::ResultsArgs),
    Resume(control::ResumeArgs),
    Cancel(control::CancelArgs),
    Inspect(task::InspectArgs),
    Watch(watch::WatchArgs),
    Artifacts(artifacts::ArtifactsArgs),
}

/// Runs one of them.
pub fn run(command: &SweepCommand) -> Outcome {
    match command {
        SweepCommand::Run(a) => submit::run(a),
        SweepCommand::Attach(a) => follow::attach(a),
        SweepCommand::Ls(a) => listing::run(a),
        SweepCommand::Show(a) => summary::run(a),
        SweepCommand::Results(a) => results::run(a),
        SweepCommand::Resume(a) => control::resume(a),
        SweepCommand::Cancel(a) => control::cancel(a),
        SweepCommand::Inspect(a) => task::run(a),
        SweepCommand::Watch(a) => watch::run(a),
        SweepCommand::Artifacts(a) => artifacts::run(a),
    }
}
