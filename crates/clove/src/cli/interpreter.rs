//! Finds the program that a name means to the caller, and the folders without which it wouldn't run inside.

use crate::cli::environment::DEFAULT_PATH;
use crate::cli::failure::{Failure, NOT_EXECUTABLE, NOT_FOUND};
use crate::cli::interpreter_memory;
use crate::cli::python::{Python, collect};
use crate::cli::visibility::{home, is_system, shell_path, too_wide, without_repeats};
use clove_abi::run::Mount;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A program as it is started inside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// What takes the place of the first argument.
    pub path: String,
    /// Folders it needs, read-only at their own paths.
    pub mounts: Vec<Mount>,
    /// To be put in front of the PATH.
    pub path_folders: Vec<String>,
    /// Variables it needs.
    pub env: Vec<(String, String)>,
}

/// Trees whose packages refer to each other, so that one alone doesn't run.
const WHOLE_TREES: &[&str] = &["/nix/store", "/gnu/store", "/home/linuxbrew/.linuxbrew"];
/// Version managers whose shims are told apart by `MANAGER which NAME`.
const MANAGERS: &[&str] = &["pyenv", "rbenv", "nodenv", "goenv", "plenv", "jenv", "asdf", "mise"];

/// What a name or path means to the caller: on the caller's PATH, with shims seen through.
///
/// # Errors
/// There is no such program (exit code 127), or it isn't executable (126).
pub fn resolve(name: &str, path_variable: &str, folder: &Path) -> Result<Program, Failure> {
    resolve_at(name, path_variable, folder, 0)
}

/// The Python interpreter that a name means to the caller, asked about itself.
///
/// # Errors
/// There is no such program, or it isn't a Python.
pub fn python(name: &str, path_variable: &str, folder: &Path) -> Result<Python, Failure> {
    let found = find(name, path_variable, folder)?;
    interpreter_memory::ask(&see_through_shim(&found, folder).unwrap_or(found))
}

fn resolve_at(name: &str, path_variable: &str, folder: &Path, depth: u32) -> Result<Program, Failure> {
    let found = find(name, path_variable, folder)?;
    let found = see_through_shim(&found, folder).unwrap_or(found);
    let real = found.canonicalize().unwrap_or_else(|_| found.clone());
    if is_python_name(&found) && (!is_system(&real) || beside_a_venv(&found) || user_site_in_use()) {
        let python = interpreter_memory::ask(&found)?;
        let outside = !is_system(Path::new(&python.executable));
        return Ok(Program {
            mounts: python.mounts(),
            path_folders: python.bin().filter(|_| outside).into_iter().collect(),
            env: python.environment(),
            path: python.executable,
        });
    }
    // A bare name stays one where it means the same inside: programs show it in their messages, and some act by it.
    let bare = is_system(&found)
        && !name.contains('/')
        && find(name, DEFAULT_PATH, folder).is_ok_and(|inside| inside == found);
    let path = if bare { name.to_owned() } else { found.display().to_string() };
    let mut program = Program { path, ..Program::default() };
    if let Some(tree) = WHOLE_TREES.iter().find(|t| real.starts_with(t)) {
        program.mounts = collect(vec![PathBuf::from(tree), found.clone()]);
    } else if !is_system(&found) || !is_system(&real) {
        program.mounts = collect(vec![own_place(&found), own_place(&real)]);
        if let Some(bin) = found.parent().filter(|b| b.ends_with("bin")) {
            program.path_folders.push(bin.display().to_string());
        }
    }
    // A script needs its interpreter as well. Linux follows at most four (execve(2)).
    if depth < 4
        && let Some(interpreter) = shebang(&real)
    {
        let below = resolve_at(&interpreter, path_variable, folder, depth + 1).map_err(|e| {
            Failure::new(format!("{} is a script for `{interpreter}`, which isn't there", found.display()))
                .why(e.what)
                .hint("correct its first line, or install the interpreter")
                .code(NOT_FOUND)
        })?;
        program.mounts.extend(below.mounts);
        // `#!/usr/bin/env NAME` is looked up inside: the interpreter's folder goes first.
        program.path_folders.extend(below.path_folders);
        program.env.extend(below.env);
    }
    program.mounts = without_repeats(program.mounts);
    Ok(program)
}

