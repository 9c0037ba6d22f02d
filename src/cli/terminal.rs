//! The output of subcommands: lines, errors, one question.
//!
//! A reader that has closed the pipe (`moontide … | head`) is no error. Colour appears only on a terminal, and
//! without `NO_COLOR`.

use std::fmt::Display;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use super::Exit;
use crate::telemetry::logging::fields;
pub(crate) use crate::telemetry::shell::quote;

pub(crate) fn say(line: impl Display) {
    writeln!(io::stdout().lock(), "{line}").ok();
}

pub(crate) fn complain(error: impl Display) {
    writeln!(io::stderr().lock(), "moontide: {error}").ok();
}

/// Foreign text of several lines, made harmless for a terminal as in the log.
pub(crate) fn harmless(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(fields::escaped).collect();
    lines.join("\n")
}

/// Prints the output of a command, or its error.
pub(crate) fn print(result: anyhow::Result<impl Display>) -> Exit {
    match result {
        Ok(text) => {
            say(text);
            Exit::Ok
        }
        Err(error) => {
            complain(format_args!("{error:#}"));
            Exit::Failed
        }
    }
}

/// Yes unless the answer begins with n; `None` without a person to answer.
pub(crate) fn ask(question: &str) -> Option<bool> {
    let (input, mut output) = (io::stdin(), io::stdout());
    if !input.is_terminal() || !output.is_terminal() {
        return None;
    }
    write!(output, "{question} [Y/n] ").ok()?;
    output.flush().ok()?;
    let mut answer = String::new();
    let length = input.lock().read_line(&mut answer).ok()?;
    Some(length > 0 && !answer.trim_start().to_lowercase().starts_with('n'))
}

/// Emphasised text.
pub(crate) fn bold(text: impl Display) -> String {
    paint("1", text)
}

/// Dimmed text.
pub(crate) fn dim(text: impl Display) -> String {
    paint("2", text)
}

pub(crate) fn yellow(text: impl Display) -> String {
    paint("33", text)
}

fn paint(code: &str, text: impl Display) -> String {
    let colour = io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if colour {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_string()
    }
}

/// The name of this program for a command to copy: its path if it is not on the `PATH`.
pub(crate) fn program() -> String {
    let name = std::env::args().next().unwrap_or_default();
    if name.contains('/') {
        quote(&name)
    } else {
        "moontide".to_owned()
    }
}
