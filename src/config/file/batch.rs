//! The size of a batch, as it is written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::unit::{Millis, Size};

/// The size of a batch: it runs as soon as one of the three is reached.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct Batch {
    /// The most messages of a batch.
    pub(in crate::config) messages: u64,
    /// The most bytes of a batch: keys, values and headers. A larger message is a batch of its own.
    pub(in crate::config) bytes: Size,
    /// The longest time that a message waits for others.
    pub(in crate::config) wait: Millis,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            messages: 500,
            bytes: Size(1 << 20),
            wait: Millis(50),
        }
    }
}
