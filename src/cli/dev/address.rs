//! `dev.json`: the address of the broker of a running `moontide dev`, for `moontide send` and other clients.
//!
//! The file lies in the runtime directory of the config, and is removed with the process that wrote it. If a killed
//! process left it behind, nothing listens at its address. So the file alone never counts as a broker.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::files::own_folder;

const FILE: &str = "dev.json";

/// A running broker on loopback answers within microseconds.
const CONNECT_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) pid: u32,
    /// The value for `bootstrap.servers`.
    pub(crate) brokers: String,
}

/// The broker of the `moontide dev` that runs with this runtime directory, if any.
pub(crate) fn find(runtime_directory: &Path) -> Result<Option<Address>> {
    let path = runtime_directory.join(FILE);
    let mut text = String::new();
    match own_folder::open(&path, OpenOptions::new().read(true)) {
        Ok(mut file) => file.read_to_string(&mut text),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(error),
    }
    .with_context(|| path.display().to_string())?;
    let address: Address =
        serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    Ok(address.answers().then_some(address))
}

/// The file; dropping this removes it.
pub(super) struct Published {
    path: PathBuf,
}

/// Writes the file, and replaces a stale one.
pub(super) fn publish(runtime_directory: &Path, brokers: &str) -> Result<Published> {
    let path = runtime_directory.join(FILE);
    let address = Address {
        pid: std::process::id(),
        brokers: brokers.to_owned(),
    };
    let text = serde_json::to_string(&address).context("dev.json")?;
    write_whole(&path, &text).with_context(|| path.display().to_string())?;
    Ok(Published { path })
}

impl Address {
    fn answers(&self) -> bool {
        let address = self.brokers.parse::<SocketAddr>();
        address.is_ok_and(|address| TcpStream::connect_timeout(&address, CONNECT_MAX).is_ok())
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        // If the file stays, the next reader detects that it is stale.
        fs::remove_file(&self.path).ok();
    }
}

/// A reader sees the old file or the new one, never a part of one.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        // With the same mode as the daemon's, which starts later.
        own_folder::make(directory)?;
    }
    let new = path.with_extension("json.new");
    own_folder::create(&new)?.write_all(text.as_bytes())?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_file_is_found_as_long_as_somebody_listens_there() {
        let directory = tempfile::tempdir().unwrap();
        let runtime_directory = directory.path().join("run");
        assert_eq!(find(&runtime_directory).unwrap(), None);

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let brokers = listener.local_addr().unwrap().to_string();
        let published = publish(&runtime_directory, &brokers).unwrap();
        let address = Address {
            pid: std::process::id(),
            brokers,
        };
        assert_eq!(find(&runtime_directory).unwrap(), Some(address));

        drop(listener);
        assert_eq!(find(&runtime_directory).unwrap(), None);

        drop(published);
        assert!(!runtime_directory.join(FILE).exists());
    }
}
