//! Records that leave: dead letters and retry records, the topics that they need, and the outbox that sends them; and
//! the producers, the admin client, and the HTTP, Redis and database clients of handlers.

pub(crate) mod admin;
mod back_off;
pub(crate) mod clients;
pub(crate) mod dead_letter;
mod endings;
pub(crate) mod failed_message;
pub(crate) mod http;
pub(crate) mod outbox;
mod pool;
pub(crate) mod producers;
pub(crate) mod redis;
mod registry;
pub(crate) mod required_topics;
pub(crate) mod retry_topic;
mod sockets;
pub(crate) mod sql;
pub(crate) mod transactions;
