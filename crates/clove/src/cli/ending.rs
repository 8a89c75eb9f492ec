//! The last words on an agent: its cause as the last line of standard error.

use crate::cli::{signal_names, stdio};
use clove_abi::{Cause, Certificate};
use clove_manifest::units::Bytes;

/// A cause in a few words: `exit 1`, `oom`, `signal SIGSEGV`.
pub fn cause_in_words(c: &Certificate) -> String {
    match (c.cause, c.exit_code, c.signal) {
        (Cause::Exit, Some(code), _) => format!("exit {code}"),
        (Cause::Signal, _, Some(s)) => format!("signal {}", signal_names::name(s)),
        (cause, _, _) => cause.word().to_owned(),
    }
}

/// `oom: it reached its memory limit of 64 MiB; try: --memory 128m`.
pub fn last_line(c: &Certificate) -> String {
    let mut line = format!("{}: {}", c.cause.word(), c.message.trim_end_matches('.'));
    if let Some(k) = &c.killed_by
        && let Some(pid) = k.pid
        && !c.message.contains(&pid.to_string())
    {
        line.push_str(&format!(" (by {} pid {pid}", k.kind));
        if let Some(command) = &k.command {
            line.push_str(&format!(", {command}"));
        }
        line.push(')');
    }
    if !c.suggestion.is_empty() {
        line.push_str(&format!("; try: {}", c.suggestion.trim_end_matches('.')));
    }
    line
}

/// `the first 16 MiB of 47 MiB are kept (--output-limit)`, of an agent that printed more than its limit.
pub fn kept_output(c: &Certificate) -> Option<String> {
    let kept = c.limits.output_bytes;
    (c.output_dropped_bytes > 0).then(|| {
        let all = kept.saturating_add(c.output_dropped_bytes);
        format!("the first {} of {} are kept (--output-limit)", Bytes(kept), Bytes(all))
    })
}

/// Says how an agent ended, when there is something to say: an ordinary end speaks for itself.
pub fn tell(c: &Certificate) {
    // A program's own failure speaks for itself, unless there is something to try.
    if c.cause.is_death() || (c.exit_code != Some(0) && !c.suggestion.is_empty()) {
        stdio::say(&last_line(c));
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use clove_abi::certificate::{KilledBy, Usage};
    use clove_abi::{AgentId, Limits};

    /// A certificate of this cause, for tests.
    pub fn certificate(cause: Cause) -> Certificate {
        Certificate {
            agent: AgentId { slot: 1, generation: 1 },
            name: "x".into(),
            run: None,
            task: None,
            attempt: 1,
            cause,
            exit_code: None,
            signal: None,
            killed_by: None,
            message: "it reached its memory limit of 64 MiB.".into(),
            suggestion: "--memory 128m".into(),
            usage: Usage::default(),
            limits: Limits {
                memory_bytes: 64 << 20,
                memory_reserve_bytes: 64 << 20,
                cpu_milli: 0,
                cpu_weight: 100,
                pids: 512,
                disk_bytes: 1 << 30,
                nofile: 1024,
                wall_ms: 0,
                output_bytes: 1 << 20,
            },
            started_ms: 0,
            ended_ms: 1500,
            tail: String::new(),
            output_dropped_bytes: 0,
            missing_walls: vec![],
            missing_limits: vec![],
        }
    }

    #[test]
    fn the_last_line_names_cause_killer_and_remedy() {
        let mut c = certificate(Cause::Oom);
        assert_eq!(last_line(&c), "oom: it reached its memory limit of 64 MiB; try: --memory 128m");
        c.cause = Cause::Killed;
        c.message = "it was killed".into();
        c.suggestion.clear();
        c.killed_by = Some(KilledBy {
            kind: "operator".into(),
            uid: Some(0),
            pid: Some(77),
            command: Some("bash".into()),
        });
        assert_eq!(last_line(&c), "killed: it was killed (by operator pid 77, bash)");
        let mut c = certificate(Cause::Signal);
        c.signal = Some(11);
        assert_eq!(cause_in_words(&c), "signal SIGSEGV");
    }
}
