//! Which host folders an agent sees: `--here`, `-v`, and what its interpreter needs.

use crate::cli::failure::Failure;
use clove_abi::run::Mount;
use clove_abi::untrusted::Untrusted;
use clove_manifest::{flags, source};
use std::path::{Path, PathBuf};

/// Folders that every agent sees anyway.
const SYSTEM: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// A path as one word of a command.
pub fn shell_path(path: &Path) -> String {
    Untrusted::new(&path.display().to_string()).shell_path()
}

/// It is there without a mount.
pub fn is_system(path: &Path) -> bool {
    SYSTEM.iter().any(|s| path.starts_with(s))
}

/// A folder at its own path, read-only.
pub fn as_is(path: &Path) -> Mount {
    let text = path.display().to_string();
    Mount { source: text.clone(), target: text, writable: false }
}

/// The caller's home folder, all links followed.
pub fn home() -> Option<PathBuf> {
    let home = PathBuf::from(std::env::var_os("HOME").filter(|h| !h.is_empty())?);
    Some(home.canonicalize().unwrap_or(home))
}

/// Why a folder is too much to show as a whole, if it is.
pub fn too_wide(path: &Path, home: Option<&Path>) -> Option<&'static str> {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if real == Path::new("/") {
        return Some("it is `/`, the whole machine");
    }
    match home {
        Some(h) if real == h => {
            Some("it is your home folder: everything in it, keys and passwords too, would be visible")
        }
        Some(h) if h.starts_with(&real) => Some("your home folder lies in it"),
        _ => None,
    }
}

/// The mounts that show a folder whole (`--here`, a script's folder), at its path and, where that goes through links,
/// at its real path too.
///
/// # Errors
/// `/`, the home folder, or something above it.
pub fn here(folder: &Path, what: &str) -> Result<Vec<Mount>, Failure> {
    if let Some(why) = too_wide(folder, home().as_deref()) {
        return Err(Failure::new(format!("{what} {} can't be shown to an agent (E0402)", folder.display()))
            .why(why)
            .hint("put the work into a folder of its own, or name what is needed: -v ~/data:/data"));
    }
    let real = folder.canonicalize()?;
    Ok(if real == folder { vec![as_is(folder)] } else { vec![as_is(folder), as_is(&real)] })
}

/// The mounts that `-v` and `--mount` name.
///
/// # Errors
/// One that makes no sense, or whose source isn't there.
pub fn from_flags(specs: &[String], folder: &Path) -> Result<Vec<Mount>, Failure> {
    specs
        .iter()
        .map(|spec| {
            let mut m = flags::mount(spec)?;
            let path = source::absolute(Path::new(&m.source), folder);
            if !path.exists() {
                return Err(Failure::new(format!(
                    "there is no {} to mount (from `{spec}`, E0402)",
                    path.display()
                ))
                .why("unlike Docker's, these mounts don't make missing folders")
                .hint(format!("mkdir -p {}, or correct the path", shell_path(&path))));
            }
            if let Some(why) = too_wide(&path, home().as_deref()) {
                return Err(Failure::new(format!("{} can't be mounted (E0402)", path.display()))
                    .why(why)
                    .hint("mount the folders below it that are needed"));
            }
            m.source = path.display().to_string();
            if m.target.is_empty() {
                m.target.clone_from(&m.source);
            }
            Ok(m)
        })
        .collect()
}

/// Leaves out what another mount of the list shows at the same place anyway.
pub fn without_repeats(mounts: Vec<Mount>) -> Vec<Mount> {
    let shows = |outer: &Mount, inner: &Mount| {
        let rest = Path::new(&inner.target).strip_prefix(&outer.target);
        rest.is_ok_and(|r| Path::new(&outer.source).join(r) == Path::new(&inner.source))
            && outer.writable >= inner.writable
    };
    let mut out: Vec<Mount> = Vec::new();
    for m in mounts {
        if out.iter().any(|o| shows(o, &m)) {
            continue;
        }
        out.retain(|o| !shows(&m, o));
        out.push(m);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_and_root_are_too_wide() {
        let t = tempfile::tempdir().expect("tempdir");
        let home = t.path().canonicalize().expect("real");
        let below = home.join("project");
        std::fs::create_dir(&below).expect("mkdir");
        assert!(too_wide(Path::new("/"), Some(&home)).is_some());
        assert!(too_wide(&home, Some(&home)).is_some());
        assert!(too_wide(home.parent().expect("parent"), Some(&home)).is_some());
        assert!(too_wide(&below, Some(&home)).is_none());
        std::os::unix::fs::symlink(&home, below.join("up")).expect("symlink");
        assert!(too_wide(&below.join("up"), Some(&home)).is_some());
    }

    #[test]
    fn repeats_are_left_out() {
        let m = |s: &str, t: &str, writable| Mount { source: s.into(), target: t.into(), writable };
        let kept = without_repeats(vec![
            m("/a/b", "/a/b", false),
            m("/a", "/a", false),
            m("/a/c", "/a/c", true),
            m("/x", "/a/d", false),
            m("/a", "/a", false),
        ]);
        assert_eq!(kept, [m("/a", "/a", false), m("/a/c", "/a/c", true), m("/x", "/a/d", false)]);
    }

    #[test]
    fn mounts_of_missing_folders_are_refused() {
        let t = tempfile::tempdir().expect("tempdir");
        let e = from_flags(&["nowhere:/x".into()], t.path()).expect_err("missing");
        assert!(e.to_string().contains("mkdir -p"), "{e}");
        std::fs::create_dir(t.path().join("d")).expect("mkdir");
        let m = from_flags(&["d".into()], t.path()).expect("there");
        assert_eq!(m, [as_is(&t.path().join("d"))]);
    }
}
