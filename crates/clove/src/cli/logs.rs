//! `clove logs`: an agent's output; its bytes for a pipe or a file, and for a terminal what can't drive it.

use crate::cli::failure::{Failure, Outcome};
use crate::cli::session::Session;
use crate::cli::stdio::Stream;
use crate::cli::terminal_view::TerminalView;
use crate::cli::{relay, stdio};
use clap::{Args, ValueEnum};
use clove_abi::calls::ProcLogs;
use clove_manifest::units::Bytes;

/// Prints an agent's output
#[derive(Args, Debug)]
#[command(after_long_help = "\
A pipe or a file gets the agent's bytes as they are. A terminal is shown text and colours; all else
that would drive it (rename its window, fill the clipboard, overwrite lines) is escaped, unless
--raw is given.")]
pub struct LogsArgs {
    /// Id (a7.2) or name
    #[arg(value_name = "NAME")]
    target: String,
    /// Go on until it has ended
    #[arg(long, short = 'f')]
    follow: bool,
    /// Only one of its streams
    #[arg(long, value_name = "STREAM")]
    stream: Option<Which>,
    /// Its bytes as they are on a terminal too: only for an agent that you trust with your terminal
    #[arg(long)]
    raw: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Which {
    Out,
    Err,
}

impl Which {
    fn word(self) -> &'static str {
        match self {
            Which::Out => "out",
            Which::Err => "err",
        }
    }
}

/// Runs the command. Both streams go to where the agent sent them, unless one was asked for.
pub fn run(args: &LogsArgs) -> Outcome {
    let mut session = Session::open("clove logs")?;
    if args.follow {
        let streams = match args.stream {
            Some(s) => vec![(Some(s.word()), Stream::Out)],
            None => vec![(Some("out"), Stream::Out), (Some("err"), Stream::Err)],
        };
        let mut pumps = Vec::new();
        for (stream, to) in streams {
            pumps.push(relay::show(session.again()?, args.target.clone(), stream, to, view(to, args.raw)));
        }
        let mut missed = 0;
        for pump in pumps {
            let bug = |_| Failure::new("a thread that relays output failed").hint("report this: it is a bug");
            missed += pump.join().map_err(bug)??;
        }
        say_dropped(missed);
        return Ok(0);
    }
    let mut offset = 0;
    let mut view = view(Stream::Out, args.raw);
    loop {
        let call = ProcLogs {
            target: args.target.clone(),
            offset,
            max: Some(1 << 20),
            follow: false,
            stream: args.stream.map(|s| s.word().to_owned()),
        };
        let (reply, bytes) = session.client.call_with_tail(&call, &[])?;
        match &mut view {
            Some(view) => stdio::raw(&view.push(&bytes)),
            None => stdio::raw(&bytes),
        }
        if reply.eof || bytes.is_empty() || reply.next <= offset {
            stdio::raw(&view.map(|mut v| v.finish()).unwrap_or_default());
            say_dropped(reply.dropped);
            return Ok(0);
        }
        offset = reply.next;
    }
}

/// How a stream of ours shows what an agent wrote; as it is, when nobody looks.
fn view(to: Stream, raw: bool) -> Option<TerminalView> {
    (to.is_terminal() && !raw).then(|| TerminalView::new(to.is_colourful()))
}

fn say_dropped(bytes: u64) {
    if bytes > 0 {
        stdio::say(&format!("note: {} of output were dropped beyond its output limit", Bytes(bytes)));
    }
}
