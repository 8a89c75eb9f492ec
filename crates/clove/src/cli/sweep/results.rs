//! `clove sweep results`: every task with its configuration and what came of it.

use super::which;
use crate::cli::ending::cause_in_words;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::page::Page;
use crate::cli::session::Session;
use crate::cli::table::{Listing, shortened};
use crate::cli::{json, stdio};
use clap::Args;
use clove_abi::calls::TaskInfo;
use clove_abi::run::TaskState;
use clove_abi::{RunId, float};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Prints the results of a sweep, those of a running one so far
#[derive(Args, Debug)]
pub struct ResultsArgs {
    /// r3, a name, or last
    #[arg(value_name = "ID", default_value = "last")]
    run: String,
    /// Print a list of objects
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print a table that spreadsheets and pandas read
    #[arg(long)]
    csv: bool,
    /// Only tasks that failed
    #[arg(long)]
    failed: bool,
    /// Tasks that haven't ended too
    #[arg(long, short = 'a')]
    all: bool,
}

/// Runs the command.
pub fn run(args: &ResultsArgs) -> Outcome {
    let mut session = Session::open("clove sweep results")?;
    let run = which::run(&mut session, &args.run)?;
    let tasks = tasks(&mut session, run, args.failed, args.all)?;
    if args.json {
        json::print(&tasks.iter().map(as_json).collect::<Vec<_>>());
    } else if args.csv {
        stdio::show(&csv(&tasks));
    } else {
        stdio::show(&text(run, &tasks));
    }
    Ok(0)
}

/// The table for people, without what was cancelled.
///
/// # Errors
/// The kernel is gone.
pub fn table(session: &mut Session, run: RunId) -> Result<Page, Failure> {
    let mut tasks = tasks(session, run, false, false)?;
    tasks.retain(|t| t.state != TaskState::Cancelled);
    Ok(text(run, &tasks))
}

fn tasks(session: &mut Session, run: RunId, failed: bool, all: bool) -> Result<Vec<TaskInfo>, Failure> {
    let mut out = Vec::new();
    which::pages(session, run, true, |t| {
        let wanted = if failed {
            matches!(t.state, TaskState::Failed | TaskState::Quarantined)
        } else {
            all || t.state.is_final()
        };
        if wanted {
            out.push(t);
        }
    })?;
    Ok(out)
}

/// A task's state in a word.
pub fn state_word(s: TaskState) -> &'static str {
    match s {
        TaskState::Pending => "pending",
        TaskState::Backoff => "waiting",
        TaskState::Running => "running",
        TaskState::Done => "done",
        TaskState::Failed => "failed",
        TaskState::Quarantined => "given up",
        TaskState::Cancelled => "cancelled",
    }
}

/// Why a task has no result, in a few words.
fn trouble(t: &TaskInfo) -> (String, String) {
    if t.state == TaskState::Done {
        return (String::new(), String::new());
    }
    match (&t.exception, t.certificates.last()) {
        (Some(e), Some(c)) if !c.cause.is_death() => {
            ("exception".into(), format!("{}: {}", e.class, e.message))
        }
        (Some(e), None) => ("exception".into(), format!("{}: {}", e.class, e.message)),
        (_, Some(c)) => (cause_in_words(c), c.message.clone()),
        (None, None) => (String::new(), String::new()),
    }
}

fn as_json(t: &TaskInfo) -> Value {
    let (cause, message) = trouble(t);
    json!({
        "id": t.id,
        "index": t.index,
        "name": t.name,
        "state": t.state,
        "attempts": t.attempts,
        "seconds": t.seconds,
        "started_ms": t.started_ms,
        "ended_ms": t.ended_ms,
        "config": t.config,
        "result": t.result,
        "cause": if cause.is_empty() { Value::Null } else { cause.into() },
        "message": if message.is_empty() { Value::Null } else { message.into() },
        "exception": t.exception,
        "certificates": t.certificates,
    })
}

/// The keys of all objects among some values; none when no value is an object.
fn keys<'v>(values: impl Iterator<Item = Option<&'v Value>>) -> Vec<String> {
    let mut all = BTreeSet::new();
    for v in values.flatten() {
        if let Some(o) = v.as_object().filter(|_| float::from_json(v).is_none()) {
            all.extend(o.keys().cloned());
        }
    }
    all.into_iter().collect()
}

/// Some value isn't an object, so it needs a column of its own.
fn some_plain<'v>(mut values: impl Iterator<Item = Option<&'v Value>>) -> bool {
    values.any(|v| v.is_some_and(|v| !v.is_null() && (!v.is_object() || float::from_json(v).is_some())))
}

