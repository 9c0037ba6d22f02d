//! One transaction: the connection that it holds, between its statements.
//!
//! A statement owns the connection while it runs, so a statement that is given up takes it away, and the transaction is
//! lost. **Whoever drops the connection rolls back** (`lease.rs`): the end of the call, a reload, a revocation, a stop.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::client::{Answer, Client, too_slow};
use super::driver::{Connection as _, Driver, NotCommitted, Role};
use super::lease::Lease;
use super::{checked, sentence, verb};
use crate::duration::short;
use crate::wait::sql::{Begin, Prepared, Request, Transaction};
use crate::wait::{Fault, Value};

pub(super) struct Own<D: Driver>(Arc<Inner<D>>);

struct Inner<D: Driver> {
    client: Arc<Client<D>>,
    begin: Begin,
    /// One statement at a time.
    turn: Semaphore,
    slot: Mutex<Slot<D>>,
}

struct Slot<D: Driver> {
    /// Not while a statement runs.
    lease: Option<Lease<D>>,
    /// Why there is no connection, for errors.
    missing: &'static str,
    /// Committed, or told to end.
    is_over: bool,
}

/// Attempts to insert an identity. Where several wait for one that rolls back, a server may call that a deadlock.
const ATTEMPTS: usize = 10;
const NOT_BEGUN: &str = "the transaction has not begun";
const OVER: &str = "the transaction has ended";
const LOST: &str =
    "the transaction is lost with a statement that was given up, or whose connection ended";

impl<D: Driver> Own<D> {
    pub(super) fn new(client: Arc<Client<D>>, begin: Begin) -> Self {
        Self(Arc::new(Inner {
            client,
            begin,
            turn: Semaphore::new(1),
            slot: Mutex::new(Slot {
                lease: None,
                missing: NOT_BEGUN,
                is_over: false,
            }),
        }))
    }
}

impl<D: Driver> fmt::Debug for Own<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").finish_non_exhaustive()
    }
}

impl<D: Driver> Transaction for Own<D> {
    fn begin(&self) -> Prepared {
        let inner = self.0.clone();
        inner.prepared("BEGIN", |inner| async move {
            inner.begin().await.map(Value::Boolean)
        })
    }

    fn request(&self, request: Request) -> Result<Prepared, Fault> {
        let inner = self.0.clone();
        let name = &inner.client.settings.name;
        checked(&request)?;
        let verb = verb(&request.work);
        let about = format!("{name} {verb}");
        let requesting = Box::pin(async move {
            let result = inner.request(&request).await;
            result.map_err(|fault| {
                sentence(request.function, &verb, &inner.client.settings.name, fault)
            })
        });
        Ok(Prepared { about, requesting })
    }

    fn commit(&self) -> Prepared {
        let inner = self.0.clone();
        inner.prepared("COMMIT", |inner| async move {
            inner.commit().await.map(|()| Value::Nil)
        })
    }

    fn end(&self) {
        let lease = {
            let mut slot = self.0.slot();
            slot.is_over = true;
            slot.missing = OVER;
            slot.lease.take()
        };
        drop(lease);
    }
}

impl<D: Driver> Drop for Own<D> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<D: Driver> Inner<D> {
    fn prepared<F>(
        self: Arc<Self>,
        what: &'static str,
        work: impl FnOnce(Arc<Self>) -> F,
    ) -> Prepared
    where
        F: Future<Output = Result<Value, Fault>> + Send + 'static,
    {
        let name = self.client.settings.name.clone();
        let about = format!("{name} {what}");
        let function = self.begin.function;
        let work = work(self);
        let requesting = Box::pin(async move {
            work.await
                .map_err(|fault| sentence(function, what, &name, fault))
        });
        Prepared { about, requesting }
    }

