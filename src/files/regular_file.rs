//! Reads of regular files. The open or the read of anything else, such as a named pipe, could wait forever.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(crate) fn read_to_string(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// Opens the file without a wait, and looks at the open file: the path may have another one a moment later.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = match opened {
        // A socket cannot be opened.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
            return Err(irregular("a socket"));
        }
        opened => opened?,
    };
    let found = file.metadata()?.file_type();
    if found.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    match kind(found) {
        Some(kind) => Err(irregular(kind)),
        None => Ok(file),
    }
}

/// What a file is that is neither a regular one nor a folder.
pub(crate) fn kind(found: FileType) -> Option<&'static str> {
    if found.is_fifo() {
        Some("a named pipe")
    } else if found.is_socket() {
        Some("a socket")
    } else if found.is_char_device() || found.is_block_device() {
        Some("a device")
    } else {
        None
    }
}

fn irregular(kind: &str) -> io::Error {
    io::Error::other(format!("is {kind}, not a regular file"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn refusal(path: &Path) -> String {
        crate::config::words(&read(path).unwrap_err())
    }

    #[test]
    fn only_a_regular_file_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "text").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        assert_eq!(read_to_string(&at("link")).unwrap(), "text");

        let pipe = std::process::Command::new("mkfifo")
            .arg(at("pipe"))
            .status();
        assert!(pipe.unwrap().success());
        let _socket = UnixListener::bind(at("socket")).unwrap();
        assert_eq!(refusal(&at("pipe")), "is a named pipe, not a regular file");
        assert_eq!(refusal(&at("socket")), "is a socket, not a regular file");
        assert_eq!(
            refusal("/dev/zero".as_ref()),
            "is a device, not a regular file"
        );
        assert_eq!(refusal(folder.path()), "is a directory");
        assert_eq!(refusal(&at("none")), "no such file or directory");
    }
}
