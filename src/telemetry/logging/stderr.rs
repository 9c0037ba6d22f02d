//! Standard error as a sink for log lines: it neither panics nor waits for ever.
//!
//! `eprintln!` panics when the reader of a pipe has closed it, and blocks when the reader has stopped reading. A
//! daemon that is blocked by its log would lose its group membership. Here a line that its reader does not take
//! within a second is dropped and counted. So are the next lines, until the pipe is writable again. Lines are whole.
#![expect(
    unsafe_code,
    reason = "poll(2) tells whether a write would block, without making the shared pipe non-blocking"
)]

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use super::fit::fit;
use super::whole::Whole;

/// How long one line may wait for its reader.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// A pipe that is ready for writing has room for this many bytes (`PIPE_BUF`), so that a write of them does not
/// block.
const PIECE_BYTES: usize = 4096;

#[derive(Clone, Debug, Default)]
pub(super) struct Stderr(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// The lock separates the lines of several threads.
    state: Mutex<State>,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    whole: Whole,
    /// The reader has stopped reading.
    is_stuck: bool,
}

impl Stderr {
    pub(super) fn dropped_lines(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    fn line(&self, line: &[u8], fd: libc::c_int) {
        let line = fit(line);
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = if state.is_stuck {
            Duration::ZERO
        } else {
            WAIT_MAX
        };
        let deadline = Instant::now() + wait;
        let result = state
            .whole
            .entry(&line, &mut |bytes| write_piece(fd, bytes, deadline));
        state.is_stuck = false;
        if let Err(error) = result {
            state.is_stuck = error.kind() == io::ErrorKind::WouldBlock;
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write_piece(fd: libc::c_int, bytes: &[u8], deadline: Instant) -> io::Result<usize> {
    let mut ready = libc::pollfd {
        fd,
        events: libc::POLLOUT,
        revents: 0,
    };
    let wait = deadline.saturating_duration_since(Instant::now());
    // SAFETY: one initialised pollfd, and its count.
    let found = unsafe { libc::poll(&raw mut ready, 1, wait.as_millis() as i32) };
    if found == 0 {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let piece = &bytes[..bytes.len().min(PIECE_BYTES)];
    let written = if found < 0 {
        found as isize
    } else {
        // SAFETY: the pointer and the length are those of a live slice.
        unsafe { libc::write(fd, piece.as_ptr().cast(), piece.len()) }
    };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

impl Write for &Stderr {
    /// The formatting layer passes whole lines. Errors end here: only the count can report them.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.line(line, libc::STDERR_FILENO);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = &'a Stderr;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_reader_that_has_gone_costs_the_line_and_nothing_else() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let stderr = Stderr::default();
        stderr.line(b"nobody reads this\n", ours.as_raw_fd());
        assert_eq!(stderr.dropped_lines(), 1);
    }

    #[test]
    fn a_reader_that_stopped_reading_costs_lines_until_it_reads_again() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let stderr = Stderr::default();
        let line = vec![b'x'; PIECE_BYTES];
        // More lines than any default socket buffer holds.
        for _ in 0..1_000 {
            stderr.line(&line, ours.as_raw_fd());
            if stderr.dropped_lines() > 2 {
                break;
            }
        }
        let dropped = stderr.dropped_lines();
        assert!(dropped > 2, "{dropped} lines were dropped");

        theirs.set_nonblocking(true).unwrap();
        let mut buffer = vec![0; 1 << 20];
        while theirs.read(&mut buffer).is_ok() {}
        stderr.line(b"read again\n", ours.as_raw_fd());
        assert_eq!(stderr.dropped_lines(), dropped);
        let read = theirs.read(&mut buffer).unwrap();
        assert_eq!(&buffer[..read], b"read again\n");
    }

    #[test]
    fn a_line_of_which_a_part_was_read_never_shares_its_line_with_the_next() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let stderr = Stderr::default();
        let line = "x".repeat(10 * PIECE_BYTES) + "\n";
        while stderr.dropped_lines() == 0 {
            stderr.line(line.as_bytes(), ours.as_raw_fd());
        }
        theirs.set_nonblocking(true).unwrap();
        let mut text = Vec::new();
        let _ = theirs.read_to_end(&mut text);
        stderr.line(b"read again\n", ours.as_raw_fd());
        let _ = theirs.read_to_end(&mut text);
        assert_eq!(stderr.dropped_lines(), 1);
        let text = String::from_utf8(text).unwrap();
        assert!(text.ends_with("\nread again\n"));
    }
}
