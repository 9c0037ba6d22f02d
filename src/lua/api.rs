//! The API of handlers: the message table, `ctx`, `app`, loggers and the library `tide`.

pub(crate) mod app;
pub(crate) mod arguments;
pub(crate) mod batch;
pub(crate) mod call;
pub(crate) mod commit;
pub(crate) mod consumer;
pub(crate) mod ctx;
pub(crate) mod defer;
pub(crate) mod duration;
pub(crate) mod emit;
pub(crate) mod fields;
pub(crate) mod logger;
pub(crate) mod message;
pub(crate) mod module;
pub(crate) mod tide;
pub(crate) mod trace;
pub(crate) mod verdict;
