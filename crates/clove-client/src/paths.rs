//! Where a kernel keeps its data, and where its socket is found.

use crate::build_id::hex;
use crate::file_system;
use rustix::fs::{FlockOperation, Mode, OFlags};
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Longest path of a unix socket in bytes, with its closing zero (unix(7)).
const SUN_PATH: usize = 108;
/// The socket's name in its folder.
const SOCKET: &str = "k.sock";
/// What lies in a data directory of ours, also when its first start was cut short.
const OWN: &[&str] =
    &["lock", "journal", "logs", "runs", "blobs", "kernel.log", "kernel.log.1", "interpreters.json"];

/// The folders of one kernel. The data directory exists, is ours and closed to everybody else; the one for the socket
/// exists while a kernel runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Real path of the data directory: journal, results, kept output.
    pub data_dir: PathBuf,
    /// Short-lived files: the socket. Where the running kernel has them, else where the next one will.
    pub runtime_dir: PathBuf,
    /// Where the run-time directory may lie, best first.
    pub runtime_dirs: Vec<PathBuf>,
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
    /// The folders that the environment names; the data directory is made if it is missing.
    ///
    /// # Errors
    /// A folder that can't be made, belongs to somebody else, holds other things, or lies on a network file system.
    pub fn from_env() -> Result<Paths, PathsError> {
        Paths::within(&Surroundings::here())
    }

    /// As [`Paths::from_env`], for any surroundings.
    ///
    /// # Errors
    /// As there.
    pub fn within(s: &Surroundings) -> Result<Paths, PathsError> {
        let data_dir = data_dir(s)?;
        let runtime_dirs = runtime_dirs(s, &data_dir);
        let mut first_refusal = Ok(());
        for dir in &runtime_dirs {
            match look_at(dir, s.uid) {
                Ok(()) => {
                    let runtime_dir = dir.clone();
                    let mut paths = Paths { data_dir, runtime_dir, runtime_dirs };
                    paths.follow_kernel();
                    return Ok(paths);
                }
                Err(e) => first_refusal = first_refusal.and(Err(e)),
            }
        }
        first_refusal.map(|()| Paths { data_dir, runtime_dir: PathBuf::new(), runtime_dirs })
    }

    /// The kernel's socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime_dir.join(SOCKET)
    }

    /// Held by the kernel that runs on the data directory; says its process id and its socket, a line each.
    pub fn lock(&self) -> PathBuf {
        self.data_dir.join("lock")
    }

    /// What a background kernel says about itself.
    pub fn kernel_log(&self) -> PathBuf {
        self.data_dir.join("kernel.log")
    }

    /// What the lock's file says to those who look for the kernel.
    pub fn lock_words(&self) -> Vec<u8> {
        let mut words = format!("{}\n", std::process::id()).into_bytes();
        words.extend_from_slice(self.socket().as_os_str().as_bytes());
        words.push(b'\n');
        words
    }

    /// Looks where the kernel that runs has its socket: one that was started with another XDG_RUNTIME_DIR (by cron, by
    /// sudo, from another login) has it elsewhere. Without a kernel, nothing changes.
    pub fn follow_kernel(&mut self) {
        let Some(socket) = self.kernel_words().1 else { return };
        let uid = rustix::process::geteuid().as_raw();
        // The file outlives its kernel, and is copied with a folder: only a lock that is held speaks of a kernel.
        if let Some(dir) = socket.parent()
            && dir != self.runtime_dir
            && socket.file_name() == Some(OsStr::new(SOCKET))
            && look_at(dir, uid).is_ok()
            && self.is_locked()
        {
            self.runtime_dir = dir.to_owned();
        }
    }

    /// Process id and socket of the kernel that holds, or held, the data directory, as far as it says.
    pub fn kernel_words(&self) -> (Option<u32>, Option<PathBuf>) {
        let Ok(text) = std::fs::read(self.lock()) else { return (None, None) };
        let mut lines = text.split(|b| *b == b'\n');
        let pid = lines.next().and_then(|l| std::str::from_utf8(l).ok()).and_then(|l| l.trim().parse().ok());
        let socket = lines.next().filter(|l| l.starts_with(b"/"));
        (pid, socket.map(|l| PathBuf::from(std::ffi::OsString::from_vec(l.to_vec()))))
    }

    /// Whether a kernel holds the data directory. Asking takes the lock for an instant, which a kernel that starts just
    /// then waits out.
    pub fn is_locked(&self) -> bool {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let Ok(fd) = rustix::fs::open(self.lock(), flags, Mode::empty()) else { return false };
        rustix::fs::flock(&fd, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    }

    /// Makes the run-time directory: the first place that can be had. For the kernel, before it listens.
    ///
    /// # Errors
    /// There is none.
    pub fn make_runtime_dir(&mut self) -> Result<(), PathsError> {
        let uid = rustix::process::geteuid().as_raw();
        let mut first_refusal = Ok(());
        for dir in &self.runtime_dirs {
            let made =
                base_of(dir).map_or(Ok(()), |base| make_ours(base, uid)).and_then(|()| make_ours(dir, uid));
            match made {
                Ok(()) => {
                    self.runtime_dir.clone_from(dir);
                    return Ok(());
                }
                Err(e) => first_refusal = first_refusal.and(Err(e)),
            }
        }
        first_refusal
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
    let cannot_make = |e: io::Error| refuse(format!("it can't be made: {}", in_words(&e)), elsewhere);
    match make_private(&wanted, true) {
        // A link to nowhere, a file in the way.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            return Err(refuse("there is something of that name, and it isn't a folder".into(), elsewhere));
        }
        made => made.map_err(cannot_make)?,
    }
    let real = wanted.canonicalize().map_err(|e| refuse(in_words(&e), elsewhere))?;
    let is_home = s.home.as_deref().is_some_and(|h| h.canonicalize().is_ok_and(|h| h == real));
    if real == Path::new("/") || is_home {
        return Err(refuse(
            "it would fill that whole folder with CloveOS's own files, and close it to others".into(),
            "name a folder below it, for example CLOVE_HOME=$HOME/.clove",
        ));
    }
    let kind = file_system::kind_of(&real).map_err(|e| refuse(in_words(&e), elsewhere))?;
    if let Some(name) = file_system::network(&kind) {
        return Err(refuse(
            format!("it lies on {name}, where file locks and syncs can't be relied on"),
            elsewhere,
        ));
    }
    // All looking comes before the first change: closing a folder of the system to others would break the machine.
    check_owner(&real, s.uid).map_err(|why| refuse(why, elsewhere))?;
    check_contents(&real).map_err(|why| {
        refuse(
            why,
            &format!("name a folder of its own, for example CLOVE_HOME={}", real.join("clove").display()),
        )
    })?;
    close_to_others(&real).map_err(|why| refuse(why, elsewhere))?;
    Ok(real)
}

