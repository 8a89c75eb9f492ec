//! Reads a file of bounded length, whatever its name turns out to be: a pipe or a device too, and never for ever.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest file in bytes.
pub const LONGEST: usize = 64 << 20;
/// How long a pipe may stay without anybody at its other end.
const PATIENCE: Duration = Duration::from_secs(5);

/// The whole of a file.
///
/// # Errors
/// `IsADirectory`; `FileTooLarge` above [`LONGEST`]; `TimedOut` when it is a pipe that nobody opens for writing; what
/// the system says.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_within(path, PATIENCE)
}

fn read_within(path: &Path, patience: Duration) -> io::Result<Vec<u8>> {
    // Without NONBLOCK the mere opening of a pipe waits for its other end (fifo(7)).
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::open(path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&fd)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
    if kind == FileType::Directory {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if kind == FileType::RegularFile && usize::try_from(stat.st_size).is_ok_and(|n| n > LONGEST) {
        return Err(too_large());
    }
    let deadline = Instant::now() + patience;
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        match rustix::io::read(&fd, &mut chunk[..]) {
            // Nobody has opened the other end yet; once somebody has, what was read isn't empty or is waited for.
            Ok(0) if kind == FileType::Fifo && bytes.is_empty() && !closed(&fd)? => {
                if Instant::now() >= deadline {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(0) => return Ok(bytes),
            Ok(n) => bytes.extend_from_slice(&chunk[..n]),
            // Somebody is there, and takes their time: as long as they like.
            Err(Errno::AGAIN) => match poll(&mut [PollFd::new(&fd, PollFlags::IN)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            },
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        if bytes.len() > LONGEST {
            return Err(too_large());
        }
    }
}

/// Whether a pipe had a writer, and has none any more; POLLHUP stays off until the first one came (fs/pipe.c).
fn closed(fd: &rustix::fd::OwnedFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(fds[0].revents().contains(PollFlags::HUP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    fn fifo(dir: &Path) -> std::path::PathBuf {
        let path = dir.join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .expect("mkfifo");
        path
    }

    fn kind(path: &Path) -> io::ErrorKind {
        read_within(path, Duration::from_millis(50)).expect_err("refused").kind()
    }

    #[test]
    fn a_pipe_that_nobody_writes_to_is_given_up() {
        let t = tempfile::tempdir().expect("tempdir");
        assert_eq!(kind(&fifo(t.path())), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_pipe_is_read_to_its_end_however_slow_its_writer_is() {
        let t = tempfile::tempdir().expect("tempdir");
        let path = fifo(t.path());
        let theirs = path.clone();
        let writer = std::thread::spawn(move || {
            let mut w = std::fs::File::options().write(true).open(theirs).expect("open");
            for _ in 0..3 {
                std::thread::sleep(Duration::from_millis(60));
                w.write_all(b"abc").expect("write");
            }
        });
        // Far longer than the patience with nobody: somebody is there.
        assert_eq!(read(&path).expect("read"), b"abcabcabc");
        writer.join().expect("writer");
        let theirs = path.clone();
        let writer = std::thread::spawn(move || drop(std::fs::File::options().write(true).open(theirs)));
        assert_eq!(read(&path).expect("an empty one"), b"");
        writer.join().expect("writer");
    }

    #[test]
    fn folders_endless_devices_and_huge_files_are_refused() {
        let t = tempfile::tempdir().expect("tempdir");
        assert_eq!(kind(t.path()), io::ErrorKind::IsADirectory);
        symlink("/dev/zero", t.path().join("zero")).expect("link");
        assert_eq!(kind(&t.path().join("zero")), io::ErrorKind::FileTooLarge);
        let huge = std::fs::File::create(t.path().join("huge")).expect("create");
        huge.set_len(LONGEST as u64 + 1).expect("grow");
        assert_eq!(kind(&t.path().join("huge")), io::ErrorKind::FileTooLarge);
        assert_eq!(read(Path::new("/dev/null")).expect("nothing"), b"");
        assert_eq!(kind(&t.path().join("none")), io::ErrorKind::NotFound);
    }
}
