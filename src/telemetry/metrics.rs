//! The metrics of `/metrics`: the counts, the names of the metrics, and the page that they make.
//!
//! Counts are collected on request: consumers and workers keep plain counters of their own and answer a letter with a
//! copy. **The road of a message shares nothing for the sake of a metric**: no atomics, no clock and no allocation a
//! message. This module knows no thread; the daemon sends the letters.

mod counts;
mod exposition;
mod families;
mod histogram;
mod process;
#[cfg(test)]
mod tests;
mod text;

#[cfg(test)]
pub(crate) use counts::LimitKills;
pub(crate) use counts::{
    ConsumerCounts, ConsumerSnapshot, HostSnapshot, ListenerCounts, ListenerSnapshot, Outcome,
    Outcomes, OutsideSnapshot, PartitionSnapshot, ProducerSnapshot, TickCounts, TimerSnapshot,
    WorkerSnapshot,
};
pub(crate) use exposition::{Scrape, exposition};
pub(crate) use histogram::Histogram;
pub(crate) use process::Process;
pub(crate) use text::Format;
