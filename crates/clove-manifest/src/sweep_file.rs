//! The TOML sweep file.

use crate::configurations::{Axes, Config};
use crate::diagnostic::{Diagnostic, Place};
use crate::plain_words;
use crate::random::{Draw, Random};
use crate::section::{Document, Section, as_number};
use crate::sweep::{Entry, Expected, LONGEST_NAME, Located, Sweep, name_of_file};
use crate::task_name::Pattern;
use crate::units::{parse_bytes, parse_cpus, parse_duration_ms};
use crate::value::kind;
use clove_abi::LimitsSpec;
use clove_abi::run::{Mount, OnOom, Profile, Retry};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

const KEYS: &[&str] = &[
    "name",
    "script",
    "command",
    "python",
    "jobs",
    "seed",
    "priority",
    "reuse",
    "on_oom",
    "profile",
    "task_name",
    "expected_s",
    "notify",
    "grid",
    "list",
    "random",
    "limits",
    "retry",
    "env",
    "mounts",
    "template",
    "from_template",
];
const LIMITS: &[&str] =
    &["memory", "memory_reserve", "cpus", "cpu_weight", "pids", "disk", "nofile", "timeout", "output"];

/// Words that people try at the top of the file.
const ELSEWHERE: &[(&str, &str)] = &[
    ("memory", "it belongs into the [limits] section"),
    ("mem", "write memory = \"512m\" in the [limits] section"),
    ("cpus", "it belongs into the [limits] section"),
    ("cpu", "write cpus = 1 in the [limits] section"),
    ("pids", "it belongs into the [limits] section"),
    ("disk", "it belongs into the [limits] section"),
    ("nofile", "it belongs into the [limits] section"),
    ("timeout", "it belongs into the [limits] section"),
    ("output", "it belongs into the [limits] section"),
    ("preload", "it belongs into the [template] section"),
    ("imports", "write preload = [\"numpy\"] in the [template] section"),
    ("setup", "it belongs into the [template] section"),
    ("retries", "write [retry] with deaths = 2 and failures = 0"),
    ("workers", "write jobs = N"),
    ("max_workers", "write jobs = N"),
    ("n_jobs", "write jobs = N"),
    ("parallel", "write jobs = N"),
    ("params", "write [grid] with a list of values for each key"),
    ("parameters", "write [grid] with a list of values for each key"),
    ("matrix", "write [grid] with a list of values for each key"),
    ("samples", "it belongs into the [random] section"),
    ("cmd", "write command = [\"program\", \"argument\"]"),
    ("exec", "write command = [\"program\", \"argument\"]"),
    ("args", "write them after the program: command = [\"program\", \"argument\"]"),
    ("volumes", "write [[mounts]] with source = \"/data\""),
    ("environment", "write [env] with NAME = \"value\""),
    ("expected", "write expected_s = \"KEY\" or a number of seconds"),
];

