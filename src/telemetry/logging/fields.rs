//! The fields of a line that somebody reads while it is written.
//!
//! As tracing's own form, but for values of several lines (a traceback, a mistake in the config with its excerpt): they
//! stand below the line, indented, instead of within it with `\n` for each line end. No value can begin a line of its own
//! at the left margin, or send a control character to the terminal.

use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

const INDENT: &str = "    ";

#[derive(Debug)]
pub(super) struct Readable;

impl<'w> FormatFields<'w> for Readable {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut line = Line {
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
    writer: Writer<'w>,
    is_empty: bool,
    /// What follows the line.
    below: String,
    result: fmt::Result,
}

impl Line<'_> {
    fn put(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if self.result.is_ok() {
            self.result = self.try_put(field.name(), value);
        }
    }

    fn try_put(&mut self, name: &str, value: fmt::Arguments<'_>) -> fmt::Result {
        if !std::mem::take(&mut self.is_empty) {
            self.writer.write_char(' ')?;
        }
        if name == "message" {
            return self.writer.write_str(&indented(&value.to_string()));
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
        // A traceback says itself what it is.
        if name != "traceback" {
            self.below.push_str(name);
            self.below.push_str(": ");
        }
        self.below.push_str(&indented(value));
    }
}

impl Visit for Line<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.put(field, format_args!("{value}"));
        } else if value.contains('\n') {
            self.put_below(field.name(), value);
        } else {
            self.put(field, format_args!("{value:?}"));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format_args!("{value:?}"));
    }
}

/// Every line but the first behind a margin, and control characters as their escapes.
fn indented(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.trim_end().chars() {
        match character {
            '\n' => {
                shown.push('\n');
                shown.push_str(INDENT);
            }
            '\t' => shown.push_str(INDENT),
            control if control.is_control() => shown.extend(control.escape_default()),
            other => shown.push(other),
        }
    }
    shown
}