/// The file, as a path without links followed.
fn find(name: &str, path_variable: &str, folder: &Path) -> Result<PathBuf, Failure> {
    if name.is_empty() {
        return Err(Failure::usage("the program's name is empty"));
    }
    if name.contains('/') {
        let path = clove_manifest::source::absolute(Path::new(name), folder);
        return match path.metadata() {
            Err(_) if let Ok(to) = std::fs::read_link(&path) => Err(Failure::new(format!(
                "{} is a link to {}, and that is gone",
                path.display(),
                to.display()
            ))
            .code(NOT_FOUND)
            .hint("make the link anew; for a virtual environment: python3 -m venv --upgrade FOLDER")),
            Err(_) => Err(Failure::new(format!("there is no program {}", path.display()))
                .code(NOT_FOUND)
                .hint("correct the path; it is relative to the current folder")),
            Ok(m) if m.is_dir() => {
                Err(Failure::new(format!("{} is a folder, not a program", path.display()))
                    .code(NOT_EXECUTABLE)
                    .hint("name a file in it"))
            }
            Ok(m) if m.permissions().mode() & 0o111 == 0 => {
                let name = shell_path(Path::new(name));
                let hint = match path.extension().and_then(|e| e.to_str()) {
                    Some("py") => format!("clove run --here -- python3 {name}"),
                    Some("sh") => format!("clove run --here -- sh {name}"),
                    Some("js" | "mjs") => format!("clove run --here -- node {name}"),
                    _ => format!("chmod +x {name}"),
                };
                Err(Failure::new(format!("{} isn't executable", path.display()))
                    .code(NOT_EXECUTABLE)
                    .hint(hint))
            }
            Ok(_) => Ok(path),
        };
    }
    let mut seen_unexecutable = None;
    for dir in path_variable.split(':').filter(|d| d.starts_with('/')) {
        let path = Path::new(dir).join(name);
        match path.metadata() {
            Ok(m) if m.is_file() && m.permissions().mode() & 0o111 != 0 => return Ok(path),
            Ok(m) if m.is_file() => seen_unexecutable = Some(path),
            _ => {}
        }
    }
    if let Some(path) = seen_unexecutable {
        return Err(Failure::new(format!("{} isn't executable", path.display()))
            .code(NOT_EXECUTABLE)
            .hint(format!("chmod +x {}", shell_path(&path))));
    }
    let local = folder.join(name);
    let hint = if local.is_file() {
        format!("there is one in the current folder: write ./{name} (with --here, so that it is seen)")
    } else {
        "check the spelling, or give its whole path".to_owned()
    };
    Err(Failure::new(format!("there is no program `{name}` on your PATH")).code(NOT_FOUND).hint(hint))
}

fn is_python_name(path: &Path) -> bool {
    path.file_name()
        .and_then(|n| n.to_str())
        .and_then(|n| n.strip_prefix("python").or_else(|| n.strip_prefix("pypy")))
        .is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '.' || c == 't'))
}

/// A virtual environment over the system's Python: its `pyvenv.cfg` lies beside or above the program (PEP 405).
fn beside_a_venv(path: &Path) -> bool {
    path.parent()
        .is_some_and(|bin| [Some(bin), bin.parent()].iter().flatten().any(|d| d.join("pyvenv.cfg").exists()))
}

/// `pip install --user` was used: asking the interpreter is worth its 20 ms.
fn user_site_in_use() -> bool {
    let Some(lib) = home().map(|h| h.join(".local/lib")) else { return false };
    let Ok(entries) = std::fs::read_dir(lib) else { return false };
    entries.flatten().any(|e| e.file_name().to_string_lossy().starts_with("python"))
}

