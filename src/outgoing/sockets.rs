//! The way to a server, for every client of handlers: lookups, sockets and TLS.

pub(super) mod dialer;
pub(super) mod dialing;
pub(super) mod resolver;
pub(super) mod stream;
pub(super) mod tls;
