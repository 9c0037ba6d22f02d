//! `moontide init`: a small project that runs as it is.
//!
//! Never overwrites: when any of its files exists, it names them and writes none.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::{Exit, terminal};

const FILES: &[(&str, &str)] = &[
    ("config.toml", include_str!("init/config.toml")),
    (
        "handlers/orders.lua",
        include_str!("init/handlers/orders.lua"),
    ),
    ("messages.jsonl", include_str!("init/messages.jsonl")),
];

/// Writes a small project that runs as it is.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The folder of the project; created if it is missing
    #[arg(default_value = ".")]
    directory: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Exit {
    if let Err(error) = write(&arguments.directory) {
        terminal::complain(format_args!("{error:#}"));
        return Exit::Failed;
    }
    let program = terminal::program();
    let directory = arguments.directory.display().to_string();
    terminal::say("Next, on an embedded broker, without any Kafka:");
    if directory == "." {
        terminal::say(terminal::bold(format_args!("  {program} dev")));
    } else {
        let config = arguments
            .directory
            .join("config.toml")
            .display()
            .to_string();
        terminal::say(terminal::bold(format_args!(
            "  {program} dev --config {}",
            terminal::quote(&config)
        )));
    }
    Exit::Ok
}

/// Writes the project, and prints each file.
pub(super) fn write(directory: &Path) -> Result<()> {
    let paths: Vec<_> = FILES
        .iter()
        .map(|(name, text)| (directory.join(name), text))
        .collect();
    let exist: Vec<_> = paths
        .iter()
        .filter(|(path, _)| path.exists())
        .map(|(path, _)| format!("`{}`", path.display()))
        .collect();
    if !exist.is_empty() {
        let verb = if exist.len() == 1 { "exists" } else { "exist" };
        bail!("{} already {verb}: nothing was written", exist.join(", "));
    }
    for (path, text) in paths {
        write_new(&path, text).with_context(|| path.display().to_string())?;
        terminal::say(format_args!("wrote {}", path.display()));
    }
    Ok(())
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)?
        .write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_exist_are_named_and_nothing_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        fs::write(directory.join("messages.jsonl"), "mine").unwrap();
        let error = write(directory).unwrap_err().to_string();
        assert!(
            error.ends_with("messages.jsonl` already exists: nothing was written"),
            "{error}"
        );
        assert!(!directory.join("config.toml").exists());
        assert_eq!(
            fs::read_to_string(directory.join("messages.jsonl")).unwrap(),
            "mine"
        );
    }

    #[test]
    fn a_directory_is_created_with_the_whole_project() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("a/b");
        write(&directory).unwrap();
        for (name, text) in FILES {
            assert_eq!(fs::read_to_string(directory.join(name)).unwrap(), *text);
        }
    }
}
