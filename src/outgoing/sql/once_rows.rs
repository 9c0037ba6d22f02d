//! The table of `once`: a row for each identity, in the transaction of what was done.
//!
//! A row is deleted when it is old, **and its message is committed**: before that the message may come again, however
//! long the consumer stood still. Only the daemon that has the partition knows what is committed, and only it deletes.

use std::sync::{Arc, Weak};

use tokio::time::timeout;

use super::client::{Client, too_slow};
use super::driver::{Connection as _, Driver, Role};
use super::lease::Lease;
use crate::log::log;
use crate::wait::sql::{Identity, Statement};
use crate::wait::{Fault, Value};

/// Rows that one statement deletes, so that none takes long.
const ROWS: usize = 5_000;

fn text(text: &str) -> Value {
    Value::Bytes(text.as_bytes().into())
}

impl<D: Driver> Client<D> {
    fn once_table(&self) -> String {
        D::table(&self.settings.once_table)
    }

    /// Inserts a row, unless it is there.
    pub(super) fn once_statement(&self, identity: &Identity) -> Statement {
        Statement {
            text: D::once_text(&self.once_table()),
            arguments: vec![
                text(&identity.text),
                text(&identity.scope),
                Value::Integer(identity.offset),
            ],
            prepare: None,
        }
    }

    pub(super) async fn make_once_table(&self, lease: &mut Lease<D>) -> Result<(), Fault> {
        if self.once.is_made() {
            return Ok(());
        }
        let within = self.settings.timeout;
        let making = lease
            .connection()?
            .make_once_table(&self.settings.once_table);
        let made = timeout(within, making).await;
        made.unwrap_or_else(|_| Err(too_slow(within)))?;
        self.once.set_made(true);
        Ok(())
    }

    /// The table may have been dropped: the next call looks again.
    pub(super) fn once_failed(&self, fault: Fault) -> Fault {
        if fault.kind == "notFound" {
            self.once.set_made(false);
        }
        fault
    }

    /// Deletes rows in the background, now and then.
    pub(super) fn clean_once(self: &Arc<Self>) {
        if self.once.is_due() {
            tokio::spawn(clean(Arc::downgrade(self)));
        }
    }

    async fn delete_done(&self, scope: &str, committed: i64) -> Result<u64, Fault> {
        let mut lease = self.lease(Role::Writes, false).await?;
        let statement = Statement {
            text: D::delete_done(&self.once_table(), self.settings.once_retention, ROWS),
            arguments: vec![text(scope), Value::Integer(committed)],
            prepare: Some(false),
        };
        self.execute(&mut lease, &statement).await
    }
}

/// Ends early when nobody has the client any more.
async fn clean<D: Driver>(client: Weak<Client<D>>) {
    let committed = match client.upgrade() {
        Some(client) => client.once.committed().await,
        None => return,
    };
    for (scope, offset) in committed {
        while let Some(client) = client.upgrade() {
            match client.delete_done(&scope, offset).await {
                Ok(count) if count >= ROWS as u64 => {}
                Ok(_) => break,
                Err(fault) => {
                    let (database, error) = (&client.settings.name, fault.message);
                    log!(
                        warn,
                        lua,
                        database = %database,
                        error = %error,
                        "old rows of the table of `once` were not deleted; a later use tries again"
                    );
                    return;
                }
            }
        }
    }
}
