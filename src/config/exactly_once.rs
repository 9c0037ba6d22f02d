//! What cannot stand beside `exactlyOnce`: another way to commit, and a default producer of other brokers.

use std::collections::BTreeSet;

use super::tree::Step;
use super::{Consumer, DEFAULT_PRODUCER, Listener, Producer, Scene};

const BROKERS: &str = "bootstrap.servers";

/// The names of the consumers with `exactlyOnce`.
pub(super) fn names(consumers: &[Consumer]) -> BTreeSet<&str> {
    let with = consumers.iter().filter(|one| one.transaction.is_some());
    with.map(|one| one.name.as_str()).collect()
}

pub(super) fn check(
    consumers: &[Consumer],
    producers: &[Producer],
    listeners: &[(usize, Listener)],
    scene: &mut Scene<'_, '_>,
) {
    let names = names(consumers);
    let of = |listener: &Listener| names.contains(listener.consumer.as_str());
    for (index, listener) in listeners.iter().filter(|(_, listener)| of(listener)) {
        let run = &listener.run;
        let keys = [
            ("autoCommit", !run.auto_commit),
            ("autoCommitInterval", run.auto_commit_interval.is_some()),
            ("autoCommitThreshold", run.auto_commit_threshold.is_some()),
        ];
        for (key, _) in keys.iter().filter(|(_, is_set)| *is_set) {
            let way = [Step::Key("listeners"), Step::Index(*index)];
            let keys = [Step::Key("runConfig"), Step::Key(key)];
            let path: Vec<Step<'_>> = way.into_iter().chain(keys).collect();
            let at = scene.at(&path);
            let message = format!(
                "listener `{}`: `runConfig.{key}` is set, but consumer `{}` has `exactlyOnce`, so its transactions commit; \
                 remove it, or use another consumer",
                listener.name, listener.consumer
            );
            scene.report.error(at, message);
        }
    }
    let mut producers = producers.iter();
    let Some(producer) = producers.find(|one| one.name == DEFAULT_PRODUCER) else {
        return;
    };
    let own = producer.properties.get(BROKERS);
    let differs = |one: &&Consumer| {
        one.transaction.is_some()
            && one.properties.get(BROKERS).map(|one| &one.text) != own.map(|one| &one.text)
    };
    for consumer in consumers.iter().filter(differs) {
        let at = scene.at_keys(&["producerConfig"], &["brokers"]);
        let message = format!(
            "consumer `{}` has `exactlyOnce`, so `ctx.emit` writes to its own `brokers`, and `[producerConfig]` has others; \
             write the same in both",
            consumer.name
        );
        scene.report.error(at, message);
    }
}