/// The program behind a version manager's shim.
fn see_through_shim(found: &Path, folder: &Path) -> Option<PathBuf> {
    let name = found.file_name()?;
    let shims = found.parent()?;
    let ask = |manager: &Path| -> Option<PathBuf> {
        let out = Command::new(manager)
            .arg("which")
            .arg(name)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let path = PathBuf::from(String::from_utf8(out.stdout).ok()?.trim());
        (out.status.success() && path.is_absolute() && path.is_file()).then_some(path)
    };
    if shims.ends_with("shims") {
        let root = shims.parent()?;
        let own = MANAGERS
            .iter()
            .map(|m| root.join("bin").join(m))
            .chain(MANAGERS.iter().map(|m| root.join("libexec").join(m)));
        if let Some(path) = own.filter(|m| m.is_file()).find_map(|m| ask(&m)) {
            return Some(path);
        }
        // Elsewhere on the PATH: the shim itself says which one it belongs to.
        let text = first_bytes(found)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        return MANAGERS.iter().filter(|m| text.contains(*m)).find_map(|m| ask(Path::new(m)));
    }
    // rustup's proxies are links to, or copies of, one program.
    let rustup = shims.join("rustup");
    if shims.ends_with(".cargo/bin") && name != "rustup" && rustup.is_file() {
        let proxies = [
            "cargo",
            "rustc",
            "rustdoc",
            "rustfmt",
            "cargo-fmt",
            "cargo-clippy",
            "clippy-driver",
            "rust-gdb",
        ];
        if proxies.iter().any(|p| name == *p) {
            return ask(&rustup);
        }
    }
    None
}

/// Where a program outside the system's folders has what belongs to it: its prefix if that looks like one, else the
/// file alone.
fn own_place(program: &Path) -> PathBuf {
    if is_system(program) {
        return program.to_owned();
    }
    match program.parent().filter(|bin| bin.ends_with("bin") || bin.ends_with("sbin")).and_then(Path::parent)
    {
        Some(prefix) if is_install_prefix(prefix) => prefix.to_owned(),
        _ => program.to_owned(),
    }
}

/// Holds an installation, and nothing private: not the home folder, nor the places below it where other things lie too.
pub fn is_install_prefix(prefix: &Path) -> bool {
    if too_wide(prefix, home().as_deref()).is_some() {
        return false;
    }
    !is_private(prefix) && ["lib", "lib64", "libexec", "pyvenv.cfg"].iter().any(|d| prefix.join(d).exists())
}

/// A folder of the home that programs are installed into, but which has other things in it too: ~/.local everybody's
/// data (share/), ~/.cargo the registry's token.
pub fn is_private(prefix: &Path) -> bool {
    let real = prefix.canonicalize().unwrap_or_else(|_| prefix.to_owned());
    home().is_some_and(|h| {
        [".local", ".cargo", ".config", ".npm-global", "go"].iter().any(|d| {
            let private = h.join(d);
            private == prefix || private.canonicalize().unwrap_or(private) == real
        })
    })
}

fn first_bytes(path: &Path) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    std::fs::File::open(path).ok()?.take(1024).read_to_end(&mut head).ok()?;
    Some(head)
}

