//! The built binary, from outside: one `mod` a behaviour.

#![expect(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

// init, dev and send, as a newcomer meets them.
mod dev;
// What the documents show is what the program takes.
mod docs;
// Every example does what its README says.
mod examples;
// What the service manager is told: ready, status, reloads, watchdog, the end.
mod notify;
// The shipped units under a real systemd: ready, reload, watchdog, stop, exit codes, journal fields.
mod systemd;
