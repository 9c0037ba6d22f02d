//! The log file: the open file, its readers, and the number of files that are kept.
//!
//! An appender of tracing-appender opens and writes the file of a period. It creates the folder, and points the link
//! of the configured name at the latest file. The appender itself rotates nothing: its rotation can neither set a
//! mode nor open a file again. It also prints its errors to standard error, and deletes files of other logs.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use tracing_appender::rolling::{self, RollingFileAppender};

use super::period::Names;
use super::queue::Sink;
use super::whole::Whole;
use crate::clock::now_ms;
use crate::config;
use crate::log::log;

/// The owner writes, the group reads.
const MODE: u32 = 0o640;
/// The pause after a failed opening of a period's file: until then the previous file continues.
const TRY_AGAIN: Duration = Duration::from_secs(30);

pub(super) struct LogFile {
    folder: PathBuf,
    name: String,
    names: Names,
    /// The number of files of periods, the present one included.
    keep: usize,
    open: Open,
    /// A new file was refused: the next attempt comes after this moment.
    not_before: Option<Instant>,
}

struct Open {
    appender: RollingFileAppender,
    whole: Whole,
    period: u64,
}

impl LogFile {
    /// Opens the file of the present period.
    pub(super) fn open(path: &Path, log: &config::Log) -> anyhow::Result<Self> {
        let place = || format!("log.file: `{}` cannot be written", path.display());
        let name = path
            .file_name()
            .and_then(OsStr::to_str)
            .with_context(place)?;
        let folder = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        fs::create_dir_all(folder).with_context(place)?;
        // A link has the absolute path of its file.
        let folder = std::path::absolute(folder).with_context(place)?;
        let names = Names::new(name, log.rotation);
        let open = open(&folder, name, &names, now()).with_context(place)?;
        let file = Self {
            folder,
            name: name.to_owned(),
            names,
            keep: log.keep,
            open,
            not_before: None,
        };
        file.prune();
        Ok(file)
    }

    fn rotate(&mut self) {
        let is_early = |at: Instant| Instant::now() < at;
        if self.names.period(now()) == self.open.period || self.not_before.is_some_and(is_early) {
            return;
        }
        self.open_again();
    }

    fn open_again(&mut self) {
        match open(&self.folder, &self.name, &self.names, now()) {
            Ok(open) => {
                self.open = open;
                self.not_before = None;
                self.prune();
            }
            Err(error) => {
                self.not_before = Some(Instant::now() + TRY_AGAIN);
                let file = self.folder.join(&self.name).display().to_string();
                let error = format!("{error:#}");
                log!(
                    error,
                    log,
                    file,
                    error,
                    "the log file cannot be opened: the previous file stays in use"
                );
            }
        }
    }

    /// Deletes the oldest files of this log beyond the number to keep.
    fn prune(&self) {
        // A folder that cannot be read keeps its files: the log continues.
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        let present = self.names.file(self.open.period);
        let mut old: Vec<(String, PathBuf)> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let name = entry.file_name().into_string().ok()?;
                let stamp = self.names.stamp_of(&name)?;
                let is_old = name != present && entry.file_type().ok()?.is_file();
                is_old.then(|| (stamp.to_owned(), entry.path()))
            })
            .collect();
        old.sort();
        let beyond = (old.len() + 1).saturating_sub(self.keep);
        for (_, path) in &old[..beyond.min(old.len())] {
            if let Err(error) = fs::remove_file(path) {
                let file = path.display().to_string();
                log!(warn, log, file, %error, "an old log file cannot be deleted");
            }
        }
    }
}

impl Sink for LogFile {
    fn write(&mut self, lines: &[u8]) -> u64 {
        self.rotate();
        let Open {
            appender, whole, ..
        } = &mut self.open;
        // The error is not logged: its line would lack the same room.
        whole.lines(lines, &mut |bytes| appender.write(bytes))
    }

    fn reopen(&mut self) {
        self.open_again();
    }
}

fn now() -> u64 {
    now_ms().max(0).unsigned_abs() / 1_000
}

fn open(folder: &Path, name: &str, names: &Names, now: u64) -> anyhow::Result<Open> {
    let period = names.period(now);
    let file = names.file(period);
    fs::create_dir_all(folder)?;
    let is_torn = prepare(&folder.join(&file))?;
    let builder = rolling::Builder::new()
        .rotation(rolling::Rotation::NEVER)
        .filename_prefix(file);
    // The link would replace a log that was written without rotation.
    let is_free = || {
        let found = folder.join(name).symlink_metadata();
        found.map_or(true, |found| found.is_symlink())
    };
    let builder = if names.rotates() && is_free() {
        builder.latest_symlink(name)
    } else {
        builder
    };
    Ok(Open {
        appender: builder.build(folder)?,
        whole: Whole::new(is_torn),
        period,
    })
}

