//! State that is shown: log, status, readiness, metrics and the HTTP server for them.

pub(crate) mod connections;
pub(crate) mod http;
pub(crate) mod logging;
pub(crate) mod metrics;
pub(crate) mod ready;
pub(crate) mod shell;
pub(crate) mod status;
