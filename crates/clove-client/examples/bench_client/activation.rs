//! From submitting a call to its first instruction in a fresh isolated Python; how long the next embryo takes; how many a second.

use crate::Failure;
use crate::clock::monotonic_ns;
use clove_abi::calls::{RunCancel, RunCollect, RunPush, RunShow, RunSubmit, TaskInfo, TemplateList};
use clove_abi::ids::RunId;
use clove_abi::run::{RunSpec, TaskSpec, TaskState};
use clove_client::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Most embryos that a pool keeps ready; a larger burst has to wait for the rest to be made.
const MOST_READY: u32 = 64;
const PATIENCE: Duration = Duration::from_secs(120);
/// An embryo is listed when it has been verified; then it still has to make itself at home, and to ask for a task.
const REST: Duration = Duration::from_millis(20);

/// How many of what.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Orders {
    /// An executor session's; `jobs` is set here.
    spec: RunSpec,
    /// File with a pickled call, the opaque input of a task, whose function returns bytes that hold `at=` and the
    /// nanoseconds of CLOCK_MONOTONIC at its first line.
    payload: PathBuf,
    /// One call at a time, the next when an embryo is ready again and at rest.
    singles: usize,
    /// One call at a time, the next as soon as the one before is back.
    chained: usize,
    /// Calls of one push.
    bursts: Vec<Burst>,
    /// Calls pushed at once for the sustained rate.
    sustained: u32,
    /// Calls at a time for the sustained rate.
    jobs: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Burst {
    calls: u32,
    times: usize,
}

/// `single_ns`, `refill_ns`, `chained_ns`: one for each call; `bursts`: for each burst its calls' times; `sustained_ns`: for all calls.
pub fn run(client: &mut Client, orders: Orders) -> Result<Value, Failure> {
    let payload = std::fs::read(&orders.payload)?;
    let mut session = Session::open(client, &orders.spec, 1, &payload)?;
    let (mut single_ns, mut refill_ns) = (Vec::new(), Vec::new());
    session.wait_for_embryos(1)?;
    for _ in 0..orders.singles {
        std::thread::sleep(REST);
        let began = monotonic_ns();
        session.push(1)?;
        // The reply of the push comes after the embryo was given away: what is ready from now on is the next one.
        single_ns.push(session.first_instructions(1)?[0].saturating_sub(began));
        session.wait_for_embryos(1)?;
        refill_ns.push(monotonic_ns() - began);
    }
    let mut chained_ns = Vec::new();
    for _ in 0..orders.chained {
        let began = monotonic_ns();
        session.push(1)?;
        chained_ns.push(session.first_instructions(1)?[0].saturating_sub(began));
    }
    session.close()?;
    let mut bursts = Vec::new();
    for burst in &orders.bursts {
        let mut session = Session::open(client, &orders.spec, burst.calls, &payload)?;
        for _ in 0..burst.times {
            session.wait_for_embryos(burst.calls.min(MOST_READY))?;
            std::thread::sleep(REST);
            let began = monotonic_ns();
            session.push(burst.calls)?;
            let mut at = session.first_instructions(burst.calls)?;
            at.sort_unstable();
            let ns: Vec<u64> = at.iter().map(|at| at.saturating_sub(began)).collect();
            bursts.push(json!({ "calls": burst.calls, "ns": ns }));
        }
        session.close()?;
    }
    let mut session = Session::open(client, &orders.spec, orders.jobs, &payload)?;
    session.wait_for_embryos(orders.jobs.min(MOST_READY))?;
    std::thread::sleep(REST);
    let began = monotonic_ns();
    session.push(orders.sustained)?;
    session.first_instructions(orders.sustained)?;
    let sustained_ns = monotonic_ns() - began;
    session.close()?;
    Ok(json!({
        "single_ns": single_ns,
        "refill_ns": refill_ns,
        "chained_ns": chained_ns,
        "bursts": bursts,
        "sustained_calls": orders.sustained,
        "sustained_ns": sustained_ns,
    }))
}

