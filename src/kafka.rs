//! Kafka, as far as it is not the consumer's own handle.
//!
//! **Alone names rdkafka.**

pub(crate) mod mock;
pub(crate) mod producer;
