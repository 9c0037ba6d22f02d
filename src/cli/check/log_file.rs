//! Checks whether `[log] file` is writable, without leaving a file behind.
//!
//! The user of `check` may differ from the user of the daemon, so that a missing permission is a warning and no
//! error.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::config::{self, Log, Rotation};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Writable,
    /// Not writable, at least for this user.
    Refused(String),
    /// Not writable for any user.
    Impossible(String),
}

pub(super) fn look(log: &Log) -> Found {
    let Some(path) = &log.file else {
        return Found::Writable;
    };
    let sentence = |place: &Path, why: &str| format!("`[log] file`: `{}` {why}", place.display());
    match probe(path, log.rotation) {
        Ok(()) => Found::Writable,
        Err((place, error)) => match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                let words = config::words(&error);
                let why = format!("cannot be written by the user who runs this check: {words}");
                Found::Refused(sentence(&place, &why))
            }
            _ => {
                let why = format!("cannot be written: {}", config::words(&error));
                Found::Impossible(sentence(&place, &why))
            }
        },
    }
}

fn probe(path: &Path, rotation: Rotation) -> Result<(), (PathBuf, io::Error)> {
    let at = |place: &Path| {
        let place = place.to_owned();
        |error| (place, error)
    };
    // With rotation this is a link to the latest file, or an older file that stays unchanged.
    if path.is_dir() {
        return Err((path.to_owned(), ErrorKind::IsADirectory.into()));
    }
    let found = fs::metadata(path);
    if let Ok(found) = &found
        && rotation == Rotation::Never
        && !found.is_file()
        && !found.file_type().is_char_device()
    {
        let words = "neither a regular file nor a device";
        return Err((
            path.to_owned(),
            io::Error::new(ErrorKind::InvalidInput, words),
        ));
    }
    if rotation == Rotation::Never && found.is_ok() {
        return OpenOptions::new()
            .append(true)
            .open(path)
            .map(drop)
            .map_err(at(path));
    }
    // The start creates missing folders of the path.
    let mut folder = path.parent().unwrap_or(path);
    let found = loop {
        match fs::metadata(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => match folder.parent() {
                Some(parent) => folder = parent,
                None => return Ok(()),
            },
            found => break found.map_err(at(folder))?,
        }
    };
    if !found.is_dir() {
        return Err((folder.to_owned(), ErrorKind::NotADirectory.into()));
    }
    takes_files(folder).map_err(at(folder))
}

/// Creates a file without a name, which disappears with its descriptor. If the file system does not support this, the
/// check reports nothing.
#[cfg(target_os = "linux")]
fn takes_files(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;

    let opened = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .open(folder);
    match opened {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

#[cfg(not(target_os = "linux"))]
fn takes_files(folder: &Path) -> io::Result<()> {
    if fs::metadata(folder)?.permissions().readonly() {
        return Err(ErrorKind::PermissionDenied.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;

    fn found(path: &Path, rotation: Rotation) -> Found {
        look(&Log {
            level: "info".to_owned(),
            format: LogFormat::Auto,
            file: Some(path.to_owned()),
            rotation,
            keep: 1,
        })
    }

    #[test]
    fn a_file_that_can_be_made_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        for rotation in [Rotation::Daily, Rotation::Never] {
            let path = folder.path().join("logs/deep/moontide.log");
            assert_eq!(found(&path, rotation), Found::Writable);
            assert_eq!(
                found(&folder.path().join("a.log"), rotation),
                Found::Writable
            );
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_is_there_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moontide.log");
        fs::write(&path, "one\n").unwrap();
        assert_eq!(found(&path, Rotation::Never), Found::Writable);
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\n");
    }

    #[test]
    fn a_pipe_is_an_error_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moontide.log");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let words = "cannot be written: neither a regular file nor a device";
        let expected = format!("`[log] file`: `{}` {words}", path.display());
        assert_eq!(found(&path, Rotation::Never), Found::Impossible(expected));
    }

    #[test]
    fn what_nobody_can_write_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(
            found(&file.join("moontide.log"), Rotation::Daily),
            Found::Impossible(format!(
                "`[log] file`: `{}` cannot be written: not a directory",
                file.display()
            ))
        );
        assert_eq!(
            found(folder.path(), Rotation::Never),
            Found::Impossible(format!(
                "`[log] file`: `{}` cannot be written: is a directory",
                folder.path().display()
            ))
        );
    }
}
