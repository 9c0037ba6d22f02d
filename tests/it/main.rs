//! The built binary, from outside: one `mod` a behaviour.

#![expect(clippy::unwrap_used, reason = "a test ends by a panic")]

mod support;

mod check; // what `moontide check` refuses, word for word, and what it prints
mod commits; // what is committed, and when
mod context; // what a handler is given
mod data; // what can stand in a topic
mod failures; // handlers that fail
mod faults; // kills, outages and storms of members under load
mod lifecycle; // start and stop
mod limits; // handlers that never return or eat all memory
mod listeners; // which handler gets which message
mod notify; // what the service manager is told: ready, status, reloads, watchdog, the end
mod positions; // where a partition starts
mod reload; // files that change while the daemon runs
mod systemd; // the shipped units under a real systemd
