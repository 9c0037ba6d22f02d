//! What a listener does with messages that fail: `onError`, `retry`, `deadLetter` and `breaker`.

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

/// How often and when a failed message runs again.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct Retry {
    /// Runs, the first included; absent: 5 with onError deadLetter, 1 with skip and stop.
    pub(in crate::config) attempts: Option<u32>,
    /// The first wait.
    pub(in crate::config) initial_delay: Millis,
    /// The longest wait.
    pub(in crate::config) max_delay: Millis,
    /// By how much a wait is longer than the one before.
    pub(in crate::config) multiplier: f64,
    /// The share of a wait, 0 to 1, by which it varies either way.
    pub(in crate::config) jitter: f64,
    /// Delays of retries that wait in topics of their own instead of the lane; order is given up.
    pub(in crate::config) topics: Vec<Millis>,
    /// Whether retry topics that are missing are created.
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
            allow_auto_topic_creation: false,
        }
    }
}

/// The topic of messages that are given up.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct DeadLetter {
    /// Its name; `{topic}`, `{group}` and `{listener}` stand for the message's own.
    pub(in crate::config) topic: String,
    /// By whose names the headers tell where a dead letter comes from.
    pub(in crate::config) header_style: HeaderStyle,
    /// Whether the topic is created when it is missing.
    pub(in crate::config) allow_auto_topic_creation: bool,
    /// What becomes of a message that is too large even without traceback and error.
    pub(in crate::config) too_large: TooLarge,
    /// What becomes of a message whose dead letter the topic refuses for another reason, whenever it is sent.
    pub(in crate::config) refused: OnRefusal,
    /// More dead letters than that stop the listener for a while, as its breaker does.
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

/// When failures stop a listener from taking messages for a while.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct BreakerTable {
    /// The share of failed runs in the window that opens it, above 0 to 1.
    pub(in crate::config) failure_ratio: f64,
    /// The time over which runs are counted.
    pub(in crate::config) window: Millis,
    /// With fewer runs in the window it never opens.
    pub(in crate::config) minimum_runs: u32,
    /// How long nothing is taken before a first message tries again.
    pub(in crate::config) pause: Millis,
    /// Successes in a row that close it.
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