/// Creates the file, or removes the rights of others from an existing one. Returns whether it ends amid a line.
fn prepare(path: &Path) -> io::Result<bool> {
    let mut options = OpenOptions::new();
    // The opening never waits for the reader of a pipe.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    options.append(true).mode(MODE).custom_flags(flags);
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            // Independent of the process's umask.
            file.set_permissions(Permissions::from_mode(MODE))?;
            return Ok(false);
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    if let Ok(found) = fs::metadata(path)
        && !found.is_file()
        && !found.file_type().is_char_device()
    {
        let words = "neither a regular file nor a device";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
    }
    let file = options.create(true).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Ok(false);
    }
    let mode = found.mode() & 0o7777;
    if mode & MODE != mode {
        // The file of another user keeps its mode.
        let _ = file.set_permissions(Permissions::from_mode(mode & MODE));
    }
    Ok(found.len() > 0 && last_byte(path).is_ok_and(|byte| byte != b'\n'))
}

fn last_byte(path: &Path) -> io::Result<u8> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut byte = [0];
    file.read_exact(&mut byte)?;
    Ok(byte[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LogFormat, Rotation};

    fn log_to(path: &Path, rotation: Rotation) -> config::Log {
        let (level, format) = ("info".to_owned(), LogFormat::Auto);
        config::Log {
            level,
            format,
            file: Some(path.to_owned()),
            rotation,
            keep: 2,
        }
    }

    fn opened(path: &Path, rotation: Rotation) -> LogFile {
        LogFile::open(path, &log_to(path, rotation)).unwrap()
    }

    #[track_caller]
    fn write_line(path: &Path, rotation: Rotation, line: &str) {
        assert_eq!(opened(path, rotation).write(line.as_bytes()), 0);
    }

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn the_name_in_the_config_always_shows_the_latest_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logs/moontide.log");
        write_line(&path, Rotation::Daily, "one\n");
        assert!(path.is_symlink());
        assert_eq!(text(&path), "one\n");
    }

    #[test]
    fn rotation_never_replaces_a_log_that_was_written_without() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("moontide.log");
        write_line(&path, Rotation::Never, "one\n");
        write_line(&path, Rotation::Daily, "two\n");
        assert_eq!(text(&path), "one\n");
    }

    #[test]
    fn the_group_may_read_and_nobody_else_whatever_the_mask() {
        let directory = tempfile::tempdir().unwrap();
        for rotation in [Rotation::Never, Rotation::Hourly] {
            let path = directory.path().join(format!("{rotation:?}.log"));
            write_line(&path, rotation, "one\n");
            assert_eq!(mode(&path), 0o640, "{rotation:?}");
        }
    }

    #[test]
    fn a_file_that_is_there_gets_no_rights_and_loses_those_of_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("moontide.log");
        for (before, after) in [(0o600, 0o600), (0o644, 0o640), (0o666, 0o640)] {
            fs::write(&path, "old\n").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(before)).unwrap();
            write_line(&path, Rotation::Never, "new\n");
            assert_eq!(mode(&path), after, "{before:o}");
        }
    }

    #[test]
    fn a_file_that_ends_amid_a_line_goes_on_with_a_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("moontide.log");
        fs::write(&path, "{\"half\":").unwrap();
        write_line(&path, Rotation::Never, "{}\n");
        assert_eq!(text(&path), "{\"half\":\n{}\n");
    }

    #[test]
    fn after_a_rename_the_file_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("moontide.log");
        let renamed = directory.path().join("moontide.log.1");
        let mut file = opened(&path, Rotation::Never);
        file.write(b"one\n");
        fs::rename(&path, &renamed).unwrap();
        file.write(b"two\n");
        file.reopen();
        file.write(b"three\n");
        assert_eq!(text(&renamed), "one\ntwo\n");
        assert_eq!(text(&path), "three\n");
        assert_eq!(mode(&path), 0o640);
    }

    #[test]
    fn a_file_that_cannot_be_opened_again_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("moontide.log");
        let renamed = directory.path().join("moontide.log.1");
        let mut file = opened(&path, Rotation::Never);
        fs::rename(&path, &renamed).unwrap();
        fs::create_dir(&path).unwrap();
        file.reopen();
        assert_eq!(file.write(b"one\n"), 0);
        assert_eq!(text(&renamed), "one\n");
    }

    #[test]
    fn a_new_period_has_a_new_file_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("moontide.log");
        let old = ["moontide.2020-01-01.log", "moontide.2020-01-02.log"];
        let foreign = ["moontide-b.2020-01-01.log", "moontide.notes.log"];
        for name in old.iter().chain(&foreign) {
            fs::write(directory.path().join(name), "old\n").unwrap();
        }
        let mut file = opened(&path, Rotation::Daily);
        let there = |name: &str| directory.path().join(name).exists();
        assert!(!there(old[0]) && there(old[1]), "two are kept");
        // As if it had been opened two days ago.
        file.open.period -= 2;
        file.write(b"new\n");
        assert_eq!(text(&path), "new\n");
        assert!(foreign.iter().all(|name| there(name)));
    }

    #[test]
    fn a_disk_without_room_costs_lines_that_are_counted() {
        if !Path::new("/dev/full").exists() {
            return;
        }
        let mut file = opened(Path::new("/dev/full"), Rotation::Never);
        assert_eq!(file.write(b"one\ntwo\n"), 2);
    }

    #[test]
    fn a_pipe_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("moontide.log");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let error = LogFile::open(&path, &log_to(&path, Rotation::Never)).err();
        let error = format!("{:#}", error.unwrap());
        assert!(error.contains("neither a regular file"), "{error}");
    }
}
