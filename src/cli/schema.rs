//! `moontide schema`: the JSON Schema of the configuration, for editors.

use std::io::Write;

use super::Exit;
use crate::config;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

pub(crate) fn run(_: &Arguments) -> Exit {
    let schema = config::schema();
    // A reader that closes early (`| head`) has what it wanted.
    match writeln!(std::io::stdout(), "{schema:#}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Exit::Failed,
        _ => Exit::Ok,
    }
}
