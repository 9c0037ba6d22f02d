//! The command line: one file a subcommand, and the exit codes.
//!
//! Only this module prints and exits; everything below returns its result.

mod check;
mod dev;
mod init;
mod locate;
mod operator_commands;
mod reload;
mod run;
mod schema;
mod send;
mod status;
mod terminal;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Exit codes, with the names of systemd's unit and the docs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Stopped as asked, or done.
    Ok = 0,
    Failed = 1,
    // 2, a wrong command line, is clap's.
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
#[command(name = "moontide", version = env!("MOONTIDE_VERSION"), about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    /// Checks the configuration and its handlers without a broker, and prints consumers and listeners.
    Check(check::Arguments),
    Dev(dev::Arguments),
    Send(send::Arguments),
    Init(init::Arguments),
    Reload(reload::Arguments),
    Status(status::Arguments),
    Skip(operator_commands::Skip),
    Retry(operator_commands::Retry),
    /// Pauses a listener: it takes no messages, and calls under way finish
    ///
    /// Its messages wait, and so do later messages of their lanes. The pause lasts until `moontide resume` or a restart,
    /// through reloads.
    Pause(operator_commands::OneListener),
    /// Resumes a paused listener
    Resume(operator_commands::OneListener),
    Accept(operator_commands::Accept),
    /// Prints the JSON Schema of the configuration.
    Schema(schema::Arguments),
}

/// Where the configuration lies; the same option in every subcommand that reads it.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigOption {
    /// The configuration; default: `$MOONTIDE_CONFIG`, else config.toml.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigOption {
    pub(crate) fn path(&self) -> PathBuf {
        let environment = || {
            std::env::var_os("MOONTIDE_CONFIG")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from)
        };
        self.config
            .clone()
            .or_else(environment)
            .unwrap_or_else(|| PathBuf::from("config.toml"))
    }
}

/// Parses the command line, runs the subcommand and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let exit = match &arguments.command {
        Command::Run(arguments) => run::run(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Dev(arguments) => dev::run(arguments),
        Command::Send(arguments) => send::run(arguments),
        Command::Init(arguments) => init::run(arguments),
        Command::Reload(arguments) => reload::run(arguments),
        Command::Status(arguments) => status::run(arguments),
        Command::Skip(arguments) => operator_commands::skip(arguments),
        Command::Retry(arguments) => operator_commands::retry(arguments),
        Command::Pause(arguments) => operator_commands::pause(arguments),
        Command::Resume(arguments) => operator_commands::resume(arguments),
        Command::Accept(arguments) => operator_commands::accept(arguments),
        Command::Schema(arguments) => schema::run(arguments),
    };
    exit.into()
}
