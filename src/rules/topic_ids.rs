//! The ids of the group's topics, as they were last seen. Pure.
//!
//! A topic that was deleted and created again has another id. Nothing of the old topic counts in the new one: **no
//! committed offset of its partitions is taken until this daemon, or another member in the meantime, has committed
//! one in the new topic.** Until then the partition is open, and starts at its beginning.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TopicIds(BTreeMap<String, Topic>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Topic {
    id: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    open: BTreeMap<i32, Open>,
}

/// A partition of a topic that was created again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Open {
    /// This daemon has begun the partition, and has committed nothing yet.
    Begun,
    /// Another member may have begun it. After this moment every member knows the new id, so that a committed offset
    /// is one of the new topic.
    Until(i64),
}

/// How an id compares with the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    First,
    Same,
    Recreated { old: String },
}

impl TopicIds {
    /// The brokers tell this id. Of a topic that was created again, every partition is open until `until_ms`.
    pub(crate) fn note(
        &mut self,
        topic: &str,
        id: &str,
        partitions: usize,
        until_ms: i64,
    ) -> Noted {
        let Some(known) = self.0.get_mut(topic) else {
            let (id, open) = (id.to_owned(), BTreeMap::new());
            self.0.insert(topic.to_owned(), Topic { id, open });
            return Noted::First;
        };
        if known.id == id {
            return Noted::Same;
        }
        let partitions = 0..i32::try_from(partitions).unwrap_or(i32::MAX);
        known.open = partitions
            .map(|partition| (partition, Open::Until(until_ms)))
            .collect();
        let old = std::mem::replace(&mut known.id, id.to_owned());
        Noted::Recreated { old }
    }

    /// Whether a committed offset of the partition may be one of an old topic.
    pub(crate) fn is_open(&self, topic: &str, partition: i32, now_ms: i64) -> bool {
        match self.open(topic, partition) {
            None => false,
            Some(Open::Begun) => true,
            Some(Open::Until(until_ms)) => now_ms < *until_ms,
        }
    }

    /// This daemon begins an open partition at its beginning. Returns whether that is news.
    pub(crate) fn begin(&mut self, topic: &str, partition: i32) -> bool {
        let open = self.0.get_mut(topic).map(|topic| &mut topic.open);
        let open = open.and_then(|open| open.get_mut(&partition));
        open.is_some_and(|open| std::mem::replace(open, Open::Begun) != Open::Begun)
    }

    /// The group has an offset of the new topic. Returns whether that is news.
    pub(crate) fn committed(&mut self, topic: &str, partition: i32) -> bool {
        let topic = self.0.get_mut(topic);
        topic.is_some_and(|topic| topic.open.remove(&partition).is_some())
    }

    /// Forgets topics that are not kept, if there are more than `most`.
    pub(crate) fn bound(&mut self, most: usize, keep: impl Fn(&str) -> bool) {
        if self.0.len() > most {
            self.0.retain(|topic, _| keep(topic));
        }
    }

    fn open(&self, topic: &str, partition: i32) -> Option<&Open> {
        self.0.get(topic)?.open.get(&partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNTIL: i64 = 1_000;

    fn recreated() -> TopicIds {
        let mut ids = TopicIds::default();
        assert_eq!(ids.note("orders", "one", 2, 0), Noted::First);
        assert_eq!(ids.note("orders", "one", 2, 0), Noted::Same);
        let old = "one".to_owned();
        assert_eq!(
            ids.note("orders", "two", 2, UNTIL),
            Noted::Recreated { old }
        );
        ids
    }

    #[test]
    fn nothing_is_open_in_a_topic_that_was_not_created_again() {
        let mut ids = TopicIds::default();
        ids.note("orders", "one", 2, UNTIL);
        assert!(!ids.is_open("orders", 0, 0));
        assert!(!ids.is_open("other", 0, 0));
        assert!(!ids.begin("orders", 0) && !ids.committed("orders", 0));
    }

    #[test]
    fn a_partition_of_a_new_topic_is_open_until_its_first_commit() {
        let mut ids = recreated();
        assert!(ids.is_open("orders", 0, 0) && ids.is_open("orders", 1, 0));
        assert!(ids.begin("orders", 0) && !ids.begin("orders", 0));
        assert!(ids.is_open("orders", 0, UNTIL), "it is still uncommitted");
        assert!(ids.committed("orders", 0) && !ids.committed("orders", 0));
        assert!(!ids.is_open("orders", 0, 0));
    }

    #[test]
    fn a_partition_of_another_member_is_open_for_a_while() {
        let ids = recreated();
        assert!(ids.is_open("orders", 1, UNTIL - 1));
        assert!(!ids.is_open("orders", 1, UNTIL));
    }

    #[test]
    fn each_new_id_opens_every_partition() {
        let mut ids = recreated();
        ids.committed("orders", 0);
        ids.note("orders", "three", 3, 2 * UNTIL);
        assert!((0..3).all(|partition| ids.is_open("orders", partition, UNTIL)));
    }

    #[test]
    fn the_written_form_keeps_everything() {
        let mut ids = recreated();
        ids.begin("orders", 0);
        let text = serde_json::to_string(&ids).unwrap();
        assert_eq!(serde_json::from_str::<TopicIds>(&text).unwrap(), ids);
    }

    #[test]
    fn topics_that_nobody_subscribes_to_are_forgotten_when_there_are_many() {
        let mut ids = recreated();
        ids.bound(1, |_| false);
        assert!(ids.is_open("orders", 1, 0));
        ids.note("other", "one", 1, 0);
        ids.bound(1, |topic| topic == "other");
        assert!(!ids.is_open("orders", 1, 0));
    }
}
