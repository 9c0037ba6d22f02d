//! Whole lines, even when one write takes only a part of them.
//!
//! A short write is continued. When a write fails amid a line, the rest of the line is dropped and counted. The next
//! entry begins on a new line: two JSON objects never share one.

use std::io;

/// Takes the first bytes of the input and returns their number.
pub(super) type Write<'a> = &'a mut dyn FnMut(&[u8]) -> io::Result<usize>;

#[derive(Debug, Default)]
pub(super) struct Whole {
    /// The last byte written was not the end of a line.
    is_torn: bool,
}

impl Whole {
    /// For a file that ends amid a line, if `is_torn`.
    pub(super) fn new(is_torn: bool) -> Self {
        Self { is_torn }
    }

    /// Writes one entry, of one line or more; an error drops the rest of it.
    pub(super) fn entry(&mut self, entry: &[u8], write: Write<'_>) -> io::Result<()> {
        self.begin(write)?;
        let Err((written, error)) = all(entry, write) else {
            return Ok(());
        };
        self.tear(&entry[..written]);
        // If only the line end is missing, the next line begins with it.
        if written + 1 == entry.len() {
            Ok(())
        } else {
            Err(error)
        }
    }

    /// Writes lines, and returns how many were dropped.
    pub(super) fn lines(&mut self, lines: &[u8], write: Write<'_>) -> u64 {
        let mut dropped = 0;
        let mut rest = lines;
        while !rest.is_empty() {
            let written = match self.begin(write).map(|()| all(rest, write)) {
                Ok(Ok(())) => break,
                Ok(Err((written, _))) => {
                    self.tear(&rest[..written]);
                    written
                }
                Err(_) => 0,
            };
            let end = rest[written..].iter().position(|byte| *byte == b'\n');
            let lacks_only_its_end = written > 0 && self.is_torn && end == Some(0);
            dropped += u64::from(!lacks_only_its_end);
            rest = &rest[end.map_or(rest.len(), |end| written + end + 1)..];
        }
        dropped
    }

    /// Ends a line that lacks its line end.
    fn begin(&mut self, write: Write<'_>) -> io::Result<()> {
        if self.is_torn {
            all(b"\n", write).map_err(|(_, error)| error)?;
            self.is_torn = false;
        }
        Ok(())
    }

    /// Only these bytes were written.
    fn tear(&mut self, written: &[u8]) {
        self.is_torn = written.last().is_some_and(|byte| *byte != b'\n');
    }
}

/// The error carries the number of bytes written before it.
fn all(bytes: &[u8], write: Write<'_>) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < bytes.len() {
        match write(&bytes[written..]) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with so much room, whose writes take so many bytes at most.
    struct Disk {
        holds: Vec<u8>,
        room: usize,
        piece: usize,
    }

    impl Disk {
        fn new(room: usize, piece: usize) -> Self {
            let holds = Vec::new();
            Self { holds, room, piece }
        }

        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room).min(self.piece);
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.holds.extend(&bytes[..taken]);
            self.room -= taken;
            Ok(taken)
        }

        fn text(&self) -> &str {
            std::str::from_utf8(&self.holds).unwrap()
        }
    }

    #[test]
    fn a_short_write_is_continued() {
        let mut disk = Disk::new(1000, 3);
        let mut whole = Whole::default();
        let dropped = whole.lines(b"{\"a\":1}\n{\"b\":2}\n", &mut |bytes| disk.write(bytes));
        assert_eq!(dropped, 0);
        assert_eq!(disk.text(), "{\"a\":1}\n{\"b\":2}\n");
    }

    /// However much room there is: what is there once there is room again is lines of one object each, and halves.
    #[test]
    fn a_disk_that_fills_up_anywhere_has_never_two_objects_on_a_line() {
        let lines: Vec<_> = (0..5)
            .map(|number| format!("{{\"number\":{number}}}\n"))
            .collect();
        let lines = lines.concat();
        for room in 0..lines.len() {
            for piece in [1, 4, 1000] {
                let mut disk = Disk::new(room, piece);
                let mut whole = Whole::default();
                let dropped = whole.lines(lines.as_bytes(), &mut |bytes| disk.write(bytes));
                disk.room = 1000;
                let after = whole.lines(b"{\"after\":1}\n", &mut |bytes| disk.write(bytes));
                assert_eq!(after, 0);
                let parsed = |line: &&str| serde_json::from_str::<serde_json::Value>(line).is_ok();
                let objects = disk.text().lines().filter(parsed).count();
                assert!(
                    disk.text()
                        .lines()
                        .all(|line| line.matches('{').count() <= 1)
                );
                assert!(disk.text().ends_with("\n{\"after\":1}\n") || objects == 1);
                assert_eq!(
                    objects as u64 + dropped,
                    5 + 1,
                    "room {room}: {}",
                    disk.text()
                );
            }
        }
    }

    #[test]
    fn an_entry_is_dropped_with_all_its_lines() {
        let mut disk = Disk::new(7, 1000);
        let mut whole = Whole::default();
        let result = whole.entry(b"one\n    two\n    three\n", &mut |bytes| disk.write(bytes));
        assert!(result.is_err());
        disk.room = 1000;
        whole
            .entry(b"next\n", &mut |bytes| disk.write(bytes))
            .unwrap();
        assert_eq!(disk.text(), "one\n   \nnext\n");
    }

    #[test]
    fn a_file_that_ends_amid_a_line_is_continued_on_a_new_one() {
        let mut disk = Disk::new(1000, 1000);
        Whole::new(true).lines(b"next\n", &mut |bytes| disk.write(bytes));
        assert_eq!(disk.text(), "\nnext\n");
    }
}
