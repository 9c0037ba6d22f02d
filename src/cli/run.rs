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
    }))
}

/// What a daemon's end means to the one who started it.
pub(super) fn exit(result: Result<Ended, StartError>) -> Exit {
    match result {
        Ok(Ended::Stopped) => Exit::Ok,
        Ok(Ended::ByMessage(_)) => Exit::StoppedByMessage,
        Ok(Ended::BadConfig(_)) => Exit::BadConfig,
        Ok(Ended::Failed(_)) => Exit::Failed,
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
