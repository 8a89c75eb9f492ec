//! `clove logs`: an agent's output, as the bytes are.

use crate::cli::failure::{Failure, Outcome};
use crate::cli::session::Session;
use crate::cli::{relay, stdio};
use clap::{Args, ValueEnum};
use clove_abi::calls::ProcLogs;
use clove_manifest::units::Bytes;

/// Prints an agent's output
#[derive(Args, Debug)]
pub struct LogsArgs {
    /// Id (a7.2) or name
    #[arg(value_name = "NAME")]
    target: String,
    /// Go on until it has ended
    #[arg(long, short = 'f')]
    follow: bool,
    /// Only one of its streams
    #[arg(long, value_name = "STREAM")]
    stream: Option<Stream>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Stream {
    Out,
    Err,
}

impl Stream {
    fn word(self) -> &'static str {
        match self {
            Stream::Out => "out",
            Stream::Err => "err",
        }
    }
}

/// Runs the command. Both streams go to where the agent sent them, unless one was asked for.
pub fn run(args: &LogsArgs) -> Outcome {
    let mut session = Session::open("clove logs")?;
    if args.follow {
        let pumps = match args.stream {
            Some(s) => vec![relay::show(session.again()?, args.target.clone(), Some(s.word()), false)],
            None => vec![
                relay::show(session.again()?, args.target.clone(), Some("out"), false),
                relay::show(session.again()?, args.target.clone(), Some("err"), true),
            ],
        };
        let mut missed = 0;
        for pump in pumps {
            let bug = |_| Failure::new("a thread that relays output failed").hint("report this: it is a bug");
            missed += pump.join().map_err(bug)??;
        }
        say_dropped(missed);
        return Ok(0);
    }
    let mut offset = 0;
    loop {
        let call = ProcLogs {
            target: args.target.clone(),
            offset,
            max: Some(1 << 20),
            follow: false,
            stream: args.stream.map(|s| s.word().to_owned()),
        };
        let (reply, bytes) = session.client.call_with_tail(&call, &[])?;
        stdio::data(&bytes);
        if reply.eof || bytes.is_empty() || reply.next <= offset {
            say_dropped(reply.dropped);
            return Ok(0);
        }
        offset = reply.next;
    }
}

fn say_dropped(bytes: u64) {
    if bytes > 0 {
        stdio::say(&format!("note: {} of output were dropped beyond its output limit", Bytes(bytes)));
    }
}
