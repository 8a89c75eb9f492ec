//! A checked sweep, before anything is known about the machine it will run on.

use crate::MAX_TASKS;
use crate::configurations::{Axes, Config};
use crate::diagnostic::{Diagnostic, Place};
use crate::task_name::Pattern;
use clove_abi::LimitsSpec;
use clove_abi::run::{Mount, OnOom, Profile, Program, Retry, RunKind, RunSpec, TaskSpec};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// A value and the place that it was written at.
#[derive(Clone, Debug, PartialEq)]
pub struct Located<T> {
    pub value: T,
    pub place: Option<Box<Place>>,
}

impl<T> Located<T> {
    /// Written nowhere: from a flag, or a default.
    pub fn nowhere(value: T) -> Located<T> {
        Located { value, place: None }
    }
}

/// What is started for each task.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A file: a Python script with `run(config, shared)`, or any executable. Absolute, or relative to where the sweep
    /// was written.
    Script(Located<PathBuf>),
    /// Program and arguments.
    Command(Located<Vec<String>>),
}

/// When a task is expected to take long, it starts early.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// This many seconds, each.
    Seconds(f64),
    /// As many seconds as the configuration says under this key.
    Key(String),
}

/// A sweep as its author wrote it, checked as far as that goes without the machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Sweep {
    /// The file as the user named it, for messages.
    pub origin: String,
    pub name: String,
    pub entry: Entry,
    /// The interpreter, when one was named.
    pub python: Option<Located<String>>,
    pub preload: Vec<String>,
    /// `module:function`.
    pub setup: Option<String>,
    /// How long imports and setup may take, in milliseconds.
    pub load_ms: Option<u64>,
    pub jobs: u32,
    pub seed: u64,
    pub priority: i32,
    pub reuse: u32,
    pub on_oom: OnOom,
    pub profile: Profile,
    pub limits: LimitsSpec,
    pub retry: Retry,
    pub env: BTreeMap<String, String>,
    /// Sources as they were written: absolute, below `~/`, or relative to the file.
    pub mounts: Vec<Located<Mount>>,
    pub notify: Option<String>,
    pub axes: Axes,
    /// Where the axes are written.
    pub axes_place: Option<Box<Place>>,
    pub task_name: Option<Located<Pattern>>,
    pub expected: Option<Located<Expected>>,
}

/// Longest name of a sweep, in bytes (the kernel's own bound).
pub const LONGEST_NAME: usize = 200;

/// The name of a sweep that wasn't given one: its file's, as far as it can be a name.
pub fn name_of_file(path: &Path) -> String {
    let stem = path.file_stem().map_or_else(|| "sweep".to_owned(), |s| s.to_string_lossy().into_owned());
    let mut name: String = stem.chars().map(|c| if c.is_control() { '_' } else { c }).collect();
    while name.len() > LONGEST_NAME {
        name.pop();
    }
    name
}

impl Sweep {
    /// A sweep with nothing but its program.
    pub fn of(origin: impl Into<String>, name: impl Into<String>, entry: Entry) -> Sweep {
        Sweep {
            origin: origin.into(),
            name: name.into(),
            entry,
            python: None,
            preload: Vec::new(),
            setup: None,
            load_ms: None,
            jobs: 0,
            seed: 0,
            priority: 0,
            reuse: 1,
            on_oom: OnOom::Keep,
            profile: Profile::Default,
            limits: LimitsSpec::default(),
            retry: Retry::default(),
            env: BTreeMap::new(),
            mounts: Vec::new(),
            notify: None,
            axes: Axes::default(),
            axes_place: None,
            task_name: None,
            expected: None,
        }
    }

    /// Every task, in its final order.
    ///
    /// # Errors
    /// No configuration, too many, two that set one key, two tasks of one name.
    pub fn tasks(&self) -> Result<Vec<TaskSpec>, Diagnostic> {
        let wrong = |what: String| Diagnostic::new(&self.origin, what).at(self.axes_place.clone());
        if self.axes.is_empty() {
            return Err(wrong("the sweep has no configurations".into()).hint(
                "add a [grid], a [[list]] or a [random] section; on the command line --grid lr=0.1,0.01",
            ));
        }
        if let Some(key) = self.axes.collision() {
            return Err(wrong(format!("`{key}` is set by more than one of grid, list and random"))
                .hint("keep it in one of them"));
        }
        let configs = self.axes.configurations(self.seed).map_err(|count| {
            let count = count.map_or("more than can be counted".to_owned(), |n| n.to_string());
            wrong(format!("the sweep has {count} tasks"))
                .expected(format!("at most {MAX_TASKS}"))
                .hint("split it, or draw a sample: [random] samples = 1000")
        })?;
        if configs.is_empty() {
            return Err(wrong("the sweep has no tasks: one of its lists is empty".into()));
        }
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut tasks = Vec::with_capacity(configs.len());
        for (index, config) in configs.into_iter().enumerate() {
            let name = self.name_of(index, &config)?;
            if !name.is_empty()
                && let Some(first) = seen.insert(name.clone(), index)
            {
                let place = self.task_name.as_ref().and_then(|p| p.place.clone());
                return Err(Diagnostic::new(
                    &self.origin,
                    format!("tasks {first} and {index} have the same name `{name}`"),
                )
                .at(place)
                .hint("name every key that differs in task_name, or add {index}"));
            }
            let expected_ms = self.expected_of(index, &config)?;
            tasks.push(TaskSpec { name, config: Value::Object(config), expected_ms, ..TaskSpec::default() });
        }
        Ok(tasks)
    }

    fn name_of(&self, index: usize, config: &Config) -> Result<String, Diagnostic> {
        match &self.task_name {
            None => Ok(String::new()),
            Some(p) => p
                .value
                .name(index, config)
                .map_err(|what| Diagnostic::new(&self.origin, what).at(p.place.clone())),
        }
    }

    fn expected_of(&self, index: usize, config: &Config) -> Result<Option<u64>, Diagnostic> {
        let Some(e) = &self.expected else { return Ok(None) };
        let seconds = match &e.value {
            Expected::Seconds(s) => *s,
            Expected::Key(k) => match config.get(k).and_then(clove_abi::float::from_json) {
                Some(s) if s.is_finite() && s >= 0.0 => s,
                found => {
                    let what = match (found, config.get(k)) {
                        (_, None) => format!("task {index} has no `{k}` to tell how long it takes"),
                        (_, Some(v)) => format!("`{k}` of task {index} is {v}, not a number of seconds"),
                    };
                    return Err(Diagnostic::new(&self.origin, what).at(e.place.clone()).hint(
                        "name a key that is a number in every configuration, or leave expected_s out",
                    ));
                }
            },
        };
        Ok(Some((seconds * 1000.0).round() as u64))
    }

    /// The spec that the kernel gets. Program, environment, mounts and working folder were worked out by the caller,
    /// who knows the machine.
    pub fn spec(
        &self,
        program: Program,
        env: BTreeMap<String, String>,
        mounts: Vec<Mount>,
        cwd: Option<String>,
    ) -> RunSpec {
        RunSpec {
            kind: RunKind::Sweep,
            name: self.name.clone(),
            program,
            jobs: self.jobs,
            limits: self.limits.clone(),
            retry: self.retry.clone(),
            on_oom: self.on_oom,
            priority: self.priority,
            reuse: self.reuse,
            env,
            mounts,
            cwd,
            seed: self.seed,
            notify: self.notify.clone(),
            attached: false,
            allow_degraded: false,
            profile: self.profile,
        }
    }
}
