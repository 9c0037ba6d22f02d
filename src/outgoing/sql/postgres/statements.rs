//! The statements that a connection has prepared, by their text.

use std::collections::HashMap;
use std::sync::Arc;

use postgres_protocol::message::frontend;

use super::decode::Column;
use super::wire::{Broken, Output};

/// The most of a connection; the server keeps a plan for each.
const STATEMENTS_MAX: usize = 256;
/// Longer texts are made for one call, most likely.
const TEXT_MAX: usize = 16 << 10;

/// A statement that the server knows.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// Empty: until the next one is prepared.
    pub(super) name: Arc<str>,
    /// The types of its parameters.
    pub(super) parameters: Arc<[u32]>,
    pub(super) columns: Arc<[Column]>,
}

#[derive(Debug, Default)]
pub(super) struct Statements {
    by_text: HashMap<Box<str>, (Known, u64)>,
    last: u64,
    /// Names that the server may forget.
    to_close: Vec<Arc<str>>,
}

impl Statements {
    pub(super) fn known(&mut self, text: &str) -> Option<Known> {
        self.last += 1;
        let (known, used) = self.by_text.get_mut(text)?;
        *used = self.last;
        Some(known.clone())
    }

    /// The name of a statement that is to be prepared. What is forgotten is closed before.
    pub(super) fn name(
        &mut self,
        text: &str,
        keep: bool,
        output: &mut Output,
    ) -> Result<Arc<str>, Broken> {
        if !keep || text.len() > TEXT_MAX {
            return Ok("".into());
        }
        if self.by_text.len() >= STATEMENTS_MAX {
            let oldest = self.by_text.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(text, _)| text.clone()) {
                self.forget(&oldest);
            }
        }
        for name in self.to_close.drain(..) {
            output.try_push(|buffer| frontend::close(b'S', &name, buffer))?;
        }
        self.last += 1;
        Ok(format!("moontide{}", self.last).into())
    }

    pub(super) fn keep(&mut self, text: &str, known: Known) {
        if !known.name.is_empty() {
            self.last += 1;
            self.by_text.insert(text.into(), (known, self.last));
        }
    }

    pub(super) fn forget(&mut self, text: &str) {
        if let Some((known, _)) = self.by_text.remove(text) {
            self.to_close.push(known.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(statements: &mut Statements, text: &str, output: &mut Output) -> Arc<str> {
        let name = statements.name(text, true, output).unwrap();
        let known = Known {
            name: name.clone(),
            parameters: Arc::new([]),
            columns: Arc::new([]),
        };
        statements.keep(text, known);
        name
    }

    #[test]
    fn the_one_that_was_not_used_for_longest_is_closed() {
        let (mut statements, mut output) = (Statements::default(), Output::default());
        let first = keep(&mut statements, "first", &mut output);
        for number in 1..STATEMENTS_MAX {
            keep(&mut statements, &format!("select {number}"), &mut output);
        }
        assert_eq!(statements.known("first").unwrap().name, first);
        assert_eq!(output.len(), 0);
        keep(&mut statements, "one more", &mut output);
        assert_eq!(output.len(), "CxxxxSmoontide3x".len());
        assert!(statements.known("select 1").is_none());
        assert!(statements.known("first").is_some());
        assert_eq!(statements.by_text.len(), STATEMENTS_MAX);
    }

    #[test]
    fn what_is_not_kept_has_no_name() {
        let (mut statements, mut output) = (Statements::default(), Output::default());
        let name = statements.name("select 1", false, &mut output).unwrap();
        assert_eq!(&*name, "");
        let long = "x".repeat(TEXT_MAX + 1);
        assert_eq!(&*keep(&mut statements, &long, &mut output), "");
        assert!(statements.known(&long).is_none());
    }
}
