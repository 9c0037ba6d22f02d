//! The order in which the partitions of a worker that have something to run take turns. Pure.
//!
//! Partitions take turns one after the other. Those of a consumer whose topics have shares do so by topic: of the
//! topics that have something to run, the one with the fewest runs for its share has the next turn, and its
//! partitions take turns in it. A topic that had nothing to run for a moment makes up for it: its messages were on their
//! way, since partitions of one fetch come one after the other. A topic that had nothing to run for longer was idle.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What one run counts for a topic with a share of 1.
const RUN: u64 = 1 << 20;
/// A topic that had nothing to run for that long does not make up for it.
const IDLE: Duration = Duration::from_millis(500);
/// Topics that have nothing to run are forgotten from this number on, and with them one turn at most.
const MANY: usize = 64;

/// The topic of a partition, where the topics of its consumer have shares.
#[derive(Clone, Debug)]
pub(crate) struct Of {
    pub(crate) consumer: Arc<str>,
    pub(crate) topic: Arc<str>,
    pub(crate) share: u32,
}

/// Partitions by epoch.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    queue: VecDeque<Entry>,
    consumers: HashMap<Arc<str>, Topics>,
}

#[derive(Debug)]
enum Entry {
    Partition(u64),
    /// One of the partitions of this consumer.
    Consumer(Arc<str>),
}

/// The topics of a consumer with shares.
#[derive(Debug, Default)]
struct Topics {
    by_name: BTreeMap<Arc<str>, Topic>,
    /// The most that the topic of a turn had run before it.
    last: u64,
}

#[derive(Debug, Default)]
struct Topic {
    /// Its runs, each divided by its share.
    ran: u64,
    share: u32,
    ready: VecDeque<u64>,
    /// When it had nothing to run any more.
    idle_since: Option<Instant>,
}

impl Topics {
    fn push(&mut self, epoch: u64, of: &Of, now: Instant) {
        if self.by_name.len() >= MANY {
            self.by_name.retain(|_, topic| !topic.ready.is_empty());
        }
        let topic = self.by_name.entry(of.topic.clone()).or_default();
        topic.share = of.share.max(1);
        let is_behind = |since: Instant| now.duration_since(since) < IDLE;
        if topic.ready.is_empty() && !topic.idle_since.take().is_some_and(is_behind) {
            topic.ran = topic.ran.max(self.last);
        }
        topic.ready.push_back(epoch);
    }

    /// The topic that has the next turn.
    fn next(&self) -> Option<&Arc<str>> {
        let ready = self.by_name.iter().filter(|(_, one)| !one.ready.is_empty());
        ready.min_by_key(|(_, one)| one.ran).map(|(name, _)| name)
    }

    fn pop(&mut self, now: Instant) -> Option<u64> {
        let name = self.next()?.clone();
        let topic = self.by_name.get_mut(&name)?;
        self.last = self.last.max(topic.ran);
        let epoch = topic.ready.pop_front();
        if topic.ready.is_empty() {
            topic.idle_since = Some(now);
        }
        epoch
    }
}

impl Turns {
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// A partition has something to run, since this moment.
    pub(crate) fn push(&mut self, epoch: u64, of: Option<&(Of, Instant)>) {
        let Some((of, now)) = of else {
            return self.queue.push_back(Entry::Partition(epoch));
        };
        let topics = self.consumers.entry(of.consumer.clone()).or_default();
        topics.push(epoch, of, *now);
        self.queue.push_back(Entry::Consumer(of.consumer.clone()));
    }

    /// The partition that has the next turn.
    pub(crate) fn next(&self) -> Option<u64> {
        match self.queue.front()? {
            Entry::Partition(epoch) => Some(*epoch),
            Entry::Consumer(consumer) => {
                let topics = self.consumers.get(consumer)?;
                let topic = topics.by_name.get(topics.next()?)?;
                topic.ready.front().copied()
            }
        }
    }