/// A value as it stands in a table: text without quotes, `nan` and `inf` as Python writes them.
fn plain(v: &Value) -> String {
    match v {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        other => match float::from_json(other) {
            Some(x) if !x.is_finite() => match (x.is_nan(), x > 0.0) {
                (true, _) => "nan".into(),
                (false, true) => "inf".into(),
                (false, false) => "-inf".into(),
            },
            _ => other.to_string(),
        },
    }
}

/// As [`plain`], with floats rounded to six significant digits.
fn brief(v: &Value) -> String {
    match v.as_f64().filter(|_| v.is_f64()) {
        Some(x) if x != 0.0 => {
            let digits = 5 - x.abs().log10().floor().clamp(-300.0, 300.0) as i32;
            if (0..=12).contains(&digits) {
                let text = format!("{x:.*}", digits as usize);
                if text.contains('.') {
                    text.trim_end_matches('0').trim_end_matches('.').to_owned()
                } else {
                    text
                }
            } else {
                format!("{x:.5e}")
            }
        }
        _ => shortened(&plain(v), 40),
    }
}

/// With more keys in its results than this, a CSV file has them in one column, as JSON.
const MOST_COLUMNS: usize = 1000;

fn csv(tasks: &[TaskInfo]) -> Page {
    let configs = keys(tasks.iter().map(|t| t.config.as_ref()));
    let mut results = keys(tasks.iter().map(|t| t.result.as_ref()));
    // Each task may name keys of its own: a column for each would make the table as large as the square of that.
    let too_many = results.len() > MOST_COLUMNS;
    if too_many {
        results.clear();
    }
    let whole_result = some_plain(tasks.iter().map(|t| t.result.as_ref())) || results.is_empty();
    let mut head: Vec<String> =
        ["id", "index", "name", "state", "attempts", "seconds"].map(str::to_owned).into();
    head.extend(configs.iter().map(|k| format!("config.{k}")));
    head.extend(whole_result.then(|| "result".to_owned()));
    head.extend(results.iter().map(|k| format!("result.{k}")));
    head.extend(["cause", "message"].map(str::to_owned));
    let mut page = Page::new();
    page.record(&head);
    for t in tasks {
        let (cause, message) = trouble(t);
        let field =
            |v: &Option<Value>, k: &str| v.as_ref().and_then(|v| v.get(k)).map(plain).unwrap_or_default();
        let mut row = vec![
            t.id.clone(),
            t.index.to_string(),
            t.name.clone(),
            state_word(t.state).to_owned(),
            t.attempts.to_string(),
            t.seconds.map(|s| s.to_string()).unwrap_or_default(),
        ];
        row.extend(configs.iter().map(|k| field(&t.config, k)));
        if whole_result {
            let alone = |v: &&Value| too_many || !v.is_object() || float::from_json(v).is_some();
            row.push(t.result.as_ref().filter(alone).map(plain).unwrap_or_default());
        }
        row.extend(results.iter().map(|k| field(&t.result, k)));
        row.extend([cause, message]);
        page.record(&row);
    }
    page
}

