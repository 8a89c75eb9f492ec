//! A buffer that slides over a file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const WINDOW_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct Window {
    file: File,
    buffer: Vec<u8>,
    start: u64,
    filled: usize,
}

impl Window {
    pub(crate) fn new(file: File) -> Window {
        Window { file, buffer: Vec::new(), start: 0, filled: 0 }
    }

    /// The bytes at `offset`: `len` of them, fewer only where the file ends.
    pub(crate) fn bytes(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let inside = offset >= self.start && offset + len as u64 <= self.start + self.filled as u64;
        if !inside {
            self.fill(offset, len.max(WINDOW_BYTES))?;
        }
        let from = (offset - self.start) as usize;
        Ok(&self.buffer[from..self.filled.min(from + len)])
    }

    /// As many bytes at `offset` as one window holds, none only where the file ends.
    pub(crate) fn chunk(&mut self, offset: u64) -> io::Result<&[u8]> {
        self.fill(offset, WINDOW_BYTES)?;
        Ok(&self.buffer[..self.filled])
    }

    fn fill(&mut self, offset: u64, len: usize) -> io::Result<()> {
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        (self.start, self.filled) = (offset, 0);
        while self.filled < len {
            match self.file.read_at(&mut self.buffer[self.filled..len], offset + self.filled as u64) {
                Ok(0) => break,
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Where the next byte that isn't a hole may be, at or after `offset`; `None` when only holes follow. Preallocated
    /// space is a hole to lseek(2), so a fresh segment's 16 MiB of zeros needn't be read at each start.
    pub(crate) fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(offset)) {
            Ok(at) => Ok(Some(at)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(rustix::io::Errno::INVAL) => Ok(Some(offset)),
            Err(errno) => Err(errno.into()),
        }
    }
}
