//! Kafka: alone names rdkafka.

pub(crate) mod property;
