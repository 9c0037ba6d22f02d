//! The transactional id of a consumer: stable over restarts, and of one process alone.
//!
//! A new id would let readers wait until the transaction of the process before times out. A file of the state
//! directory has its random part, and a lock on that file tells a second process.

use std::fs::TryLockError;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use anyhow::bail;

use crate::files::own_folder::{self, Lock};
use crate::log::log;

/// The length of the random part.
const LENGTH: usize = 12;

#[derive(Debug)]
pub(crate) struct Id {
    pub(crate) text: String,
    /// Held as long as the id is used.
    _lock: Option<Lock>,
}

impl Id {
    /// Reads the file, or makes it. Without a folder in which it can be written the id lasts as long as the process.
    pub(crate) fn open(directory: &Path, consumer: &str, group: &str) -> anyhow::Result<Self> {
        let path = directory.join(format!("transactions-{consumer}.id"));
        let made = own_folder::make(directory).map_err(TryLockError::Error);
        let (random, lock) = match made.and_then(|()| Lock::take(&path)) {
            Ok(lock) => match random_of(&lock) {
                Ok(random) => (random, Some(lock)),
                Err(error) => (fresh(&path, consumer, &error), Some(lock)),
            },
            Err(TryLockError::WouldBlock) => bail!(
                "another process uses `{}`, and with it the transactional id of consumer `{consumer}`; give each \
                 process its own `daemon.stateDirectory`",
                path.display()
            ),
            Err(TryLockError::Error(error)) => (fresh(&path, consumer, &error), None),
        };
        Ok(Self {
            text: format!("moontide-{group}-{consumer}-{random}"),
            _lock: lock,
        })
    }
}

fn fresh(path: &Path, consumer: &str, error: &std::io::Error) -> String {
    log!(
        warn,
        consumer,
        consumer,
        file = %path.display(),
        %error,
        "the transactional id lasts as long as this process: after a crash readers wait until its transaction times out"
    );
    random()
}

fn random() -> String {
    std::iter::repeat_with(fastrand::alphanumeric)
        .take(LENGTH)
        .collect()
}

/// What the file has; an empty or foreign one is written anew.
fn random_of(lock: &Lock) -> std::io::Result<String> {
    let mut file = lock.file();
    let mut text = String::new();
    file.take(1024).read_to_string(&mut text)?;
    let text = text.trim();
    if text.len() == LENGTH && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(text.to_owned());
    }
    let random = random();
    file.rewind()?;
    file.set_len(0)?;
    file.write_all(random.as_bytes())?;
    file.sync_all()?;
    Ok(random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_stays_and_belongs_to_one_process() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let first = Id::open(&state, "default", "g").unwrap();
        let error = Id::open(&state, "default", "g").unwrap_err().to_string();
        assert!(error.contains("daemon.stateDirectory"), "{error}");
        let other = Id::open(&state, "other", "g").unwrap();
        assert_ne!(first.text, other.text);
        let text = first.text.clone();
        drop(first);
        assert_eq!(Id::open(&state, "default", "g").unwrap().text, text);
        std::fs::write(state.join("transactions-default.id"), "?").unwrap();
        let anew = Id::open(&state, "default", "g").unwrap();
        assert_ne!(anew.text, text);
        assert!(anew.text.starts_with("moontide-g-default-"));
    }

    #[test]
    fn without_a_folder_an_id_lasts_as_long_as_the_process() {
        let first = Id::open(Path::new("/proc/none"), "default", "g").unwrap();
        let second = Id::open(Path::new("/proc/none"), "default", "g").unwrap();
        assert_ne!(first.text, second.text);
    }
}
