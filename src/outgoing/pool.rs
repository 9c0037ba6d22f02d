//! The connections of one client: those in use, each with its permit, and idle ones.
//!
//! **A connection returns only after a whole answer.** In every other case its drop closes it, so no call ever reads
//! the rest of another one's answer. Idle connections are closed before servers usually close them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::telemetry::status::PoolStatus;

/// A connection that may serve again. Its drop closes it.
pub(super) trait Reusable: Send + 'static {
    /// Whether it is open, and nothing has come since its last answer.
    fn is_usable(&mut self) -> bool;
}

/// `K` is what an idle connection can serve.
#[derive(Debug)]
pub(super) struct Pool<K, C> {
    size: usize,
    idle_max: Duration,
    permits: Arc<Semaphore>,
    idle: Mutex<Idle<K, C>>,
    waiting: AtomicUsize,
    open: Arc<AtomicUsize>,
    own: Weak<Self>,
}

#[derive(Debug)]
struct Idle<K, C> {
    /// The longest idle one first.
    connections: VecDeque<(K, C, Instant)>,
    /// A task that closes them runs.
    is_watched: bool,
}

/// The right to have one connection.
#[derive(Debug)]
pub(super) struct Permit(#[expect(dead_code, reason = "its drop returns it")] OwnedSemaphorePermit);

/// Counts a socket, from its connection to its end.
#[derive(Debug)]
pub(super) struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a call that waits, however it ends.
struct Waiting<'p>(&'p AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<K: PartialEq + Send + 'static, C: Reusable> Pool<K, C> {
    pub(super) fn new(size: usize, idle_max: Duration) -> Arc<Self> {
        Arc::new_cyclic(|own| Self {
            size,
            idle_max,
            permits: Arc::new(Semaphore::new(size)),
            idle: Mutex::new(Idle {
                connections: VecDeque::new(),
                is_watched: false,
            }),
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

    /// An idle connection, the last one that became idle. Its holder has a permit.
    pub(super) fn take(&self, key: &K) -> Option<C> {
        let mut idle = self.lock();
        loop {
            let at = idle.connections.iter().rposition(|(one, ..)| one == key)?;
            let (_, mut connection, until) = idle.connections.remove(at)?;
            if Instant::now() < until && connection.is_usable() {
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

    /// A connection behind a whole answer, whose holder still has its permit.
    pub(super) fn put_back(&self, key: K, mut connection: C) {
        if !connection.is_usable() {
            return;
        }
        let mut idle = self.lock();
        let until = Instant::now() + self.idle_max;
        idle.connections.push_back((key, connection, until));
        if !std::mem::replace(&mut idle.is_watched, true) {
            tokio::spawn(close_idle(self.own.clone(), until));
        }
    }

    /// Counts a socket that has just been opened, until its drop.
    pub(super) fn opened(&self) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(&self.open))
    }

    pub(super) fn counts(&self) -> PoolStatus {
        let idle = self.lock();
        PoolStatus {
            size: self.size,
            in_use: self.size - self.permits.available_permits(),
            idle: idle.connections.len(),
            waiting: self.waiting.load(Ordering::Relaxed),
            open: self.open.load(Ordering::Relaxed),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Idle<K, C>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connections that have been idle for too long. Returns when the next one has.
    fn close_old(&self) -> Option<Instant> {
        let mut idle = self.lock();
        let now = Instant::now();
        idle.connections
            .retain_mut(|(_, connection, until)| now < *until && connection.is_usable());
        let next = idle.connections.front().map(|(.., until)| *until);
        idle.is_watched = next.is_some();
        next
    }
}

/// Runs while a pool has idle connections.
async fn close_idle<K, C>(pool: Weak<Pool<K, C>>, mut next: Instant)
where
    K: PartialEq + Send + 'static,
    C: Reusable,
{
    loop {
        sleep_until(next).await;
        let Some(found) = pool.upgrade().and_then(|pool| pool.close_old()) else {
            return;
        };
        next = found;
    }
}
