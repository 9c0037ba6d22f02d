//! The errors of a configuration: sentences with their place in the file.
//!
//! All of them are collected before any is shown. No sentence and no excerpt shows a secret: what was interpolated from
//! a file or a credential is hidden in every sentence, and the value of a sensitive key in every excerpt.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;

/// Everything that is wrong, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Errors {
    pub(crate) file: String,
    pub(crate) list: Vec<Error>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Error {
    pub(crate) place: Option<Location>,
    pub(crate) message: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    /// From 1.
    pub(crate) line: usize,
    /// From 1, in characters.
    pub(crate) column: usize,
    /// The line itself and how many characters stand before the caret; absent where it could show a secret.
    pub(crate) excerpt: Option<(String, usize)>,
}

impl Errors {
    /// A single error without a place in the file.
    pub(crate) fn of(file: &Path, message: impl Into<String>) -> Self {
        let error = Error {
            place: None,
            message: message.into(),
        };
        Self {
            file: file.display().to_string(),
            list: vec![error],
        }
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            match &error.place {
                None => write!(f, "{}: {}", self.file, error.message)?,
                Some(place) => {
                    write!(
                        f,
                        "{}:{}:{}: {}",
                        self.file, place.line, place.column, error.message
                    )?;
                    if let Some((line, before)) = &place.excerpt {
                        let margin = place.line.to_string();
                        let blank = " ".repeat(margin.len());
                        write!(f, "\n{margin} | {line}\n{blank} | {}^", " ".repeat(*before))?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// The message of an I/O error without its number.
pub(crate) fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text
        .split_once(" (os error")
        .map_or(text.as_str(), |(words, _)| words);
    words.to_lowercase()
}

/// More errors are counted: what is wrong a thousand times has one cause.
const SHOWN_MAX: usize = 100;
/// A longer line is not shown.
const EXCERPT_MAX: usize = 1000;

/// Collects errors while a file is read.
pub(super) struct Report<'a> {
    text: &'a str,
    list: Vec<(Option<Range<usize>>, String)>,
    known: HashSet<(Option<Range<usize>>, String)>,
    pub(super) warnings: Vec<String>,
    /// Where values of sensitive keys stand in the text.
    masked: Vec<Range<usize>>,
    /// The values that came from files and credentials.
    secrets: Vec<String>,
    /// The tree is incomplete, so a line that may hold a secret is not shown at all.
    broken: bool,
    /// Keys that were left out because they are wrong: their absence is no further error.
    left_out: BTreeSet<String>,
}

impl<'a> Report<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            list: Vec::new(),
            known: HashSet::new(),
            warnings: Vec::new(),
            masked: Vec::new(),
            secrets: Vec::new(),
            broken: false,
            left_out: BTreeSet::new(),
        }
    }

    pub(super) fn error(&mut self, at: Option<Range<usize>>, message: impl Into<String>) {
        let entry = (at, message.into());
        if self.known.insert(entry.clone()) {
            self.list.push(entry);
        }
    }

    /// Whether further errors only count.
    pub(super) fn is_full(&self) -> bool {
        self.list.len() >= 10 * SHOWN_MAX
    }

    pub(super) fn warning(&mut self, message: impl AsRef<str>) {
        let message = self.hide(message.as_ref());
        self.warnings.push(message);
    }

    pub(super) fn mask(&mut self, range: Range<usize>) {
        self.masked.push(range);
    }

    /// Hides `user:password` of an address `user:password@host` in this value, in sentences too.
    pub(super) fn mask_user(&mut self, value: Range<usize>) {
        let Some(text) = self.text.get(value.clone()) else {
            return;
        };
        if !text.starts_with(['"', '\'']) {
            return;
        }
        // Behind a scheme, characters that should have been encoded belong to the secret, too.
        let scheme = text.find("://").map(|at| at + 3);
        for (end, _) in text.match_indices('@') {
            let start = text[..end].rfind(['"', '\'', ',', '/', ' ', '\n', '@']);
            let start = scheme.or(start.map(|at| at + 1)).unwrap_or(0);
            if start > end {
                continue;
            }
            if text[start..end].contains(':') {
                self.masked.push(value.start + start..value.start + end);
                self.secret(&text[start..end]);
            }
        }
    }

    pub(super) fn broken(&mut self) {
        self.broken = true;
    }

    pub(super) fn secret(&mut self, piece: &str) {
        // Rules trim values and compare them in lower case, and may say what they have found.
        let trimmed = piece.trim();
        for form in [piece, trimmed, &trimmed.to_lowercase()] {
            if !form.is_empty() && !self.secrets.iter().any(|known| known == form) {
                self.secrets.push(form.to_owned());
            }
        }
    }

    pub(super) fn is_secret(&self, value: &str) -> bool {
        self.secrets
            .iter()
            .any(|piece| value.contains(piece.as_str()))
    }

    pub(super) fn leave_out(&mut self, key: &str) {
        self.left_out.insert(key.to_owned());
    }