/// Reads a sweep file's text. `origin` is its path as the user named it.
///
/// # Errors
/// The first mistake, with its place.
pub fn parse(text: &str, origin: &str) -> Result<Sweep, Diagnostic> {
    let doc = Document { origin, text };
    let root = DeTable::parse(text).map_err(|e| {
        let m = plain_words::of(e.message(), text, e.span().unwrap_or(0..0));
        doc.error(m.span, m.what).hint(m.hint)
    })?;
    let root_table = root.get_ref();
    let top = Section { doc, name: "", table: root_table, span_start: 0 };
    top.only(KEYS, ELSEWHERE)?;
    let place = |span: Range<usize>| Some(Place::of(text, span));

    let entry = entry(&top)?;
    let name = match top.string("name", "a string")? {
        Some((name, span)) if name.trim().is_empty() || name.chars().any(char::is_control) => {
            return Err(doc.error(span, "`name` is empty or has a control character in it"));
        }
        Some((name, span)) if name.len() > LONGEST_NAME => {
            return Err(doc
                .error(span, format!("`name` has {} bytes", name.len()))
                .expected(format!("at most {LONGEST_NAME}")));
        }
        Some((name, _)) => name,
        None => name_of_file(Path::new(origin)),
    };
    let mut sweep = Sweep::of(origin, name, entry);
    sweep.python = top
        .string("python", "the path of an interpreter, such as \".venv/bin/python\"")?
        .map(|(value, span)| Located { value, place: place(span) });
    if let Some(n) = top.integer("jobs", 0, 100_000)? {
        sweep.jobs = n as u32;
    }
    if let Some(n) = top.integer("seed", 0, i128::from(i64::MAX))? {
        sweep.seed = n as u64;
    }
    if let Some(n) = top.integer("priority", -1000, 1000)? {
        sweep.priority = n as i32;
    }
    if let Some(n) = top.integer("reuse", 1, 1_000_000)? {
        sweep.reuse = n as u32;
    }
    sweep.on_oom = match top.string("on_oom", "\"keep\" or \"double\"")? {
        None => OnOom::Keep,
        Some((word, _)) if word == "keep" => OnOom::Keep,
        Some((word, _)) if word == "double" => OnOom::Double,
        Some((word, span)) => {
            return Err(doc
                .error(span, format!("`on_oom = \"{word}\"` isn't known"))
                .expected("\"keep\" (retry with the same memory) or \"double\" (retry with twice as much)"));
        }
    };
    sweep.profile = match top.string("profile", "\"default\" or \"strict\"")? {
        None => Profile::Default,
        Some((word, _)) if word == "default" => Profile::Default,
        Some((word, _)) if word == "strict" => Profile::Strict,
        Some((word, span)) => {
            return Err(doc.error(span, format!("`profile = \"{word}\"` isn't known")).expected(
                "\"default\" or \"strict\" (only the system calls that runtimes are known to need)",
            ));
        }
    };
    sweep.notify = top.string("notify", "a shell command")?.map(|(s, _)| s);
    sweep.limits = match top.section("limits")? {
        Some(s) => limits(&s)?,
        None => LimitsSpec::default(),
    };
    if let Some(s) = top.section("retry")? {
        sweep.retry = retry(&s)?;
    }
    if let Some(s) = top.section("env")? {
        sweep.env = env(&s)?;
    }
    template(&top, &mut sweep)?;
    sweep.mounts = mounts(&top)?;
    sweep.task_name = match top.string("task_name", "a pattern such as \"{target}-{model}\"")? {
        None => None,
        Some((pattern, span)) => match Pattern::parse(&pattern) {
            Ok(value) => Some(Located { value, place: place(span) }),
            Err(what) => {
                return Err(doc.error(span, format!("`task_name`: {what}")).expected(
                    "a pattern such as \"{target}-{model}\", with keys of the configuration in braces",
                ));
            }
        },
    };
    sweep.expected = expected(&top)?;
    sweep.axes = axes(&top)?;
    sweep.axes_place = ["grid", "list", "random"]
        .iter()
        .find_map(|k| top.table.keys().find(|key| key.get_ref() == k))
        .and_then(|key| place(key.span()));
    Ok(sweep)
}