/// A folder becomes a data directory only when it is empty: what else is in it belongs to something else.
fn check_contents(dir: &Path) -> Result<(), String> {
    let m = dir.symlink_metadata().map_err(|e| in_words(&e))?;
    if m.mode() & 0o1000 != 0 {
        return Err("it is a folder that everybody may write to".into());
    }
    if dir.join("lock").is_file() && dir.join("journal").is_dir() {
        return Ok(());
    }
    let ours = |name: &str| OWN.contains(&name) || name.starts_with("state.db") || name == "lost+found";
    let Ok(entries) = dir.read_dir() else { return Ok(()) };
    let foreign = entries.flatten().map(|e| e.file_name()).find(|n| !n.to_str().is_some_and(ours));
    match foreign {
        Some(name) => Err(format!("it holds other things already ({})", Path::new(&name).display())),
        None => Ok(()),
    }
}

/// The folders for the socket, of those whose paths are short enough; the last always is.
fn runtime_dirs(s: &Surroundings, data_dir: &Path) -> Vec<PathBuf> {
    let tag = hex(&Sha256::digest(data_dir.as_os_str().as_bytes())[..4]);
    let mut all = Vec::new();
    if let Some(base) = s.xdg_runtime_dir.as_deref().filter(|d| is_ours(d, s.uid)) {
        all.push(base.join(format!("clove-{tag}")));
    }
    if s.uid == 0 && Path::new("/run").is_dir() {
        all.push(PathBuf::from(format!("/run/clove-0-{tag}")));
    }
    all.push(PathBuf::from(format!("/tmp/clove-{}/{tag}", s.uid)));
    all.retain(|d| d.join(SOCKET).as_os_str().len() < SUN_PATH);
    all
}

/// Below /tmp, which everybody may write to, the folder above is ours too.
fn base_of(dir: &Path) -> Option<&Path> {
    dir.parent().filter(|p| p.parent() == Some(Path::new("/tmp")))
}

