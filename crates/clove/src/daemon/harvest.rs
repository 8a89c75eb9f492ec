//! Moving files between an agent's scratch folder and the data directory.
//!
//! The scratch folder is a tmpfs of somebody hostile, who may go on changing it: every name in it is opened by
//! openat2 one component at a time, below a descriptor, following nothing; only regular files and folders are touched,
//! and everything is bounded. What the files are called stays as it was, so names may hold any bytes but `/` and NUL.

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, SeekFrom, Stat, Timestamps,
};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

/// The most that one copy may bring along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Of content; holes don't count.
    pub bytes: u64,
    /// Files and folders together.
    pub files: u32,
    /// Folders below the one that is copied; 0 copies only what lies in it directly. At most `DEEPEST` counts.
    pub depth: u32,
}

/// A folder costs four open descriptors while what lies below it is copied.
const DEEPEST: u32 = 64;

/// What a copy did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    pub files: u32,
    /// Content written; holes don't count.
    pub bytes: u64,
    /// Links, FIFOs, sockets, devices, what couldn't be opened, and what the bounds left out.
    pub skipped: u32,
    /// The bounds left something out.
    pub truncated: bool,
    /// Files that changed while they were copied: what arrived is some mixture.
    pub changed: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HarvestErrorKind {
    /// The agent has no such file or folder.
    NotFound,
    /// A link, a FIFO, a device, a folder where a file was asked for.
    NotAFile,
    TooLarge,
    /// The data directory's side: full, read-only, broken.
    Host,
    /// The agent's side.
    Scratch,
}

/// Why files couldn't be moved.
#[derive(Debug)]
pub struct HarvestError {
    pub kind: HarvestErrorKind,
    pub doing: &'static str,
    /// On the host's side a path; on the agent's one below its scratch folder. For people: lossy, and escaped.
    pub path: String,
    pub source: Option<Errno>,
}

impl fmt::Display for HarvestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.doing, self.path)?;
        match (self.kind, self.source) {
            (HarvestErrorKind::NotAFile, _) => write!(f, ": it isn't a regular file"),
            (HarvestErrorKind::TooLarge, _) => write!(f, ": it is larger than allowed"),
            (_, Some(errno)) => write!(f, ": {errno}"),
            (_, None) => write!(f, ": it failed"),
        }
    }
}

impl std::error::Error for HarvestError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}

fn host(doing: &'static str, path: &Path, source: Errno) -> HarvestError {
    HarvestError {
        kind: HarvestErrorKind::Host,
        doing,
        path: path.display().to_string().escape_debug().to_string(),
        source: Some(source),
    }
}

fn host_io(doing: &'static str, path: &Path, source: &std::io::Error) -> HarvestError {
    host(doing, path, Errno::from_io_error(source).unwrap_or(Errno::IO))
}

fn theirs(doing: &'static str, path: &str, source: Errno) -> HarvestError {
    let kind = match source {
        Errno::NOENT => HarvestErrorKind::NotFound,
        Errno::LOOP | Errno::NOTDIR | Errno::NXIO => HarvestErrorKind::NotAFile,
        _ => HarvestErrorKind::Scratch,
    };
    HarvestError { kind, doing, path: path.escape_debug().to_string(), source: Some(source) }
}

/// True when nothing lies in the sub-folder, or there is none.
pub fn is_empty(scratch: BorrowedFd<'_>, sub: &str) -> bool {
    let Ok(dir) = open_folder(scratch, sub).and_then(|fd| Dir::read_from(&fd)) else { return true };
    !dir.into_iter().any(|entry| entry.is_ok_and(|e| !is_dots(e.file_name())))
}

/// Copies the sub-folder to `dest`: first into `dest.partial`, on disk, then in one step to its place. An older `dest`
/// is replaced. Files get mode 0600, or 0700 when they were executable, and keep their time; folders 0700.
pub fn copy_out(
    scratch: BorrowedFd<'_>,
    sub: &str,
    dest: &Path,
    bounds: &Bounds,
) -> Result<Copied, HarvestError> {
    copy_out_if(scratch, sub, dest, bounds, |_| true).map(|(copied, _)| copied)
}

