//! Reads sweep files, and looks at the scripts that they name.

use crate::diagnostic::{Diagnostic, Place};
use crate::sweep::{Entry, Sweep};
use crate::sweep_file;
use crate::text_file::{self, LONGEST};
use clove_abi::untrusted::Untrusted;
use serde_json::Value;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Reads and parses a sweep file, and makes its paths absolute.
///
/// # Errors
/// What is wrong, and where.
pub fn read_sweep(path: &Path) -> Result<Sweep, Diagnostic> {
    let origin = path.display().to_string();
    let text = read_text(path, "a sweep file")?;
    let mut sweep = sweep_file::parse(&text, &origin)?;
    let folder = folder_of(path)?;
    anchor(&mut sweep, &folder)?;
    Ok(sweep)
}

/// Reads a text file.
///
/// # Errors
/// Missing, a folder, not readable, too long, binary, or not UTF-8 (with the place of the first wrong byte).
pub fn read_text(path: &Path, what: &str) -> Result<String, Diagnostic> {
    let origin = path.display().to_string();
    let bytes = text_file::read(path).map_err(|e| unreadable(&origin, what, path, &e))?;
    let wrong = |text: &str| Diagnostic::new(&origin, text);
    // What Windows' editors and shells call Unicode.
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(
            wrong("it is UTF-16, not UTF-8").hint("save it as UTF-8 (iconv -f utf-16 -t utf-8 OLD > NEW)")
        );
    }
    if bytes.contains(&0) {
        return Err(wrong("it is a binary file, not text").expected(what.to_owned()));
    }
    match String::from_utf8(bytes) {
        // A byte-order mark, which some editors write, is no part of the text.
        Ok(text) => Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)),
        Err(e) => {
            let at = e.utf8_error().valid_up_to();
            let shown = String::from_utf8_lossy(e.as_bytes()).into_owned();
            let byte = e.as_bytes().get(at).copied().unwrap_or(0);
            Err(wrong(&format!("it isn't UTF-8 text: byte 0x{byte:02x} at offset {at}"))
                .at(Some(Place::of(&shown, at..at + 3)))
                .hint("save it as UTF-8 (iconv -f latin1 -t utf-8 OLD > NEW)"))
        }
    }
}

/// A system's answer, in words: without Rust's `(os error N)`.
fn in_words(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::TimedOut => {
            "it is a pipe, and for 5 seconds nobody has opened it to write into it".to_owned()
        }
        _ => {
            let text = e.to_string();
            text.split_once(" (os error").map_or(text.clone(), |(words, _)| words.to_lowercase())
        }
    }
}

fn unreadable(origin: &str, what: &str, path: &Path, e: &io::Error) -> Diagnostic {
    match e.kind() {
        io::ErrorKind::NotFound => {
            let d = Diagnostic::new(origin, "there is no such file");
            match similar(path) {
                Some(near) => d.hint(format!("did you mean {}?", near.display())),
                None => d,
            }
        }
        io::ErrorKind::PermissionDenied => Diagnostic::new(origin, "it can't be read: permission denied")
            .hint("chmod u+r on it, or on its folder"),
        io::ErrorKind::IsADirectory => Diagnostic::new(origin, "it is a folder").expected(what.to_owned()),
        io::ErrorKind::FileTooLarge => {
            Diagnostic::new(origin, format!("it is larger than {} MiB", LONGEST >> 20))
                .expected(what.to_owned())
        }
        io::ErrorKind::TimedOut => Diagnostic::new(origin, in_words(e)).expected(what.to_owned()),
        _ => Diagnostic::new(origin, format!("it can't be read: {}", in_words(e))),
    }
}

/// A file beside the missing one with nearly its name.
fn similar(path: &Path) -> Option<PathBuf> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let wanted = path.file_name()?.to_str()?;
    let names: Vec<String> = fs::read_dir(folder)
        .ok()?
        .take(2000)
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .collect();
    crate::suggestion::nearest(wanted, names.iter().map(String::as_str)).map(|n| path.with_file_name(n))
}

/// The absolute folder that a sweep file's paths are relative to.
fn folder_of(path: &Path) -> Result<PathBuf, Diagnostic> {
    let real = std::path::absolute(path).map_err(|e| {
        Diagnostic::new(path.display().to_string(), format!("its folder can't be found: {}", in_words(&e)))
    })?;
    Ok(real.parent().unwrap_or(Path::new("/")).to_owned())
}

