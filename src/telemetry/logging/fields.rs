//! The fields of a line of text. **No value can begin a line of its own at the left margin, or appear as something
//! else.**
//!
//! The form is that of tracing, but line ends, control characters and those that change the direction of text are
//! escaped. A message or an error may come from Kafka, and must not look like a line of the log. For a person who
//! reads along, values of several lines stand below the line, indented: a traceback, or a mistake in the config with
//! its excerpt.

use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

const INDENT: &str = "    ";

/// The form of values with several lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fields {
    /// Whole lines, for log collectors.
    OneLine,
    /// Below the line, indented.
    Readable,
}

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut line = Line {
            form: *self,
            writer,
            is_empty: true,
            below: String::new(),
            result: Ok(()),
        };
        fields.record(&mut line);
        line.result?;
        line.writer.write_str(&line.below)
    }
}

struct Line<'w> {
    form: Fields,
    writer: Writer<'w>,
    is_empty: bool,
    /// The text below the line.
    below: String,
    result: fmt::Result,
}

impl Line<'_> {
    fn put(&mut self, field: &Field, value: &str) {
        // Lines of the `log` crate bring their origin as `log.*`; the target has it already.
        if self.result.is_ok() && !field.name().starts_with("log.") {
            self.result = self.try_put(field.name(), value);
        }
    }

    fn try_put(&mut self, name: &str, value: &str) -> fmt::Result {
        let is_below = self.form == Fields::Readable && value.contains('\n');
        if is_below && name != "message" {
            self.put_below(name, value);
            return Ok(());
        }
        if !std::mem::take(&mut self.is_empty) {
            self.writer.write_char(' ')?;
        }
        let value = if is_below {
            indented(value)
        } else {
            escaped(value)
        };
        if name == "message" {
            return self.writer.write_str(&value);
        }
        let (italic, dim, plain) = if self.writer.has_ansi_escapes() {
            ("\x1b[3m", "\x1b[2m", "\x1b[0m")
        } else {
            ("", "", "")
        };
        write!(self.writer, "{italic}{name}{plain}{dim}={plain}{value}")
    }

    fn put_below(&mut self, name: &str, value: &str) {
        self.below.push('\n');
        self.below.push_str(INDENT);
        // A traceback needs no name.
        if name != "traceback" {
            self.below.push_str(name);
            self.below.push_str(": ");
        }
        self.below.push_str(&indented(value));
    }
}

impl Visit for Line<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        let is_plain =
            field.name() == "message" || (self.form == Fields::Readable && value.contains('\n'));
        if is_plain {
            self.put(field, value);
        } else {
            self.put(field, &format!("{value:?}"));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, &format!("{value:?}"));
    }
}

/// Indents every line but the first.
fn indented(text: &str) -> String {
    let lines: Vec<String> = text
        .trim_end()
        .split('\n')
        .map(|line| escaped(&line.replace('\t', INDENT)))
        .collect();
    lines.join(&format!("\n{INDENT}"))
}

/// Escapes characters that affect the display. A tab stays.
pub(crate) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if acts(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Control characters, ends of lines and paragraphs, and marks of the direction of text.
fn acts(character: char) -> bool {
    match character {
        '\t' => false,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            true
        }
        other => other.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_shown_as_its_escape() {
        for (text, expected) in [
            ("plain \"text\" \\n, caf\u{e9} \u{1f30a}\tand tab", None),
            (
                "a\r\n2026-01-01 ERROR forged",
                Some("a\\r\\n2026-01-01 ERROR forged"),
            ),
            (
                "\x1b[2J\x07\x7f\u{9b}1m",
                Some("\\u{1b}[2J\\u{7}\\u{7f}\\u{9b}1m"),
            ),
            (
                "\u{202e}exe.\u{2066}x\u{2069}",
                Some("\\u{202e}exe.\\u{2066}x\\u{2069}"),
            ),
            (
                "\u{200f}\u{61c}\u{2028}\u{0}",
                Some("\\u{200f}\\u{61c}\\u{2028}\\u{0}"),
            ),
        ] {
            assert_eq!(escaped(text), expected.unwrap_or(text));
        }
    }

    #[test]
    fn every_line_of_a_text_but_the_first_stands_behind_a_margin() {
        assert_eq!(
            indented("a\n\tb\r\n\u{202e}c\n"),
            "a\n        b\\r\n    \\u{202e}c"
        );
    }
}
