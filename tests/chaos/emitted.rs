//! What messages have emitted, read by the suite itself: a committed message that emits has its record in the topic.
//!
//! A commit waits for the acknowledgement of the record, so the record stands there before the commit does. The suite
//! may read it later, within a deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::consumer::BaseConsumer;
use rdkafka::message::{BorrowedMessage, Message as _};

use crate::fate::{emits, key_of};

/// A record is read from its topic within this time, outside of faults.
const READ: Duration = Duration::from_secs(60);

/// A record that a message has emitted.
pub(crate) struct Emitted {
    pub(crate) partition: usize,
    pub(crate) offset: i64,
}

/// The records of one partition, of messages by their offset.
#[derive(Default)]
pub(crate) struct Records {
    /// Everything committed below is looked at.
    looked: i64,
    /// Records from there on, and messages that emit none.
    seen: BTreeSet<i64>,
    /// Committed, and its record is not read yet.
    owed: BTreeMap<i64, Instant>,
}

impl Records {
    /// A record was read. Returns whether it was read before.
    pub(crate) fn read(&mut self, offset: i64) -> bool {
        if offset < self.looked {
            self.owed.remove(&offset).is_none()
        } else {
            !self.seen.insert(offset)
        }
    }

    /// The message has ended otherwise.
    pub(crate) fn excuse(&mut self, offset: i64) {
        self.read(offset);
    }

    pub(crate) fn committed(&mut self, offset: i64, now: Instant) {
        for one in (self.looked..offset).filter(|one| emits(*one)) {
            if !self.seen.remove(&one) {
                self.owed.insert(one, now);
            }
        }
        if offset > self.looked {
            self.looked = offset;
            self.seen = self.seen.split_off(&offset);
        }
    }

    pub(crate) fn has_all(&self) -> bool {
        self.owed.is_empty()
    }

    /// A message whose record should have been read by now.
    pub(crate) fn late(&self, calm_since: Instant) -> Option<i64> {
        let mut owed = self.owed.iter();
        let is_late = |since: &Instant| (*since).max(calm_since).elapsed() > READ;
        owed.find(|(_, since)| is_late(since)).map(|(one, _)| *one)
    }
}

/// What has come since the last time; waits that long for the first one.
pub(crate) fn read(reader: &BaseConsumer, wait: Duration) -> Vec<Result<Emitted, String>> {
    let mut records = Vec::new();
    let mut wait = wait;
    while let Some(polled) = reader.poll(wait) {
        // Errors are of brokers that are away: they come back.
        if let Ok(message) = polled {
            records.push(record(&message));
        }
        wait = Duration::ZERO;
    }
    records
}

fn record(message: &BorrowedMessage<'_>) -> Result<Emitted, String> {
    let value = message.payload().map(String::from_utf8_lossy);
    let (partition, value) = (message.partition(), value.unwrap_or_default());
    let mut numbers = value.split(' ').map(str::parse::<i64>);
    if let (Some(Ok(offset)), Some(Ok(number)), None) =
        (numbers.next(), numbers.next(), numbers.next())
        && message.key() == Some(key_of(number).as_bytes())
        && emits(offset)
    {
        let partition = partition as usize;
        return Ok(Emitted { partition, offset });
    }
    Err(format!(
        "an emitted record of partition {partition} is not what was emitted: {value:?}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_committed_message_without_its_record_is_owed_until_the_record_is_read() {
        let (mut records, now) = (Records::default(), Instant::now());
        let [first, second] = [3, 10];
        assert!(emits(first) && emits(second));
        assert!(!records.read(first));
        assert!(records.read(first));
        records.committed(second + 1, now);
        assert!(!records.has_all());
        assert_eq!(records.late(now), None);
        assert!(!records.read(second));
        assert!(records.has_all() && records.read(second));
    }

    #[test]
    fn what_is_read_before_its_commit_is_not_owed() {
        let (mut records, now) = (Records::default(), Instant::now());
        records.read(3);
        records.read(24);
        records.excuse(10);
        records.committed(25, now);
        assert!(records.has_all());
        records.committed(32, now);
        assert!(!records.has_all());
        assert!(!records.read(31));
        assert!(records.has_all());
    }
}
