//! The pauses that handlers request of a consumer, by topic and partition, as kafkajs has them.
//!
//! A pause belongs to the topic and not to an assignment: a partition that comes back is still paused.

use std::collections::{BTreeMap, BTreeSet};

/// Who paused, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct By {
    /// `listener `orders`, handlers/orders.lua:12`.
    pub(crate) who: String,
    /// Milliseconds since the epoch.
    pub(crate) since: i64,
}

/// A topic, or some of its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) topic: String,
    /// `None` for all of them, also those that come later.
    pub(crate) partitions: Option<Vec<i32>>,
}

#[derive(Debug, Default)]
pub(crate) struct TopicPauses {
    topics: BTreeMap<String, OfTopic>,
}

#[derive(Debug, Default)]
struct OfTopic {
    all: Option<By>,
    paused: BTreeMap<i32, By>,
    /// Partitions that were resumed while the whole topic is paused.
    resumed: BTreeSet<i32>,
}

impl TopicPauses {
    /// An earlier pause of the same keeps its author.
    pub(crate) fn pause(&mut self, selection: &Selection, by: &By) {
        if selection.partitions.as_ref().is_some_and(Vec::is_empty) {
            return;
        }
        let topic = self.topics.entry(selection.topic.clone()).or_default();
        match &selection.partitions {
            None => {
                topic.all.get_or_insert_with(|| by.clone());
                topic.resumed.clear();
            }
            Some(partitions) => {
                for number in partitions {
                    if topic.all.is_none() || topic.resumed.remove(number) {
                        topic.paused.entry(*number).or_insert_with(|| by.clone());
                    }
                }
            }
        }
    }

    /// A resume of the whole topic ends the pauses of its partitions too.
    pub(crate) fn resume(&mut self, selection: &Selection) {
        let Some(topic) = self.topics.get_mut(&selection.topic) else {
            return;
        };
        let Some(partitions) = &selection.partitions else {
            self.topics.remove(&selection.topic);
            return;
        };
        for number in partitions {
            topic.paused.remove(number);
            if topic.all.is_some() {
                topic.resumed.insert(*number);
            }
        }
        if topic.all.is_none() && topic.paused.is_empty() {
            self.topics.remove(&selection.topic);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Who paused this partition; `None` if it is not paused.
    pub(crate) fn of(&self, topic: &str, number: i32) -> Option<&By> {
        let topic = self.topics.get(topic)?;
        let all = topic.all.as_ref();
        let all = all.filter(|_| !topic.resumed.contains(&number));
        topic.paused.get(&number).or(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(who: &str) -> By {
        By {
            who: who.to_owned(),
            since: 1,
        }
    }

    fn some(partitions: &[i32]) -> Selection {
        Selection {
            topic: "orders".to_owned(),
            partitions: Some(partitions.to_vec()),
        }
    }

    fn all() -> Selection {
        Selection {
            topic: "orders".to_owned(),
            partitions: None,
        }
    }

    /// The paused ones of five partitions.
    fn paused(pauses: &TopicPauses) -> Vec<i32> {
        let is_paused = |number: &i32| pauses.of("orders", *number).is_some();
        (0..5).filter(is_paused).collect()
    }

    #[test]
    fn partitions_are_paused_and_resumed() {
        let mut pauses = TopicPauses::default();
        pauses.pause(&some(&[1, 3]), &by("a"));
        assert_eq!(paused(&pauses), [1, 3]);
        assert_eq!(pauses.of("other", 1), None);
        pauses.resume(&some(&[1, 2]));
        assert_eq!(paused(&pauses), [3]);
        pauses.resume(&some(&[3]));
        assert!(pauses.is_empty());
    }

    #[test]
    fn a_paused_topic_has_every_partition_but_those_that_are_resumed() {
        let mut pauses = TopicPauses::default();
        pauses.pause(&some(&[1]), &by("a"));
        pauses.pause(&all(), &by("b"));
        assert_eq!(paused(&pauses), [0, 1, 2, 3, 4]);
        pauses.resume(&some(&[1, 2]));
        assert_eq!(paused(&pauses), [0, 3, 4]);
        // A pause of one partition does not resume the others, as it would in kafkajs.
        pauses.pause(&some(&[2]), &by("c"));
        assert_eq!(paused(&pauses), [0, 2, 3, 4]);
        pauses.pause(&all(), &by("d"));
        assert_eq!(paused(&pauses), [0, 1, 2, 3, 4]);
        pauses.resume(&all());
        assert!(pauses.is_empty() && paused(&pauses).is_empty());
    }

    #[test]
    fn the_first_who_paused_is_told() {
        let mut pauses = TopicPauses::default();
        pauses.pause(&some(&[1]), &by("a"));
        pauses.pause(&some(&[1, 2]), &by("b"));
        assert_eq!(pauses.of("orders", 1), Some(&by("a")));
        assert_eq!(pauses.of("orders", 2), Some(&by("b")));
    }
}
