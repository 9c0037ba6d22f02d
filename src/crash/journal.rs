//! The journal of running messages. After a crash, the next process reads from it which messages were running.
//!
//! The journal is a file in the state directory, mapped into memory and never synced. It survives every end of the
//! process, but not the end of the machine, which is no crash of Moontide. A message costs a few plain stores and no
//! system call. The journal knows nothing of lanes and outcomes. Invariants: bytes on disk are never trusted, and at
//! worst forgotten. Without a journal everything runs as well, so nothing in here ends the daemon.

mod layout;
mod memory;
mod page;
mod shortened;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};

use crate::files::own_folder::{self, Lock};
use crate::log::log;

use layout::{Crashed, FILE_BYTES_MAX, Layout, Left};
use memory::Memory;
pub(crate) use page::{InPartition, Page, Slot};

const FILE: &str = "running";
/// The file is written whole and renamed: a process that dies at its start leaves the old one.
const NEW: &str = "running.new";
const LOCK: &str = "running.lock";

/// The id of the boot, by which the next process recognises a reboot; empty if the system has none.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

pub(crate) struct Journal {
    memory: Arc<Memory>,
    /// Held as long as this lives.
    _lock: Lock,
}

impl Journal {
    /// Opens the journal, with one page a worker. If that fails, logs the reason once, and the process runs without a
    /// journal.
    pub(crate) fn start(
        directory: &Path,
        workers: usize,
        crashes_max: u32,
    ) -> (Option<Self>, Vec<Page>) {
        match Self::open(directory, workers, crashes_max) {
            Ok((journal, pages)) => (Some(journal), pages),
            Err(error) => {
                log!(
                    warn,
                    crash,
                    error = format!("{error:#}"),
                    "no journal of running messages: one that kills the process is not found"
                );
                (None, (0..workers).map(|_| Page::none()).collect())
            }
        }
    }

    fn open(directory: &Path, workers: usize, crashes_max: u32) -> Result<(Self, Vec<Page>)> {
        own_folder::make(directory)
            .with_context(|| format!("cannot use state directory `{}`", directory.display()))?;
        let lock = lock(directory)?;
        let boot = boot();
        let left = read(directory)?;
        let left = left
            .as_deref()
            .and_then(|bytes| layout::decode(bytes, boot));
        let crashed = left.map(Left::counted).unwrap_or_default();
        tell(&crashed, crashes_max);
        let layout = Layout::of(workers);
        let image = layout.image(boot, &crashed);
        let file = write(directory, &image)?;
        let memory = Memory::map(&file, layout, &crashed, crashes_max)
            .context("cannot map the journal into memory")?;
        let memory = Arc::new(memory);
        let pages = (0..workers)
            .map(|worker| Page::new(memory.clone(), worker))
            .collect();
        let journal = Self {
            memory,
            _lock: lock,
        };
        Ok((journal, pages))
    }

    /// Marks the process as stopping: its end from now on is no crash, unless a worker has panicked.
    pub(crate) fn stopping(&self) {
        self.memory.stopping();
        self.memory.look();
    }
}

fn lock(directory: &Path) -> Result<Lock> {
    let path = directory.join(LOCK);
    Lock::take(&path).map_err(|error| match error {
        TryLockError::WouldBlock => anyhow!(
            "another daemon runs with state directory `{}`; `daemon.stateDirectory` gives each its own",
            directory.display()
        ),
        TryLockError::Error(error) => {
            anyhow::Error::new(error).context(format!("cannot lock `{}`", path.display()))
        }
    })
}

/// The bytes that the last process left. A file larger than any journal is not one.
fn read(directory: &Path) -> Result<Option<Vec<u8>>> {
    let path = directory.join(FILE);
    let place = || format!("cannot read `{}`", path.display());
    let file = match own_folder::open(&path, OpenOptions::new().read(true)) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(place),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .with_context(place)?;
    Ok((bytes.len() as u64 <= FILE_BYTES_MAX).then_some(bytes))
}

/// The file is written in full, so that a full disk is an error here and not a signal when a page is touched.
fn write(directory: &Path, image: &[u8]) -> Result<File> {
    let (path, new) = (directory.join(FILE), directory.join(NEW));
    let write = || {
        let mut file = own_folder::create(&new)?;
        file.write_all(image)?;
        std::fs::rename(&new, &path)?;
        Ok(file)
    };
    write().map_err(|error: std::io::Error| {
        // A file that was not written completely has no use.
        let _ = std::fs::remove_file(&new);
        anyhow::Error::new(error).context(format!("cannot write `{}`", path.display()))
    })
}

fn boot() -> u64 {
    let id = std::fs::read(BOOT_ID).unwrap_or_default();
    u64::from(crc32fast::hash(&id)) << 32 | id.len() as u64
}

/// The most crashed messages that a start names of each kind; a crash leaves as many as were running.
const TOLD: usize = 10;

/// `orders[3]@42, orders[0]@7 and 2 more`, for the log.
fn names(crashed: &[Crashed]) -> String {
    let names = crashed
        .iter()
        .take(TOLD)
        .map(|one| format!("{}[{}]@{}", one.topic, one.partition, one.offset));
    let names = names.collect::<Vec<_>>().join(", ");
    match crashed.len().saturating_sub(TOLD) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

fn tell(crashed: &[Crashed], crashes_max: u32) {
    if crashed.is_empty() {
        return;
    }
    let suspects = crashed.iter().filter(|one| one.is_suspect(crashes_max));
    log!(
        warn,
        crash,
        messages = crashed.len(),
        running = names(crashed),
        suspects = suspects.clone().count(),
        "messages were running when the process died, now or before"
    );
    for one in suspects.take(TOLD) {
        log!(
            warn,
            crash,
            group = one.group,
            topic = one.topic,
            partition = one.partition,
            offset = one.offset,
            crashes = one.crashes,
            alone = one.alone,
            // No shell changes a character of a topic's name.
            skip = format!(
                "moontide skip {} {} {}",
                one.topic, one.partition, one.offset
            ),
            "message is suspected of killing the process: it runs alone"
        );
    }
}
