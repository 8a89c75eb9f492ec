//! A Python interpreter: what it is made of on this host, so that it works inside as it does here.

use crate::cli::ask::ask;
use crate::cli::failure::Failure;
use crate::cli::interpreter::{is_install_prefix, is_private};
use crate::cli::visibility::{as_is, home, is_system, shell_path, too_wide};
use clove_abi::run::Mount;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What an interpreter says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Python {
    /// As it was called: a virtual environment is found through this path, so its links aren't followed.
    pub executable: String,
    pub version: (u32, u32, u32),
    prefix: String,
    base_prefix: String,
    exec_prefix: String,
    base_exec_prefix: String,
    path: Vec<String>,
    /// What packages are made of that aren't below `path`: those that are links, and those installed in place.
    packages_elsewhere: Vec<String>,
    /// Where `pip install --user` puts things, when that is in use.
    user_site: Option<String>,
    user_base: Option<String>,
}

/// The oldest Python that the library supports.
const OLDEST: (u32, u32) = (3, 9);
/// A cold start from a slow disk takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks without the PYTHON* variables (-E): inside, none of them is set either.
const QUESTION: &str = include_str!("python_question.py");

impl Python {
    /// Asks an interpreter; `program` may be a pyenv shim.
    ///
    /// # Errors
    /// It can't be started, or isn't a Python.
    pub fn ask(program: &Path) -> Result<Python, Failure> {
        let failed = |why: String| {
            Failure::new(format!("{} doesn't answer as a Python interpreter does", program.display()))
                .why(why)
                .hint(format!("run it by hand: {} -c 'import sys; print(sys.prefix)'", shell_path(program)))
        };
        let a = ask(Command::new(program).args(["-E", "-c", QUESTION]), PATIENCE).map_err(|e| {
            failed(match e.kind() {
                ErrorKind::TimedOut => format!("it hasn't answered for {} s", PATIENCE.as_secs()),
                _ => format!("it can't be started: {}", clove_client::paths::in_words(&e)),
            })
        })?;
        if !a.status.success() {
            if let Some(version) = version_of(program)
                && (version.0, version.1) < OLDEST
            {
                return Err(too_old(&program.display().to_string(), version));
            }
            let said = String::from_utf8_lossy(&a.err);
            let last = said.trim().lines().last();
            let code = a.status.code().map_or_else(|| a.status.to_string(), |c| format!("exit code {c}"));
            return Err(failed(format!(
                "it ended with {code}, {}",
                last.map_or("and said nothing".to_owned(), |l| format!("saying: {l}"))
            )));
        }
        let python: Python = serde_json::from_slice(&a.out)
            .map_err(|_| failed("it ran, but didn't do what Python code asks of it".to_owned()))?;
        if !python.is_supported() {
            return Err(too_old(&python.executable, python.version));
        }
        Ok(python)
    }

    /// New enough for the library.
    pub fn is_supported(&self) -> bool {
        (self.version.0, self.version.1) >= OLDEST
    }

    /// The folders that it is made of, outside the system's: prefixes, everything on its `sys.path`, and each link on
    /// the way from its path to its file. Never the home folder as a whole, nor `~/.local`, where a Python may be
    /// installed among other things.
    pub fn mounts(&self) -> Vec<Mount> {
        let prefixes = [&self.prefix, &self.exec_prefix, &self.base_prefix, &self.base_exec_prefix];
        let mut wanted = Vec::new();
        for prefix in prefixes.map(PathBuf::from) {
            if is_private(&prefix) {
                wanted.extend(["lib", "lib64"].map(|d| prefix.join(d)));
            } else {
                wanted.push(prefix);
            }
        }
        wanted.extend(self.path.iter().map(PathBuf::from));
        wanted.extend(self.packages_elsewhere.iter().map(PathBuf::from));
        wanted.extend(self.user_site.iter().map(PathBuf::from));
        wanted.extend(link_prefixes(Path::new(&self.executable)));
        collect(wanted)
    }

    /// Variables without which it wouldn't find its modules inside, where HOME is another folder.
    pub fn environment(&self) -> Vec<(String, String)> {
        self.user_base.iter().map(|base| ("PYTHONUSERBASE".to_owned(), base.clone())).collect()
    }

