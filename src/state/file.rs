//! A store in a file of the state directory: an operation that changes something has its answer when the disk has it.
//!
//! The changes of many calls become one transaction of the database, and one write to the disk. Those that come
//! meanwhile are the next one. Every change is decided within its transaction, in the order of their arrival.

mod table;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::op::{Bounds, Done, Held, Op};
use crate::clock::now_ms;
use crate::files::own_folder;
use crate::log::log;
use crate::wait::Fault;

/// Memory for parts of the file.
const CACHE_BYTES: usize = 16 << 20;
/// The most changes of a transaction, and bytes after which it has no further one.
const CHANGES_MAX: usize = 4_096;
const BYTES_MAX: usize = 8 << 20;
/// Changes that wait, in units of so many bytes. With more a call waits for room.
const UNIT: usize = 1 << 10;
const UNITS: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct FileStore {
    bounds: Arc<Limits>,
    /// Where it is opened; `None` before.
    location: Mutex<Option<Location>>,
    open: Mutex<Option<Arc<Open>>>,
}

#[derive(Clone, Debug)]
struct Location {
    directory: PathBuf,
    path: PathBuf,
}

/// Bounds that a reload changes.
#[derive(Debug)]
struct Limits {
    entries: AtomicU64,
    bytes: AtomicU64,
}

/// The database, and the changes that wait for their transaction.
pub(super) struct Open {
    database: Database,
    bounds: Arc<Limits>,
    room: Arc<Semaphore>,
    queue: Mutex<Queue>,
    entries: AtomicU64,
    bytes: AtomicU64,
    /// After an error of the disk the file must be opened again.
    has_failed: AtomicBool,
}

#[derive(Default)]
struct Queue {
    changes: Vec<Change>,
    /// Whether somebody writes, who takes these too.
    is_writing: bool,
}

struct Change {
    op: Op,
    bytes: usize,
    answer: oneshot::Sender<Result<Done, Fault>>,
    /// Until it is written.
    _room: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open").finish_non_exhaustive()
    }
}

impl Limits {
    fn set(&self, bounds: Bounds) {
        self.entries.store(bounds.entries, Ordering::Relaxed);
        self.bytes.store(bounds.bytes, Ordering::Relaxed);
    }

