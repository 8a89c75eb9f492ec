//! What a warm script's template is made from: a change in any of it means another template.

use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Most files looked at; a folder with more is no source tree.
const MOST_FILES: usize = 5000;
const DEEPEST: usize = 8;
/// Folders that hold no source of the script.
const SKIPPED: &[&str] = &["__pycache__", "node_modules", "site-packages", "venv", "env", "build", "dist"];

/// Hex SHA-256 over the interpreter's state and the path, size and time of every `.py` file in a folder.
pub fn digest(interpreter: &[String], folder: &Path, also: &[&str]) -> String {
    let mut lines: Vec<String> = Vec::new();
    collect(folder, folder, 0, &mut lines);
    lines.sort();
    let mut h = Sha256::new();
    for part in interpreter
        .iter()
        .map(String::as_str)
        .chain(also.iter().copied())
        .chain(lines.iter().map(String::as_str))
    {
        h.update(part.as_bytes());
        h.update([0]);
    }
    h.finalize().iter().fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

fn collect(root: &Path, dir: &Path, depth: usize, out: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if out.len() >= MOST_FILES {
            return;
        }
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let Ok(kind) = entry.file_type() else { continue };
        let path = entry.path();
        if kind.is_dir() {
            let skip =
                name.starts_with('.') || SKIPPED.contains(&name.as_ref()) || path.join("pyvenv.cfg").exists();
            if depth < DEEPEST && !skip {
                collect(root, &path, depth + 1, out);
            }
        } else if name.ends_with(".py")
            && let Ok(m) = std::fs::metadata(&path)
        {
            let shown = path.strip_prefix(root).unwrap_or(&path).display();
            out.push(format!("{shown} {} {}.{}", m.size(), m.mtime(), m.mtime_nsec()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_source_is_another_template_and_data_is_not() {
        let t = tempfile::tempdir().expect("tempdir");
        let py = ["python 3.11".to_owned()];
        std::fs::create_dir_all(t.path().join("pkg")).expect("mkdir");
        std::fs::write(t.path().join("pkg/a.py"), "1").expect("write");
        let first = digest(&py, t.path(), &[]);
        std::fs::write(t.path().join("data.csv"), "1").expect("write");
        assert_eq!(digest(&py, t.path(), &[]), first);
        std::fs::write(t.path().join("pkg/a.py"), "12").expect("write");
        let second = digest(&py, t.path(), &[]);
        assert_ne!(second, first);
        assert_ne!(digest(&["python 3.12".to_owned()], t.path(), &[]), second);
        assert_ne!(digest(&py, t.path(), &["numpy"]), second);
        assert_eq!(second.len(), 64);
    }
}