    /// Takes the partition that has the next turn.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<u64> {
        match self.queue.pop_front()? {
            Entry::Partition(epoch) => Some(epoch),
            Entry::Consumer(consumer) => self.consumers.get_mut(&consumer)?.pop(now),
        }
    }

    /// A turn of a partition had so many runs.
    pub(crate) fn ran(&mut self, of: &Of, runs: usize) {
        if let Some(topics) = self.consumers.get_mut(&of.consumer)
            && let Some(topic) = topics.by_name.get_mut(&of.topic)
        {
            topic.ran += runs as u64 * RUN / u64::from(topic.share);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(topic: &str, share: u32) -> Of {
        Of {
            consumer: "default".into(),
            topic: topic.into(),
            share,
        }
    }

    fn at(of: Option<&Of>, now: Instant) -> Option<(Of, Instant)> {
        of.map(|of| (of.clone(), now))
    }

    /// Partitions that always have something to run, `runs` a turn, by epoch: what each ran in so many turns.
    fn turns(partitions: &[(Option<Of>, usize)], count: usize) -> Vec<usize> {
        let mut turns = Turns::default();
        let (mut ran, now) = (vec![0; partitions.len()], Instant::now());
        for (epoch, (of, _)) in partitions.iter().enumerate() {
            turns.push(epoch as u64, at(of.as_ref(), now).as_ref());
        }
        for _ in 0..count {
            let next = turns.next();
            let epoch = turns.pop(now);
            assert_eq!(next, epoch);
            let index = epoch.unwrap() as usize;
            let (of, runs) = &partitions[index];
            ran[index] += runs;
            if let Some(of) = of {
                turns.ran(of, *runs);
            }
            turns.push(epoch.unwrap(), at(of.as_ref(), now).as_ref());
        }
        ran
    }

    #[test]
    fn without_shares_partitions_take_turns() {
        assert_eq!(turns(&[(None, 5), (None, 1), (None, 2)], 30), [50, 10, 20]);
    }

    #[test]
    fn topics_run_by_their_shares_whatever_their_turns_and_their_partitions() {
        let (a, b) = (Some(of("a", 3)), Some(of("b", 1)));
        let ran = turns(&[(a.clone(), 256), (b.clone(), 256)], 4000);
        assert_eq!(ran[0], 3 * ran[1]);
        let ran = turns(&[(a.clone(), 7), (b.clone(), 256)], 40_000);
        assert!(ran[0].abs_diff(3 * ran[1]) <= 3 * 256 + 7, "{ran:?}");
        let ran = turns(&[(a, 10), (b.clone(), 10), (b.clone(), 10), (b, 10)], 4000);
        assert_eq!(ran[0], 3 * ran[1..].iter().sum::<usize>());
        assert!(ran[1].abs_diff(ran[2]) <= 10, "{ran:?}");
    }

    #[test]
    fn a_consumer_without_shares_keeps_its_turns_beside_one_with_shares() {
        let (a, b) = (Some(of("a", 3)), Some(of("b", 1)));
        let ran = turns(&[(a, 10), (b, 10), (None, 10)], 3000);
        assert_eq!(ran, [15_000, 5_000, 10_000]);
    }

    /// `a` runs alone, then both for eight turns: those of `b`, which had nothing to run for that long.
    fn turns_after(idle: Duration) -> usize {
        let (a, b) = (of("a", 1), of("b", 1));
        let (mut turns, begin) = (Turns::default(), Instant::now());
        turns.push(2, at(Some(&b), begin).as_ref());
        assert_eq!(turns.pop(begin), Some(2));
        for _ in 0..1000 {
            turns.push(1, at(Some(&a), begin).as_ref());
            assert_eq!(turns.pop(begin), Some(1));
            turns.ran(&a, 10);
        }
        let now = begin + idle;
        turns.push(1, at(Some(&a), now).as_ref());
        turns.push(2, at(Some(&b), now).as_ref());
        let mut count = 0;
        for _ in 0..8 {
            let epoch = turns.pop(now).unwrap();
            let one = if epoch == 1 { &a } else { &b };
            turns.ran(one, 10);
            turns.push(epoch, at(Some(one), now).as_ref());
            count += usize::from(epoch == 2);
        }
        count
    }

    #[test]
    fn a_topic_makes_up_for_a_moment_without_messages_and_not_for_longer() {
        assert_eq!(turns_after(IDLE / 2), 8);
        assert!((4..=5).contains(&turns_after(IDLE)));
    }

    #[test]
    fn topics_without_work_are_forgotten() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        for number in 0..10_000 {
            let one = of(&number.to_string(), 1);
            turns.push(number, at(Some(&one), now).as_ref());
            assert_eq!(turns.pop(now), Some(number));
            turns.ran(&one, 1);
        }
        assert!(turns.consumers["default"].by_name.len() <= 2 * MANY);
        assert!(turns.is_empty());
    }
}
