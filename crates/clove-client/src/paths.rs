//! Where a kernel keeps its data, and where its socket is found.

use crate::build_id::hex;
use rustix::fs::StatFs;
use sha2::{Digest, Sha256};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Longest path of a unix socket in bytes, with its closing zero (unix(7)).
const SUN_PATH: usize = 108;

/// The two folders of one kernel. Both exist, are ours and closed to everybody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Real path of the data directory: journal, results, kept output.
    pub data_dir: PathBuf,
    /// Short-lived files: the socket.
    pub runtime_dir: PathBuf,
}

/// A folder can't be used. The text says which, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct PathsError {
    /// Which folder, and for what.
    pub what: String,
    pub why: String,
    /// What to do next.
    pub hint: String,
}

/// What the folders depend on, so that tests need no environment.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// `CLOVE_HOME`.
    pub clove_home: Option<PathBuf>,
    /// `XDG_DATA_HOME`.
    pub xdg_data_home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// Effective uid.
    pub uid: u32,
}

impl Surroundings {
    /// Those of this process.
    pub fn here() -> Surroundings {
        let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        Surroundings {
            clove_home: var("CLOVE_HOME"),
            xdg_data_home: var("XDG_DATA_HOME"),
            xdg_runtime_dir: var("XDG_RUNTIME_DIR"),
            home: var("HOME"),
            uid: rustix::process::geteuid().as_raw(),
        }
    }
}

impl Paths {
    /// The folders that the environment names, made if they are missing.
    ///
    /// # Errors
    /// A folder that can't be made, belongs to somebody else, or lies on a network file system.
    pub fn from_env() -> Result<Paths, PathsError> {
        Paths::within(&Surroundings::here())
    }

    /// As [`Paths::from_env`], for any surroundings.
    ///
    /// # Errors
    /// As there.
    pub fn within(s: &Surroundings) -> Result<Paths, PathsError> {
        let data_dir = data_dir(s)?;
        let runtime_dir = runtime_dir(s, &data_dir)?;
        let paths = Paths { data_dir, runtime_dir };
        let length = paths.socket().as_os_str().len();
        if length >= SUN_PATH {
            return Err(PathsError {
                what: format!("the socket's path {} can't be used", paths.socket().display()),
                why: format!("it has {length} bytes; a unix socket's path has at most {}", SUN_PATH - 1),
                hint: "set XDG_RUNTIME_DIR to a shorter folder".into(),
            });
        }
        Ok(paths)
    }

    /// The kernel's socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime_dir.join("k.sock")
    }

    /// What a background kernel says about itself.
    pub fn kernel_log(&self) -> PathBuf {
        self.data_dir.join("kernel.log")
    }
}

fn data_dir(s: &Surroundings) -> Result<PathBuf, PathsError> {
    let (wanted, from) = match (&s.clove_home, &s.xdg_data_home, &s.home) {
        (Some(dir), _, _) => (dir.clone(), "from CLOVE_HOME"),
        // The XDG base directory specification: a relative path is invalid and to be ignored.
        (None, Some(dir), _) if dir.is_absolute() => (dir.join("clove"), "from XDG_DATA_HOME"),
        (None, _, Some(home)) if home.is_absolute() => (home.join(".local/share/clove"), "below HOME"),
        _ => {
            return Err(PathsError {
                what: "there is no place for the data directory".into(),
                why: "none of CLOVE_HOME, XDG_DATA_HOME and HOME is set to an absolute path".into(),
                hint: "set CLOVE_HOME to a folder of yours on a local disk".into(),
            });
        }
    };
    let what = format!("the data directory {} ({from}) can't be used", wanted.display());
    let elsewhere = "set CLOVE_HOME to a folder of yours on a local disk";
    let refuse = |why: String, hint: &str| PathsError { what: what.clone(), why, hint: hint.to_owned() };
    if wanted == Path::new("/") || s.home.as_deref() == Some(wanted.as_path()) {
        return Err(refuse(
            "it would fill that whole folder with CloveOS's own files, and close it to others".into(),
            "name a folder below it, for example CLOVE_HOME=$HOME/.clove",
        ));
    }
    make_private(&wanted, true).map_err(|e| refuse(in_words(&e), elsewhere))?;
    let real = wanted.canonicalize().map_err(|e| refuse(in_words(&e), elsewhere))?;
    check_owner(&real, s.uid).map_err(|why| refuse(why, elsewhere))?;
    let kind = rustix::fs::statfs(&real).map_err(|e| refuse(in_words(&e.into()), elsewhere))?;
    if let Some(name) = network_file_system(&kind) {
        return Err(refuse(
            format!("it lies on {name}, where file locks and syncs can't be relied on"),
            elsewhere,
        ));
    }
    Ok(real)
}

fn runtime_dir(s: &Surroundings, data_dir: &Path) -> Result<PathBuf, PathsError> {
    let tag = hex(&Sha256::digest(data_dir.as_os_str().as_bytes())[..4]);
    let under_xdg = s.xdg_runtime_dir.as_deref().filter(|d| is_ours(d, s.uid));
    let dir = if let Some(base) = under_xdg {
        base.join(format!("clove-{tag}"))
    } else if s.uid == 0 && Path::new("/run").is_dir() {
        PathBuf::from(format!("/run/clove-{}-{tag}", s.uid))
    } else {
        let base = PathBuf::from(format!("/tmp/clove-{}", s.uid));
        private_and_ours(&base, s.uid)?;
        base.join(&tag)
    };
    private_and_ours(&dir, s.uid)?;
    Ok(dir)
}