/// `copy_out`, but `dest` is only replaced when `keep` says so, once everything is copied; whether it was is the second
/// of the result. For a checkpoint a good old one is worth more than a truncated new one.
pub fn copy_out_if(
    scratch: BorrowedFd<'_>,
    sub: &str,
    dest: &Path,
    bounds: &Bounds,
    keep: impl FnOnce(&Copied) -> bool,
) -> Result<(Copied, bool), HarvestError> {
    let _turn = Turn::at(dest);
    settle(dest)?;
    let source = open_folder(scratch, sub).map_err(|e| theirs("opening the agent's folder", sub, e))?;
    let partial = beside(dest, ".partial");
    remove(&partial)?;
    make_parents(&partial)?;
    let made = make_folder_at(CWD, &c_path(&partial)?);
    let made = made.and_then(|()| open_ours(&partial)).map_err(|e| host("making the folder", &partial, e))?;
    let mut copy = Copy { bounds, done: Copied::default(), entries: 0, looked: 0, owner: None };
    let outcome = copy.folder(&source, &made, &partial, 0);
    let outcome = outcome.and_then(|()| sync(&made, &partial, copy.entries));
    drop(made);
    let kept = match &outcome {
        Ok(()) => keep(&copy.done),
        Err(_) => false,
    };
    if !kept {
        let removed = remove(&partial);
        outcome.and(removed)?;
        return Ok((copy.done, false));
    }
    replace(&partial, dest)?;
    Ok((copy.done, true))
}

/// Copies the folder `src` of the host into the sub-folder, whose files then belong to `uid`. Files that already are
/// there stay, and count as skipped.
pub fn copy_in(
    src: &Path,
    scratch: BorrowedFd<'_>,
    sub: &str,
    uid: u32,
    bounds: &Bounds,
) -> Result<Copied, HarvestError> {
    settle(src)?;
    let source = open_ours(src).map_err(|e| match e {
        Errno::NOENT => {
            HarvestError { kind: HarvestErrorKind::NotFound, ..host("opening the folder", src, e) }
        }
        _ => host("opening the folder", src, e),
    })?;
    let target = open_folder(scratch, sub).map_err(|e| theirs("opening the agent's folder", sub, e))?;
    // An agent of a rootless kernel has the operator's ids; all others have a uid and a gid of the same number.
    let own = rustix::process::geteuid().as_raw() == uid;
    let gid = if own { rustix::process::getegid().as_raw() } else { uid };
    let mut copy =
        Copy { bounds, done: Copied::default(), entries: 0, looked: 0, owner: Some(Owner { uid, gid }) };
    copy.folder(&source, &target, Path::new(sub), 0)?;
    Ok(copy.done)
}

/// A regular file of the agent's, whole; `path` is below the scratch folder, with `/`.
pub fn read_small(scratch: BorrowedFd<'_>, path: &str, max: u64) -> Result<Vec<u8>, HarvestError> {
    const DOING: &str = "reading the agent's file";
    let of_kind =
        |kind| HarvestError { kind, doing: DOING, path: path.escape_debug().to_string(), source: None };
    let file = open_theirs(scratch, path, OFlags::RDONLY).map_err(|e| theirs(DOING, path, e))?;
    let stat = rustix::fs::fstat(&file).map_err(|e| theirs(DOING, path, e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(of_kind(HarvestErrorKind::NotAFile));
    }
    if stat.st_size as u64 > max {
        return Err(of_kind(HarvestErrorKind::TooLarge));
    }
    let mut bytes = Vec::new();
    let mut buffer = [0u8; 16 * 1024];
    loop {
        match rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut buffer)) {
            Ok(0) => return Ok(bytes),
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(e) => return Err(theirs(DOING, path, e)),
        }
        // It may grow while it is read.
        if bytes.len() as u64 > max {
            return Err(of_kind(HarvestErrorKind::TooLarge));
        }
    }
}

/// What the regular files below a folder of the host hold: content, without holes. 0 when there is none.
pub fn folder_bytes(dir: &Path) -> u64 {
    let mut total = 0u64;
    let mut waiting: Vec<PathBuf> = vec![dir.to_path_buf()];
    while let Some(dir) = waiting.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            // Of the name itself: links aren't followed.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                waiting.push(entry.path());
            } else if meta.is_file() {
                use std::os::unix::fs::MetadataExt;
                total = total.saturating_add(meta.len().min(meta.blocks().saturating_mul(512)));
            }
        }
    }
    total
}

/// Shows every regular file of the sub-folder to `see`, with the inode number of its folder, until that says false or
/// the bounds are reached; false then. What goes away meanwhile is passed over.
pub fn visit(
    scratch: BorrowedFd<'_>,
    sub: &str,
    bounds: &Bounds,
    see: &mut dyn FnMut(u64, &CStr, &Stat) -> bool,
) -> Result<bool, Errno> {
    let mut looked = 0;
    visit_folder(&open_folder(scratch, sub)?, bounds, 0, &mut looked, see)
}

