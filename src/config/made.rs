//! The topics that the listeners of a configuration make of others, and dead letters that go round among listeners.
//!
//! Only what the file itself tells is looked at: literal topics, and patterns that name a dead-letter topic.

use crate::topic_name::Made;

use super::{Config, Consumer, Listener, Scene, Topic};

impl Config {
    /// The names that a pattern does not take by chance.
    pub(crate) fn made_topics(&self) -> Made {
        of(self.listeners.iter(), &self.consumers)
    }
}

pub(super) fn of<'a>(
    listeners: impl Iterator<Item = &'a Listener>,
    consumers: &[Consumer],
) -> Made {
    let mut made = Made::default();
    for listener in listeners {
        if let Some(policy) = &listener.dead_letter {
            made.add(&policy.topic, group(listener, consumers), &listener.name);
        }
    }
    made
}

fn group<'a>(listener: &Listener, consumers: &'a [Consumer]) -> &'a str {
    let mut consumers = consumers.iter();
    let consumer = consumers.find(|one| one.name == listener.consumer);
    consumer.map_or("", |one| one.group_id.as_str())
}

/// Warns of dead letters that come back to where they were by way of other listeners.
pub(super) fn check_rounds(
    listeners: &[(usize, Listener)],
    consumers: &[Consumer],
    made: &Made,
    scene: &mut Scene<'_, '_>,
) {
    let rounds = Rounds {
        listeners,
        consumers,
        made,
    };
    for (index, (_, listener)) in listeners.iter().enumerate() {
        for topic in &listener.topics {
            let Topic::Literal(topic) = topic else {
                continue;
            };
            let Some(way) = rounds.from(index, topic) else {
                continue;
            };
            let names: Vec<_> = way.iter().map(|step| rounds.name(step.0)).collect();
            let topics: Vec<_> = way.iter().map(|step| format!("`{}`", step.1)).collect();
            scene.report.warning(format!(
                "listeners {}: their dead letters go round, from topic {} and back, so that a message that always fails \
                 never ends; name another `deadLetter.topic`",
                names.join(" and "),
                topics.join(" to ")
            ));
        }
    }
}

/// A listener, by its place, and a topic that it takes.
type Step = (usize, String);

struct Rounds<'a> {
    listeners: &'a [(usize, Listener)],
    consumers: &'a [Consumer],
    made: &'a Made,
}

impl Rounds<'_> {
    /// The way back to a topic from one of its listeners, by way of later ones: so each round is found once.
    fn from(&self, first: usize, topic: &str) -> Option<Vec<Step>> {
        let mut ways = vec![vec![(first, topic.to_owned())]];
        let mut seen = Vec::new();
        while let Some(way) = ways.pop() {
            let (last, from) = way.last()?;
            let Some(next) = self.dead_letters(*last, from) else {
                continue;
            };
            if next == topic && way.len() > 1 {
                return Some(way);
            }
            for taker in first + 1..self.listeners.len() {
                let step = (taker, next.clone());
                let is_new = way.len() < self.listeners.len() && !seen.contains(&step);
                if is_new && self.takes(taker, &next) {
                    seen.push(step.clone());
                    ways.push([way.as_slice(), &[step]].concat());
                }
            }
        }
        None
    }

    fn dead_letters(&self, index: usize, topic: &str) -> Option<String> {
        let listener = &self.listeners[index].1;
        let policy = listener.dead_letter.as_ref()?;
        Some(policy.topic_of(topic, group(listener, self.consumers), &listener.name))
    }

    fn takes(&self, index: usize, topic: &str) -> bool {
        let mut topics = self.listeners[index].1.topics.iter();
        topics.any(|one| match one {
            Topic::Literal(name) => name == topic,
            Topic::Pattern(pattern) => self.made.is_taken(pattern, topic),
        })
    }

    fn name(&self, index: usize) -> String {
        format!("`{}`", self.listeners[index].1.name)
    }
}
