//! Looks at a failed program's last words for things that exist on the host but not in the sandbox.

use clove_abi::run::Mount;
use clove_abi::untrusted::Untrusted;
use std::path::{Path, PathBuf};

/// Where the program ran.
pub struct Scene<'s> {
    pub mounts: &'s [Mount],
    /// The caller's folder.
    pub folder: &'s Path,
    /// `--here` was given.
    pub here: bool,
    pub home: Option<PathBuf>,
}

/// What to tell, each a sentence; at most three.
pub fn from_tail(tail: &str, scene: &Scene<'_>) -> Vec<String> {
    let mut hints: Vec<String> = Vec::new();
    for line in tail.lines().rev().take(60) {
        let found = missing_file(line, scene)
            .or_else(|| missing_module(line, scene))
            .or_else(|| read_only(line, scene));
        if let Some(h) = found
            && !hints.contains(&h)
        {
            hints.push(h);
        }
    }
    hints.truncate(3);
    hints
}

/// `No such file or directory: '/data/x'`, `can't open file '/work/train.py'`, `ENOENT: ..., open '/data/x'`.
fn missing_file(line: &str, scene: &Scene<'_>) -> Option<String> {
    let lower = line.to_lowercase();
    let says_missing = [
        "no such file",
        "enoent",
        "can't open",
        "cannot open",
        "cannot access",
        "can't cd",
        "not found",
        "does not exist",
        "cannot find",
    ];
    if !says_missing.iter().any(|m| lower.contains(m)) {
        return None;
    }
    candidates(line).into_iter().find_map(|word| shown_by(&word, scene))
}

/// Quoted pieces of a line, then its words, without the punctuation around them.
fn candidates(line: &str) -> Vec<String> {
    let mut out = Vec::new();
    for quote in ['\'', '"', '`'] {
        let pieces: Vec<&str> = line.split(quote).collect();
        out.extend(pieces.iter().skip(1).step_by(2).map(|s| (*s).to_owned()));
    }
    let trim: &[char] = &[':', ',', ';', '.', '\'', '"', '`', '(', ')', '[', ']', '’', '‘'];
    out.extend(line.split_whitespace().map(|w| {
        // A leading dot may be `./x`.
        w.trim_end_matches(trim).trim_start_matches([':', ',', ';', '\'', '"', '`', '(', '[', '‘']).to_owned()
    }));
    out.retain(|w| {
        !w.is_empty() && w.len() < 4096 && !w.contains('\0') && (w.contains('/') || w.contains('.'))
    });
    out
}

/// The flag that would show a path which the host has.
fn shown_by(word: &str, scene: &Scene<'_>) -> Option<String> {
    let path = Path::new(word);
    if let Ok(below_work) = path.strip_prefix("/work") {
        return here_would(below_work, word, scene);
    }
    if path.is_relative() {
        return here_would(path, word, scene);
    }
    if !path.exists() || crate::cli::visibility::is_system(path) || path == Path::new("/") {
        return None;
    }
    let inside = |m: &Mount| path.starts_with(&m.target);
    if scene.mounts.iter().any(inside)
        || ["/proc", "/sys", "/dev", "/etc", "/tmp", "/run"].iter().any(|p| path == Path::new(p))
    {
        return None;
    }
    if path.starts_with(scene.folder)
        && !scene.here
        && crate::cli::visibility::too_wide(scene.folder, scene.home.as_deref()).is_none()
    {
        return Some(format!("{word} exists on the host but not in the sandbox: add --here"));
    }
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    // A folder that is too much: only the file itself.
    let show = if crate::cli::visibility::too_wide(folder, scene.home.as_deref()).is_some()
        || folder == Path::new("/tmp")
    {
        path
    } else {
        folder
    };
    Some(format!("{word} exists on the host but not in the sandbox: add -v {}", mount_of(show, show, "")))
}

/// A mount as one word of a command: the program that failed has named the path, and a person may copy what we print.
fn mount_of(source: &Path, target: &Path, end: &str) -> String {
    Untrusted::new(&format!("{}:{}{end}", source.display(), target.display())).shell_path()
}

fn here_would(relative: &Path, word: &str, scene: &Scene<'_>) -> Option<String> {
    if scene.here || relative.as_os_str().is_empty() || !scene.folder.join(relative).exists() {
        return None;
    }
    if crate::cli::visibility::too_wide(scene.folder, scene.home.as_deref()).is_some() {
        let p = scene.folder.join(relative);
        let inside = Path::new("/work").join(relative);
        return Some(format!(
            "{} exists on the host but not in the sandbox: add -v {}",
            p.display(),
            mount_of(&p, &inside, "")
        ));
    }
    Some(format!("{word} is in the current folder, which the sandbox doesn't see: add --here"))
}