fn visit_folder(
    folder: &OwnedFd,
    bounds: &Bounds,
    depth: u32,
    looked: &mut u32,
    see: &mut dyn FnMut(u64, &CStr, &Stat) -> bool,
) -> Result<bool, Errno> {
    let inode = rustix::fs::fstat(folder)?.st_ino;
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_dots(name) {
            continue;
        }
        *looked += 1;
        if *looked > most_looked(bounds) {
            return Ok(false);
        }
        let Ok(stat) = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let goes_on = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => see(inode, name, &stat),
            FileType::Directory if depth < bounds.depth.min(DEEPEST) => {
                match open_theirs(folder.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY) {
                    Ok(below) => visit_folder(&below, bounds, depth + 1, looked, see).unwrap_or(true),
                    Err(_) => true,
                }
            }
            _ => true,
        };
        if !goes_on {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The sub-folder, opened for reading and for watching.
pub fn open_folder(scratch: BorrowedFd<'_>, sub: &str) -> Result<OwnedFd, Errno> {
    open_theirs(scratch, sub, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Opens a name of the agent's below `dir`, whatever lies there, without following and without waiting.
pub fn open_theirs(
    dir: BorrowedFd<'_>,
    path: impl rustix::path::Arg,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o600) } else { Mode::empty() };
    create_theirs(dir, path, flags, mode)
}

fn create_theirs(
    dir: BorrowedFd<'_>,
    path: impl rustix::path::Arg,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    // A FIFO without a writer, or a file with a lease on it, must not hold the caller up.
    let flags = flags | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_XDEV;
    path.into_with_c_str(|path| {
        for _ in 0..8 {
            // EAGAIN: something was renamed while the path was walked (openat2(2)).
            match rustix::fs::openat2(dir, path, flags, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    })
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// Links and FIFOs cost time too, so there are only so many names that are looked at.
fn most_looked(bounds: &Bounds) -> u32 {
    bounds.files.saturating_mul(4).saturating_add(1024)
}

/// Two copies to one place go one after the other, since both are made in the same `.partial`.
struct Turn(PathBuf);

static BUSY: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
static FREE: Condvar = Condvar::new();

impl Turn {
    fn at(dest: &Path) -> Turn {
        let busy = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
        let mut busy =
            FREE.wait_while(busy, |busy| busy.contains(dest)).unwrap_or_else(PoisonError::into_inner);
        busy.insert(dest.to_path_buf());
        Turn(dest.to_path_buf())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        BUSY.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
        FREE.notify_all();
    }
}

struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    /// As them, when there is one.
    fn with<T>(owner: &Option<Owner>, act: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        match owner {
            None => act(),
            Some(o) => clove_sys::fsuid::with_fsuid(o.uid, o.gid, act)?,
        }
    }
}

struct Copy<'a> {
    bounds: &'a Bounds,
    done: Copied,
    entries: u32,
    looked: u32,
    owner: Option<Owner>,
}

/// How the copy of one file ended.
enum File {
    Whole,
    Changed,
    /// The bounds were reached in its midst.
    Cut,
    /// It can't be read, or the target can't have such a file.
    Impossible,
}

impl Copy<'_> {
    /// `at` is the target, for messages.
    fn folder(&mut self, from: &OwnedFd, to: &OwnedFd, at: &Path, depth: u32) -> Result<(), HarvestError> {
        let Ok(entries) = Dir::read_from(from) else {
            self.done.skipped += 1;
            return Ok(());
        };
        for entry in entries {
            let Ok(entry) = entry else {
                self.done.skipped += 1;
                return Ok(());
            };
            let name = entry.file_name();
            if is_dots(name) {
                continue;
            }
            self.looked += 1;
            if self.looked > most_looked(self.bounds) {
                self.leave_out();
                return Ok(());
            }
            // Only a hint: what it is counts after the opening. It spares an open of every link and FIFO.
            let kind = match rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(_) => FileType::Unknown,
            };
            match kind {
                FileType::RegularFile | FileType::Directory if self.entries >= self.bounds.files => {
                    self.leave_out();
                    return Ok(());
                }
                FileType::RegularFile => self.one_file(from, to, name, at)?,
                FileType::Directory if depth >= self.bounds.depth.min(DEEPEST) => self.leave_out(),
                FileType::Directory => self.one_folder(from, to, name, at, depth)?,
                _ => self.done.skipped += 1,
            }
        }
        Ok(())
    }

    fn leave_out(&mut self) {
        self.done.skipped += 1;
        self.done.truncated = true;
    }

    fn one_folder(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &CStr,
        at: &Path,
        depth: u32,
    ) -> Result<(), HarvestError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let Ok(source) = open_theirs(from.as_fd(), name, flags) else {
            self.done.skipped += 1;
            return Ok(());
        };
        let at = at.join(OsStr::from_bytes(name.to_bytes()));
        let made = Owner::with(&self.owner, || make_folder_at(to.as_fd(), name));
        let opened = match made {
            Ok(()) => open_theirs(to.as_fd(), name, flags),
            // The agent's own, when copying in.
            Err(Errno::EXIST) if self.owner.is_some() => open_theirs(to.as_fd(), name, flags),
            Err(e) => Err(e),
        };
        match opened {
            Ok(target) => {
                self.entries += 1;
                self.folder(&source, &target, &at, depth + 1)
            }
            Err(e) if is_about_the_name(e) => {
                self.done.skipped += 1;
                Ok(())
            }
            Err(e) => Err(self.target_failed("making the folder", &at, e)),
        }
    }

    fn one_file(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr, at: &Path) -> Result<(), HarvestError> {
        let opened = open_theirs(from.as_fd(), name, OFlags::RDONLY)
            .and_then(|file| rustix::fs::fstat(&file).map(|stat| (file, stat)));
        let (source, stat) = match opened {
            Ok((file, stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                (file, stat)
            }
            _ => {
                self.done.skipped += 1;
                return Ok(());
            }
        };
        // Told beforehand, as far as that goes, so that what doesn't fit costs no writing.
        if content_bytes(&stat) > self.bytes_left() {
            self.leave_out();
            return Ok(());
        }
        let mode = Mode::from_raw_mode(if stat.st_mode & 0o100 != 0 { 0o700 } else { 0o600 });
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let at = at.join(OsStr::from_bytes(name.to_bytes()));
        let target = match Owner::with(&self.owner, || create_theirs(to.as_fd(), name, flags, mode)) {
            Ok(target) => target,
            Err(e) if is_about_the_name(e) => {
                self.done.skipped += 1;
                return Ok(());
            }
            Err(e) => return Err(self.target_failed("making the file", &at, e)),
        };
        self.entries += 1;
        match self
            .content(&source, &stat, &target)
            .map_err(|e| self.target_failed("writing the file", &at, e))?
        {
            File::Whole => {}
            File::Changed => self.done.changed += 1,
            refused => {
                // A file that was cut would look like a whole one.
                let removed = Owner::with(&self.owner, || rustix::fs::unlinkat(to, name, AtFlags::empty()));
                removed.map_err(|e| self.target_failed("removing the file", &at, e))?;
                self.done.skipped += 1;
                self.done.truncated |= matches!(refused, File::Cut);
                return Ok(());
            }
        }
        // Programs look for their newest checkpoint by its time.
        let times = Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as _ },
            last_modification: rustix::fs::Timespec {
                tv_sec: stat.st_mtime,
                tv_nsec: stat.st_mtime_nsec as _,
            },
        };
        let _ = rustix::fs::futimens(&target, &times);
        self.done.files += 1;
        Ok(())
    }

    fn bytes_left(&self) -> u64 {
        self.bounds.bytes.saturating_sub(self.done.bytes)
    }

    /// Copies what lies between the holes, up to the size the file had. Errors are the target's.
    fn content(&mut self, from: &OwnedFd, stat: &Stat, to: &OwnedFd) -> Result<File, Errno> {
        let size = stat.st_size as u64;
        match rustix::fs::ftruncate(to, size) {
            Ok(()) => {}
            // Larger than the target's files can be, holes and all.
            Err(Errno::FBIG | Errno::INVAL) => return Ok(File::Impossible),
            Err(e) => return Err(e),
        }
        let mut buffer = vec![0u8; 128 * 1024];
        let mut at = 0u64;
        while at < size {
            let (start, end) = match rustix::fs::seek(from, SeekFrom::Data(at)) {
                Ok(start) => {
                    let end = rustix::fs::seek(from, SeekFrom::Hole(start)).unwrap_or(size);
                    (start.min(size), end.min(size))
                }
                // Only a hole is left.
                Err(Errno::NXIO) => break,
                Err(_) => (at, size),
            };
            if end <= start {
                // It has changed between the two seeks, or the rest lies beyond the size it had.
                if start >= size {
                    break;
                }
                at = start + 1;
                continue;
            }
            at = start;
            while at < end {
                let want = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
                let got = match rustix::io::retry_on_intr(|| rustix::io::pread(from, &mut buffer[..want], at))
                {
                    Ok(0) => return Ok(File::Changed),
                    Ok(n) => n,
                    Err(_) => return Ok(File::Impossible),
                };
                if got as u64 > self.bytes_left() {
                    return Ok(File::Cut);
                }
                write_all_at(to, &buffer[..got], at)?;
                self.done.bytes += got as u64;
                at += got as u64;
            }
        }
        let same = rustix::fs::fstat(from).is_ok_and(|now| {
            (now.st_size, now.st_mtime, now.st_mtime_nsec)
                == (stat.st_size, stat.st_mtime, stat.st_mtime_nsec)
        });
        Ok(if same { File::Whole } else { File::Changed })
    }

    fn target_failed(&self, doing: &'static str, at: &Path, e: Errno) -> HarvestError {
        if self.owner.is_none() { host(doing, at, e) } else { theirs(doing, &at.display().to_string(), e) }
    }
}

