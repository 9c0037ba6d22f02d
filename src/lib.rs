//! Moontide consumes Kafka topics and hands every message to a Lua function.
//!
//! ARCHITECTURE.md has the map; the modules stand here by storeys, the lowest first.

mod allocator;
mod clock;
mod duration;
mod failpoint;
mod log;
mod message;
mod nearest;
mod own_folder;
mod rate_limit;
mod topic_name;

mod threads;

mod kafka;

mod config;

mod rules;

mod crash;

mod telemetry;

mod outgoing;

mod bundle;

mod lua;

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
