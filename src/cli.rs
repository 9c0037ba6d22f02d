//! The command line: one file a subcommand, and the exit codes.
//!
//! Alone prints and exits; everything below returns what happened.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Exit codes, as systemd's unit and the docs name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Stopped as asked, or done.
    Ok = 0,
    Failed = 1,
    Usage = 2,
    /// Reloaded, but something waits for a restart.
    WaitsForRestart = 3,
    /// A message stopped it (`onError = "stop"`).
    StoppedByMessage = 65,
    BadConfig = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[derive(Debug, Parser)]
#[command(name = "moontide", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Says who it is.
    Version,
}

/// Parses the command line, runs the subcommand and tells its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command {
        Command::Version => Exit::Ok.into(),
    }
}
