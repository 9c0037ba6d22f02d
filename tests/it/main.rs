//! The built binary, from outside: one `mod` a behaviour.

// What `moontide check` refuses, word for word, and what it prints.
mod check;
// What the service manager is told: ready, status, reloads, watchdog, the end.
mod notify;
// The shipped units under a real systemd: ready, reload, watchdog, stop, exit codes, journal fields.
mod systemd;
