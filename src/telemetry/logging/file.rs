//! The rolling log file.
//!
//! It is written by a thread of its own, so that a slow disk holds nobody up: lines that it cannot take are dropped and
//! counted. The caller keeps the guard, whose drop writes what still waits.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::Context;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_appender::rolling;

use crate::config;

/// Lines that wait for the disk; more are dropped and counted. At some 300 bytes a line this is 5 MB.
const LINES_MAX: usize = 16_384;

/// The file of that name: `moontide.log` becomes `moontide.2026-05-28.log`, and a link of the
/// name in the config points at the latest one.
pub(super) fn writer(path: &Path, log: &config::Log) -> anyhow::Result<(NonBlocking, WorkerGuard)> {
    let place = || format!("log.file: `{}` cannot be written", path.display());
    let name = path
        .file_name()
        .and_then(OsStr::to_str)
        .with_context(place)?;
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let rotation = match log.rotation {
        config::Rotation::Daily => rolling::Rotation::DAILY,
        config::Rotation::Hourly => rolling::Rotation::HOURLY,
        config::Rotation::Minutely => rolling::Rotation::MINUTELY,
        config::Rotation::Never => rolling::Rotation::NEVER,
    };
    std::fs::create_dir_all(directory).with_context(place)?;
    let builder = rolling::Builder::new()
        .rotation(rotation)
        .max_log_files(log.keep);
    let builder = if log.rotation == config::Rotation::Never {
        builder.filename_prefix(name)
    } else {
        // The link would replace a log that was written without rotation.
        let is_free = path
            .symlink_metadata()
            .map_or(true, |found| found.is_symlink());
        let builder = if is_free {
            builder.latest_symlink(name)
        } else {
            builder
        };
        match name.rsplit_once('.') {
            Some((stem, suffix)) if !stem.is_empty() => {
                builder.filename_prefix(stem).filename_suffix(suffix)
            }
            _ => builder.filename_prefix(name),
        }
    };
    let appender = builder.build(directory).with_context(place)?;
    Ok(NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_MAX)
        .thread_name("log-file")
        .finish(appender))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::config::LogFormat;

    fn log_to(path: &Path, rotation: config::Rotation) -> config::Log {
        let (level, format) = ("info".to_owned(), LogFormat::Auto);
        config::Log {
            level,
            format,
            file: Some(path.to_owned()),
            rotation,
            keep: 2,
        }
    }

    #[track_caller]
    fn write_line(path: &Path, rotation: config::Rotation, line: &str) {
        let (mut writer, guard) = writer(path, &log_to(path, rotation)).unwrap();
        writer.write_all(line.as_bytes()).unwrap();
        drop(guard);
    }

    #[test]
    fn the_name_in_the_config_always_shows_the_latest_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logs/moontide.log");
        write_line(&path, config::Rotation::Daily, "one\n");
        assert!(path.is_symlink());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\n");
    }

    #[test]
    fn rotation_never_replaces_a_log_that_was_written_without() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("moontide.log");
        write_line(&path, config::Rotation::Never, "one\n");
        write_line(&path, config::Rotation::Daily, "two\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\n");
    }
}
