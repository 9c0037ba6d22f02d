//! The harness of the black-box tests: a real broker, a client of its own, a project on disk, the real binary.
//!
//! It knows the daemon by what users see of it: config, command line, log lines, exit codes, and what Kafka says of
//! its group. Every wait has a deadline and says what it waited for.

pub(crate) mod client;
pub(crate) mod daemon;
pub(crate) mod http;
pub(crate) mod kafka;
pub(crate) mod mariadb;
pub(crate) mod postgres;
pub(crate) mod project;
pub(crate) mod records;
pub(crate) mod redis;
pub(crate) mod sql_server;
pub(crate) mod tally;
pub(crate) mod threads;
pub(crate) mod wait;
pub(crate) mod web;
