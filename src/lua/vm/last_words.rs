//! The work of a stuck thread, for the log line before the process ends.
//!
//! A signal handler writes it, so it uses only atomics: no lock, no allocation, and as much of the names as fits.

use std::sync::atomic::{AtomicU64, Ordering};

/// The work of a thread, for the last words of the process.
#[derive(Clone, Copy, Debug)]
pub(in crate::lua) struct About<'a> {
    pub(in crate::lua) listener: &'a str,
    pub(in crate::lua) topic: &'a str,
    pub(in crate::lua) partition: i32,
    pub(in crate::lua) offset: i64,
    /// Of the message; -1 if it has none.
    pub(in crate::lua) timestamp_ms: i64,
}

#[derive(Default)]
pub(in crate::lua) struct LastWords {
    partition: AtomicU64,
    offset: AtomicU64,
    listener: [AtomicU64; 16],
    topic: [AtomicU64; 32],
    /// The position at which the slice with this sequence was found.
    position_of: AtomicU64,
    source: [AtomicU64; 8],
    line: AtomicU64,
}

/// The same data, read back.
pub(in crate::lua) struct Words {
    pub(in crate::lua) listener: String,
    pub(in crate::lua) topic: String,
    pub(in crate::lua) partition: i32,
    pub(in crate::lua) offset: i64,
}

impl LastWords {
    pub(in crate::lua) fn read(&self) -> Words {
        Words {
            listener: read_text(&self.listener),
            topic: read_text(&self.topic),
            partition: self.partition.load(Ordering::Relaxed) as i32,
            offset: self.offset.load(Ordering::Relaxed) as i64,
        }
    }

    /// `handlers/orders.lua:3`, once the signal handler has noted it for this slice.
    pub(in crate::lua) fn position(&self, sequence: u64) -> Option<String> {
        if self.position_of.load(Ordering::Acquire) != sequence {
            return None;
        }
        let source = read_text(&self.source);
        let line = self.line.load(Ordering::Relaxed);
        (!source.is_empty()).then(|| format!("{source}:{line}"))
    }

    /// Notes the position of a slice; an empty `source` where Lua knows none.
    pub(in crate::lua) fn write_position(&self, sequence: u64, source: &[u8], line: u64) {
        write_bytes(&self.source, source);
        self.line.store(line, Ordering::Relaxed);
        self.position_of.store(sequence, Ordering::Release);
    }

    /// Whether the signal handler has run for this slice since it was to note the position.
    pub(in crate::lua) fn has_position(&self, sequence: u64) -> bool {
        self.position_of.load(Ordering::Acquire) == sequence
    }

    pub(in crate::lua) fn write(&self, about: &About<'_>) {
        self.partition
            .store(about.partition as u64, Ordering::Relaxed);
        self.offset.store(about.offset as u64, Ordering::Relaxed);
        write_bytes(&self.listener, about.listener.as_bytes());
        write_bytes(&self.topic, about.topic.as_bytes());
    }
}

/// Copies as many bytes as fit, without allocation or lock.
fn write_bytes(into: &[AtomicU64], bytes: &[u8]) {
    let mut chunks = bytes.chunks(8);
    for word in into {
        let mut eight = [0; 8];
        if let Some(chunk) = chunks.next() {
            eight[..chunk.len()].copy_from_slice(chunk);
        }
        word.store(u64::from_ne_bytes(eight), Ordering::Relaxed);
    }
}

fn read_text(from: &[AtomicU64]) -> String {
    let bytes: Vec<u8> = from
        .iter()
        .flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes())
        .collect();
    let end = bytes
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_long_names_are_cut() {
        let topic = "t".repeat(300);
        let words = LastWords::default();
        words.write(&About {
            listener: "orders.gotData",
            topic: &topic,
            partition: -1,
            offset: i64::MAX,
            timestamp_ms: -1,
        });
        let read = words.read();
        assert_eq!(
            (read.listener.as_str(), read.topic.len()),
            ("orders.gotData", 256)
        );
        assert_eq!((read.partition, read.offset), (-1, i64::MAX));
    }
}