/// `[template]`, or one of several `[template.NAME]`, the one that `from_template` names.
fn template(top: &Section<'_, '_>, sweep: &mut Sweep) -> Result<(), Diagnostic> {
    let doc = top.doc;
    let chosen = top.string("from_template", "the NAME of a [template.NAME] section")?;
    let Some(all) = top.section("template")? else {
        return match chosen {
            Some((name, span)) => Err(doc
                .error(span, format!("there is no [template.{name}] section"))
                .hint("write one, with preload = [\"numpy\"] for example")),
            None => Ok(()),
        };
    };
    let names: Vec<String> = all
        .in_order()
        .into_iter()
        .filter(|(_, v)| matches!(v.get_ref(), DeValue::Table(_)))
        .map(|(k, _)| k.get_ref().to_string())
        .collect();
    let s = match (names.as_slice(), &chosen) {
        ([], None) => all,
        ([], Some((name, span))) => {
            return Err(doc
                .error(span.clone(), format!("there is no [template.{name}] section"))
                .hint("a single [template] needs no from_template"));
        }
        (_, Some((name, span))) => {
            let found = names.iter().position(|n| n == name);
            let Some(i) = found else {
                return Err(doc
                    .error(span.clone(), format!("there is no [template.{name}] section"))
                    .expected(format!("one of {}", names.join(", "))));
            };
            named(&all, &names[i])?
        }
        ([only], None) => named(&all, only)?,
        (_, None) => {
            let start = all.span_start;
            return Err(doc
                .error(start..start, "there are several templates, and none is chosen")
                .expected(format!("from_template = one of {} at the top of the file", names.join(", "))));
        }
    };
    s.only(
        &["python", "preload", "setup", "timeout"],
        &[("imports", "write preload = [\"numpy\"]"), ("modules", "write preload = [\"numpy\"]")],
    )?;
    if let Some((value, span)) =
        s.string("python", "the path of an interpreter, such as \".venv/bin/python\"")?
    {
        if sweep.python.is_some() {
            return Err(doc
                .error(span, "`python` is given here and at the top of the file")
                .hint("keep one of the two"));
        }
        sweep.python = Some(Located { value, place: Some(Place::of(doc.text, span)) });
    }
    sweep.preload = s.strings("preload", "a list of module names: [\"numpy\"]")?.unwrap_or_default();
    sweep.setup = setup(&s)?;
    sweep.load_ms = s.quantity("timeout", "30m", parse_duration_ms)?.map(|(ms, _)| ms);
    Ok(())
}

/// One `[template.NAME]`; nothing may stand beside those.
fn named<'d, 't>(all: &Section<'d, 't>, name: &str) -> Result<Section<'d, 't>, Diagnostic> {
    let tables: Vec<_> = all.in_order();
    if let Some((k, _)) = tables.iter().find(|(_, v)| !matches!(v.get_ref(), DeValue::Table(_))) {
        return Err(all
            .doc
            .error(k.span(), format!("`{}` stands beside named templates", k.get_ref()))
            .hint("write it into one of the [template.NAME] sections"));
    }
    let found = tables.into_iter().find(|(k, _)| k.get_ref().as_ref() == name);
    match found.map(|(k, v)| (k.span().start, v.get_ref())) {
        Some((span_start, DeValue::Table(table))) => {
            Ok(Section { doc: all.doc, name: "template", table, span_start })
        }
        _ => Err(all
            .doc
            .error(all.span_start..all.span_start, format!("there is no [template.{name}] section"))),
    }
}

fn entry(top: &Section<'_, '_>) -> Result<Entry, Diagnostic> {
    let doc = top.doc;
    let script = top.string("script", "a path, relative to this file")?;
    let command = top.get("command");
    let place = |span: Range<usize>| Some(Place::of(doc.text, span));
    match (script, command) {
        (Some((_, span)), Some(_)) => Err(doc
            .error(span, "both `script` and `command` are given")
            .hint("keep one: `script` for a Python file with run(config, shared), `command` for any program")),
        (None, None) => Err(Diagnostic::new(doc.origin, "the file names no program")
            .hint("add script = \"train.py\" (Python, with run(config, shared)) or command = [\"./trial\", \"--fast\"]")),
        (Some((path, span)), None) if path.trim().is_empty() => {
            Err(doc.error(span, "`script` is empty").expected("a path, relative to this file"))
        }
        (Some((path, span)), None) => Ok(Entry::Script(Located { value: PathBuf::from(path), place: place(span) })),
        (None, Some(v)) => {
            let argv = match v.get_ref() {
                DeValue::String(s) => split_words(s).map_err(|what| doc.error(v.span(), format!("`command`: {what}")))?,
                _ => top
                    .strings("command", "a list of strings: [\"./trial\", \"--fast\"], or one string")?
                    .unwrap_or_default(),
            };
            if argv.first().is_none_or(|p| p.is_empty()) {
                return Err(doc
                    .error(v.span(), "`command` is empty")
                    .expected("a program and its arguments: [\"./trial\", \"--fast\"]"));
            }
            Ok(Entry::Command(Located { value: argv, place: place(v.span()) }))
        }
    }
}