/// The target's file system can't have this name, or has it already.
fn is_about_the_name(e: Errno) -> bool {
    matches!(e, Errno::NAMETOOLONG | Errno::INVAL | Errno::ILSEQ | Errno::EXIST | Errno::LOOP | Errno::NOTDIR)
}

/// Without holes; st_blocks counts 512 bytes (stat(3type)), and may reserve beyond the end.
fn content_bytes(stat: &Stat) -> u64 {
    (stat.st_size as u64).min((stat.st_blocks as u64).saturating_mul(512))
}

fn write_all_at(to: &OwnedFd, mut bytes: &[u8], mut at: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let n = rustix::io::retry_on_intr(|| rustix::io::pwrite(to, bytes, at))?;
        if n == 0 {
            return Err(Errno::IO);
        }
        bytes = &bytes[n..];
        at += n as u64;
    }
    Ok(())
}

fn c_path(path: &Path) -> Result<CString, HarvestError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| host("naming the folder", path, Errno::INVAL))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(suffix);
    PathBuf::from(name)
}

fn make_folder_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o700))
}

fn open_ours(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

fn make_parents(path: &Path) -> Result<(), HarvestError> {
    use std::os::unix::fs::DirBuilderExt;
    let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) else { return Ok(()) };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .map_err(|e| host_io("making the folder", parent, &e))
}

