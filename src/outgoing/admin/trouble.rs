//! Why a question to the brokers has no answer, and the error that a handler sees for it.

use std::time::Duration;

use super::shape::{list, table, text};
use crate::duration::short;
use crate::kafka::Error;
use crate::kafka::admin_request::Changes;
use crate::wait::{Fault, Value};

#[derive(Debug)]
pub(super) enum Trouble {
    /// A request failed. The place is empty, or as "topic `orders`: ".
    Request { place: String, error: Error },
    /// These topics are there, but a partition of them has no leader yet.
    WithoutLeader(Vec<String>),
    /// Some of several changes failed. The first word is what the names are of.
    Changes(&'static str, Changes),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::at(String::new(), error)
    }
}

impl Trouble {
    pub(super) fn at(place: String, error: Error) -> Self {
        Self::Request { place, error }
    }

    pub(super) fn of_topic(topic: &str) -> impl Fn(Error) -> Self {
        move |error| Self::at(format!("topic `{topic}`: "), error)
    }

    pub(super) fn of_group(group: &str) -> impl Fn(Error) -> Self {
        move |error| Self::at(format!("group `{group}`: "), error)
    }

    /// Nothing if no change has failed.
    pub(super) fn check(word: &'static str, changes: Changes) -> Result<(), Self> {
        if changes.iter().all(|(_, result)| result.is_ok()) {
            return Ok(());
        }
        Err(Self::Changes(word, changes))
    }

    /// Whether the brokers have done nothing, and the same request soon may succeed.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Request { error, .. } => error.is_passing(),
            Self::WithoutLeader(_) => false,
            Self::Changes(_, changes) => changes
                .iter()
                .all(|(_, result)| result.as_ref().is_err_and(Error::is_passing)),
        }
    }

    /// `reason` is the last error of a connection.
    pub(super) fn fault(
        self,
        function: &str,
        addresses: &str,
        timeout: Duration,
        reason: Option<String>,
    ) -> Fault {
        let function = format!("`tide.kafka.admin.{function}`");
        match self {
            Self::Request { error, .. } if error.is_without_connection() => {
                let within = short(timeout);
                let (kind, why) = match reason {
                    Some(reason) => ("unreachable", reason),
                    None => (error.admin_kind(), error.to_string()),
                };
                let message =
                    format!("{function}: no broker of {addresses} answered within {within}: {why}");
                Fault::new(kind, message)
            }
            Self::Request { place, error } => {
                let hint = hint(&error);
                let message = format!("{function}: {place}{error}{hint}");
                Fault::new(error.admin_kind(), message)
            }
            Self::WithoutLeader(topics) => {
                let (topics, within) = (topics.join("`, `"), short(timeout));
                let message = format!(
                    "{function}: the topics `{topics}` are created, but a partition has no leader after {within}"
                );
                Fault::new("timeout", message)
            }
            Self::Changes(word, changes) => of_changes(&function, word, &changes),
        }
    }
}

fn hint(error: &Error) -> &'static str {
    if error.is_of_members() {
        "; the group has members: stop its consumers first"
    } else {
        ""
    }
}

/// The first failure gives the kind; the field `results` has them all.
fn of_changes(function: &str, word: &str, changes: &Changes) -> Fault {
    let mut failures = changes
        .iter()
        .filter_map(|(name, result)| result.as_ref().err().map(|error| (name, error)));
    let Some((name, error)) = failures.next() else {
        return Fault::new("internal", format!("{function}: no change has failed"));
    };
    let more = match failures.count() {
        0 => String::new(),
        more => format!("; {more} more failed, see `results`"),
    };
    let message = format!("{function}: {word} `{name}`: {error}{}{more}", hint(error));
    let results = changes.iter().map(|(name, result)| match result {
        Ok(()) => table([("name", text(name))]),
        Err(error) => table([
            ("name", text(name)),
            ("kind", text(error.admin_kind())),
            ("error", text(&error.to_string())),
        ]),
    });
    let results: Value = list(results);
    Fault {
        fields: vec![("results", results)],
        ..Fault::new(error.admin_kind(), message)
    }
}