/// `ModuleNotFoundError: No module named 'mylib'` where ./mylib.py or ./mylib/ is beside the caller.
fn missing_module(line: &str, scene: &Scene<'_>) -> Option<String> {
    let (_, rest) = line.split_once("No module named ")?;
    let name = rest.trim().trim_matches(['\'', '"']).split('.').next()?;
    if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let there = scene.folder.join(format!("{name}.py")).is_file() || scene.folder.join(name).is_dir();
    (there && !scene.here).then(|| {
        format!("the module {name} is in the current folder, which the sandbox doesn't see: add --here")
    })
}

/// A write to a mount that is read-only because `:rw` wasn't given.
fn read_only(line: &str, scene: &Scene<'_>) -> Option<String> {
    let lower = line.to_lowercase();
    if !lower.contains("read-only file system") && !lower.contains("erofs") {
        return None;
    }
    let words = candidates(line);
    let in_mount = |w: &String| {
        scene
            .mounts
            .iter()
            .filter(|m| !m.writable && Path::new(w).starts_with(&m.target))
            .max_by_key(|m| m.target.len())
    };
    if let Some(m) = words.iter().find_map(in_mount) {
        return Some(format!(
            "{} is mounted read-only: write to /work or $CLOVE_OUT, or add -v {}",
            m.target,
            mount_of(Path::new(&m.source), Path::new(&m.target), ":rw")
        ));
    }
    Some("the folders of the host are read-only: write to /work or $CLOVE_OUT, or mount one with -v SRC:DST:rw".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints(tail: &str, folder: &Path, here: bool, mounts: &[Mount]) -> Vec<String> {
        from_tail(tail, &Scene { mounts, folder, here, home: Some(PathBuf::from("/no/such/home")) })
    }

    #[test]
    fn the_flag_that_would_help_is_named() {
        let t = tempfile::tempdir().expect("tempdir");
        let dir = t.path().canonicalize().expect("real");
        let here = dir.join("project");
        let data = dir.join("data");
        for d in [&here, &data] {
            std::fs::create_dir(d).expect("mkdir");
        }
        std::fs::write(here.join("train.py"), "").expect("write");
        std::fs::write(here.join("mylib.py"), "").expect("write");
        std::fs::write(data.join("x.csv"), "").expect("write");
        let d = data.display();
        for tail in [
            format!("FileNotFoundError: [Errno 2] No such file or directory: '{d}/x.csv'"),
            format!("cat: {d}/x.csv: No such file or directory"),
            format!("Error: ENOENT: no such file or directory, open '{d}/x.csv'"),
        ] {
            let h = hints(&tail, &here, false, &[]);
            assert_eq!(
                h,
                [format!("{d}/x.csv exists on the host but not in the sandbox: add -v {d}:{d}")],
                "{tail}"
            );
        }
        let tail = "python3: can't open file '/work/train.py': [Errno 2] No such file or directory";
        assert!(hints(tail, &here, false, &[])[0].ends_with("add --here"));
        assert!(
            hints("ModuleNotFoundError: No module named 'mylib.sub'", &here, false, &[])[0]
                .contains("--here")
        );
        assert!(hints("ModuleNotFoundError: No module named 'numpy'", &here, false, &[]).is_empty());
        assert!(hints("cat: nowhere.txt: No such file or directory", &here, false, &[]).is_empty());
        assert!(hints("all is well with train.py", &here, false, &[]).is_empty());
        // The program has chosen the name, and a person may copy the command.
        std::fs::write(data.join("b; touch pwned"), "").expect("write");
        let odd = dir.join("o d");
        std::fs::create_dir(&odd).expect("mkdir");
        std::fs::write(odd.join("$(x)"), "").expect("write");
        let h = hints(&format!("No such file or directory: '{}/$(x)'", odd.display()), &here, false, &[]);
        assert!(h[0].ends_with(&format!("add -v '{0}:{0}'", odd.display())), "{h:?}");
        let m = Mount { source: "/data".into(), target: "/d".into(), writable: false };
        let h = hints("OSError: [Errno 30] Read-only file system: '/d/out.txt'", &here, true, &[m]);
        assert!(h[0].contains("-v /data:/d:rw"), "{h:?}");
    }
}
