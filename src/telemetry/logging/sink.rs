//! The sink of log lines and their form, from the config and the kind of standard error.
//!
//! The choice is pure; a function of its own reads standard error and the environment.
#![expect(
    unsafe_code,
    reason = "fstat(2) of standard error, whose identity systemd tells in JOURNAL_STREAM"
)]

use std::ffi::OsStr;
use std::io::IsTerminal;

use crate::config::LogFormat;

/// The form of the lines on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Json,
    /// Replaces standard error: lines go to journald's own socket, with fields.
    Journald,
}

/// The kind of standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Surroundings {
    pub(super) is_terminal: bool,
    /// systemd connected it to the journal.
    pub(super) is_journal: bool,
}

impl Surroundings {
    pub(super) fn look() -> Self {
        let stream = std::env::var_os("JOURNAL_STREAM");
        Self {
            is_terminal: std::io::stderr().is_terminal(),
            is_journal: stream
                .is_some_and(|stream| Some(stream.as_os_str()) == stderr_identity().as_deref()),
        }
    }
}

pub(super) fn form(format: LogFormat, surroundings: Surroundings) -> Form {
    match format {
        LogFormat::Text => Form::Text,
        LogFormat::Journald => Form::Journald,
        LogFormat::Auto if surroundings.is_terminal => Form::Text,
        LogFormat::Auto if surroundings.is_journal => Form::Journald,
        LogFormat::Json | LogFormat::Auto => Form::Json,
    }
}

/// `device:inode`, as systemd writes it into `JOURNAL_STREAM`. A child with redirected standard error inherits the
/// variable but not the stream, hence the comparison.
fn stderr_identity() -> Option<Box<OsStr>> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the pointer is to room for one stat, which is read only when the call has filled it.
    let stat = unsafe {
        if libc::fstat(libc::STDERR_FILENO, stat.as_mut_ptr()) != 0 {
            return None;
        }
        stat.assume_init()
    };
    let identity: Box<str> = format!("{}:{}", stat.st_dev, stat.st_ino).into();
    Some(Box::from(OsStr::new(&*identity)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMINAL: Surroundings = Surroundings {
        is_terminal: true,
        is_journal: false,
    };
    const JOURNAL: Surroundings = Surroundings {
        is_terminal: false,
        is_journal: true,
    };
    const PIPE: Surroundings = Surroundings {
        is_terminal: false,
        is_journal: false,
    };

    #[test]
    fn auto_is_text_on_a_terminal_journald_under_systemd_and_else_json() {
        assert_eq!(form(LogFormat::Auto, TERMINAL), Form::Text);
        assert_eq!(form(LogFormat::Auto, JOURNAL), Form::Journald);
        assert_eq!(form(LogFormat::Auto, PIPE), Form::Json);
    }

    #[test]
    fn a_format_of_the_config_wins() {
        for surroundings in [TERMINAL, JOURNAL, PIPE] {
            assert_eq!(form(LogFormat::Text, surroundings), Form::Text);
            assert_eq!(form(LogFormat::Json, surroundings), Form::Json);
            assert_eq!(form(LogFormat::Journald, surroundings), Form::Journald);
        }
    }
}