/// Splits a command as a shell would, with quotes and backslashes but no expansion.
///
/// # Errors
/// An open quote, or something that only a shell could do.
pub fn split_words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => {
                let w = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        None => return Err(format!("the quote {c} is never closed")),
                        Some(e) if e == c => break,
                        Some('\\') if c == '"' => w.extend(chars.next()),
                        Some(e) => w.push(e),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(chars.next()),
            '|' | '>' | '<' | ';' | '&' | '$' | '`' => {
                return Err(format!(
                    "`{c}` needs a shell, and none is used; write command = [\"sh\", \"-c\", \"...\"]"
                ));
            }
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

fn limits(s: &Section<'_, '_>) -> Result<LimitsSpec, Diagnostic> {
    s.only(
        LIMITS,
        &[
            ("cpu", "write cpus = 1"),
            ("mem", "write memory = \"512m\""),
            ("ram", "write memory = \"512m\""),
            ("time", "write timeout = \"10m\""),
            ("walltime", "write timeout = \"10m\""),
            ("files", "write nofile = 1024"),
            ("pids_limit", "write pids = 64"),
            ("processes", "write pids = 64"),
        ],
    )?;
    let mut out = LimitsSpec::default();
    let checked = |one: &LimitsSpec, span: Range<usize>| one.check().map_err(|what| s.doc.error(span, what));
    let mut bytes = |key: &str, set: fn(&mut LimitsSpec, u64)| -> Result<(), Diagnostic> {
        if let Some((n, span)) = s.quantity(key, "512m", parse_bytes)? {
            let mut one = LimitsSpec::default();
            set(&mut one, n);
            checked(&one, span)?;
            set(&mut out, n);
        }
        Ok(())
    };
    bytes("memory", |l, n| l.memory_bytes = Some(n))?;
    bytes("memory_reserve", |l, n| l.memory_reserve_bytes = Some(n))?;
    bytes("disk", |l, n| l.disk_bytes = Some(n))?;
    bytes("output", |l, n| l.output_bytes = Some(n))?;
    if let Some((n, _)) = s.quantity("cpus", "0.5", parse_cpus)? {
        out.cpu_milli = Some(n);
    }
    if let Some((n, _)) = s.quantity("timeout", "10m", parse_duration_ms)? {
        out.wall_ms = Some(n);
    }
    out.cpu_weight = s.integer("cpu_weight", 1, 10_000)?.map(|n| n as u32);
    out.pids = s.integer("pids", 2, 4_000_000)?.map(|n| n as u32);
    out.nofile = s.integer("nofile", 16, 1_048_576)?.map(|n| n as u32);
    Ok(out)
}

fn retry(s: &Section<'_, '_>) -> Result<Retry, Diagnostic> {
    s.only(
        &["deaths", "failures", "backoff", "backoff_max"],
        &[
            ("max", "write deaths = N (crashes, OOM, timeouts) and failures = N (exceptions, exit codes)"),
            (
                "attempts",
                "write deaths = N (crashes, OOM, timeouts) and failures = N (exceptions, exit codes)",
            ),
            ("count", "write deaths = N (crashes, OOM, timeouts) and failures = N (exceptions, exit codes)"),
        ],
    )?;
    let mut out = Retry::default();
    if let Some(n) = s.integer("deaths", 0, 1000)? {
        out.deaths = n as u32;
    }
    if let Some(n) = s.integer("failures", 0, 1000)? {
        out.failures = n as u32;
    }
    if let Some((ms, _)) = s.quantity("backoff", "500ms", parse_duration_ms)? {
        out.backoff_ms = ms;
        out.backoff_max_ms = out.backoff_max_ms.max(ms);
    }
    if let Some((ms, span)) = s.quantity("backoff_max", "30s", parse_duration_ms)? {
        if ms < out.backoff_ms {
            return Err(s.doc.error(span, "`backoff_max` is shorter than `backoff`"));
        }
        out.backoff_max_ms = ms;
    }
    Ok(out)
}

fn env(s: &Section<'_, '_>) -> Result<BTreeMap<String, String>, Diagnostic> {
    let mut out = BTreeMap::new();
    for (key, v) in s.in_order() {
        let name = key.get_ref().as_ref();
        if let Err(what) = check_env_name(name) {
            return Err(s.doc.error(key.span(), what));
        }
        let text = match v.get_ref() {
            DeValue::String(t) => t.to_string(),
            DeValue::Integer(i) => i.to_string(),
            DeValue::Float(f) => f.as_str().to_owned(),
            DeValue::Boolean(b) => {
                return Err(s.mistyped(name, v, "a string").hint(format!("write {name} = \"{b}\"")));
            }
            _ => return Err(s.mistyped(name, v, "a string")),
        };
        if text.contains('\0') {
            return Err(s.doc.error(v.span(), format!("`{name}` has a zero byte in it")));
        }
        out.insert(name.to_owned(), text);
    }
    Ok(out)
}

/// Refuses names that can't be an environment variable's, and those that are the kernel's.
///
/// # Errors
/// What is wrong.
pub fn check_env_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(format!("`{}` can't be the name of an environment variable", name.escape_default()));
    }
    if name.starts_with("CLOVE_") {
        return Err(format!("`{name}` can't be set: names that begin with CLOVE_ are the kernel's"));
    }
    Ok(())
}

