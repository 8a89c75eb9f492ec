//! `clove sweep artifacts`: copies what tasks wrote to `$CLOVE_OUT`. Its authors may be hostile, so no link is followed.

use super::which;
use crate::cli::counted::counted;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::session::Session;
use crate::cli::{json, stdio};
use clap::Args;
use clove_abi::calls::RunArtifacts;
use clove_manifest::units::Bytes;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, SeekFrom, ftruncate, mkdirat, openat, seek, statat,
};
use rustix::io::{Errno, pread, pwrite, retry_on_intr};
use serde_json::json;
use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Copies what a sweep's tasks wrote to $CLOVE_OUT into a folder
#[derive(Args, Debug)]
pub struct ArtifactsArgs {
    /// r3, a name, or last
    #[arg(value_name = "ID")]
    run: String,
    /// [N] DEST: one task's number or name, when only its files are wanted; where to copy to, made if it is missing
    #[arg(value_name = "[N] DEST", required = true, num_args = 1..=2)]
    what: Vec<String>,
    /// Every attempt's files, as N/ATTEMPT/..., and not only the last one's, as N/...
    #[arg(long)]
    all_attempts: bool,
    /// Print one object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &ArtifactsArgs) -> Outcome {
    let mut session = Session::open("clove sweep artifacts")?;
    let run = which::run(&mut session, &args.run)?;
    let (task, dest) = match args.what.as_slice() {
        [task, dest] => (Some(which::task(&mut session, run, task)?), dest),
        [dest] => (None, dest),
        _ => return Err(Failure::usage("say where to copy to")),
    };
    let folder = PathBuf::from(session.call(&RunArtifacts { run, task })?.folder);
    let dest = Path::new(dest);
    let mut copied = Copied::default();
    if folder.is_dir() {
        copy_tasks(&folder, dest, task, args.all_attempts, &mut copied)
            .map_err(|e| Failure::new(format!("copying to {} failed", dest.display())).why(e))?;
    }
    for path in copied.skipped.iter().take(20) {
        stdio::say(&format!("note: left out, as it is neither a file nor a folder: {path}"));
    }
    if args.json {
        json::print(
            &json!({"id": run, "folder": dest, "files": copied.files, "bytes": copied.bytes, "skipped": copied.skipped}),
        );
    } else if copied.files == 0 {
        stdio::say("there are no files: tasks keep what they write to the folder $CLOVE_OUT");
    } else {
        stdio::say(&format!(
            "{}, {}, copied to {}",
            counted(copied.files, "file"),
            Bytes(copied.bytes),
            dest.display()
        ));
    }
    Ok(0)
}

/// What was copied.
#[derive(Debug, Default)]
struct Copied {
    files: u64,
    bytes: u64,
    skipped: Vec<String>,
}

type Words = String;

/// `OUT/<task>/<attempt>/...` to `DEST/<task>/...`. The kernel may have answered with one task's own folder.
fn copy_tasks(
    out: &Path,
    dest: &Path,
    only: Option<u32>,
    all: bool,
    copied: &mut Copied,
) -> Result<(), Words> {
    let own = only.filter(|n| out.file_name().is_some_and(|f| f == OsStr::new(&n.to_string())));
    let tasks: Vec<(u32, PathBuf)> = match own {
        Some(n) => vec![(n, out.to_owned())],
        None => numbered(out)?.into_iter().filter(|(n, _)| only.is_none_or(|o| o == *n)).collect(),
    };
    for (n, path) in tasks {
        let attempts = numbered(&path)?;
        let wanted: Vec<_> = if all { attempts } else { attempts.into_iter().max().into_iter().collect() };
        for (attempt, from) in wanted {
            let to = if all {
                dest.join(n.to_string()).join(attempt.to_string())
            } else {
                dest.join(n.to_string())
            };
            let dir = open_dir(CWD, &from).map_err(|e| words("opening", &from, e))?;
            std::fs::create_dir_all(&to).map_err(|e| format!("making {}: {e}", to.display()))?;
            let target = open_dir(CWD, &to).map_err(|e| words("opening", &to, e))?;
            copy_folder(&dir, &target, &to, 0, copied)?;
        }
    }
    Ok(())
}

/// Sub-folders with a number for a name, in order.
fn numbered(folder: &Path) -> Result<Vec<(u32, PathBuf)>, Words> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("reading {}: {e}", folder.display()))?;
    let mut out: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path())))
        .collect();
    out.sort();
    Ok(out)
}

fn open_dir(at: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Copies regular files and folders; everything is opened below its folder's descriptor without following links, so a
/// task that swaps a folder for a link while we copy gains nothing, on neither side: it may be able to write to the target
/// too. `at` is the target, for messages.
fn copy_folder(
    from: &OwnedFd,
    to: &OwnedFd,
    at: &Path,
    depth: u32,
    copied: &mut Copied,
) -> Result<(), Words> {
    if depth > 64 {
        copied.skipped.push(at.display().to_string());
        return Ok(());
    }
    let dir = Dir::read_from(from).map_err(|e| words("reading", at, e))?;
    for entry in dir {
        let entry = entry.map_err(|e| words("reading", at, e))?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let path = at.join(OsStr::from_bytes(name.to_bytes()));
        let stat =
            statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| words("looking at", &path, e))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let below = open_dir(from, name).map_err(|e| words("opening", &path, e))?;
                let target = make_folder(to, name).map_err(|e| words("making", &path, e))?;
                copy_folder(&below, &target, &path, depth + 1, copied)?;
            }
            FileType::RegularFile => {
                copied.bytes += copy_file(from.as_fd(), name, to.as_fd(), &path)?;
                copied.files += 1;
            }
            _ => copied.skipped.push(path.display().to_string()),
        }
    }
    Ok(())
}

