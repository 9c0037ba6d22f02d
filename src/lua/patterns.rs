//! The compiled regular expressions of a VM: a bounded number, the ones used last.

use std::rc::Rc;

use regex::bytes::{Regex, RegexBuilder};

/// The most patterns that stay compiled.
pub(super) const PATTERNS_MAX: usize = 100;
/// The most bytes of a pattern.
const PATTERN_BYTES_MAX: usize = 64 << 10;
/// The most bytes of a compiled pattern, and of what its searches remember.
const COMPILED_MAX: usize = 1 << 20;

/// The options of a pattern: a set of the letters of [`LETTERS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u8);

/// Any case, lines, dot is any, space and comments, lazy, bytes.
const LETTERS: [char; 6] = ['i', 'm', 's', 'x', 'U', 'b'];

impl Flags {
    /// An error is the letter that is none.
    pub(super) fn of(letters: &str) -> Result<Self, char> {
        let mut flags = 0;
        for letter in letters.chars() {
            let bit = LETTERS.iter().position(|one| *one == letter);
            flags |= 1 << bit.ok_or(letter)?;
        }
        Ok(Self(flags))
    }

    fn has(self, letter: char) -> bool {
        let bit = LETTERS.iter().position(|one| *one == letter);
        bit.is_some_and(|bit| self.0 & 1 << bit != 0)
    }
}

/// A pattern that stays compiled until others need its room.
#[derive(Clone, Copy, Debug)]
pub(super) struct PatternId {
    index: usize,
    number: u64,
}

/// Why a pattern is not compiled: the kind of the error, and the sentence.
#[derive(Debug, PartialEq)]
pub(super) struct Refusal {
    pub(super) kind: &'static str,
    pub(super) message: String,
}

struct Compiled {
    text: Box<str>,
    flags: Flags,
    regex: Rc<Regex>,
    number: u64,
    /// The time of the last use, in uses.
    used: u64,
}

#[derive(Default)]
pub(super) struct Patterns {
    compiled: Vec<Compiled>,
    /// The number of uses and compilations so far.
    count: u64,
}

impl Patterns {
    /// The compiled pattern; `None` when its room was needed.
    pub(super) fn get(&mut self, id: PatternId) -> Option<Rc<Regex>> {
        let compiled = self.compiled.get_mut(id.index)?;
        if compiled.number != id.number {
            return None;
        }
        self.count += 1;
        compiled.used = self.count;
        Some(Rc::clone(&compiled.regex))
    }

    /// Compiles a pattern that is not there yet.
    pub(super) fn compile(&mut self, text: &str, flags: Flags) -> Result<PatternId, Refusal> {
        let is_it = |one: &Compiled| one.flags == flags && &*one.text == text;
        if let Some(index) = self.compiled.iter().position(is_it) {
            let number = self.compiled[index].number;
            return Ok(PatternId { index, number });
        }
        let regex = Rc::new(compiled(text, flags)?);
        self.count += 1;
        let number = self.count;
        let compiled = Compiled {
            text: text.into(),
            flags,
            regex,
            number,
            used: number,
        };
        let index = if self.compiled.len() < PATTERNS_MAX {
            self.compiled.push(compiled);
            self.compiled.len() - 1
        } else {
            let all = self.compiled.iter().enumerate();
            let oldest = all.min_by_key(|(_, one)| one.used);
            let index = oldest.map_or(0, |(index, _)| index);
            self.compiled[index] = compiled;
            index
        };
        Ok(PatternId { index, number })
    }
}

fn compiled(text: &str, flags: Flags) -> Result<Regex, Refusal> {
    let refused = |kind, message| Err(Refusal { kind, message });
    if text.len() > PATTERN_BYTES_MAX {
        let message = format!("the pattern has more than {PATTERN_BYTES_MAX} bytes");
        return refused("tooLarge", message);
    }
    let built = RegexBuilder::new(text)
        .case_insensitive(flags.has('i'))
        .multi_line(flags.has('m'))
        .dot_matches_new_line(flags.has('s'))
        .ignore_whitespace(flags.has('x'))
        .swap_greed(flags.has('U'))
        .unicode(!flags.has('b'))
        .size_limit(COMPILED_MAX)
        .dfa_size_limit(COMPILED_MAX)
        .build();
    match built {
        Ok(regex) => Ok(regex),
        Err(regex::Error::CompiledTooBig(_)) => {
            let message = format!(
                "the pattern takes more than {COMPILED_MAX} bytes; a repeated `\\w`, `\\d` or `.` takes fewer with the flag `b`"
            );
            refused("tooLarge", message)
        }
        // The lines before the last one draw the pattern.
        Err(error) => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            let reason = last.trim_start_matches("error: ");
            let hint = if reason.contains("look-around") || reason.contains("backreferences") {
                "; a search in linear time cannot have it"
            } else {
                ""
            };
            refused("invalid", format!("the pattern is wrong: {reason}{hint}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_used_least_lately_makes_room() {
        let mut patterns = Patterns::default();
        let first = patterns.compile("a", Flags::default()).unwrap();
        let second = patterns.compile("b", Flags::default()).unwrap();
        for number in 2..PATTERNS_MAX {
            patterns
                .compile(&format!("x{number}"), Flags::default())
                .unwrap();
        }
        assert!(patterns.get(first).is_some());
        let again = patterns.compile("a", Flags::default()).unwrap();
        assert_eq!((again.index, again.number), (first.index, first.number));
        patterns.compile("c", Flags::default()).unwrap();
        assert!(patterns.get(second).is_none());
        assert!(patterns.get(first).is_some());
        assert_eq!(patterns.compiled.len(), PATTERNS_MAX);
    }

    #[test]
    fn flags_are_part_of_a_pattern() {
        let mut patterns = Patterns::default();
        let flags = Flags::of("i").unwrap();
        let plain = patterns.compile("a", Flags::default()).unwrap();
        let other = patterns.compile("a", flags).unwrap();
        assert!(!patterns.get(plain).unwrap().is_match(b"A"));
        assert!(patterns.get(other).unwrap().is_match(b"A"));
    }

    #[test]
    fn a_bad_pattern_is_told_in_one_line() {
        for (text, kind, expected) in [
            ("a(", "invalid", "the pattern is wrong: unclosed group"),
            ("(?=a)", "invalid", "look-around"),
            (r"\w{200}{200}", "tooLarge", "more than 1048576 bytes"),
            (&"a".repeat(70_000), "tooLarge", "more than 65536 bytes"),
        ] {
            let refusal = Patterns::default()
                .compile(text, Flags::default())
                .unwrap_err();
            assert_eq!(refusal.kind, kind);
            assert!(refusal.message.contains(expected), "{}", refusal.message);
            assert!(!refusal.message.contains('\n'));
        }
    }
}