fn setup(s: &Section<'_, '_>) -> Result<Option<String>, Diagnostic> {
    let Some((text, span)) = s.string("setup", "\"module:function\"")? else { return Ok(None) };
    let good = text.split_once(':').is_some_and(|(m, f)| {
        let word = |w: &str| !w.is_empty() && w.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.');
        word(m) && word(f)
    });
    if good {
        Ok(Some(text))
    } else {
        Err(s
            .doc
            .error(span, format!("`setup = \"{text}\"` names no function"))
            .expected("\"module:function\""))
    }
}

fn mounts(top: &Section<'_, '_>) -> Result<Vec<Located<Mount>>, Diagnostic> {
    let Some(v) = top.get("mounts") else { return Ok(Vec::new()) };
    let doc = top.doc;
    let expected = "[[mounts]] with source = \"/data\" and, if wanted, target and writable = true";
    let DeValue::Array(items) = v.get_ref() else { return Err(top.mistyped("mounts", v, expected)) };
    let mut out: Vec<Located<Mount>> = Vec::new();
    for item in items {
        let (mount, span) = match item.get_ref() {
            DeValue::String(text) => {
                let m = crate::flags::mount(text).map_err(|e| doc.error(item.span(), e.what).hint(e.hint))?;
                (m, item.span())
            }
            DeValue::Table(table) => {
                let s = Section { doc, name: "mounts", table, span_start: item.span().start };
                s.only(
                    &["source", "target", "writable"],
                    &[
                        ("src", "write source"),
                        ("dst", "write target"),
                        ("destination", "write target"),
                        ("path", "write source"),
                        ("rw", "write writable = true"),
                        ("readonly", "mounts are read-only unless writable = true"),
                        ("read_only", "mounts are read-only unless writable = true"),
                    ],
                )?;
                let Some((source, span)) = s.string("source", "a path on this machine")? else {
                    return Err(doc.error(item.span(), "this mount has no `source`").expected(expected));
                };
                let target = s.string("target", "an absolute path inside")?;
                if let Some((t, span)) = &target
                    && !t.starts_with('/')
                {
                    return Err(doc
                        .error(span.clone(), format!("`target = \"{t}\"` isn't absolute"))
                        .expected("a path that begins with /"));
                }
                let target = target.map_or_else(String::new, |(t, _)| t);
                let writable = s.boolean("writable")?.unwrap_or(false);
                (Mount { source, target, writable }, span)
            }
            _ => return Err(top.mistyped("mounts", item, expected)),
        };
        if mount.source.trim().is_empty() {
            return Err(doc.error(span, "`source` is empty").expected("a path on this machine"));
        }
        let same = |m: &Located<Mount>| !mount.target.is_empty() && m.value.target == mount.target;
        if out.iter().any(same) {
            return Err(doc.error(span, format!("two mounts have the target {}", mount.target)));
        }
        out.push(Located { value: mount, place: Some(Place::of(doc.text, span)) });
    }
    Ok(out)
}

