//! The connections of a server: a bounded number of tasks. A new connection ends the oldest idle one.
//!
//! A connection is idle while it waits for its peer: the peer has not sent a whole request, or does not read the
//! answer. Silent peers, in any number, delay no other peer.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::SockRef;
use tokio::task::{AbortHandle, JoinSet};

/// The kernel's queue of connections that wait for an accept. With Rust's 128, a burst of connections delays the next
/// one by a second.
const BACKLOG: i32 = 1024;

/// Lets more connections wait for an accept.
pub(crate) fn lengthen_backlog<'s>(listener: impl Into<SockRef<'s>>) -> io::Result<()> {
    listener.into().listen(BACKLOG)
}

pub(crate) struct Connections {
    max: usize,
    tasks: JoinSet<()>,
    /// Connections that were added since the others last had a turn.
    fresh: usize,
    /// The oldest first.
    open: VecDeque<(AbortHandle, Seat)>,
}

/// The state that a connection reports; idle at first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seat {
    is_busy: Arc<AtomicBool>,
}

impl Seat {
    /// The server works on the request: nothing ends this connection.
    pub(crate) fn busy(&self) {
        self.is_busy.store(true, Ordering::Relaxed);
    }

    /// The connection waits for its peer.
    pub(crate) fn idle(&self) {
        self.is_busy.store(false, Ordering::Relaxed);
    }

    fn is_idle(&self) -> bool {
        !self.is_busy.load(Ordering::Relaxed)
    }
}

impl Connections {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            tasks: JoinSet::new(),
            fresh: 0,
            open: VecDeque::new(),
        }
    }

    /// Whether there is room for one more: a place is free, or an idle connection has it.
    pub(crate) fn has_room(&self) -> bool {
        self.open.len() < self.max || self.open.iter().any(|(_, seat)| seat.is_idle())
    }

    /// Starts a connection, and ends the oldest idle one if no place is free. Now and then every connection has its
    /// turn, so that one whose request has arrived does not count as idle.
    pub(crate) async fn add<F>(&mut self, connection: impl FnOnce(Seat) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.forget_ended();
        if self.open.len() >= self.max
            && let Some(oldest) = self.open.iter().position(|(_, seat)| seat.is_idle())
            && let Some((task, _)) = self.open.remove(oldest)
        {
            task.abort();
        }
        let seat = Seat::default();
        let task = self.tasks.spawn(connection(seat.clone()));
        self.open.push_back((task, seat));
        self.fresh += 1;
        if self.fresh > self.max / 4 {
            self.fresh = 0;
            tokio::task::yield_now().await;
        }
    }

    /// Waits until a connection ends; without any, for ever.
    pub(crate) async fn one_ends(&mut self) {
        if self.tasks.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
        self.forget_ended();
    }

    fn forget_ended(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|(task, _)| !task.is_finished());
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    /// A connection that lasts until its sender is dropped or used; it ends early where it is ended.
    async fn open(connections: &mut Connections, is_busy: bool) -> oneshot::Sender<()> {
        let (sender, receiver) = oneshot::channel();
        let connection = |seat: Seat| async move {
            if is_busy {
                seat.busy();
            }
            _ = receiver.await;
        };
        connections.add(connection).await;
        sender
    }

    #[tokio::test]
    async fn a_new_connection_ends_the_oldest_idle_one() {
        let mut connections = Connections::new(3);
        let busy = open(&mut connections, true).await;
        let mut oldest = open(&mut connections, false).await;
        let younger = open(&mut connections, false).await;
        let newest = open(&mut connections, false).await;
        oldest.closed().await;
        assert!(!busy.is_closed() && !younger.is_closed() && !newest.is_closed());
    }

    #[tokio::test]
    async fn where_all_are_busy_a_new_connection_waits_for_the_end_of_one() {
        let mut connections = Connections::new(2);
        let first = open(&mut connections, true).await;
        let _second = open(&mut connections, true).await;
        assert!(!connections.has_room());
        drop(first);
        connections.one_ends().await;
        assert!(connections.has_room());
    }
}