    /// The folder of its executable.
    pub fn bin(&self) -> Option<String> {
        Some(Path::new(&self.executable).parent()?.display().to_string())
    }

    /// What tells this state of its libraries from another: it is part of a template's key.
    pub fn state(&self) -> Vec<String> {
        let mut out = vec![format!("{} {:?}", self.executable, self.version)];
        let mut files = vec![self.executable.clone(), format!("{}/pyvenv.cfg", self.prefix)];
        // Where the first `pip install --user` will show.
        files.extend(home().map(|h| h.join(".local/lib").display().to_string()));
        for file in files.iter().chain(&self.path).chain(&self.user_site) {
            if let Ok(m) = std::fs::metadata(file) {
                use std::os::unix::fs::MetadataExt;
                out.push(format!("{file} {} {}.{}", m.size(), m.mtime(), m.mtime_nsec()));
            }
        }
        out
    }
}

/// Of a Python that doesn't even understand the question.
fn version_of(program: &Path) -> Option<(u32, u32, u32)> {
    let question = "import sys; sys.stdout.write('%d.%d.%d' % sys.version_info[:3])";
    let a = ask(Command::new(program).args(["-E", "-c", question]), PATIENCE).ok()?;
    let text = String::from_utf8(a.out).ok().filter(|_| a.status.success())?;
    let mut numbers = text.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn too_old(executable: &str, (major, minor, micro): (u32, u32, u32)) -> Failure {
    Failure::new(format!("{executable} is Python {major}.{minor}.{micro}"))
        .why(format!("at least {}.{} is needed", OLDEST.0, OLDEST.1))
        .hint("name a newer one: --python /usr/bin/python3.11, or python = \"...\" in the sweep file")
}

/// Existing, allowed, and with their real paths beside those that lead through links.
pub fn collect(wanted: Vec<PathBuf>) -> Vec<Mount> {
    let home = home();
    let mut out = Vec::new();
    for path in wanted {
        let Ok(real) = path.canonicalize() else { continue };
        for p in [&path, &real] {
            if !is_system(p) && p.is_absolute() && too_wide(p, home.as_deref()).is_none() {
                out.push(as_is(p));
            }
        }
    }
    crate::cli::visibility::without_repeats(out)
}

/// For a program and each link on the way to its file: the prefix it lies in (the parent of its `bin`), or itself.
fn link_prefixes(program: &Path) -> Vec<PathBuf> {
    let mut out = vec![prefix_of(program)];
    let mut at = program.to_owned();
    // As many as Linux follows (path_resolution(7)).
    for _ in 0..40 {
        let Ok(to) = std::fs::read_link(&at) else { break };
        at = clove_manifest::source::absolute(&to, at.parent().unwrap_or(Path::new("/")));
        out.push(prefix_of(&at));
    }
    if let Ok(real) = program.canonicalize() {
        out.push(prefix_of(&real));
    }
    out
}

/// `/x/bin/python` lies in `/x`; a program elsewhere is shown alone.
fn prefix_of(program: &Path) -> PathBuf {
    match program.parent() {
        Some(bin) if bin.ends_with("bin") => {
            let prefix = bin.parent().unwrap_or(Path::new("/"));
            if is_install_prefix(prefix) { prefix.to_owned() } else { program.to_owned() }
        }
        _ => program.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_environment_brings_its_base_along() {
        let base = Python::ask(Path::new("python3")).expect("python3 is needed for these tests");
        let t = tempfile::tempdir().expect("tempdir");
        let venv = t.path().join("v");
        let made = Command::new(&base.executable)
            .args(["-m", "venv", "--without-pip"])
            .arg(&venv)
            .status()
            .expect("start python");
        assert!(made.success());
        let p = Python::ask(&venv.join("bin/python")).expect("venv");
        assert_eq!(p.executable, venv.join("bin/python").display().to_string());
        let mounts = p.mounts();
        let shown = |path: &Path| is_system(path) || mounts.iter().any(|m| path.starts_with(&m.target));
        assert!(shown(&venv.join("lib")), "{mounts:?}");
        assert!(shown(&Path::new(&base.executable).canonicalize().expect("real")), "{mounts:?}");
        assert!(mounts.iter().all(|m| !m.writable && m.source == m.target));
        assert!(p.version >= (3, 9, 0));
        let before = p.state();
        std::fs::write(venv.join("pyvenv.cfg.new"), "x").expect("write");
        std::fs::rename(venv.join("pyvenv.cfg.new"), venv.join("pyvenv.cfg")).expect("rename");
        assert_ne!(before, p.state());
    }

    #[test]
    fn packages_that_are_links_are_shown_where_they_are() {
        let base = Python::ask(Path::new("python3")).expect("python3 is needed for these tests");
        let t = tempfile::tempdir().expect("tempdir");
        let dir = t.path().canonicalize().expect("real");
        let venv = dir.join("v");
        let made = Command::new(&base.executable)
            .args(["-m", "venv", "--without-pip"])
            .arg(&venv)
            .status()
            .expect("start python");
        assert!(made.success());
        let site = venv.join(format!("lib/python{}.{}/site-packages", base.version.0, base.version.1));
        let link = std::os::unix::fs::symlink::<PathBuf, PathBuf>;
        let write = |path: PathBuf, text: &str| {
            std::fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            std::fs::write(path, text).expect("write");
        };
        // Each file for itself, as uv does; a whole folder; one installed in place by setuptools.
        write(dir.join("cache/a1/one/__init__.py"), "");
        write(dir.join("cache/a1/one-1.dist-info/METADATA"), "");
        std::fs::create_dir_all(site.join("one-1.dist-info")).expect("mkdir");
        link(dir.join("cache/a1/one-1.dist-info/METADATA"), site.join("one-1.dist-info/METADATA"))
            .expect("link");
        write(dir.join("cache/a2/two/__init__.py"), "");
        link(dir.join("cache/a2/two"), site.join("two")).expect("link");
        write(dir.join("work/three/__init__.py"), "");
        let finder = "__editable___three_1_finder";
        let mapping = format!("MAPPING = {{'three': {:?}}}\n", dir.join("work/three"));
        write(site.join(format!("{finder}.py")), &mapping);
        write(site.join("__editable__.three-1.pth"), &format!("import {finder}\n"));
        write(dir.join("cache/a3/unrelated.py"), "");
        // A link in a project's own folder may lead to anything.
        write(dir.join("project/src/four.py"), "");
        link(dir.join("cache/a3"), dir.join("project/src/data")).expect("link");
        write(site.join("project.pth"), &format!("{}\n", dir.join("project/src").display()));
        let mounts = Python::ask(&venv.join("bin/python")).expect("venv").mounts();
        let shown = |path: &str| mounts.iter().any(|m| dir.join(path).starts_with(&m.target));
        assert!(shown("cache/a1/one") && shown("cache/a2/two") && shown("work/three"), "{mounts:?}");
        assert!(shown("project/src"), "{mounts:?}");
        assert!(!shown("cache/a3") && !shown("work") && !shown("cache"), "{mounts:?}");
    }

    #[test]
    fn a_link_to_an_interpreter_is_shown_beside_it() {
        let t = tempfile::tempdir().expect("tempdir");
        let dir = t.path().canonicalize().expect("real");
        std::fs::create_dir_all(dir.join("py/lib")).expect("mkdir");
        std::fs::create_dir_all(dir.join("py/bin")).expect("mkdir");
        std::fs::write(dir.join("py/bin/python3"), "").expect("write");
        std::os::unix::fs::symlink(dir.join("py/bin/python3"), dir.join("python3")).expect("link");
        assert_eq!(link_prefixes(&dir.join("python3")), ["python3", "py", "py"].map(|p| dir.join(p)));
    }

    #[test]
    fn what_is_no_python_is_said_so() {
        let e = Python::ask(Path::new("/bin/false")).expect_err("not python");
        assert!(e.to_string().contains("doesn't answer as a Python"), "{e}");
        assert!(Python::ask(Path::new("/no/such/thing")).is_err());
    }
}