fn expected(top: &Section<'_, '_>) -> Result<Option<Located<Expected>>, Diagnostic> {
    let Some(v) = top.get("expected_s") else { return Ok(None) };
    let value = match v.get_ref() {
        DeValue::String(key) => Expected::Key(key.to_string()),
        other => match as_number(other) {
            Some(s) if s.is_finite() && s >= 0.0 => Expected::Seconds(s),
            _ => {
                return Err(top.mistyped(
                    "expected_s",
                    v,
                    "a number of seconds, or the name of a key that has it",
                ));
            }
        },
    };
    Ok(Some(Located { value, place: Some(Place::of(top.doc.text, v.span())) }))
}

fn axes(top: &Section<'_, '_>) -> Result<Axes, Diagnostic> {
    let doc = top.doc;
    let mut out = Axes::default();
    if let Some(v) = top.get("grid")
        && matches!(v.get_ref(), DeValue::Array(_))
    {
        return Err(top
            .mistyped("grid", v, "one table of lists: [grid]")
            .hint("write [grid] in single brackets, or [[list]] for single configurations"));
    }
    if let Some(s) = top.section("grid")? {
        for (key, v) in s.in_order() {
            let name = key.get_ref().as_ref();
            named_key(doc, name, key.span())?;
            let values = values(&s, name, v)?;
            out.grid.push((name.to_owned(), values));
        }
        if out.grid.is_empty() {
            return Err(doc
                .error(s.span_start..s.span_start + "grid".len(), "the grid is empty")
                .expected("a list of values for each key: lr = [0.1, 0.01]"));
        }
    }
    if let Some(v) = top.get("list") {
        out.list = Some(list(top, v)?);
    }
    if let Some(s) = top.section("random")? {
        out.random = Some(random(&s)?);
    }
    Ok(out)
}

/// Results are listed under their keys, so each has a name.
fn named_key(doc: Document<'_>, name: &str, span: Range<usize>) -> Result<(), Diagnostic> {
    if name.trim().is_empty() {
        return Err(doc.error(span, "this key is empty").expected("a name, such as lr"));
    }
    Ok(())
}

fn values(s: &Section<'_, '_>, name: &str, v: &Spanned<DeValue<'_>>) -> Result<Vec<Value>, Diagnostic> {
    let DeValue::Array(items) = v.get_ref() else {
        let d = s.mistyped(name, v, "a list of values");
        if let DeValue::Table(t) = v.get_ref() {
            let inner = t.keys().next().map_or("...", |k| k.get_ref().as_ref());
            return Err(
                d.hint(format!("a key with a point in it stands in quotes: \"{name}.{inner}\" = [...]"))
            );
        }
        let shown = s.doc.text.get(v.span()).unwrap_or("...");
        let one_line = if shown.contains('\n') || shown.len() > 40 { "..." } else { shown };
        return Err(d.hint(format!("write {name} = [{one_line}]")));
    };
    if items.is_empty() {
        return Err(s
            .doc
            .error(v.span(), format!("`{name}` has no values, so there would be no tasks"))
            .hint("give it values, or remove it"));
    }
    items.iter().map(|i| s.doc.json(i)).collect()
}

fn list(top: &Section<'_, '_>, v: &Spanned<DeValue<'_>>) -> Result<Vec<Config>, Diagnostic> {
    let expected = "a list of configurations: [[list]] sections, or list = [{ lr = 0.1 }, { lr = 0.01 }]";
    let DeValue::Array(items) = v.get_ref() else { return Err(top.mistyped("list", v, expected)) };
    if items.is_empty() {
        return Err(top.doc.error(v.span(), "the list is empty").expected(expected));
    }
    items
        .iter()
        .map(|item| match top.doc.json(item)? {
            Value::Object(config) => {
                if let Some(key) = config.keys().find(|k| k.trim().is_empty()) {
                    named_key(top.doc, key, item.span())?;
                }
                Ok(config)
            }
            _ => Err(top
                .doc
                .error(item.span(), format!("this entry of the list is {}", kind(item.get_ref())))
                .expected("a table of keys and values: { lr = 0.1 }")),
        })
        .collect()
}

