//! The statements of a handler, and their results. Knows neither Lua nor sockets.
//!
//! The API of handlers makes a [`Request`] or a [`Begin`], and a [`Databases`] that it was given carries it out.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::{Fault, Value};

/// A statement with its arguments, in the order of its placeholders.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Statement {
    pub(crate) text: String,
    pub(crate) arguments: Vec<Value>,
    /// Whether it stays prepared; `None`: as the configuration has it.
    pub(crate) prepare: Option<bool>,
}

/// What a statement returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The list of all rows.
    Rows,
    /// The one row, or nil.
    One,
    /// The number of rows that it has changed.
    Count,
}

/// Rows for one table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Insert {
    /// With its schema, if it is named.
    pub(crate) table: Vec<String>,
    pub(crate) columns: Vec<String>,
    /// Each has a value for every column.
    pub(crate) rows: Vec<Vec<Value>>,
    pub(crate) on_conflict: Option<OnConflict>,
}

/// What becomes of a row that is there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OnConflict {
    /// The columns of the unique index; none: of any.
    pub(crate) columns: Vec<String>,
    /// The columns that get the new values; none: the row stays.
    pub(crate) update: Vec<String>,
}

/// What one call requests.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Work {
    Run(Statement, Shape),
    Insert(Insert),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    /// The name of the function, for errors.
    pub(crate) function: &'static str,
    pub(crate) work: Work,
    /// `None`: that of the configuration.
    pub(crate) timeout: Option<Duration>,
    /// Whether the call has a transaction of the same database open, which holds a connection.
    pub(crate) within_transaction: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isolation {
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

/// The answer of [`Positions::committed`].
pub(crate) type Committed = Pin<Box<dyn Future<Output = Option<i64>> + Send>>;

/// How far a consumer has committed its partitions.
pub(crate) trait Positions: fmt::Debug + Send + Sync {
    /// `None` where this daemon does not have the partition, or does not know its committed offset.
    fn committed(&self, topic: &str, partition: i32) -> Committed;
}

/// What the body of a `once` does, and the message for which it does that.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// Equal each time that it does the same for the same message.
    pub(crate) text: String,
    /// Of the listener, and of the partition of the message.
    pub(crate) scope: String,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// Those of the consumer of the listener.
    pub(crate) positions: Arc<dyn Positions>,
}

/// A transaction that is to begin.
#[derive(Clone, Debug)]
pub(crate) struct Begin {
    /// The name of the function, for errors.
    pub(crate) function: &'static str,
    /// `None`: that of the database.
    pub(crate) isolation: Option<Isolation>,
    pub(crate) is_read_only: bool,
    /// Of `once`.
    pub(crate) identity: Option<Identity>,
    pub(crate) within_transaction: bool,
}

/// Ends with the result, or with the reason for none. **A drop closes the connection**, where it is half used.
pub(crate) type Requesting = Pin<Box<dyn Future<Output = Result<Value, Fault>> + Send>>;

/// A request that has been checked and not begun.
pub(crate) struct Prepared {
    /// For the status: `main SELECT`.
    pub(crate) about: String,
    pub(crate) requesting: Requesting,
}

/// The databases of one configuration. No function starts anything: the answers do, on the runtime of the outside.
pub(crate) trait Databases: fmt::Debug + Send + Sync {
    fn request(&self, database: &str, request: Request) -> Result<Prepared, Fault>;

    fn transaction(&self, database: &str, begin: Begin) -> Result<Arc<dyn Transaction>, Fault>;
}

/// A transaction, from before its beginning on. **Unless it is committed, its drop or its end rolls it back.**
pub(crate) trait Transaction: fmt::Debug + Send + Sync {
    /// True if the body has to run; false where `once` has run before.
    fn begin(&self) -> Prepared;

    fn request(&self, request: Request) -> Result<Prepared, Fault>;

    fn commit(&self) -> Prepared;

    /// Waits for nothing. A statement under way is given up.
    fn end(&self);
}