    fn get(&self) -> Bounds {
        Bounds {
            entries: self.entries.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

impl FileStore {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds: Arc::new(Limits {
                entries: AtomicU64::new(bounds.entries),
                bytes: AtomicU64::new(bounds.bytes),
            }),
            location: Mutex::default(),
            open: Mutex::default(),
        }
    }

    pub(super) fn set_bounds(&self, bounds: Bounds) {
        self.bounds.set(bounds);
    }

    pub(super) fn bounds(&self) -> Bounds {
        self.bounds.get()
    }

    pub(super) fn held(&self) -> Held {
        let open = lock(&self.open).clone();
        open.map_or_else(Held::default, |open| open.held())
    }

    /// Opens the file, or makes it. An error is a sentence with its place.
    pub(super) fn open(&self, name: &str, directory: &Path, path: &Path) -> Result<(), String> {
        *lock(&self.location) = Some(Location {
            directory: directory.to_owned(),
            path: path.to_owned(),
        });
        self.opened()
            .map(|_| ())
            .map_err(|reason| format!("kv {name}: `{}`: {reason}", path.display()))
    }

    /// The open file. One that has failed is opened again as soon as nobody uses it any more.
    fn opened(&self) -> Result<Arc<Open>, String> {
        let mut open = lock(&self.open);
        if let Some(open) = &*open
            && !open.has_failed.load(Ordering::Relaxed)
        {
            return Ok(Arc::clone(open));
        }
        *open = None;
        let Some(location) = lock(&self.location).clone() else {
            return Err("it is not open here; a handler or a timer of the daemon calls".to_owned());
        };
        let made = Arc::new(database(&location, &self.bounds)?);
        *open = Some(Arc::clone(&made));
        Ok(made)
    }

    pub(super) async fn run(self: Arc<Self>, op: Op) -> Result<Done, Fault> {
        let found = lock(&self.open).clone();
        let usable = found.filter(|open| !open.has_failed.load(Ordering::Relaxed));
        let open = if let Some(open) = usable {
            open
        } else {
            let opened = tokio::task::spawn_blocking(move || self.opened());
            let opened = opened.await.map_err(|error| blocked(&error))?;
            opened.map_err(|reason| Fault::new("unreachable", format!("the file: {reason}")))?
        };
        match op {
            Op::Size => Ok(Done::Number(open.held().entries as i64)),
            Op::Get { .. } | Op::Scan { .. } => open.read(op).await,
            op => open.change(op).await,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn database(location: &Location, bounds: &Arc<Limits>) -> Result<Open, String> {
    let Location { directory, path } = location;
    own_folder::make(directory).map_err(|error| error.to_string())?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    let file = own_folder::open(path, &mut options).map_err(|error| error.to_string())?;
    let backend = FileBackend::new(file).map_err(|error| opening(&error))?;
    let (is_told, shown) = (AtomicBool::new(false), path.display().to_string());
    let database = Builder::new()
        .set_cache_size(CACHE_BYTES)
        .set_repair_callback(move |_| {
            if !is_told.swap(true, Ordering::Relaxed) {
                log!(
                    warn,
                    lua,
                    file = shown,
                    "the file of a store was not closed: it is checked"
                );
            }
        })
        .create_with_backend(backend)
        .map_err(|error| opening(&error))?;
    let held =
        table::first_look(&database).map_err(|error| format!("it cannot be read: {error}"))?;
    Ok(Open {
        database,
        bounds: Arc::clone(bounds),
        room: Arc::new(Semaphore::new(UNITS)),
        queue: Mutex::default(),
        entries: AtomicU64::new(held.entries),
        bytes: AtomicU64::new(held.bytes),
        has_failed: AtomicBool::new(false),
    })
}

fn opening(error: &DatabaseError) -> String {
    match error {
        DatabaseError::DatabaseAlreadyOpen => {
            "another process has it open; a store in a file belongs to one daemon, so give each its own \
             `daemon.stateDirectory`"
                .to_owned()
        }
        error => format!("it cannot be opened: {error}"),
    }
}

/// The disk is to blame, not the message.
fn away(error: &redb::Error) -> Fault {
    Fault::new("unreachable", format!("the file failed: {error}"))
}

fn blocked(error: &tokio::task::JoinError) -> Fault {
    Fault::new("internal", format!("the work on the file ended: {error}"))
}

impl Open {
    fn held(&self) -> Held {
        Held {
            entries: self.entries.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    /// What the last transaction has left. A read may wait for the disk.
    async fn read(self: &Arc<Self>, op: Op) -> Result<Done, Fault> {
        let open = Arc::clone(self);
        let now = now_ms() as u64;
        let work = tokio::task::spawn_blocking(move || table::read(&open.database, &op, now));
        let read = work.await.map_err(|error| blocked(&error))?;
        read.map_err(|error| away(&error))
    }

    /// Waits until the change is on the disk. A call that is given up may be changed all the same.
    async fn change(self: &Arc<Self>, op: Op) -> Result<Done, Fault> {
        let bytes = op.bytes();
        let units = (bytes / UNIT + 1) as u32;
        let closed = |_| Fault::new("closed", "the file is closed");
        let room = Arc::clone(&self.room).acquire_many_owned(units);
        let room = room.await.map_err(closed)?;
        let (answer, answered) = oneshot::channel();
        let is_first = {
            let mut queue = self.queue();
            queue.changes.push(Change {
                op,
                bytes,
                answer,
                _room: room,
            });
            !std::mem::replace(&mut queue.is_writing, true)
        };
        if is_first {
            let writer = Writer {
                open: Arc::clone(self),
                is_done: false,
            };
            tokio::task::spawn_blocking(move || writer.write());
        }
        answered
            .await
            .unwrap_or_else(|_| Err(Fault::new("internal", "the change ended without an answer")))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    /// The changes of the next transaction; none ends the writing.
    fn next(&self) -> Vec<Change> {
        let mut queue = self.queue();
        let (mut count, mut bytes) = (0, 0);
        for change in &queue.changes {
            bytes += change.bytes;
            if count == CHANGES_MAX || count > 0 && bytes > BYTES_MAX {
                break;
            }
            count += 1;
        }
        queue.is_writing = count > 0;
        queue.changes.drain(..count).collect()
    }
}

/// The one that writes. After a panic another one begins with the next change.
struct Writer {
    open: Arc<Open>,
    is_done: bool,
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let mut queue = self.open.queue();
        queue.is_writing = false;
        // Their calls must not wait for a writer that may never come.
        let left = std::mem::take(&mut queue.changes);
        drop(queue);
        drop(left);
    }
}

impl Writer {
    fn write(mut self) {
        loop {
            let open = &self.open;
            let changes = open.next();
            if changes.is_empty() {
                self.is_done = true;
                return;
            }
            let ops: Vec<&Op> = changes.iter().map(|change| &change.op).collect();
            let (held, bounds) = (open.held(), open.bounds.get());
            match table::write(&open.database, &ops, held, bounds, now_ms() as u64) {
                Ok((results, held)) => {
                    open.entries.store(held.entries, Ordering::Relaxed);
                    open.bytes.store(held.bytes, Ordering::Relaxed);
                    for (change, result) in changes.into_iter().zip(results) {
                        // A call that was given up wants no answer.
                        let _ = change.answer.send(result);
                    }
                }
                Err(error) => {
                    open.has_failed.store(true, Ordering::Relaxed);
                    let fault = away(&error);
                    for change in changes {
                        let _ = change.answer.send(Err(fault.clone()));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
