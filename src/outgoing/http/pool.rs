//! The connections of one client: those in use, each with its permit, and idle ones.
//!
//! **A connection returns only after a whole response.** In every other case its drop closes it, so no request ever
//! reads the rest of another one's response. Idle connections are closed before servers usually close them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::url::Origin;
use crate::telemetry::status::HttpStatus;

/// The most bytes of the head of a response.
const HEAD_BYTES_MAX: usize = 128 << 10;
const HEADERS_MAX: usize = 256;

/// What an idle connection can serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) origin: Origin,
    pub(super) certificate: Option<String>,
}

#[derive(Debug)]
pub(super) struct Pool {
    size: usize,
    idle_max: Duration,
    permits: Arc<Semaphore>,
    idle: Mutex<Idle>,
    waiting: AtomicUsize,
    open: Arc<AtomicUsize>,
    own: Weak<Self>,
}

#[derive(Debug, Default)]
struct Idle {
    /// The longest idle one first.
    connections: VecDeque<(Key, Connection, Instant)>,
    /// A task that closes them runs.
    is_watched: bool,
}

/// The right to have one connection.
#[derive(Debug)]
pub(super) struct Permit(#[expect(dead_code, reason = "its drop returns it")] OwnedSemaphorePermit);

/// A connection. Its drop closes the socket.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: SendRequest<Full<Bytes>>,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts a socket, from its connection to its end.
#[derive(Debug)]
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a request that waits, however it ends.
struct Waiting<'p>(&'p AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    pub(super) fn new(size: usize, idle_max: Duration) -> Arc<Self> {
        Arc::new_cyclic(|own| Self {
            size,
            idle_max,
            permits: Arc::new(Semaphore::new(size)),
            idle: Mutex::default(),
            waiting: AtomicUsize::new(0),
            open: Arc::default(),
            own: own.clone(),
        })
    }

    /// The right to one more connection; `None` if there is none until `deadline`.
    pub(super) async fn acquire(&self, deadline: Instant) -> Option<Permit> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        let permit = Arc::clone(&self.permits).acquire_owned();
        match timeout_at(deadline, permit).await {
            Ok(Ok(permit)) => Some(Permit(permit)),
            _ => None,
        }
    }

    /// An idle connection for a request, the last one that became idle. Its holder has a permit.
    pub(super) fn take(&self, key: &Key) -> Option<Connection> {
        let mut idle = self.lock();
        loop {
            let at = idle.connections.iter().rposition(|(one, ..)| one == key)?;
            let (_, connection, until) = idle.connections.remove(at)?;
            if Instant::now() < until && !connection.sender.is_closed() {
                return Some(connection);
            }
        }
    }

    /// Makes room for a new connection, whose holder has a permit.
    pub(super) fn make_room(&self) {
        let mut idle = self.lock();
        while idle.connections.len() > self.permits.available_permits() {
            idle.connections.pop_front();
        }
    }

    /// A connection behind a whole response, whose holder still has its permit.
    pub(super) fn put_back(&self, key: Key, connection: Connection) {
        if connection.sender.is_closed() {
            return;
        }
        let mut idle = self.lock();
        let until = Instant::now() + self.idle_max;
        idle.connections.push_back((key, connection, until));
        if !std::mem::replace(&mut idle.is_watched, true) {
            tokio::spawn(close_idle(self.own.clone(), until));
        }
    }

    /// A connection on a stream that is open.
    pub(super) async fn connection<S>(&self, stream: S) -> hyper::Result<Connection>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.open.fetch_add(1, Ordering::Relaxed);
        let open = Open(Arc::clone(&self.open));
        let mut builder = http1::Builder::new();
        builder
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX);
        let (sender, driver) = builder.handshake(TokioIo::new(stream)).await?;
        let task = tokio::spawn(async move {
            let _open = open;
            // The request has the error, too.
            let _ = driver.await;
        });
        Ok(Connection { sender, task })
    }

    pub(super) fn counts(&self) -> HttpStatus {
        let idle = self.lock();
        HttpStatus {
            size: self.size,
            in_use: self.size - self.permits.available_permits(),
            idle: idle.connections.len(),
            waiting: self.waiting.load(Ordering::Relaxed),
            open: self.open.load(Ordering::Relaxed),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connections that have been idle for too long. Returns when the next one has.
    fn close_old(&self) -> Option<Instant> {
        let mut idle = self.lock();
        let now = Instant::now();
        idle.connections
            .retain(|(_, connection, until)| now < *until && !connection.sender.is_closed());
        let next = idle.connections.front().map(|(.., until)| *until);
        idle.is_watched = next.is_some();
        next
    }
}

/// Runs while a pool has idle connections.
async fn close_idle(pool: Weak<Pool>, mut next: Instant) {
    loop {
        sleep_until(next).await;
        let Some(found) = pool.upgrade().and_then(|pool| pool.close_old()) else {
            return;
        };
        next = found;
    }
}