/// Makes the sweep's paths absolute against `folder`, and checks that what they name is there.
///
/// # Errors
/// A missing or unreadable script, mount source or interpreter.
pub fn anchor(sweep: &mut Sweep, folder: &Path) -> Result<(), Diagnostic> {
    let origin = sweep.origin.clone();
    if let Entry::Script(script) = &mut sweep.entry {
        let path = absolute(&script.value, folder);
        check_script(&path, &origin, script.place.clone())?;
        script.value = path;
    }
    if let Entry::Command(command) = &mut sweep.entry
        && let Some(program) = command.value.first_mut()
        && program.contains('/')
    {
        *program = absolute(Path::new(program), folder).display().to_string();
    }
    if let Some(python) = &mut sweep.python
        && python.value.contains('/')
    {
        let path = absolute(Path::new(&python.value), folder);
        if !path.exists() {
            return Err(Diagnostic::new(&origin, format!("there is no interpreter {}", path.display()))
                .at(python.place.clone())
                .hint("name the `python` of a virtual environment, or leave the key out for the one on your PATH"));
        }
        python.value = path.display().to_string();
    }
    for mount in &mut sweep.mounts {
        let source = absolute(Path::new(&mount.value.source), folder);
        let source = normal(&source);
        if !source.exists() {
            return Err(Diagnostic::new(&origin, format!("there is no {} to mount", source.display()))
                .at(mount.place.clone())
                .hint("correct the path, or make the folder first"));
        }
        mount.value.source = source.display().to_string();
        if mount.value.target.is_empty() {
            mount.value.target.clone_from(&mount.value.source);
        }
    }
    Ok(())
}

/// Against a folder, with `~/` for the home folder, and without `.` and `..` where that needs no look at the disk.
pub fn absolute(path: &Path, folder: &Path) -> PathBuf {
    if let Ok(rest) = path.strip_prefix("~")
        && let Some(home) = std::env::var_os("HOME")
    {
        return normal(&Path::new(&home).join(rest));
    }
    normal(&folder.join(path))
}

/// Removes `.`, and `..` with the name before it unless that is a link.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for c in path.components() {
        match c {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir if !out.is_symlink() => {
                out.pop();
            }
            c => out.push(c),
        }
    }
    out
}

/// A script must be a file that can be read; a Python script must mention `run`, any other must be executable.
fn check_script(path: &Path, origin: &str, place: Option<Box<Place>>) -> Result<(), Diagnostic> {
    let name = path.display().to_string();
    let wrong = |what: String| Diagnostic::new(origin, what).at(place.clone());
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let d = wrong(format!("there is no script {name}"));
            return Err(match similar(path) {
                Some(near) => d.hint(format!("did you mean {}?", near.display())),
                None => d.hint("the path is relative to the sweep file"),
            });
        }
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            return Err(wrong(format!("the script {name} can't be reached: permission denied"))
                .hint("chmod u+x on the folders above it"));
        }
        Err(e) => return Err(wrong(format!("the script {name} can't be read: {}", in_words(&e)))),
        Ok(m) if m.is_file() => {}
        Ok(m) => {
            let kind = if m.is_dir() { "a folder" } else { "a pipe, a socket or a device" };
            return Err(wrong(format!("the script {name} is {kind}")).expected("a Python file, or a program"));
        }
    }
    if is_python(path) {
        let bytes = text_file::read(path).map_err(|e| {
            let words = match e.kind() {
                io::ErrorKind::FileTooLarge => format!("it is larger than {} MiB", LONGEST >> 20),
                _ => in_words(&e),
            };
            let d = wrong(format!("the script {name} can't be read: {words}"));
            match e.kind() {
                io::ErrorKind::PermissionDenied => {
                    d.hint(format!("chmod u+r {}", Untrusted::new(&name).shell_path()))
                }
                _ => d,
            }
        })?;
        let mentions_run = bytes
            .split(|b| !(b.is_ascii_alphanumeric() || *b == b'_' || *b >= 0x80))
            .any(|word| word == b"run");
        let imports_all = bytes.windows(8).any(|w| w == b"import *");
        if !mentions_run && !imports_all {
            return Err(wrong(format!("the script {name} defines no `run`"))
                .expected("a function run(config, shared) that takes one configuration and returns its result")
                .hint(format!("to start it as a program once per configuration, write command = [\"python3\", {}] in a sweep file", Value::from(name.as_str()))));
        }
    } else {
        use std::os::unix::fs::PermissionsExt;
        let executable = fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o111 != 0);
        if !executable {
            return Err(wrong(format!("{name} is neither a Python script (.py) nor executable")).hint(
                format!(
                    "chmod +x {}, or write command = [\"INTERPRETER\", {}]",
                    Untrusted::new(&name).shell_path(),
                    Value::from(name.as_str())
                ),
            ));
        }
    }
    Ok(())
}

/// By its name, as Python itself goes by it.
pub fn is_python(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "py" || e == "pyw")
}