fn text(run: RunId, tasks: &[TaskInfo]) -> Page {
    /// More columns than this don't fit on any screen.
    const COLUMNS: usize = 7;
    let mut configs = keys(tasks.iter().map(|t| t.config.as_ref()));
    let mut results = keys(tasks.iter().map(|t| t.result.as_ref()));
    let left_out = configs.len().saturating_sub(COLUMNS) + results.len().saturating_sub(COLUMNS);
    configs.truncate(COLUMNS);
    results.truncate(COLUMNS);
    let whole_result = some_plain(tasks.iter().map(|t| t.result.as_ref()));
    let named = tasks.iter().any(|t| which::given_name(run, t.index, &t.name).is_some());
    let troubled = tasks.iter().any(|t| !trouble(t).0.is_empty());
    let mut head = vec!["#"];
    head.extend(named.then_some("name"));
    head.extend(["state", "seconds"]);
    let columns = |keys: &[String]| keys.iter().map(|k| shortened(k, 40)).collect::<Vec<_>>();
    let (config_heads, result_heads) = (columns(&configs), columns(&results));
    head.extend(config_heads.iter().map(String::as_str));
    head.extend(whole_result.then_some("result"));
    head.extend(result_heads.iter().map(String::as_str));
    head.extend(troubled.then_some("cause"));
    let mut listing = Listing::new(&head);
    for t in tasks {
        let field =
            |v: &Option<Value>, k: &str| v.as_ref().and_then(|v| v.get(k)).map(brief).unwrap_or_default();
        let mut row = vec![t.index.to_string()];
        row.extend(named.then(|| shortened(&t.name, 40)));
        row.push(state_word(t.state).to_owned());
        row.push(t.seconds.map(|s| format!("{s:.2}")).unwrap_or_default());
        row.extend(configs.iter().map(|k| field(&t.config, k)));
        if whole_result {
            let whole = t.result.as_ref().filter(|v| !v.is_object() || float::from_json(v).is_some());
            row.push(whole.map(brief).unwrap_or_default());
        }
        row.extend(results.iter().map(|k| field(&t.result, k)));
        if troubled {
            let (cause, message) = trouble(t);
            row.push(if message.is_empty() {
                cause
            } else {
                format!("{cause}: {}", shortened(&message, 60))
            });
        }
        listing.row(&row);
    }
    let mut page = listing.page();
    if left_out > 0 {
        page.line(format_args!("({left_out} more columns: --csv or --json has them all)"));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ending::tests::certificate;
    use clove_abi::Cause;

    fn task(index: u32, config: Value, result: Option<Value>) -> TaskInfo {
        TaskInfo {
            id: format!("r1/{index}"),
            index,
            name: String::new(),
            state: if result.is_some() { TaskState::Done } else { TaskState::Quarantined },
            attempts: 1,
            agent: None,
            pid: None,
            config: Some(config),
            result,
            exception: None,
            started_ms: None,
            ended_ms: None,
            seconds: Some(0.5),
            certificates: vec![],
            payload_bytes: 0,
            payload_blob: None,
        }
    }

    #[test]
    fn tables_have_a_column_for_each_key_and_floats_of_every_kind() {
        let mut dead = task(2, json!({"lr": 0.3}), None);
        dead.certificates.push(certificate(Cause::Oom));
        let tasks = [
            task(
                0,
                json!({"lr": 0.1, "m": "=SUM(A1)"}),
                Some(json!({"auc": 0.123_456_789, "n": {"$float": "nan"}})),
            ),
            task(1, json!({"lr": 0.2}), Some(float::to_json(f64::NEG_INFINITY))),
            dead,
        ];
        assert_eq!(
            csv(&tasks).text(),
            "id,index,name,state,attempts,seconds,config.lr,config.m,result,result.auc,result.n,cause,message\n\
             r1/0,0,,done,1,0.5,0.1,'=SUM(A1),,0.123456789,nan,,\n\
             r1/1,1,,done,1,0.5,0.2,,-inf,,,,\n\
             r1/2,2,,given up,1,0.5,0.3,,,,,oom,it reached its memory limit of 64 MiB.\n"
        );
        let t = text(RunId(1), &tasks).to_string();
        assert!(t.starts_with("#  STATE     SECONDS  LR   M         RESULT  AUC       N    CAUSE\n"), "{t}");
        assert!(t.contains("0.123457"), "{t}");
        assert_eq!(as_json(&tasks[2])["cause"], "oom");
    }

    #[test]
    fn tasks_cannot_make_tables_of_any_size() {
        let many = |n: usize| -> Value {
            (0..600).map(|i| (format!("k{n}-{i}"), json!(i))).collect::<serde_json::Map<_, _>>().into()
        };
        let tasks: Vec<_> = (0..3).map(|i| task(i, json!({"a": 1}), Some(many(i as usize)))).collect();
        let few = csv(&tasks[..1]).to_string();
        assert!(few.contains(",result.k0-599,") && few.lines().count() == 2);
        let page = csv(&tasks).to_string();
        assert!(
            page.starts_with("id,index,name,state,attempts,seconds,config.a,result,cause,message\n"),
            "{page}"
        );
        assert!(page.lines().nth(3).is_some_and(|l| l.contains("\"{\"\"k2-0\"\":0,")), "{page}");
        let long = [task(
            0,
            json!({"x".repeat(100_000): 1}),
            Some(json!({"y".repeat(100_000): "z".repeat(100_000)})),
        )];
        assert!(text(RunId(1), &long).text().len() < 500);
    }

    #[test]
    fn numbers_are_brief() {
        for (x, text) in
            [(0.1, "0.1"), (123_456.789, "123457"), (1e-9, "1.00000e-9"), (0.5, "0.5"), (1e30, "1.00000e30")]
        {
            assert_eq!(brief(&json!(x)), text);
        }
        assert_eq!(brief(&json!(12)), "12");
    }
}
