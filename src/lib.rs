//! Moontide consumes Kafka topics and hands every message to a Lua function.
//!
//! ARCHITECTURE.md has the map; the modules stand here in reading order.

mod message;

mod config;

mod kafka;

mod lua;

mod bundle;

mod status;

pub mod cli;
