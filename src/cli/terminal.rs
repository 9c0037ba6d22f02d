//! What subcommands say to people: lines, complaints, one question.
//!
//! A reader that has gone away (`moontide … | head`) is no error. Colour only where somebody sees it: on a terminal, and
//! without `NO_COLOR`.

use std::fmt::Display;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use super::Exit;

pub(crate) fn say(line: impl Display) {
    writeln!(io::stdout().lock(), "{line}").ok();
}

pub(crate) fn complain(error: impl Display) {
    writeln!(io::stderr().lock(), "moontide: {error}").ok();
}

/// Says what a command has to say, or complains of what kept it from that.
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

/// Yes unless the answer begins with n; `None` where nobody could answer.
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

/// Text that stands out.
pub(crate) fn bold(text: impl Display) -> String {
    paint("1", text)
}

/// Text that stands back.
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

/// How this program was called, for a command that somebody may copy: by its path where it is not on the `PATH`.
pub(crate) fn program() -> String {
    let name = std::env::args().next().unwrap_or_default();
    if name.contains('/') {
        quote(&name)
    } else {
        "moontide".to_owned()
    }
}

/// An argument as a shell reads it back.
pub(crate) fn quote(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        assert_eq!(quote("examples/a-b.toml"), "examples/a-b.toml");
        assert_eq!(quote(""), "''");
        assert_eq!(quote(r#"{"it's": 1}"#), r#"'{"it'\''s": 1}'"#);
    }
}