fn random(s: &Section<'_, '_>) -> Result<Random, Diagnostic> {
    let doc = s.doc;
    let here = s.span_start..s.span_start + "random".len();
    s.only(
        &["samples", "params"],
        &[
            ("seed", "it belongs to the top of the file"),
            ("n", "write samples = 100"),
            ("count", "write samples = 100"),
        ],
    )?;
    let samples = s.integer("samples", 1, crate::MAX_TASKS as i128)?.ok_or_else(|| {
        doc.error(here.clone(), "[random] doesn't say how many").hint("write samples = 100")
    })?;
    let params = s.section("params")?.filter(|p| !p.table.is_empty()).ok_or_else(|| {
        doc.error(here, "[random] has no parameters")
            .hint("write [random.params] with lr = { min = 1e-4, max = 1e-1, scale = \"log\" }")
    })?;
    let mut out = Random { samples: samples as usize, params: Vec::new() };
    for (key, v) in params.in_order() {
        let name = key.get_ref().as_ref();
        named_key(doc, name, key.span())?;
        let DeValue::Table(table) = v.get_ref() else {
            return Err(params.mistyped(name, v, DRAWS));
        };
        let p = Section { doc, name, table, span_start: v.span().start };
        out.params.push((name.to_owned(), draw(&p, v.span())?));
    }
    Ok(out)
}

const DRAWS: &str =
    "{ min = 1e-4, max = 1e-1, scale = \"log\" }, { int = [1, 10] } or { choice = [\"a\", \"b\"] }";

fn draw(p: &Section<'_, '_>, span: Range<usize>) -> Result<Draw, Diagnostic> {
    let doc = p.doc;
    p.only(
        &["min", "max", "scale", "int", "choice"],
        &[("log", "write scale = \"log\""), ("values", "write choice = [...]")],
    )?;
    let ways = usize::from(p.get("int").is_some())
        + usize::from(p.get("choice").is_some())
        + usize::from(p.get("min").is_some() || p.get("max").is_some());
    if ways != 1 {
        let what = if ways == 0 { "says nothing to draw from" } else { "mixes several kinds of draw" };
        return Err(doc.error(span, format!("`{}` {what}", p.name)).expected(DRAWS));
    }
    if let Some(v) = p.get("choice") {
        return Ok(Draw::Choice(values(p, "choice", v)?));
    }
    if let Some(v) = p.get("int") {
        let ends: Option<Vec<i64>> = match v.get_ref() {
            DeValue::Array(items) => items
                .iter()
                .map(|i| match i.get_ref() {
                    DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix()).ok(),
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        return match ends.as_deref() {
            Some([min, max]) if min <= max => Ok(Draw::Int { min: *min, max: *max }),
            Some([min, max]) => Err(doc.error(v.span(), format!("`int = [{min}, {max}]` is upside down"))),
            _ => Err(doc.error(v.span(), "`int` isn't a pair of whole numbers").expected("int = [1, 10]")),
        };
    }
    let end = |key: &str| {
        p.number(key, "a number")?
            .filter(|(n, _)| n.is_finite())
            .ok_or_else(|| doc.error(span.clone(), format!("`{}` has no `{key}`", p.name)).expected(DRAWS))
    };
    let ((min, min_span), (max, max_span)) = (end("min")?, end("max")?);
    if min > max {
        return Err(doc.error(max_span, format!("`max = {max}` is less than `min = {min}`")));
    }
    let log = match p.string("scale", "\"linear\" or \"log\"")? {
        None => false,
        Some((word, _)) if word == "linear" => false,
        Some((word, _)) if word == "log" => true,
        Some((word, span)) => {
            return Err(doc
                .error(span, format!("`scale = \"{word}\"` isn't known"))
                .expected("\"linear\" or \"log\""));
        }
    };
    if log && min <= 0.0 {
        return Err(doc
            .error(min_span, format!("`min = {min}` has no logarithm"))
            .hint("a log scale needs a `min` above 0"));
    }
    Ok(Draw::Float { min, max, log })
}
