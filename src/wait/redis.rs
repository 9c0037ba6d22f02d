//! The Redis commands of a handler, and their reply. Knows neither Lua nor sockets.
//!
//! The API of handlers makes a [`Request`], and a [`Redis`] that it was given carries it out.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::{Fault, Value};

/// A command: its name, then its arguments.
pub(crate) type Command = Vec<Vec<u8>>;

/// What one call requests.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Work {
    One(Command),
    /// All at once; with `is_atomic` in a transaction.
    Pipeline {
        commands: Vec<Command>,
        is_atomic: bool,
    },
    Script {
        text: Vec<u8>,
        keys: Vec<Vec<u8>>,
        arguments: Vec<Vec<u8>>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    /// The name of the function, for errors.
    pub(crate) function: &'static str,
    /// The name of the table of the configuration.
    pub(crate) server: String,
    pub(crate) work: Work,
    /// `None`: that of the configuration.
    pub(crate) timeout: Option<Duration>,
}

/// Ends with the reply, or with the reason for none. **A drop closes the connection**, half used or not.
pub(crate) type Requesting = Pin<Box<dyn Future<Output = Result<Value, Fault>> + Send>>;

/// A request that has been checked and not begun.
pub(crate) struct Prepared {
    /// For the status: `GET`.
    pub(crate) about: String,
    pub(crate) requesting: Requesting,
}

/// The Redis servers of one configuration.
pub(crate) trait Redis: fmt::Debug + Send + Sync {
    /// Checks the request, and starts nothing: the answer does, on the runtime of the outside.
    fn request(&self, request: Request) -> Result<Prepared, Fault>;
}