    pub(super) fn is_left_out(&self, key: &str) -> bool {
        self.left_out.contains(key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn hide(&self, sentence: &str) -> String {
        self.secrets
            .iter()
            .fold(sentence.to_owned(), |sentence, piece| {
                sentence.replace(piece.as_str(), "***")
            })
    }

    pub(super) fn finish(mut self, file: &Path) -> Errors {
        let mut list = std::mem::take(&mut self.list);
        list.sort_by_key(|(at, _)| at.as_ref().map(|at| at.start));
        let more = list.len().saturating_sub(SHOWN_MAX);
        self.masked.sort_by_key(|range| range.start);
        self.masked.dedup_by(|next, range| {
            let overlap = next.start < range.end;
            if overlap {
                range.end = range.end.max(next.end);
            }
            overlap
        });
        let mut list: Vec<_> = list
            .into_iter()
            .take(SHOWN_MAX)
            .map(|(at, message)| Error {
                place: at.map(|at| self.location(at.start)),
                message: self.hide(&message),
            })
            .collect();
        if more > 0 {
            list.push(Error {
                place: None,
                message: format!("{more} more errors"),
            });
        }
        Errors {
            file: file.display().to_string(),
            list,
        }
    }

    fn location(&self, offset: usize) -> Location {
        let offset = (0..=offset.min(self.text.len()))
            .rfind(|at| self.text.is_char_boundary(*at))
            .unwrap_or(0);
        let start = self.text[..offset].rfind('\n').map_or(0, |at| at + 1);
        let end = self.text[offset..]
            .find('\n')
            .map_or(self.text.len(), |at| offset + at);
        let column = self.text[start..offset].chars().count() + 1;
        let line = self.text[..start].matches('\n').count() + 1;
        let source = self.text[start..end].to_lowercase();
        let hidden = self.broken
            && ["pass", "secret", "key"]
                .iter()
                .any(|word| source.contains(word));
        let is_shown = !hidden && source.len() <= EXCERPT_MAX;
        let excerpt = is_shown.then(|| self.excerpt(start..end, offset));
        Location {
            line,
            column,
            excerpt,
        }
    }

    /// The masked values that reach into this line. They do not overlap, see `finish`.
    fn masked_in(&self, line: &Range<usize>) -> &[Range<usize>] {
        let first = self.masked.partition_point(|range| range.end <= line.start);
        let after = self.masked.partition_point(|range| range.start < line.end);
        &self.masked[first..after.max(first)]
    }

    /// The line without the secrets in it, and the characters before the caret.
    fn excerpt(&self, line: Range<usize>, caret: usize) -> (String, usize) {
        let mut shown = String::new();
        let mut before = None;
        let mut hidden = false;
        let masked = self.masked_in(&line);
        for (index, character) in self.text[line.clone()].char_indices() {
            let at = line.start + index;
            if at >= caret && before.is_none() {
                before = Some(shown.chars().count());
            }
            if masked.iter().any(|range| range.contains(&at)) {
                if !hidden {
                    shown.push_str("***");
                }
                hidden = true;
                continue;
            }
            hidden = false;
            // A tab would put the caret somewhere else.
            shown.push(if character == '\t' { ' ' } else { character });
        }
        let shown = shown.trim_end().to_owned();
        let before = before.unwrap_or_else(|| shown.chars().count());
        (shown, before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_points_at_its_place_and_hides_what_is_masked() {
        let text = "a = 1\nsasl = { password = \"secret\", mechanism = 5 }\n";
        let mut report = Report::new(text);
        let at = text.find("\"secret\"").unwrap();
        report.mask(at..at + 8);
        let mechanism = text.find('5').unwrap();
        report.error(Some(mechanism..mechanism + 1), "is 5");
        assert_eq!(
            report.finish(Path::new("c.toml")).to_string(),
            "c.toml:2:43: is 5\n2 | sasl = { password = ***, mechanism = 5 }\n  |                                      ^"
        );
    }

    #[test]
    fn the_user_of_an_address_is_hidden() {
        let text = "brokers = [\"anna:Hunter2@one:9092,two:9092\"]";
        let mut report = Report::new(text);
        report.mask_user(11..text.len() - 1);
        report.error(Some(11..12), "broker `anna:hunter2@one:9092` is bad");
        assert_eq!(
            report.finish(Path::new("c.toml")).to_string(),
            "c.toml:1:12: broker `***@one:9092` is bad\n1 | brokers = [\"***@one:9092,two:9092\"]\n  |            ^"
        );
    }

    #[test]
    fn a_secret_is_hidden_trimmed_and_in_lower_case_too() {
        let mut report = Report::new("");
        report.secret(" Hunter2\n");
        report.error(None, "`Hunter2`, `hunter2`");
        assert_eq!(
            report.finish(Path::new("c.toml")).to_string(),
            "c.toml: `***`, `***`"
        );
    }

    #[test]
    fn of_many_errors_the_first_are_shown_and_the_others_counted() {
        let text = "x = 1\n".repeat(100_000);
        let mut report = Report::new(&text);
        for at in (0..100_000).rev().map(|line| line * 6) {
            report.error(Some(at..at + 1), "unknown");
            report.mask(at + 4..at + 5);
        }
        let errors = report.finish(Path::new("c.toml"));
        assert_eq!(errors.list.len(), 101);
        let lines = errors.list.iter().filter_map(|error| error.place.as_ref());
        assert!(lines.map(|place| place.line).eq(1..=100));
        assert_eq!(errors.list[100].message, "99900 more errors");
        let excerpt = Some(("x = ***".to_owned(), 0));
        assert_eq!(errors.list[0].place.as_ref().unwrap().excerpt, excerpt);
    }

    #[test]
    fn what_came_from_a_credential_shows_in_no_sentence() {
        let mut report = Report::new("");
        report.secret("hunter2");
        report.error(None, "topic `hunter2` is bad");
        assert_eq!(
            report.finish(Path::new("c.toml")).to_string(),
            "c.toml: topic `***` is bad"
        );
    }
}
