//! The command line: one file a subcommand, and the exit codes.
//!
//! Alone prints and exits; everything below returns what happened.

mod init;
mod terminal;

use std::path::{Path, PathBuf};
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
    /// Writes a small project that runs as it is
    Init(init::Arguments),
}

/// The configuration that is meant: as given, else of the environment, else `config.toml` here.
fn config_path(given: Option<&Path>) -> PathBuf {
    let environment = || std::env::var_os("MOONTIDE_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    given.map(Path::to_owned).or_else(environment).unwrap_or_else(|| PathBuf::from("config.toml"))
}

/// Parses the command line, runs the subcommand and tells its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command {
        Command::Init(arguments) => init::run(&arguments),
    }
    .into()
}