fn make_folder(to: &OwnedFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    match mkdirat(to, name, Mode::from_raw_mode(0o777)) {
        Err(e) if e != Errno::EXIST => Err(e),
        _ => open_dir(to, name),
    }
}

fn copy_file(from: BorrowedFd<'_>, name: &CStr, to: BorrowedFd<'_>, at: &Path) -> Result<u64, Words> {
    // NONBLOCK: a pipe that has just taken the file's place must not hold us up.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let source = openat(from, name, flags, Mode::empty()).map_err(|e| words("opening", at, e))?;
    let stat = rustix::fs::fstat(&source).map_err(|e| words("looking at", at, e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(0);
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let target = openat(to, name, flags, Mode::from_raw_mode(0o666)).map_err(|e| words("making", at, e))?;
    copy_content(&source, &target, stat.st_size as u64).map_err(|e| words("writing", at, e))
}

/// What lies between the holes: a file of a byte and a hole of a terabyte is to take no more room here than there.
fn copy_content(source: &OwnedFd, target: &OwnedFd, size: u64) -> rustix::io::Result<u64> {
    ftruncate(target, 0)?;
    ftruncate(target, size)?;
    let mut buffer = vec![0u8; 128 << 10];
    let (mut at, mut copied) = (0, 0);
    while at < size {
        let (start, end) = match seek(source, SeekFrom::Data(at)) {
            Ok(start) => (start, seek(source, SeekFrom::Hole(start))?),
            Err(Errno::NXIO) => break,
            // A file system that doesn't tell holes.
            Err(_) => (at, size),
        };
        at = start;
        while at < end {
            let wanted = buffer.len().min((end - at) as usize);
            let got = retry_on_intr(|| pread(source, &mut buffer[..wanted], at))?;
            if got == 0 {
                return Ok(copied);
            }
            let mut written = 0;
            while written < got {
                written += retry_on_intr(|| pwrite(target, &buffer[written..got], at + written as u64))?;
            }
            at += got as u64;
            copied += got as u64;
        }
    }
    Ok(copied)
}

fn words(doing: &str, path: &Path, e: rustix::io::Errno) -> Words {
    format!("{doing} {}: {}", path.display(), clove_client::paths::in_words(&e.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_copied_and_links_are_not_followed() {
        let t = tempfile::tempdir().expect("tempdir");
        let out = t.path().join("out");
        for (path, text) in [("3/1/a.txt", "old"), ("3/2/a.txt", "new"), ("3/2/sub/b", "b"), ("10/1/c", "c")]
        {
            let path = out.join(path);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            std::fs::write(path, text).expect("write");
        }
        std::os::unix::fs::symlink("/etc/passwd", out.join("3/2/link")).expect("symlink");
        std::os::unix::fs::symlink("/etc", out.join("3/2/dir")).expect("symlink");
        let dest = t.path().join("dest");
        let mut copied = Copied::default();
        copy_tasks(&out, &dest, None, false, &mut copied).expect("copied");
        assert_eq!((copied.files, copied.bytes, copied.skipped.len()), (3, 5, 2));
        assert_eq!(std::fs::read_to_string(dest.join("3/a.txt")).expect("a.txt"), "new");
        assert!(dest.join("3/sub/b").exists() && dest.join("10/c").exists() && !dest.join("3/link").exists());
        // Links that lie in the target aren't followed either.
        let (kept, linked) = (t.path().join("kept"), t.path().join("linked"));
        std::fs::write(&kept, "kept").expect("write");
        std::fs::create_dir_all(linked.join("3")).expect("mkdir");
        std::os::unix::fs::symlink(&kept, linked.join("3/a.txt")).expect("symlink");
        assert!(copy_tasks(&out, &linked, Some(3), false, &mut Copied::default()).is_err());
        assert_eq!(std::fs::read_to_string(&kept).expect("kept"), "kept");
        let one = t.path().join("one");
        copy_tasks(&out.join("3"), &one, Some(3), true, &mut Copied::default()).expect("copied");
        assert_eq!(std::fs::read_to_string(one.join("3/1/a.txt")).expect("a.txt"), "old");
        assert!(!one.join("10").exists());
    }

    #[test]
    fn a_hole_stays_a_hole() {
        use std::os::unix::fs::{FileExt, MetadataExt};
        let t = tempfile::tempdir().expect("tempdir");
        let out = t.path().join("out");
        std::fs::create_dir_all(out.join("0/1")).expect("mkdir");
        let file = std::fs::File::create(out.join("0/1/sparse")).expect("create");
        let tebi = 1u64 << 40;
        file.set_len(tebi).expect("a file of 1 TiB");
        file.write_all_at(b"mid", tebi / 2).expect("write");
        let dest = t.path().join("dest");
        let mut copied = Copied::default();
        copy_tasks(&out, &dest, None, false, &mut copied).expect("copied");
        let meta = std::fs::metadata(dest.join("0/sparse")).expect("stat");
        assert_eq!(meta.len(), tebi);
        assert!(meta.blocks() < 1000 && copied.bytes < 1 << 20, "{} blocks, {copied:?}", meta.blocks());
        let mut middle = [0u8; 3];
        let copy = std::fs::File::open(dest.join("0/sparse")).expect("open");
        copy.read_exact_at(&mut middle, tebi / 2).expect("read");
        assert_eq!(&middle, b"mid");
    }
}