fn remove(path: &Path) -> Result<(), HarvestError> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(host_io("removing the folder", path, &e)),
        _ => Ok(()),
    }
}

/// With more files than this, one call for the whole file system costs less than one for each.
const FEW: u32 = 64;

/// Puts on the disk what was written. An agent chooses how many files that is, so their number must not multiply the time
/// that a disk takes: 60,000 of a byte each would be half a minute of fsync.
fn sync(folder: &OwnedFd, at: &Path, entries: u32) -> Result<(), HarvestError> {
    if entries <= FEW {
        return sync_tree(folder, at);
    }
    rustix::fs::syncfs(folder).map_err(|e| host("syncing the folder", at, e))
}

/// After everything was written: the later calls find most of it already on its way.
fn sync_tree(folder: &OwnedFd, at: &Path) -> Result<(), HarvestError> {
    let failed = |e| host("syncing the folder", at, e);
    for entry in Dir::read_from(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if is_dots(name) {
            continue;
        }
        let below = open_theirs(folder.as_fd(), name, OFlags::RDONLY).map_err(failed)?;
        let stat = rustix::fs::fstat(&below).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            sync_tree(&below, &at.join(OsStr::from_bytes(name.to_bytes())))?;
        } else {
            rustix::fs::fsync(&below).map_err(failed)?;
        }
    }
    rustix::fs::fsync(folder).map_err(failed)
}

