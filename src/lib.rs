//! Moontide consumes Kafka topics and hands every message to a Lua function.
//!
//! ARCHITECTURE.md has the map; the modules stand here in reading order.

mod allocator;

mod failpoint;

mod message;

mod clock;

mod folder;

mod config;

mod route;

mod retry;

mod breaker;

mod offsets;

mod gaps;

mod lanes;

mod start;

mod mailbox;

mod journal;

mod solo;

mod difference;

mod kafka;

mod dead_letter;

mod retry_topic;

mod needed;

mod outbox;

mod lua;

mod bundle;

mod partition;

mod asker;

mod consumer;

mod worker;

mod supervisor;

mod status;

mod metrics;

mod ready;

mod control;

mod http;

mod watch;

mod systemd;

mod logging;

mod shutdown;

mod daemon;

pub mod cli;

#[cfg(feature = "micro")]
#[doc(hidden)]
pub mod micro;

pub use allocator::Allocator;
