//! The transactions of databases that the calls of a VM have open. No Lua.
//!
//! A Lua function knows a transaction by its number. Its end, however the call ends, is told by the object that lies open
//! on the stack of `db:transaction` (`api/tide/sql/transaction.rs`).

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use crate::wait::sql::Transaction;

#[derive(Default)]
pub(super) struct Transactions {
    last: Cell<u64>,
    open: RefCell<Vec<Open>>,
    has_warned: Cell<bool>,
}

struct Open {
    id: u64,
    call: u64,
    database: String,
    transaction: Arc<dyn Transaction>,
}

impl Transactions {
    pub(super) fn add(&self, call: u64, database: &str, transaction: Arc<dyn Transaction>) -> u64 {
        let id = self.last.get() + 1;
        self.last.set(id);
        self.open.borrow_mut().push(Open {
            id,
            call,
            database: database.to_owned(),
            transaction,
        });
        id
    }

    pub(super) fn get(&self, id: u64) -> Option<Arc<dyn Transaction>> {
        let open = self.open.borrow();
        let one = open.iter().find(|one| one.id == id);
        one.map(|one| one.transaction.clone())
    }

    /// Rolls back what is not committed. An unknown number is that of one that has ended.
    pub(super) fn end(&self, id: u64) {
        let ended = {
            let mut open = self.open.borrow_mut();
            let at = open.iter().position(|one| one.id == id);
            at.map(|at| open.swap_remove(at))
        };
        if let Some(ended) = ended {
            ended.transaction.end();
        }
    }

    /// Whether the call has one open in this database.
    pub(super) fn is_within(&self, call: u64, database: &str) -> bool {
        let open = self.open.borrow();
        open.iter()
            .any(|one| one.call == call && one.database == database)
    }

    /// Whether the call has one open, and this is the first time that it is asked for.
    pub(super) fn warns_of_http(&self, call: u64) -> bool {
        let is_within = self.open.borrow().iter().any(|one| one.call == call);
        is_within && !self.has_warned.replace(true)
    }
}
