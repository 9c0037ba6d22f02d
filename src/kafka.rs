//! Kafka, as the rest of the program needs it. **Only this module names rdkafka**, and it knows nothing of Lua.
//!
//! The consumer has a handle of its own (`client`), since the crate's consumers return one message a call. `queries`
//! and `descriptions` have its requests to the brokers. `admin_request` has what those of the admin API share, and the
//! requests of handlers. `list` and `message` are its data, `error` classifies errors, and `connection` has the steps of its connections.

pub(crate) mod admin;
pub(crate) mod admin_request;
mod callbacks;
mod client;
mod connection;
mod descriptions;
mod error;
mod largest_batch;
mod list;
pub(crate) mod log;
mod message;
pub(crate) mod mock;
mod outgoing;
pub(crate) mod probe;
pub(crate) mod producer;
pub(crate) mod property;
mod queries;
pub(crate) mod refetch;
mod refusal;
pub(crate) mod transactional;

pub(crate) use callbacks::{Event, Rebalance};
pub(crate) use client::{Client, Closing, Committed, Taken};
pub(crate) use connection::{Broker, Connection, Security, Step, Unfit};
pub(crate) use descriptions::{Description, Existing};
pub(crate) use error::{Class, Error};
pub(crate) use list::TopicPartition;
pub(crate) use message::Message;
pub(crate) use refusal::Refusal;

/// The version of librdkafka and its build features, for the first line of the log.
pub(crate) fn version() -> String {
    rdkafka::util::get_rdkafka_version().1
}
