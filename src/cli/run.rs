//! `moontide run`: the daemon in the foreground, as systemd starts it.

use super::{ConfigOption, Exit, terminal};
use crate::daemon::{self, Ended, Options, StartError};
use crate::telemetry::logging::Audience;

/// Runs the daemon in the foreground.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigOption,
}

pub(crate) fn run(arguments: &Arguments) -> Exit {
    exit(daemon::run(Options {
        config: arguments.config.path(),
        adjust: None,
        audience: Audience::Daemon,
        code,
    }))
}

/// The exit code of a daemon that could not stop in time: even after a requested stop, that is a failure.
pub(super) fn code(ended: &Ended) -> u8 {
    match exit_of(ended) {
        Exit::Ok => Exit::Failed as u8,
        exit => exit as u8,
    }
}

fn exit_of(ended: &Ended) -> Exit {
    match ended {
        Ended::Stopped => Exit::Ok,
        Ended::ByMessage(_) => Exit::StoppedByMessage,
        Ended::BadConfig(_) => Exit::BadConfig,
        Ended::Failed(_) => Exit::Failed,
    }
}

/// The exit code for the end of a daemon.
pub(super) fn exit(result: Result<Ended, StartError>) -> Exit {
    match result {
        Ok(ended) => exit_of(&ended),
        Err(StartError::Config(error)) => {
            terminal::complain(&error);
            Exit::BadConfig
        }
        Err(StartError::Other(error)) => {
            terminal::complain(format!("{error:#}"));
            Exit::Failed
        }
    }
}
