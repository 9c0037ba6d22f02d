//! The echoes: what a consumer without `exactlyOnce` has emitted for the messages of the load.
//!
//! Each message that did not become a dead letter has an echo, or several. After each fault and in the end, none may be
//! missing. Their order says nothing: a request of a frozen member may land after those of its successor.

use rdkafka::message::BorrowedMessage;

use crate::copies::{Emitted, emitted};
use crate::driver::{Load, PARTITIONS_MAX};
use crate::floor::Floor;

pub(crate) const PARTITIONS: i32 = 3;

pub(crate) struct Echoes {
    /// What has an echo or is a dead letter, by partition of the load.
    ended: Vec<Floor>,
    pub(crate) read: u64,
    /// Those of messages that had one already.
    pub(crate) repeated: u64,
    pub(crate) violations: Vec<String>,
}

impl Echoes {
    pub(crate) fn new() -> Self {
        Self {
            ended: (0..PARTITIONS_MAX).map(|_| Floor::default()).collect(),
            read: 0,
            repeated: 0,
            violations: Vec::new(),
        }
    }

    pub(crate) fn take(&mut self, echo: Result<Emitted, String>) {
        self.read += 1;
        match echo {
            Ok(echo) => {
                let is_new = self.ended[echo.partition].insert(echo.offset);
                self.repeated += u64::from(!is_new);
            }
            Err(sentence) if self.violations.len() < 20 => self.violations.push(sentence),
            Err(_) => {}
        }
    }

    /// A message that failed for good has emitted nothing.
    pub(crate) fn dead_letter(&mut self, partition: usize, offset: i64) {
        self.ended[partition].insert(offset);
    }

    /// Below, each message has its echo or its dead letter, by partition.
    pub(crate) fn floors(&self) -> Vec<i64> {
        self.ended.iter().map(Floor::next).collect()
    }

    /// Whether each acknowledged message has its echo or its dead letter.
    pub(crate) fn are_whole(&self, load: &Load) -> bool {
        let mut floors = self.floors().into_iter().enumerate();
        floors.all(|(partition, floor)| floor >= load.acked(partition))
    }
}

pub(crate) fn echo(message: &BorrowedMessage<'_>) -> Result<Emitted, String> {
    emitted(message, &["echo"])
}
