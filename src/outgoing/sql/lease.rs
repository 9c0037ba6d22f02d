//! A connection of the pool that one call owns.
//!
//! **Its drop cleans up**: a transaction is rolled back, and a connection that is half used is abandoned. Meanwhile its
//! place in the pool stays taken, so that the database never has more connections than the configuration allows.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;

use super::driver::{Connection, Driver};
use crate::outgoing::pool::{self, Permit};
use crate::wait::Fault;

pub(super) type Pool<D> = pool::Pool<(), <D as Driver>::Connection>;

/// The longest time of a clean-up.
const CLEAN_UP: Duration = Duration::from_secs(5);

pub(super) struct Lease<D: Driver> {
    /// Taken by the clean-up.
    connection: Option<(D::Connection, Permit)>,
    pool: Arc<Pool<D>>,
    /// A transaction may end on a thread without a runtime.
    runtime: Handle,
    transaction: Option<Counted>,
}

/// Counts a transaction, however it ends.
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<D: Driver> Lease<D> {
    /// Runs on the runtime of the outside.
    pub(super) fn new(connection: D::Connection, permit: Permit, pool: Arc<Pool<D>>) -> Self {
        Self {
            connection: Some((connection, permit)),
            pool,
            runtime: Handle::current(),
            transaction: None,
        }
    }

    pub(super) fn connection(&mut self) -> Result<&mut D::Connection, Fault> {
        let connection = self.connection.as_mut().map(|(connection, _)| connection);
        connection.ok_or_else(|| Fault::new("internal", "a lease without a connection"))
    }

    pub(super) fn is_clean(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|(one, _)| one.is_clean())
    }

    pub(super) fn is_in_transaction(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|(one, _)| one.is_in_transaction())
    }

    pub(super) fn has_failed(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|(one, _)| one.has_failed())
    }

    pub(super) fn begun(&mut self, counted: Counted) {
        self.transaction = Some(counted);
    }
}

impl<D: Driver> Drop for Lease<D> {
    fn drop(&mut self) {
        let Some((connection, permit)) = self.connection.take() else {
            return;
        };
        let (pool, transaction) = (self.pool.clone(), self.transaction.take());
        if connection.is_clean() && !connection.is_in_transaction() {
            // Without a task, so that the next call finds it.
            let _runtime = self.runtime.enter();
            pool.put_back((), connection);
            return;
        }
        self.runtime.spawn(async move {
            clean_up::<D>(&pool, connection).await;
            drop((transaction, permit));
        });
    }
}

async fn clean_up<D: Driver>(pool: &Pool<D>, mut connection: D::Connection) {
    if connection.is_clean() {
        let rolled_back = timeout(CLEAN_UP, connection.rollback()).await;
        if matches!(rolled_back, Ok(Ok(()))) && connection.is_clean() {
            pool.put_back((), connection);
            return;
        }
    }
    // Without an answer the drop closes it.
    let _ = timeout(CLEAN_UP, connection.abandon()).await;
}