    fn slot(&self) -> MutexGuard<'_, Slot<D>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the body has to run.
    async fn begin(&self) -> Result<bool, Fault> {
        let client = &self.client;
        let mut lease = client
            .lease(Role::Writes, self.begin.within_transaction)
            .await?;
        if self.begin.identity.is_some() {
            client.make_once_table(&mut lease).await?;
        }
        let within = client.settings.timeout;
        let begun = timeout(within, lease.connection()?.begin(&self.begin)).await;
        begun.unwrap_or_else(|_| Err(too_slow(within)))?;
        lease.begun(client.counted());
        if let Some(identity) = &self.begin.identity {
            let statement = client.once_statement(identity);
            let mut count = client.execute(&mut lease, &statement).await;
            for _ in 1..ATTEMPTS {
                let is_refused = count.as_ref().is_err_and(|fault| fault.kind == "conflict");
                if !is_refused || !lease.is_clean() {
                    break;
                }
                self.begin_again(&mut lease).await?;
                count = client.execute(&mut lease, &statement).await;
            }
            let count = count.map_err(|fault| client.once_failed(fault))?;
            client.once.note(identity);
            client.clean_once();
            if count == 0 {
                // It holds nothing, so the next call need not wait for its end.
                let within = client.settings.timeout;
                let _ = timeout(within, lease.connection()?.rollback()).await;
                return Ok(false);
            }
        }
        let mut slot = self.slot();
        if slot.is_over {
            drop(slot);
            return Err(Fault::new("closed", OVER));
        }
        slot.lease = Some(lease);
        slot.missing = LOST;
        Ok(true)
    }

    /// For a transaction in which nothing has been done yet.
    async fn begin_again(&self, lease: &mut Lease<D>) -> Result<(), Fault> {
        let within = self.client.settings.timeout;
        let connection = lease.connection()?;
        let beginning = async {
            connection.rollback().await?;
            connection.begin(&self.begin).await
        };
        let begun = timeout(within, beginning).await;
        begun.unwrap_or_else(|_| Err(too_slow(within)))
    }

    /// The connection, for one who has the turn.
    async fn take(&self) -> Result<(SemaphorePermit<'_>, Lease<D>), Fault> {
        let turn = self.turn.acquire().await;
        let turn = turn.map_err(|_| Fault::new("closed", OVER))?;
        let mut slot = self.slot();
        match slot.lease.take() {
            Some(lease) => Ok((turn, lease)),
            None => Err(Fault::new("closed", slot.missing)),
        }
    }

    async fn request(&self, request: &Request) -> Result<Value, Fault> {
        let (_turn, mut lease) = self.take().await?;
        let answer = self.client.answer(&mut lease, request).await;
        if lease.is_clean() && !lease.is_in_transaction() {
            self.slot().missing = "the transaction was ended by a statement of it";
            let message =
                "the statement has ended the transaction; return from its function, or raise in it";
            return Err(Fault::new("invalid", message));
        }
        if lease.is_clean() {
            let mut slot = self.slot();
            // What has ended meanwhile is rolled back by the drop, outside of the lock.
            if !slot.is_over {
                slot.lease = Some(lease);
            }
        }
        match answer? {
            Answer::Value(value) => Ok(value),
            Answer::Writes => Err(Fault::new("internal", "a transaction that only reads")),
        }
    }

    async fn commit(&self) -> Result<(), Fault> {
        let (_turn, mut lease) = self.take().await?;
        {
            let mut slot = self.slot();
            slot.is_over = true;
            slot.missing = OVER;
        }
        if lease.has_failed() {
            let message = "a statement of the transaction has failed, so it is rolled back; an error that the function \
                catches has to leave it, too";
            return Err(Fault::new("invalid", message));
        }
        let within = self.client.settings.timeout;
        let committed = timeout(within, lease.connection()?.commit()).await;
        let reason = match committed {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(NotCommitted::Refused(fault))) => return Err(fault),
            Ok(Err(NotCommitted::Unanswered(reason))) => reason,
            Err(_) => format!("none within {}", short(within)),
        };
        let message =
            format!("COMMIT has no answer: {reason}; the transaction may have been committed");
        Err(Fault::new("unknown", message))
    }
}
