//! The statements that a connection has prepared, by their text.

use std::collections::HashMap;

use super::exchange::Prepared;

/// The most of a connection; the server counts those of all.
const STATEMENTS_MAX: usize = 256;
/// Longer texts are made for one call, most likely.
const TEXT_MAX: usize = 16 << 10;

#[derive(Debug, Default)]
pub(super) struct Statements {
    by_text: HashMap<Box<str>, (Prepared, u64)>,
    last: u64,
    /// Those that the server may forget.
    to_close: Vec<u32>,
}

/// Whether a statement of this text may stay prepared.
pub(super) fn is_kept(text: &str) -> bool {
    text.len() <= TEXT_MAX
}

impl Statements {
    pub(super) fn known(&mut self, text: &str) -> Option<Prepared> {
        self.last += 1;
        let (prepared, used) = self.by_text.get_mut(text)?;
        *used = self.last;
        Some(*prepared)
    }

    /// Forgets the one that was not used for longest, where there is no room for another one.
    pub(super) fn keep(&mut self, text: &str, prepared: Prepared) {
        if self.by_text.len() >= STATEMENTS_MAX {
            let oldest = self.by_text.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(text, _)| text.clone()) {
                self.forget(&oldest);
            }
        }
        self.last += 1;
        self.by_text.insert(text.into(), (prepared, self.last));
    }

    pub(super) fn forget(&mut self, text: &str) {
        if let Some((prepared, _)) = self.by_text.remove(text) {
            self.close(prepared);
        }
    }

    /// The server forgets it before the next command.
    pub(super) fn close(&mut self, prepared: Prepared) {
        self.to_close.push(prepared.id);
    }

    pub(super) fn closing(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.to_close)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(id: u32) -> Prepared {
        Prepared { id, parameters: 0 }
    }

    #[test]
    fn the_one_that_was_not_used_for_longest_is_closed() {
        let mut statements = Statements::default();
        for id in 0..STATEMENTS_MAX as u32 {
            statements.keep(&format!("select {id}"), prepared(id));
        }
        assert_eq!(statements.known("select 0"), Some(prepared(0)));
        assert!(statements.closing().is_empty());
        statements.keep("one more", prepared(1_000));
        assert_eq!(statements.closing(), [1]);
        assert_eq!(statements.known("select 1"), None);
        assert_eq!(statements.known("select 0"), Some(prepared(0)));
        statements.forget("select 0");
        assert_eq!(statements.closing(), [0]);
        assert!(is_kept("select 1") && !is_kept(&"x".repeat(TEXT_MAX + 1)));
    }
}