/// Puts `partial` in the place of `dest`, durably.
fn replace(partial: &Path, dest: &Path) -> Result<(), HarvestError> {
    let failed = |e| host("putting the copy in its place at", dest, e);
    match rustix::fs::renameat_with(CWD, partial, CWD, dest, RenameFlags::EXCHANGE) {
        // The old one is called partial now.
        Ok(()) => {
            sync_parent(dest)?;
            remove(partial)
        }
        Err(Errno::NOENT) => {
            rustix::fs::rename(partial, dest).map_err(failed)?;
            sync_parent(dest)
        }
        // File systems without an exchange. `settle` mends a crash between the two renames.
        Err(_) => {
            let old = beside(dest, ".old");
            remove(&old)?;
            rustix::fs::rename(dest, &old).map_err(failed)?;
            rustix::fs::rename(partial, dest).map_err(failed)?;
            sync_parent(dest)?;
            remove(&old)
        }
    }
}

/// Ends what a crash has left of a replacement: with no `dest`, the old one comes back.
pub fn settle(dest: &Path) -> Result<(), HarvestError> {
    let old = beside(dest, ".old");
    if !old.exists() {
        return Ok(());
    }
    if dest.exists() {
        return remove(&old);
    }
    rustix::fs::rename(&old, dest).map_err(|e| host("taking back the old folder", dest, e))
}

/// Takes away what was copied to `dest`, and what is left of copies; waits for one that is under way.
pub fn discard(dest: &Path) {
    let _turn = Turn::at(dest);
    for folder in [dest.to_path_buf(), beside(dest, ".partial"), beside(dest, ".old")] {
        // What stays because of an error takes space, and does no harm.
        let _ = remove(&folder);
    }
}

