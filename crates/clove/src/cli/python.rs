//! A Python interpreter: what it is made of on this host, so that it works inside as it does here.

use crate::cli::failure::Failure;
use crate::cli::visibility::{as_is, home, is_system, too_wide};
use clove_abi::run::Mount;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
    /// Where `pip install --user` puts things, when that is in use.
    user_site: Option<String>,
    user_base: Option<String>,
}

/// Asks without the PYTHON* variables (-E): inside, none of them is set either.
const QUESTION: &str = r#"
import json, os, site, sys
user = site.getusersitepackages() if site.ENABLE_USER_SITE else None
user = user if user and os.path.isdir(user) else None
json.dump({
    "executable": sys.executable, "version": sys.version_info[:3],
    "prefix": sys.prefix, "base_prefix": sys.base_prefix,
    "exec_prefix": sys.exec_prefix, "base_exec_prefix": sys.base_exec_prefix,
    "path": [p for p in sys.path if p and os.path.exists(p)],
    "user_site": user, "user_base": site.getuserbase() if user else None,
}, sys.stdout)
"#;

impl Python {
    /// Asks an interpreter; `program` may be a pyenv shim.
    ///
    /// # Errors
    /// It can't be started, or isn't a Python.
    pub fn ask(program: &Path) -> Result<Python, Failure> {
        let failed = |why: String| {
            Failure::new(format!("{} doesn't answer as a Python interpreter does", program.display()))
                .why(why)
                .hint(format!("run it by hand: {} -c 'import sys; print(sys.prefix)'", program.display()))
        };
        let out = Command::new(program)
            .args(["-E", "-c", QUESTION])
            .stdin(Stdio::null())
            .output()
            .map_err(|e| failed(clove_client::paths::in_words(&e)))?;
        if !out.status.success() {
            let said = String::from_utf8_lossy(&out.stderr);
            return Err(failed(said.trim().lines().last().unwrap_or("it said nothing").to_owned()));
        }
        serde_json::from_slice(&out.stdout).map_err(|e| failed(format!("its answer can't be read: {e}")))
    }

    /// The folders that it is made of, outside the system's: prefixes, everything on its `sys.path`, and each link on
    /// the way from its path to its file. Never the home folder as a whole.
    pub fn mounts(&self) -> Vec<Mount> {
        let mut wanted: Vec<PathBuf> =
            [&self.prefix, &self.exec_prefix, &self.base_prefix, &self.base_exec_prefix]
                .map(PathBuf::from)
                .into();
        wanted.extend(self.path.iter().map(PathBuf::from));
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

/// For each link on the way to a program's file: the prefix it lies in (the parent of its `bin`), or its folder.
fn link_prefixes(program: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
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
            if super::interpreter::is_install_prefix(prefix) { prefix.to_owned() } else { program.to_owned() }
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
    fn what_is_no_python_is_said_so() {
        let e = Python::ask(Path::new("/bin/false")).expect_err("not python");
        assert!(e.to_string().contains("doesn't answer as a Python"), "{e}");
        assert!(Python::ask(Path::new("/no/such/thing")).is_err());
    }
}
