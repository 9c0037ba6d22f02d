//! `moontide schema`: the JSON Schema of the configuration and the types of the Lua API, for editors.

use std::io::Write;

use super::Exit;
use crate::config;
use crate::lua;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print type definitions of the Lua API for the Lua language server instead of the JSON Schema
    #[arg(long)]
    lua: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Exit {
    let text = if arguments.lua {
        lua::definitions()
    } else {
        format!("{:#}", config::schema())
    };
    // A reader that closes early (`| head`) has read enough.
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Exit::Failed,
        _ => Exit::Ok,
    }
}
