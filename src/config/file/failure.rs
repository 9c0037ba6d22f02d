//! The policies for failed messages: `onError`, `retry`, `deadLetter` and `breaker`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::unit::Millis;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::config) enum OnError {
    Retry,
    DeadLetter,
    Skip,
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::config) enum Infrastructure {
    Wait,
    Count,
}

/// How often and when a failed message runs again.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct Retry {
    /// The number of runs, the first included; absent: 5 with onError deadLetter, 1 with skip and stop.
    pub(in crate::config) attempts: Option<u32>,
    /// The first delay.
    pub(in crate::config) initial_delay: Millis,
    /// The longest delay.
    pub(in crate::config) max_delay: Millis,
    /// The factor from one delay to the next.
    pub(in crate::config) multiplier: f64,
    /// The share of a delay, 0 to 1, by which it varies up or down.
    pub(in crate::config) jitter: f64,
    /// The delays of retry topics, in which messages wait instead of in their lane; messages lose their order.
    pub(in crate::config) topics: Vec<Millis>,
    /// What an uncaught error means that says that something outside is away: the message waits, or it counts as any other.
    pub(in crate::config) infrastructure: Infrastructure,
    /// Whether Moontide creates missing retry topics.
    pub(in crate::config) allow_auto_topic_creation: bool,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: None,
            initial_delay: Millis(300),
            max_delay: Millis(30_000),
            multiplier: 2.0,
            jitter: 0.2,
            topics: Vec::new(),
            infrastructure: Infrastructure::Wait,
            allow_auto_topic_creation: false,
        }
    }
}

/// The dead-letter topic.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct DeadLetter {
    /// The name of the topic; the placeholders are `{topic}`, `{group}` and `{listener}`.
    pub(in crate::config) topic: String,
    /// The naming scheme of the headers that describe the origin of a dead letter.
    pub(in crate::config) header_style: HeaderStyle,
    /// Whether Moontide creates the topic when it is missing.
    pub(in crate::config) allow_auto_topic_creation: bool,
    /// The policy for a message that is too large even without traceback and error.
    pub(in crate::config) too_large: TooLarge,
    /// The policy for a dead letter that the topic refuses for good for another reason than its size.
    pub(in crate::config) refused: OnRefusal,
    /// The most dead letters a minute; more of them open the breaker.
    pub(in crate::config) max_per_minute: u32,
}

impl Default for DeadLetter {
    fn default() -> Self {
        Self {
            topic: "{topic}.dead".into(),
            header_style: HeaderStyle::default(),
            allow_auto_topic_creation: false,
            too_large: TooLarge::default(),
            refused: OnRefusal::default(),
            max_per_minute: 600,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::config) enum HeaderStyle {
    #[default]
    Moontide,
    Spring,
    Connect,
    Kafka,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::config) enum TooLarge {
    #[default]
    Block,
    DropValue,
    Skip,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::config) enum OnRefusal {
    #[default]
    Block,
    Skip,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::config) enum Breaker {
    On(bool),
    Table(BreakerTable),
}

/// The circuit breaker of a listener.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct BreakerTable {
    /// The share of failed runs in the window that opens the breaker, above 0 and up to 1.
    pub(in crate::config) failure_ratio: f64,
    /// The time over which runs are counted.
    pub(in crate::config) window: Millis,
    /// The fewest runs in the window with which the breaker opens.
    pub(in crate::config) minimum_runs: u32,
    /// The time from the opening of the breaker to the first probe.
    pub(in crate::config) pause: Millis,
    /// The number of successful probes in a row that closes the breaker.
    pub(in crate::config) probes: u32,
}

impl Default for BreakerTable {
    fn default() -> Self {
        Self {
            failure_ratio: 0.5,
            window: Millis(30_000),
            minimum_runs: 20,
            pause: Millis(30_000),
            probes: 3,
        }
    }
}
