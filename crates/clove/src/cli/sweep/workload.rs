//! From a checked sweep to what the kernel starts: interpreter, program, mounts, environment.

use super::warm_inputs;
use crate::cli::environment::{self, Wishes};
use crate::cli::failure::{Failure, NOT_FOUND};
use crate::cli::interpreter;
use crate::cli::python::Python;
use crate::cli::visibility;
use clove_abi::run::{Mount, Program, RunSpec, TemplateSpec};
use clove_manifest::{Entry, Sweep, source};
use std::path::{Path, PathBuf};

/// What the command line adds to a sweep.
#[derive(Debug, Default)]
pub struct Additions<'a> {
    pub env: &'a [String],
    pub mounts: &'a [String],
    /// The caller's folder.
    pub folder: PathBuf,
    pub allow_degraded: bool,
}

/// The run that the kernel gets. `home_folder` is the folder of the sweep's file.
///
/// # Errors
/// No interpreter, no program, a folder that can't be shown.
pub fn spec(sweep: &Sweep, home_folder: &Path, add: &Additions<'_>) -> Result<RunSpec, Failure> {
    let folder = match &sweep.entry {
        Entry::Script(s) => s.value.parent().unwrap_or(Path::new("/")).to_owned(),
        Entry::Command(_) => home_folder.to_owned(),
    };
    let mut mounts: Vec<Mount> = visibility::here(&folder, "the script's folder")?;
    for m in &sweep.mounts {
        if let Some(why) = visibility::too_wide(Path::new(&m.value.source), visibility::home().as_deref()) {
            return Err(Failure::new(format!("{} can't be mounted (E0402)", m.value.source))
                .why(why)
                .hint("mount the folders below it that are needed"));
        }
        mounts.push(m.value.clone());
    }
    mounts.extend(visibility::from_flags(add.mounts, &add.folder)?);
    let path_variable =
        environment::of_caller("PATH").unwrap_or_else(|| environment::DEFAULT_PATH.to_owned());
    let started = match &sweep.entry {
        Entry::Script(s) if source::is_python(&s.value) => warm(sweep, &s.value, &folder, &path_variable)?,
        Entry::Script(s) => cold(&[s.value.display().to_string()], &folder, &path_variable)?,
        Entry::Command(c) => cold(&c.value, &folder, &path_variable)?,
    };
    mounts.extend(started.mounts);
    let wishes =
        Wishes { path_folders: &started.path_folders, interpreter: &started.env, tty: false, flags: add.env };
    let mut env = environment::build(&wishes, environment::of_caller)?;
    let from_flags: Vec<&str> = add.env.iter().map(|f| f.split('=').next().unwrap_or(f)).collect();
    for (name, value) in &sweep.env {
        if !from_flags.contains(&name.as_str()) {
            env.insert(name.clone(), value.clone());
        }
    }
    let cwd = Some(folder.display().to_string());
    let mut spec = sweep.spec(started.program, env, visibility::without_repeats(mounts), cwd);
    spec.allow_degraded = add.allow_degraded;
    Ok(spec)
}

struct Started {
    program: Program,
    mounts: Vec<Mount>,
    path_folders: Vec<String>,
    env: Vec<(String, String)>,
}

fn cold(argv: &[String], folder: &Path, path_variable: &str) -> Result<Started, Failure> {
    let found = interpreter::resolve(&argv[0], path_variable, folder)?;
    let mut argv = argv.to_vec();
    argv[0] = found.path;
    Ok(Started {
        program: Program::Cold { argv },
        mounts: found.mounts,
        path_folders: found.path_folders,
        env: found.env,
    })
}

fn warm(sweep: &Sweep, script: &Path, folder: &Path, path_variable: &str) -> Result<Started, Failure> {
    let python = interpreter_of(sweep, folder, path_variable)?;
    let preload: Vec<&str> = sweep.preload.iter().map(String::as_str).collect();
    let inputs_digest = warm_inputs::digest(&python.state(), folder, &preload);
    Ok(Started {
        mounts: python.mounts(),
        path_folders: python.bin().into_iter().filter(|b| !visibility::is_system(Path::new(b))).collect(),
        env: python.environment(),
        program: Program::Warm(TemplateSpec {
            python: python.executable,
            preload: sweep.preload.clone(),
            setup: sweep.setup.clone(),
            load_ms: sweep.load_ms,
            script: Some(script.display().to_string()),
            sys_path: vec![folder.display().to_string()],
            inputs_digest,
        }),
    })
}

/// The one that the sweep names, else the caller's: the active virtual environment, or `python3` on the PATH.
fn interpreter_of(sweep: &Sweep, folder: &Path, path_variable: &str) -> Result<Python, Failure> {
    let (name, from) = match (&sweep.python, std::env::var("VIRTUAL_ENV")) {
        (Some(p), _) => (p.value.clone(), "--python, or `python` in its file"),
        (None, Ok(venv)) if Path::new(&venv).join("bin/python").exists() => {
            (format!("{venv}/bin/python"), "VIRTUAL_ENV")
        }
        _ => ("python3".to_owned(), "PATH"),
    };
    interpreter::python(&name, path_variable, folder).map_err(|e| {
        let hint = if e.hint.is_empty() || from == "PATH" && e.code == NOT_FOUND {
            "install python3, or name one: --python .venv/bin/python".to_owned()
        } else {
            e.hint.clone()
        };
        let role = format!("it was to be the sweep's interpreter (from {from})");
        let why = if e.why.is_empty() { role } else { format!("{}; {role}", e.why) };
        Failure::new(e.what).why(why).hint(hint)
    })
}