/// An open executor session.
struct Session<'a> {
    client: &'a mut Client,
    run: RunId,
    jobs: u32,
    version: u64,
    payload: &'a [u8],
}

impl<'a> Session<'a> {
    /// With its template built: one call has been through.
    fn open(
        client: &'a mut Client,
        spec: &RunSpec,
        jobs: u32,
        payload: &'a [u8],
    ) -> Result<Session<'a>, Failure> {
        let spec = RunSpec { jobs, ..spec.clone() };
        let run = client.call(&RunSubmit { spec, tasks: Vec::new() })?.run;
        let mut session = Session { client, run, jobs, version: 0, payload };
        session.push(1)?;
        session.first_instructions(1)?;
        Ok(session)
    }

    fn push(&mut self, calls: u32) -> Result<(), Failure> {
        let task = TaskSpec { payload_bytes: self.payload.len() as u64, ..TaskSpec::default() };
        let call = RunPush { run: self.run, tasks: vec![task; calls as usize], collected: self.version };
        self.client.call_with_tail(&call, &self.payload.repeat(calls as usize))?;
        Ok(())
    }

    /// Collects this many calls; when each began.
    fn first_instructions(&mut self, calls: u32) -> Result<Vec<u64>, Failure> {
        let end = Instant::now() + PATIENCE;
        let mut at = Vec::new();
        while at.len() < calls as usize {
            if Instant::now() > end {
                return Err(format!("only {} of {calls} calls came back", at.len()).into());
            }
            let call = RunCollect { run: self.run, since: self.version, wait_ms: Some(1000) };
            let (reply, tail) = self.client.call_with_tail(&call, &[])?;
            self.version = reply.version;
            let mut rest = tail.as_slice();
            for task in &reply.tasks {
                let (result, behind) = rest
                    .split_at_checked(usize::try_from(task.payload_bytes)?)
                    .ok_or("the results are shorter than the kernel says")?;
                rest = behind;
                if task.state != TaskState::Done {
                    return Err(self.why(task));
                }
                at.push(moment(result)?);
            }
        }
        Ok(at)
    }

    /// Why a call has no result: its exception, its death, or what happened to the whole session.
    fn why(&mut self, task: &TaskInfo) -> Failure {
        let raised = task.exception.as_ref().map(|e| format!("{}: {}", e.class, e.message));
        let died = task.certificates.last().map(|c| c.message.clone());
        let session = self.client.call(&RunShow { run: self.run }).map(|r| r.info.message);
        let why = raised.or(died).unwrap_or_else(|| session.unwrap_or_else(|e| e.to_string()));
        format!("call {} ended as {:?}: {why}", task.id, task.state).into()
    }

    /// Waits until this many stand ready for this session's template.
    fn wait_for_embryos(&mut self, wanted: u32) -> Result<(), Failure> {
        let end = Instant::now() + PATIENCE;
        loop {
            let ready: u32 = self.client.call(&TemplateList {})?.templates.iter().map(|t| t.embryos).sum();
            if ready >= wanted {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!("only {ready} of {wanted} embryos became ready").into());
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Ends it, once its embryos stand: one that is still being made when its session ends is kept for a minute.
    fn close(mut self) -> Result<(), Failure> {
        self.wait_for_embryos(self.jobs.min(MOST_READY))?;
        self.client.call(&RunCancel { run: self.run, task: None })?;
        // Its embryos go with it; those of the next session are others.
        let end = Instant::now() + PATIENCE;
        while self.client.call(&TemplateList {})?.templates.iter().any(|t| t.embryos > 0) {
            if Instant::now() > end {
                return Err("embryos of a cancelled session stayed".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// The digits after `at=` in a result. The result itself is a pickle, which nobody but Python reads.
fn moment(result: &[u8]) -> Result<u64, Failure> {
    let at = result.windows(3).position(|w| w == b"at=").ok_or("a result without `at=`")?;
    let digits: Vec<u8> = result[at + 3..].iter().copied().take_while(u8::is_ascii_digit).collect();
    Ok(String::from_utf8(digits)?.parse()?)
}
