//! The keys that the listeners of one topic in one consumer share: a topic has one set of lanes and one position.
//!
//! Only topics and patterns of the file are compared. Two patterns may match a topic that does not exist yet; then the
//! first listener decides.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::Step;
use super::{Listener, Scene, Topic};
use crate::topic_name::Made;

/// Reports every pair of listeners that share a topic and cannot.
pub(super) fn check(
    listeners: &[(usize, Listener)],
    made: &Made,
    exactly_once: &BTreeSet<&str>,
    scene: &mut Scene<'_, '_>,
) {
    let mut consumers: BTreeMap<&str, Earlier<'_>> = BTreeMap::new();
    for (index, later) in listeners {
        let earlier = consumers.entry(&later.consumer).or_default();
        for one in earlier.that_may_share(later) {
            if let Some(topic) = common_topic(one, later, made) {
                pair(*index, one, later, &topic, scene);
                if exactly_once.contains(later.consumer.as_str()) {
                    scene.report.warning(format!(
                        "listeners `{}` and `{}` of topic `{topic}` are in one transaction, as their consumer `{}` has \
                         `exactlyOnce`: what one emits waits for the other",
                        one.name, later.name, later.consumer
                    ));
                }
            }
        }
        earlier.add(later);
    }
}

/// The listeners of one consumer that stand before another, in their order. Most have topics of their own, and are not
/// looked at.
#[derive(Default)]
struct Earlier<'l> {
    all: Vec<&'l Listener>,
    by_literal: BTreeMap<&'l str, BTreeSet<usize>>,
    with_pattern: BTreeSet<usize>,
}

impl<'l> Earlier<'l> {
    fn that_may_share(&self, later: &Listener) -> Vec<&'l Listener> {
        let mut places = self.with_pattern.clone();
        for topic in &later.topics {
            match topic {
                Topic::Literal(name) => {
                    places.extend(self.by_literal.get(&**name).into_iter().flatten());
                }
                Topic::Pattern(_) => return self.all.clone(),
            }
        }
        places.into_iter().map(|place| self.all[place]).collect()
    }

    fn add(&mut self, listener: &'l Listener) {
        let place = self.all.len();
        for topic in &listener.topics {
            match topic {
                Topic::Literal(name) => {
                    self.by_literal.entry(name).or_default().insert(place);
                }
                Topic::Pattern(_) => _ = self.with_pattern.insert(place),
            }
        }
        self.all.push(listener);
    }
}

fn common_topic(one: &Listener, other: &Listener, made: &Made) -> Option<String> {
    let pairs = one
        .topics
        .iter()
        .flat_map(|a| other.topics.iter().map(move |b| (a, b)));
    pairs.into_iter().find_map(|(a, b)| match (a, b) {
        (Topic::Literal(a), Topic::Literal(b)) => (a == b).then(|| a.clone()),
        (Topic::Literal(name), Topic::Pattern(pattern))
        | (Topic::Pattern(pattern), Topic::Literal(name)) => {
            made.is_taken(pattern, name).then(|| name.clone())
        }
        (Topic::Pattern(a), Topic::Pattern(b)) => {
            (a.as_str() == b.as_str()).then(|| a.as_str().to_owned())
        }
    })
}

fn pair(
    index: usize,
    earlier: &Listener,
    later: &Listener,
    topic: &str,
    scene: &mut Scene<'_, '_>,
) {
    let who = format!(
        "listeners `{}` and `{}` of topic `{topic}`",
        earlier.name, later.name
    );
    if earlier.batch.is_some() || later.batch.is_some() {
        let batch = if later.batch.is_some() {
            later
        } else {
            earlier
        };
        let at = scene.at(&[Step::Key("listeners"), Step::Index(index)]);
        let message = format!(
            "{who}: `{}` gets batches, and has the messages of its topics for itself; give the other one a consumer \
             of its own",
            batch.name
        );
        scene.report.error(at, message);
        return;
    }
    let (a, b) = (&earlier.run, &later.run);
    let differ: [(&[&str], bool); 9] = [
        (&["ordering"], earlier.ordering != later.ordering),
        (
            &["nullKeys"],
            earlier.ordering == later.ordering && earlier.null_keys != later.null_keys,
        ),
        (
            &["maxInFlight"],
            earlier.max_in_flight != later.max_in_flight,
        ),
        (&["maxDeferred"], earlier.max_deferred != later.max_deferred),
        (&["delay"], earlier.delay != later.delay),
        (&["share"], earlier.share != later.share),
        (
            &["runConfig", "autoCommitInterval"],
            a.auto_commit_interval != b.auto_commit_interval,
        ),
        (
            &["runConfig", "autoCommitThreshold"],
            a.auto_commit_threshold != b.auto_commit_threshold,
        ),
        (
            &["runConfig", "partitionsConsumedConcurrently"],
            a.partitions_consumed_concurrently != b.partitions_consumed_concurrently,
        ),
    ];
    for (keys, _) in differ.iter().filter(|(_, differ)| *differ) {
        let way = [Step::Key("listeners"), Step::Index(index)];
        let path: Vec<Step<'_>> = way
            .into_iter()
            .chain(keys.iter().copied().map(Step::Key))
            .collect();
        let at = scene.at(&path);
        let key = keys.join(".");
        scene.report.error(
            at,
            format!("{who} differ in `{key}`, which belongs to the topic; write the same in both"),
        );
    }
    if a.auto_commit != b.auto_commit {
        scene.report.warning(format!(
            "{who} differ in `runConfig.autoCommit`: the smaller position of both is committed, so the offset moves only as far as \
             ctx.commitOffsets says"
        ));
    }
    if earlier.from_beginning != later.from_beginning {
        scene.report.warning(format!(
            "{who} differ in `subscription.fromBeginning`: true counts for both"
        ));
    }
}
