//! The lines for the log file: a queue bounded by bytes, and the thread that writes them.
//!
//! A thread that logs never waits for the disk. A line without room in the queue is dropped and counted, and so is a
//! line that the disk does not take.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use super::fit::fit;

/// The most bytes of lines that wait for the disk, including those that are being written.
const BYTES_MAX: usize = 4 << 20;
/// A larger buffer is freed when it is empty.
const BUFFER_BYTES_MAX: usize = 256 << 10;

/// The destination of the lines. Each call may take as long as the disk does.
pub(super) trait Sink {
    /// Returns how many of the lines were dropped.
    fn write(&mut self, lines: &[u8]) -> u64;

    /// Opens its file again, which may have been renamed.
    fn reopen(&mut self);
}

#[derive(Clone, Debug, Default)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Wakes the writer.
    bell: Condvar,
    /// Signals the end of the writer.
    end: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// Bytes that the writer has taken and not written yet.
    in_hand: usize,
    is_to_reopen: bool,
    is_closed: bool,
    has_ended: bool,
}

impl State {
    fn add(&mut self, line: &[u8]) {
        let (len, capacity) = (self.waiting.len(), self.waiting.capacity());
        if capacity - len < line.len() {
            // The capacity doubles, as in a vector, but never beyond the bound.
            let capacity = (2 * capacity).max(len + line.len()).min(BYTES_MAX);
            self.waiting.reserve_exact(capacity - len);
        }
        self.waiting.extend_from_slice(line);
    }
}

impl Queue {
    /// Lines that did not reach the sink.
    pub(super) fn dropped_lines(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// One line, with its end.
    fn push(&self, line: &[u8]) {
        let line = fit(line);
        let mut state = self.0.lock();
        let has_room = state.waiting.len() + state.in_hand + line.len() <= BYTES_MAX;
        if state.is_closed || !has_room {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.add(&line);
        drop(state);
        self.0.bell.notify_one();
    }

    /// Later lines go to the file that has the name then. Does not wait.
    pub(super) fn reopen(&self) {
        self.0.lock().is_to_reopen = true;
        self.0.bell.notify_one();
    }

    /// Takes no more lines. Returns whether the waiting lines were written within that time.
    pub(super) fn close(&self, within: Duration) -> bool {
        let mut state = self.0.lock();
        state.is_closed = true;
        self.0.bell.notify_one();
        let ended = self
            .0
            .end
            .wait_timeout_while(state, within, |state| !state.has_ended);
        ended.unwrap_or_else(PoisonError::into_inner).0.has_ended
    }

    /// The writer's thread: runs until the queue is closed and empty.
    pub(super) fn serve(&self, sink: &mut dyn Sink) {
        let _end = End(self.clone());
        let mut lines = Vec::new();
        while let Some(is_to_reopen) = self.0.take(&mut lines) {
            if is_to_reopen {
                sink.reopen();
            }
            if !lines.is_empty() {
                let dropped = sink.write(&lines);
                self.0.dropped.fetch_add(dropped, Ordering::Relaxed);
            }
            lines.clear();
            lines.shrink_to(BUFFER_BYTES_MAX);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for lines or another task. Returns whether to open the file again; `None`: no more lines follow.
    fn take(&self, lines: &mut Vec<u8>) -> Option<bool> {
        let mut state = self.lock();
        state.in_hand = 0;
        let is_idle =
            |state: &mut State| state.waiting.is_empty() && !state.is_to_reopen && !state.is_closed;
        let woken = self.bell.wait_while(state, is_idle);
        state = woken.unwrap_or_else(PoisonError::into_inner);
        if state.waiting.is_empty() && !state.is_to_reopen {
            return None;
        }
        std::mem::swap(&mut state.waiting, lines);
        state.in_hand = lines.len();
        Some(std::mem::take(&mut state.is_to_reopen))
    }
}

/// Signals the end of the writer, also when it panics.
struct End(Queue);

impl Drop for End {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.is_closed = true;
        state.has_ended = true;
        state.waiting = Vec::new();
        self.0.0.end.notify_all();
    }
}

impl Write for &Queue {
    /// The formatting layer passes whole lines.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = &'a Queue;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// Says what it is asked for, and writes when it may.
    struct Slow {
        said: Sender<String>,
        may: Receiver<()>,
    }

    impl Sink for Slow {
        fn write(&mut self, lines: &[u8]) -> u64 {
            let lines = String::from_utf8(lines.to_vec()).unwrap();
            self.said.send(lines).unwrap();
            self.may.recv().unwrap();
            0
        }

        fn reopen(&mut self) {
            self.said.send("reopen".to_owned()).unwrap();
        }
    }

    struct Served {
        queue: Queue,
        said: Receiver<String>,
        may: Sender<()>,
    }

    fn serve() -> Served {
        let queue = Queue::default();
        let (say, said) = channel();
        let (may, wait) = channel();
        std::thread::spawn({
            let queue = queue.clone();
            move || {
                let mut sink = Slow {
                    said: say,
                    may: wait,
                };
                queue.serve(&mut sink);
            }
        });
        Served { queue, said, may }
    }

    impl Served {
        fn said(&self) -> String {
            self.said.recv_timeout(SOON).unwrap()
        }
    }

    #[test]
    fn a_disk_that_hangs_holds_a_bounded_number_of_bytes_whatever_the_lines() {
        for line_bytes in [100, 10_000, 1_000_000] {
            let served = serve();
            served.queue.push(b"first\n");
            assert_eq!(served.said(), "first\n");
            let line = "x".repeat(line_bytes - 1) + "\n";
            let count = 2 * BYTES_MAX / line_bytes.min(crate::log::LINE_BYTES_MAX) + 2;
            for _ in 0..count {
                served.queue.push(line.as_bytes());
            }
            let state = served.queue.0.lock();
            let held = state.waiting.len();
            assert!(held <= BYTES_MAX && state.waiting.capacity() <= BYTES_MAX);
            assert!(held > BYTES_MAX / 2);
            drop(state);
            let taken = held / fit(line.as_bytes()).len();
            assert_eq!(served.queue.dropped_lines() as usize, count - taken);
            drop(served.may);
        }
    }

    #[test]
    fn lines_after_a_reopen_are_written_after_it() {
        let served = serve();
        served.queue.push(b"before\n");
        assert_eq!(served.said(), "before\n");
        served.queue.reopen();
        served.queue.push(b"after\n");
        served.may.send(()).unwrap();
        assert_eq!(served.said(), "reopen");
        assert_eq!(served.said(), "after\n");
        served.may.send(()).unwrap();
    }

    #[test]
    fn a_file_is_opened_again_also_where_nothing_is_logged() {
        let served = serve();
        served.queue.reopen();
        assert_eq!(served.said(), "reopen");
    }

    #[test]
    fn the_end_waits_for_the_lines_and_not_for_ever() {
        let served = serve();
        served.queue.push(b"one\n");
        assert!(!served.queue.close(Duration::ZERO));
        served.may.send(()).unwrap();
        assert!(served.queue.close(SOON));
        assert_eq!(served.said(), "one\n");
        served.queue.push(b"late\n");
        assert_eq!(served.queue.dropped_lines(), 1);
    }

    #[test]
    fn a_writer_that_panics_costs_lines_and_nothing_else() {
        let served = serve();
        served.queue.push(b"one\n");
        assert_eq!(served.said(), "one\n");
        drop(served.may);
        let ended = served.queue.close(SOON);
        assert!(ended);
    }
}
