//! Threads: how they talk, how their progress is seen, and who hears of their end.

pub(crate) mod mailbox;
pub(crate) mod outside;
pub(crate) mod progress;
pub(crate) mod supervisor;
pub(crate) mod unsupervised;
