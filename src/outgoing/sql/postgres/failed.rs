//! Why an exchange has no result, and the error that a handler gets of it. Pure.

use postgres_protocol::message::backend::ErrorResponseBody;

use super::faults::{self, Reported};
use super::wire::Broken;
use crate::outgoing::sql::driver::row_too_large;
use crate::wait::Fault;

#[derive(Debug)]
pub(super) enum Failed {
    /// The connection is of no use any more.
    Broken(Broken),
    /// The server says so.
    Reported(Reported),
    /// An argument, or the statement, is wrong.
    Fault(Fault),
}

impl From<Broken> for Failed {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl Failed {
    pub(super) fn fault(self) -> Fault {
        match self {
            Self::Broken(Broken::Closed(reason)) => {
                let message = format!(
                    "the connection ended before the result: {reason}; the statement may have run"
                );
                Fault::new("closed", message)
            }
            Self::Broken(Broken::TooLarge) => row_too_large(),
            Self::Broken(Broken::Malformed(error)) => alien(&error.to_string()),
            Self::Broken(Broken::Unexpected(what)) => alien(&what),
            Self::Broken(Broken::Unwritable(error)) => {
                Fault::new("invalid", format!("it cannot be sent: {error}"))
            }
            Self::Reported(reported) => reported.fault(),
            Self::Fault(fault) => fault,
        }
    }
}

fn alien(what: &str) -> Fault {
    let message = format!("the server does not speak as PostgreSQL: {what}");
    Fault::new("closed", message)
}

/// An error after which the exchange goes on to its end. Behind a fatal one the server ends the connection.
pub(super) fn reported(body: &ErrorResponseBody) -> Result<Reported, Failed> {
    let reported = faults::read(body);
    if reported.is_fatal {
        return Err(Failed::Reported(reported));
    }
    Ok(reported)
}