/// The interpreter that a script's first line names; for `#!/usr/bin/env NAME`, the name.
fn shebang(path: &Path) -> Option<String> {
    let head = first_bytes(path)?;
    let mut lines = head.strip_prefix(b"#!")?.split(|b| *b == b'\n');
    let line = std::str::from_utf8(lines.next()?).ok()?.trim();
    // Where a path has spaces, is too long for a first line, or may change, the scripts that pip and uv make say
    // `#!/bin/sh` and then, in what is a string to Python, `exec` the interpreter beside them.
    let python = path.with_file_name("python");
    if line == "/bin/sh" && lines.next().is_some_and(|l| l.starts_with(b"'''exec' ")) && python.is_file() {
        return Some(python.display().to_string());
    }
    let mut words = line.split_ascii_whitespace();
    let interpreter = words.next()?;
    if Path::new(interpreter).file_name()? != "env" {
        return Some(interpreter.to_owned());
    }
    words.find(|w| !w.starts_with('-') && !w.contains('=')).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(dir: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        std::fs::write(&path, text).expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        path
    }

    #[test]
    fn system_programs_need_nothing() {
        let p = resolve("ls", "/usr/bin:/bin", Path::new("/")).expect("ls");
        assert_eq!(p, Program { path: "ls".into(), ..Program::default() });
        let p = resolve("/usr/bin/ls", "", Path::new("/")).expect("ls");
        assert_eq!(p, Program { path: "/usr/bin/ls".into(), ..Program::default() });
    }

    #[test]
    fn what_is_missing_or_not_executable_is_told_apart() {
        let t = tempfile::tempdir().expect("tempdir");
        script(t.path(), "plain.py", "x", 0o644);
        let code = |name: &str| resolve(name, "/usr/bin", t.path()).expect_err(name).code;
        assert_eq!(code("no-such-program"), NOT_FOUND);
        assert_eq!(code("./none"), NOT_FOUND);
        assert_eq!(code("./plain.py"), NOT_EXECUTABLE);
        assert_eq!(code("/usr"), NOT_EXECUTABLE);
        let e = resolve("./plain.py", "", t.path()).expect_err("not executable");
        assert!(e.hint.contains("python3 ./plain.py"), "{e}");
        let e = resolve("plain.py", "/usr/bin", t.path()).expect_err("not on the PATH");
        assert!(e.hint.contains("./plain.py"), "{e}");
    }

    #[test]
    fn a_script_brings_its_interpreter_and_a_prefix_is_shown_whole() {
        let t = tempfile::tempdir().expect("tempdir");
        let dir = t.path().canonicalize().expect("real");
        script(&dir, "tool/bin/interp", "#!/bin/sh\n", 0o755);
        std::fs::create_dir(dir.join("tool/lib")).expect("mkdir");
        let s = script(&dir, "work/x", "#!/usr/bin/env interp\n", 0o755);
        let path = format!("/usr/bin:{}", dir.join("tool/bin").display());
        let p = resolve("work/x", &path, &dir).expect("script");
        assert_eq!(p.path, s.display().to_string());
        let sources: Vec<_> = p.mounts.iter().map(|m| m.source.as_str()).collect();
        assert_eq!(sources, [s.display().to_string(), dir.join("tool").display().to_string()]);
        assert_eq!(p.path_folders, [dir.join("tool/bin").display().to_string()]);
        script(&dir, "work/bad", "#!/no/such/interpreter\n", 0o755);
        assert_eq!(resolve("work/bad", &path, &dir).expect_err("no interpreter").code, NOT_FOUND);
    }

    #[test]
    fn shims_are_seen_through() {
        let t = tempfile::tempdir().expect("tempdir");
        let dir = t.path().canonicalize().expect("real");
        let real = script(&dir, "root/versions/1/bin/thing", "#!/bin/sh\n", 0o755);
        script(&dir, "root/bin/rbenv", &format!("#!/bin/sh\necho {}\n", real.display()), 0o755);
        let shim = script(&dir, "root/shims/thing", "#!/bin/sh\nexec rbenv exec thing\n", 0o755);
        let p = resolve("thing", &shim.parent().expect("shims").display().to_string(), &dir).expect("thing");
        assert_eq!(p.path, real.display().to_string());
    }

    #[test]
    fn first_lines_are_read() {
        let t = tempfile::tempdir().expect("tempdir");
        for (line, interpreter) in [
            ("#!/bin/sh", Some("/bin/sh")),
            ("#! /usr/bin/env python3", Some("python3")),
            ("#!/usr/bin/env -S X=1 node --flag", Some("node")),
            ("#!", None),
            ("\x7fELF", None),
        ] {
            let s = script(t.path(), "s", &format!("{line}\n"), 0o755);
            assert_eq!(shebang(&s).as_deref(), interpreter, "{line}");
        }
        // What uv writes for a relocatable environment, and pip where the path has a space.
        for exec in ["\"$(dirname -- \"$(realpath -- \"$0\")\")\"/'python'", "'/x y/bin/python'"] {
            let text = format!("#!/bin/sh\n'''exec' {exec} \"$0\" \"$@\"\n' '''\n");
            let s = script(t.path(), "bin/s", &text, 0o755);
            assert_eq!(shebang(&s).as_deref(), Some("/bin/sh"), "there is no Python beside it");
            let python = script(t.path(), "bin/python", "", 0o755);
            assert_eq!(shebang(&s), Some(python.display().to_string()));
            std::fs::remove_file(python).expect("remove");
        }
    }

    #[test]
    fn python_is_known_by_name() {
        for (name, yes) in [
            ("python", true),
            ("python3.11", true),
            ("pypy3", true),
            ("python-config", false),
            ("pythonw", false),
        ] {
            assert_eq!(is_python_name(Path::new(name)), yes, "{name}");
        }
    }
}