/// A folder for the socket that is there already has to be ours.
fn look_at(dir: &Path, uid: u32) -> Result<(), PathsError> {
    for d in base_of(dir).into_iter().chain([dir]) {
        match d.symlink_metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            _ => check_owner(d, uid).and_then(|()| close_to_others(d)).map_err(|why| no_socket_in(d, why))?,
        }
    }
    Ok(())
}

fn make_ours(dir: &Path, uid: u32) -> Result<(), PathsError> {
    make_private(dir, false).map_err(|e| no_socket_in(dir, in_words(&e)))?;
    check_owner(dir, uid).and_then(|()| close_to_others(dir)).map_err(|why| no_socket_in(dir, why))
}

/// Makes the folder of a socket anew, which somebody has taken away.
///
/// # Errors
/// It can't be made, or isn't ours.
pub fn make_runtime_dir_of(socket: &Path) -> Result<(), PathsError> {
    let uid = rustix::process::geteuid().as_raw();
    let dir = socket.parent().unwrap_or(Path::new("/"));
    base_of(dir).map_or(Ok(()), |base| make_ours(base, uid)).and_then(|()| make_ours(dir, uid))
}

fn no_socket_in(dir: &Path, why: String) -> PathsError {
    PathsError {
        what: format!("the folder for the socket, {}, can't be used", dir.display()),
        why,
        hint: "remove it, or set XDG_RUNTIME_DIR to a folder of yours".into(),
    }
}

/// Makes a folder with mode 0700; one that exists already is left as it is.
fn make_private(dir: &Path, with_parents: bool) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let made = std::fs::DirBuilder::new().mode(0o700).recursive(with_parents).create(dir);
    match made {
        // A umask may have taken rights from its owner too.
        Ok(()) => std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && !with_parents => Ok(()),
        other => other,
    }
}

/// Ours, a folder, and not a link to one.
fn check_owner(dir: &Path, uid: u32) -> Result<(), String> {
    let m = dir.symlink_metadata().map_err(|e| in_words(&e))?;
    if !m.is_dir() {
        return Err("it isn't a folder".into());
    }
    if m.uid() != uid {
        return Err(format!("it belongs to {}, and this is {}", user(m.uid()), user(uid)));
    }
    Ok(())
}

/// Mode 0700, if others could enter it.
fn close_to_others(dir: &Path) -> Result<(), String> {
    let m = dir.symlink_metadata().map_err(|e| in_words(&e))?;
    if m.mode() & 0o077 != 0 {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
            .map_err(|e| format!("others may enter it, and it can't be closed to them: {}", in_words(&e)))?;
    }
    Ok(())
}

fn user(uid: u32) -> String {
    if uid == 0 { "root".to_owned() } else { format!("uid {uid}") }
}

fn is_ours(dir: &Path, uid: u32) -> bool {
    dir.is_absolute() && dir.symlink_metadata().is_ok_and(|m| m.is_dir() && m.uid() == uid)
}

