//! Threads: their mailboxes, their progress, and the one place that starts, supervises and joins them.

pub(crate) mod mailbox;
pub(crate) mod outside;
pub(crate) mod progress;
pub(crate) mod supervisor;
pub(crate) mod unsupervised;
