//! The table of `once`: a row for each identity, in the transaction of what was done.
//!
//! Rows are deleted by age. The first deletion comes some time after the first use, so that a daemon which was down for
//! long finds the rows of the messages that it had not committed.

use std::sync::Arc;

use tokio::time::timeout;

use super::client::{Client, too_slow};
use super::driver::{Connection as _, Driver, Role};
use super::lease::Lease;
use crate::log::log;
use crate::wait::Fault;
use crate::wait::sql::Statement;

/// Rows that one statement deletes, so that none takes long.
const ROWS: usize = 5_000;

impl<D: Driver> Client<D> {
    fn once_table(&self) -> String {
        D::table(&self.settings.once_table)
    }

    pub(super) fn once_text(&self) -> String {
        D::once_text(&self.once_table())
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

    /// Deletes old rows in the background, now and then.
    pub(super) fn clean_once(self: &Arc<Self>) {
        if !self.once.is_due() {
            return;
        }
        let client = Arc::downgrade(self);
        tokio::spawn(async move {
            while let Some(client) = client.upgrade() {
                match client.delete_old().await {
                    Ok(count) if count >= ROWS as u64 => {}
                    Ok(_) => return,
                    Err(fault) => {
                        let (database, error) = (&client.settings.name, fault.message);
                        log!(
                            warn,
                            lua,
                            database = %database,
                            error = %error,
                            "old rows of the table of `once` were not deleted; the next use tries again"
                        );
                        return;
                    }
                }
            }
        });
    }

    async fn delete_old(&self) -> Result<u64, Fault> {
        let mut lease = self.lease(Role::Writes, false).await?;
        let statement = Statement {
            text: D::delete_old(&self.once_table(), self.settings.once_retention, ROWS),
            arguments: Vec::new(),
            prepare: Some(false),
        };
        self.execute(&mut lease, &statement).await
    }
}
