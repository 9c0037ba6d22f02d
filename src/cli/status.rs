//! `moontide status`: the work of the running daemon, and its obstacles.

mod picture;
mod table;
mod words;

use std::io::IsTerminal;
use std::time::{Duration, SystemTime};

use anyhow::Result;

use super::{Exit, locate, terminal};
use crate::telemetry::status::{Request, Response, Status};
use picture::{View, picture};

/// A healthy daemon answers at once.
const DEADLINE: Duration = Duration::from_secs(10);
const WIDTH_DEFAULT: usize = 100;

/// Shows consumers, partitions and blocked messages of the running daemon
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: locate::Daemon,
    /// Show every partition, and errors in full
    #[arg(long)]
    all: bool,
    /// Print everything as JSON
    #[arg(long, conflicts_with = "all")]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Exit {
    terminal::print(text(arguments))
}

fn text(arguments: &Arguments) -> Result<String> {
    let status = ask(&arguments.daemon)?;
    let text = if arguments.json {
        serde_json::to_string_pretty(&status)?
    } else {
        picture(&status, &view(arguments.all))
    };
    Ok(text.trim_end().to_owned())
}

fn ask(daemon: &locate::Daemon) -> Result<Status> {
    daemon.ask(&Request::Status, DEADLINE, |response| match response {
        Response::Status(status) => Some(*status),
        _ => None,
    })
}

fn view(all: bool) -> View {
    let terminal = std::io::stdout().is_terminal();
    let columns = std::env::var("COLUMNS")
        .ok()
        .and_then(|columns| columns.parse().ok());
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    View {
        now: since_epoch.as_millis() as i64,
        // A file or a pipe has no limit of its width.
        width: (terminal && !all).then(|| columns.unwrap_or(WIDTH_DEFAULT)),
        all,
        colour: terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    }
}