fn private_and_ours(dir: &Path, uid: u32) -> Result<(), PathsError> {
    let refuse = |why: String| PathsError {
        what: format!("the folder for the socket, {}, can't be used", dir.display()),
        why,
        hint: "remove it, or set XDG_RUNTIME_DIR to a folder of yours".into(),
    };
    make_private(dir, false).map_err(|e| refuse(in_words(&e)))?;
    check_owner(dir, uid).map_err(refuse)
}

/// Makes a folder with mode 0700; one that exists already is left as it is.
fn make_private(dir: &Path, with_parents: bool) -> io::Result<()> {
    let made = std::fs::DirBuilder::new().mode(0o700).recursive(with_parents).create(dir);
    match made {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && !with_parents => Ok(()),
        other => other,
    }
}

/// Ours, a folder and not a link to one, and closed to others: it is closed if it was open.
fn check_owner(dir: &Path, uid: u32) -> Result<(), String> {
    let m = dir.symlink_metadata().map_err(|e| in_words(&e))?;
    if !m.is_dir() {
        return Err("it isn't a folder".into());
    }
    if m.uid() != uid {
        return Err(format!("it belongs to uid {}, and this is uid {uid}", m.uid()));
    }
    if m.mode() & 0o077 != 0 {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
            .map_err(|e| format!("others may enter it, and it can't be closed to them: {}", in_words(&e)))?;
    }
    Ok(())
}

fn is_ours(dir: &Path, uid: u32) -> bool {
    dir.is_absolute() && dir.symlink_metadata().is_ok_and(|m| m.is_dir() && m.uid() == uid)
}

/// The name of a file system on which locks and fdatasync don't mean what the journal needs (magic numbers: statfs(2)).
fn network_file_system(s: &StatFs) -> Option<&'static str> {
    // The field is signed; the magic numbers are 32 bits.
    match s.f_type as u32 {
        0x6969 => Some("NFS"),
        0xff53_4d42 => Some("CIFS"),
        0xfe53_4d42 => Some("SMB"),
        0x5346_414f => Some("AFS"),
        0x564c => Some("NCP"),
        _ => None,
    }
}

/// An I/O error without Rust's `(os error N)`.
pub fn in_words(e: &io::Error) -> String {
    let text = e.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings(t: &tempfile::TempDir) -> Surroundings {
        let uid = rustix::process::geteuid().as_raw();
        Surroundings { home: Some(t.path().to_owned()), uid, ..Surroundings::default() }
    }

    #[test]
    fn the_environment_decides_in_order() {
        let t = tempfile::tempdir().expect("tempdir");
        let real = t.path().canonicalize().expect("real path");
        let run = real.join("run");
        std::fs::create_dir(&run).expect("mkdir");
        let mut s = surroundings(&t);
        s.xdg_runtime_dir = Some(run.clone());
        let p = Paths::within(&s).expect("below HOME");
        assert_eq!(p.data_dir, real.join(".local/share/clove"));
        assert!(p.runtime_dir.starts_with(&run));
        s.xdg_data_home = Some("relative".into());
        assert_eq!(Paths::within(&s).expect("relative is ignored").data_dir, p.data_dir);
        s.xdg_data_home = Some(real.join("xdg"));
        assert_eq!(Paths::within(&s).expect("XDG").data_dir, real.join("xdg/clove"));
        s.clove_home = Some(real.join("own"));
        let own = Paths::within(&s).expect("CLOVE_HOME");
        assert_eq!(own.data_dir, real.join("own"));
        assert_ne!(own.runtime_dir, p.runtime_dir);
        assert_eq!(own.data_dir.metadata().expect("stat").mode() & 0o777, 0o700);
        assert_eq!(own.runtime_dir.metadata().expect("stat").mode() & 0o777, 0o700);
    }

    #[test]
    fn two_names_of_one_directory_find_one_kernel() {
        let t = tempfile::tempdir().expect("tempdir");
        let mut s = surroundings(&t);
        s.clove_home = Some(t.path().join("a"));
        let a = Paths::within(&s).expect("a");
        std::os::unix::fs::symlink("a", t.path().join("b")).expect("symlink");
        s.clove_home = Some(t.path().join("b"));
        assert_eq!(Paths::within(&s).expect("b"), a);
        std::fs::remove_dir(a.runtime_dir).expect("clean up");
    }

    #[test]
    fn folders_that_cannot_be_used_are_refused_in_words() {
        let t = tempfile::tempdir().expect("tempdir");
        let mut s = surroundings(&t);
        s.clove_home = Some(t.path().to_owned());
        let e = Paths::within(&s).expect_err("HOME itself");
        assert!(e.why.contains("whole folder"), "{e}");
        std::fs::write(t.path().join("file"), "").expect("write");
        s.clove_home = Some(t.path().join("file"));
        assert!(Paths::within(&s).is_err());
        s.clove_home = Some(t.path().join("theirs"));
        std::fs::create_dir(t.path().join("theirs")).expect("mkdir");
        s.uid += 1;
        let e = Paths::within(&s).expect_err("somebody else's");
        assert!(e.why.contains("belongs to uid"), "{e}");
        let nowhere = Surroundings { uid: s.uid, ..Surroundings::default() };
        assert!(Paths::within(&nowhere).expect_err("nowhere").what.contains("no place"));
    }
}