fn sync_parent(path: &Path) -> Result<(), HarvestError> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    open_ours(parent).and_then(|fd| rustix::fs::fsync(&fd)).map_err(|e| host("syncing the folder", parent, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    const ROOMY: Bounds = Bounds { bytes: 1 << 20, files: 100, depth: 8 };

    struct Place {
        dir: tempfile::TempDir,
        scratch: OwnedFd,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().expect("folder");
        for sub in ["scratch/work", "scratch/out", "scratch/checkpoint", "host"] {
            std::fs::create_dir_all(dir.path().join(sub)).expect("folder");
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let scratch = rustix::fs::open(dir.path().join("scratch"), flags, Mode::empty()).expect("scratch");
        Place { dir, scratch }
    }

    impl Place {
        fn out(&self, name: &str) -> PathBuf {
            self.dir.path().join("scratch/out").join(name)
        }

        fn dest(&self) -> PathBuf {
            self.dir.path().join("host/kept/out")
        }

        fn copy(&self, bounds: &Bounds) -> Copied {
            copy_out(self.scratch.as_fd(), "out", &self.dest(), bounds).expect("copied")
        }
    }

    fn fifo(path: &Path) {
        rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o666), 0).expect("fifo");
    }

    #[test]
    fn only_files_and_folders_come_out() {
        let p = place();
        assert!(is_empty(p.scratch.as_fd(), "out"));
        assert!(is_empty(p.scratch.as_fd(), "nothing"));
        std::fs::write(p.out("a"), b"aa").expect("write");
        std::fs::create_dir_all(p.out("d/e")).expect("folder");
        std::fs::write(p.out("d/e/run.sh"), b"#!/bin/sh").expect("write");
        std::fs::set_permissions(p.out("d/e/run.sh"), std::fs::Permissions::from_mode(0o4755)).expect("mode");
        symlink("/etc/shadow", p.out("shadow")).expect("link");
        symlink("/etc", p.out("etc")).expect("link");
        symlink("d", p.out("linked")).expect("link");
        fifo(&p.out("fifo"));
        let _socket = std::os::unix::net::UnixListener::bind(p.out("socket")).expect("socket");
        assert!(!is_empty(p.scratch.as_fd(), "out"));
        let copied = p.copy(&ROOMY);
        assert_eq!(copied, Copied { files: 2, bytes: 11, skipped: 5, truncated: false, changed: 0 });
        assert_eq!(std::fs::read(p.dest().join("a")).expect("read"), b"aa");
        let mode = |name: &str| std::fs::metadata(p.dest().join(name)).expect("stat").mode() & 0o7777;
        assert_eq!((mode("a"), mode("d"), mode("d/e/run.sh")), (0o600, 0o700, 0o700));
        assert_eq!(std::fs::read_dir(p.dest()).expect("read").count(), 2);
        assert!(!p.dir.path().join("host/kept/out.partial").exists());
    }

    #[test]
    fn hostile_names_stay_what_they_are() {
        let p = place();
        let names: [&[u8]; 5] = [b"..a", b"\xff\xfe", b"new\nline", b"\x1b[2J", &[b'x'; 255]];
        for name in names {
            std::fs::write(p.dir.path().join("scratch/out").join(OsStr::from_bytes(name)), b"1")
                .expect("write");
        }
        assert_eq!(p.copy(&ROOMY).files, 5);
        for name in names {
            assert!(p.dest().join(OsStr::from_bytes(name)).exists());
        }
        assert_eq!(std::fs::read_dir(p.dir.path().join("host")).expect("read").count(), 1);
    }

    #[test]
    fn an_older_copy_is_replaced_and_its_leftovers_vanish() {
        let p = place();
        std::fs::write(p.out("one"), b"1").expect("write");
        p.copy(&ROOMY);
        std::fs::remove_file(p.out("one")).expect("remove");
        std::fs::write(p.out("two"), b"2").expect("write");
        // As a crash in the midst would leave it.
        std::fs::create_dir_all(p.dir.path().join("host/kept/out.partial/rubbish")).expect("folder");
        p.copy(&ROOMY);
        assert!(!p.dest().join("one").exists() && p.dest().join("two").exists());
        assert_eq!(std::fs::read_dir(p.dir.path().join("host/kept")).expect("read").count(), 1);
        // A refused copy leaves it alone.
        std::fs::write(p.out("three"), b"3").expect("write");
        let (_, kept) =
            copy_out_if(p.scratch.as_fd(), "out", &p.dest(), &ROOMY, |c| c.files == 7).expect("copied");
        assert!(!kept && !p.dest().join("three").exists());
        assert_eq!(std::fs::read_dir(p.dir.path().join("host/kept")).expect("read").count(), 1);
    }

    #[test]
    fn many_files_dont_cost_a_sync_each() {
        let p = place();
        for n in 0..5_000 {
            std::fs::write(p.out(&format!("f{n}")), b"1").expect("write");
        }
        let bounds = Bounds { files: 10_000, ..ROOMY };
        assert_eq!(p.copy(&bounds).files, 5_000);
        assert_eq!(std::fs::read(p.dest().join("f4999")).expect("read"), b"1");
    }

    #[test]
    fn two_copies_to_one_place_take_turns() {
        let p = place();
        for n in 0..20 {
            std::fs::write(p.out(&format!("f{n}")), b"1").expect("write");
        }
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| (0..10).for_each(|_| assert_eq!(p.copy(&ROOMY).files, 20)));
            }
        });
        assert_eq!(std::fs::read_dir(p.dir.path().join("host/kept")).expect("read").count(), 1);
    }

    #[test]
    fn a_crash_between_two_renames_is_mended() {
        let p = place();
        let old = p.dir.path().join("host/kept/out.old");
        std::fs::create_dir_all(&old).expect("folder");
        std::fs::write(old.join("x"), b"1").expect("write");
        settle(&p.dest()).expect("settled");
        assert!(p.dest().join("x").exists() && !old.exists());
    }

    #[test]
    fn a_huge_hole_costs_nothing() {
        let p = place();
        let file = std::fs::File::create(p.out("sparse")).expect("create");
        let tebi = 1u64 << 40;
        file.set_len(tebi).expect("a file of 1 TiB");
        std::os::unix::fs::FileExt::write_all_at(&file, b"end", tebi - 3).expect("write");
        let began = std::time::Instant::now();
        let copied = p.copy(&ROOMY);
        assert_eq!((copied.files, copied.truncated), (1, false));
        assert!(copied.bytes <= 65536, "{copied:?}");
        assert!(began.elapsed().as_secs() < 5);
        let meta = std::fs::metadata(p.dest().join("sparse")).expect("stat");
        assert_eq!(meta.len(), tebi);
        assert!(folder_bytes(&p.dest()) <= 1 << 20);
    }

    #[test]
    fn bounds_hold() {
        let p = place();
        std::fs::write(p.out("big"), vec![1u8; 2 << 20]).expect("write");
        let copied = p.copy(&ROOMY);
        assert_eq!((copied.files, copied.bytes, copied.skipped, copied.truncated), (0, 0, 1, true));
        for n in 0..20 {
            std::fs::write(p.out(&format!("f{n}")), b"1").expect("write");
        }
        let copied = p.copy(&Bounds { files: 10, ..ROOMY });
        assert!(copied.truncated && copied.files <= 10);
        assert!(std::fs::read_dir(p.dest()).expect("read").count() <= 10);
        for n in 0..1200 {
            symlink("x", p.out(&format!("l{n}"))).expect("link");
        }
        let copied = p.copy(&Bounds { files: 1, ..ROOMY });
        assert!(copied.truncated && copied.skipped <= 1030);
    }

    #[test]
    fn a_deep_tree_is_cut() {
        let p = place();
        let mut deep = p.out("");
        for _ in 0..200 {
            deep.push("d");
        }
        std::fs::create_dir_all(&deep).expect("folders");
        std::fs::write(deep.join("f"), b"1").expect("write");
        let copied = p.copy(&Bounds { depth: 1000, files: 1000, ..ROOMY });
        assert!(copied.truncated);
        assert_eq!(copied.files, 0);
    }

    #[test]
    fn reading_one_small_file() {
        let p = place();
        let read = |path: &str, max| read_small(p.scratch.as_fd(), path, max);
        let kind = |path: &str| read(path, 100).expect_err("refused").kind;
        std::fs::write(p.dir.path().join("scratch/work/result.json"), b"{}").expect("write");
        assert_eq!(read("work/result.json", 2).expect("read"), b"{}");
        assert_eq!(read("work/result.json", 1).expect_err("too large").kind, HarvestErrorKind::TooLarge);
        assert_eq!(kind("work/none"), HarvestErrorKind::NotFound);
        symlink("/etc/shadow", p.out("shadow")).expect("link");
        symlink("/etc", p.out("etc")).expect("link");
        fifo(&p.out("fifo"));
        assert_eq!(kind("out/shadow"), HarvestErrorKind::NotAFile);
        assert_eq!(kind("out/etc/passwd"), HarvestErrorKind::NotAFile);
        assert_eq!(kind("out/fifo"), HarvestErrorKind::NotAFile);
        assert_eq!(kind("out"), HarvestErrorKind::NotAFile);
        assert_eq!(kind("../../../../etc/passwd"), HarvestErrorKind::NotFound);
        assert_eq!(kind("/etc/passwd"), HarvestErrorKind::NotFound);
    }

    #[test]
    fn the_sub_folder_itself_may_be_a_lie() {
        let p = place();
        std::fs::remove_dir(p.out("")).expect("remove");
        symlink("/etc", p.dir.path().join("scratch/out")).expect("link");
        assert!(copy_out(p.scratch.as_fd(), "out", &p.dest(), &ROOMY).is_err());
        assert!(is_empty(p.scratch.as_fd(), "out"));
        let src = p.dir.path().join("host/src");
        std::fs::create_dir(&src).expect("folder");
        std::fs::write(src.join("owned"), b"1").expect("write");
        assert!(
            copy_in(&src, p.scratch.as_fd(), "out", rustix::process::geteuid().as_raw(), &ROOMY).is_err()
        );
        assert!(!Path::new("/etc/owned").exists());
    }

    #[test]
    fn files_go_in_as_the_agents() {
        let p = place();
        let root = rustix::process::geteuid().is_root();
        let uid = if root { 54321 } else { rustix::process::geteuid().as_raw() };
        let checkpoint = p.dir.path().join("scratch/checkpoint");
        std::os::unix::fs::chown(&checkpoint, Some(uid), None).expect("chown");
        std::fs::set_permissions(p.dir.path(), std::fs::Permissions::from_mode(0o700)).expect("mode");
        let src = p.dir.path().join("host/src");
        std::fs::create_dir_all(src.join("deep/er")).expect("folder");
        std::fs::write(src.join("deep/er/model"), b"weights").expect("write");
        std::fs::write(src.join("there"), b"new").expect("write");
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        std::fs::File::options()
            .write(true)
            .open(src.join("deep/er/model"))
            .and_then(|f| f.set_modified(time))
            .expect("time");
        symlink("/etc/passwd", checkpoint.join("there")).expect("link");
        let copied = copy_in(&src, p.scratch.as_fd(), "checkpoint", uid, &ROOMY).expect("copied");
        assert_eq!((copied.files, copied.bytes, copied.skipped), (1, 7, 1));
        let meta = std::fs::metadata(checkpoint.join("deep/er/model")).expect("stat");
        assert_eq!((meta.uid(), meta.mode() & 0o777), (uid, 0o600));
        assert_eq!(meta.modified().expect("time"), time);
        assert_eq!(std::fs::metadata(checkpoint.join("deep")).expect("stat").uid(), uid);
        let none = copy_in(&p.dir.path().join("none"), p.scratch.as_fd(), "checkpoint", uid, &ROOMY);
        assert_eq!(none.expect_err("none there").kind, HarvestErrorKind::NotFound);
    }
}
