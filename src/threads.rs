//! Threads: how they talk, how their progress is seen, and the one place that starts, supervises and joins them.

pub(crate) mod mailbox;
pub(crate) mod outside;
pub(crate) mod progress;
pub(crate) mod supervisor;
pub(crate) mod unsupervised;
