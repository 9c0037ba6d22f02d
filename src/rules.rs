//! Decisions: pure, data in and data out. No clock, thread, Kafka client or Lua VM is used here.

pub(crate) mod ahead;
pub(crate) mod batch;
pub(crate) mod breaker;
pub(crate) mod commit_metadata;
pub(crate) mod config_changes;
pub(crate) mod hex;
pub(crate) mod identity;
pub(crate) mod lanes;
pub(crate) mod offsets;
pub(crate) mod pace;
pub(crate) mod retry;
pub(crate) mod route;
pub(crate) mod seek;
pub(crate) mod spread;
pub(crate) mod start_offset;
pub(crate) mod timers;
pub(crate) mod topic_ids;
pub(crate) mod topic_pauses;
pub(crate) mod transaction;
pub(crate) mod turns;
pub(crate) mod unacknowledged;