/// An I/O error without Rust's `(os error N)`.
pub fn in_words(e: &io::Error) -> String {
    if e.kind() == io::ErrorKind::UnexpectedEof {
        return "it was closed at the other end".to_owned();
    }
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
        assert!(!own.runtime_dir.exists(), "looking makes nothing");
        let mut own = own;
        own.make_runtime_dir().expect("made");
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
    }

    #[test]
    fn folders_that_cannot_be_used_are_refused_in_words() {
        let t = tempfile::tempdir().expect("tempdir");
        let mut s = surroundings(&t);
        s.clove_home = Some(t.path().to_owned());
        let e = Paths::within(&s).expect_err("HOME itself");
        assert!(e.why.contains("whole folder"), "{e}");
        s.clove_home = Some(t.path().join("."));
        assert!(Paths::within(&s).expect_err("HOME, written otherwise").why.contains("whole folder"));
        std::fs::write(t.path().join("file"), "").expect("write");
        s.clove_home = Some(t.path().join("file"));
        assert!(Paths::within(&s).expect_err("a file").why.contains("isn't a folder"));
        s.clove_home = Some("/proc/clove".into());
        assert!(Paths::within(&s).expect_err("proc").why.starts_with("it can't be made: "));
        s.clove_home = Some(t.path().join("theirs"));
        std::fs::create_dir(t.path().join("theirs")).expect("mkdir");
        s.uid += 1;
        let e = Paths::within(&s).expect_err("somebody else's");
        assert!(e.why.contains("it belongs to "), "{e}");
        let nowhere = Surroundings { uid: s.uid, ..Surroundings::default() };
        assert!(Paths::within(&nowhere).expect_err("nowhere").what.contains("no place"));
    }

    /// `CLOVE_HOME=/etc` would close /etc to everybody else.
    #[test]
    fn a_folder_with_other_things_in_it_is_left_alone() {
        let t = tempfile::tempdir().expect("tempdir");
        let mut s = surroundings(&t);
        let dir = t.path().join("etc");
        std::fs::create_dir(&dir).expect("mkdir");
        let mode =
            |bits| std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(bits)).expect("chmod");
        mode(0o755);
        std::fs::write(dir.join("passwd"), "").expect("write");
        s.clove_home = Some(dir.clone());
        let e = Paths::within(&s).expect_err("foreign");
        assert!(e.why == "it holds other things already (passwd)" && e.hint.ends_with("etc/clove"), "{e}");
        assert_eq!(dir.metadata().expect("stat").mode() & 0o777, 0o755);
        std::fs::remove_file(dir.join("passwd")).expect("rm");
        mode(0o1777);
        assert!(Paths::within(&s).expect_err("sticky").why.contains("everybody may write"));
        assert_eq!(dir.metadata().expect("stat").mode() & 0o7777, 0o1777);
        mode(0o755);
        // A fresh disk, and a first start that was cut short.
        std::fs::create_dir(dir.join("lost+found")).expect("mkdir");
        std::fs::write(dir.join("lock"), "").expect("write");
        std::fs::write(dir.join("state.db-wal"), "").expect("write");
        assert_eq!(Paths::within(&s).expect("ours").data_dir.metadata().expect("stat").mode() & 0o777, 0o700);
        // One that has been in use may have notes in it.
        std::fs::write(dir.join("notes.txt"), "").expect("write");
        assert!(Paths::within(&s).is_err());
        std::fs::create_dir(dir.join("journal")).expect("mkdir");
        assert!(Paths::within(&s).is_ok());
    }

    #[test]
    fn the_socket_goes_where_there_is_room_for_it() {
        let t = tempfile::tempdir().expect("tempdir");
        let real = t.path().canonicalize().expect("real");
        let mut s = surroundings(&t);
        let long = real.join("x".repeat(90)).join("y".repeat(90));
        std::fs::create_dir_all(&long).expect("mkdir");
        for bad in [long, real.join("none"), "/dev/null".into(), "relative".into()] {
            s.xdg_runtime_dir = Some(bad.clone());
            let p = Paths::within(&s).expect("another place");
            assert!(!p.runtime_dir.starts_with(&bad), "{bad:?}");
            assert!(p.socket().as_os_str().len() < SUN_PATH);
        }
        // The first place that can be had; here, a file is in its way.
        let run = real.join("run");
        std::fs::create_dir(&run).expect("mkdir");
        s.xdg_runtime_dir = Some(run.clone());
        let mut p = Paths::within(&s).expect("below run");
        assert!(p.runtime_dir.starts_with(&run));
        std::fs::write(&p.runtime_dir, "").expect("write");
        assert!(!Paths::within(&s).expect("elsewhere").runtime_dir.starts_with(&run));
        p.make_runtime_dir().expect("elsewhere");
        assert!(!p.runtime_dir.starts_with(&run) && p.runtime_dir.is_dir());
        std::fs::remove_dir(p.runtime_dir).expect("clean up");
    }

    #[test]
    fn a_kernel_is_found_by_its_lock_from_other_surroundings() {
        let t = tempfile::tempdir().expect("tempdir");
        let real = t.path().canonicalize().expect("real");
        let mut s = surroundings(&t);
        for dir in ["cron", "login"] {
            std::fs::create_dir(real.join(dir)).expect("mkdir");
        }
        s.xdg_runtime_dir = Some(real.join("login"));
        let mut kernel = Paths::within(&s).expect("kernel");
        kernel.make_runtime_dir().expect("made");
        std::fs::write(kernel.lock(), kernel.lock_words()).expect("write");
        assert_eq!(kernel.kernel_words(), (Some(std::process::id()), Some(kernel.socket())));
        s.xdg_runtime_dir = Some(real.join("cron"));
        // Nobody holds it: what it says is about the past.
        assert!(Paths::within(&s).expect("no kernel").runtime_dir.starts_with(real.join("cron")));
        let held = std::fs::File::open(kernel.lock()).expect("open");
        rustix::fs::flock(&held, FlockOperation::LockExclusive).expect("lock");
        assert_eq!(Paths::within(&s).expect("a kernel").socket(), kernel.socket());
        drop(held);
        assert!(Paths::within(&s).expect("gone").runtime_dir.starts_with(real.join("cron")));
    }
}
