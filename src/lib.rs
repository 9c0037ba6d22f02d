//! Moontide consumes Kafka topics and hands every message to a Lua function.
//!
//! The map, lowest storey first; a file imports only downward (ARCHITECTURE.md):
//!
//! - ground: `message` `topic_name` `wait` `clock` `log` …: no thread, no client, no VM
//! - `threads`: mailboxes, progress, the supervisor, the outside runtime
//! - `kafka` `crash`: librdkafka; the journal of running messages
//! - `config` `bundle` `rules`: the written configuration, the files on disk, decisions
//! - `state`: stores, flights, caches and limits that handlers share
//! - `lua` `telemetry` `outgoing`: VMs and the API of handlers; what is shown; records that leave
//! - `assignment` `consumer` `worker`: one epoch of a partition, and the two threads that share it
//! - `service` `daemon` `cli`: the surroundings of the process; its life; its commands

mod allocator;
mod clock;
mod duration;
mod failpoint;
mod files;
mod log;
mod message;
mod nearest;
mod rate_limit;
mod topic_name;
mod wait;

mod threads;

mod crash;
mod kafka;

mod config;

mod bundle;

mod rules;

mod state;

mod lua;
mod telemetry;

mod outgoing;

mod assignment;

mod consumer;
mod worker;

mod service;

mod daemon;

pub mod cli;

#[cfg(feature = "micro")]
#[doc(hidden)]
pub mod micro;

pub use allocator::Allocator;
