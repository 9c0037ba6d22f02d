//! The required topics: this thread looks them up, creates those that Moontide may create, and reports the missing
//! ones.
//!
//! At the start a thread of its own asks again and again until the brokers answer, so that an unreachable broker
//! delays nothing. A topic that is then missing ends the daemon, like any other mistake in its configuration. A
//! reload asks once, on its own thread: a missing topic refuses the reload. A missing topic for a later match of a
//! pattern is an ERROR.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::assignment::ToTopics;
use crate::config::{Config, Consumer};
use crate::failpoint::failpoint;
use crate::kafka::admin::{Admin, Created, NewSettings};
use crate::kafka::property::Value;
use crate::log::log;
use crate::outgoing::required_topics::{self, Create, RequiredTopic};
use crate::threads::mailbox::Mailbox;
use crate::threads::progress::Beat;
use crate::threads::supervisor::{Ending, Endings, Handle, Kind, Supervisor};

/// The deadline of one question.
const DEADLINE: Duration = Duration::from_secs(2);
/// The pause between two rounds of questions without an answer.
const AGAIN: Duration = Duration::from_secs(3);
/// The longest pause between two turns of the thread, so that its hang is detected.
const TURN: Duration = Duration::from_secs(5);
/// The longest turn: the time of some questions.
const TURN_MAX: Duration = Duration::from_secs(30);

pub(super) struct Topics {
    mailbox: Arc<Mailbox<ToTopics>>,
    thread: Handle,
}

/// The result of a round of questions.
#[derive(Default)]
pub(super) struct Found {
    /// One sentence for each missing topic.
    pub(super) missing: Vec<String>,
    /// Topics that the brokers gave no answer for, with the reason. Without a reason the daemon has not asked for
    /// them, since another step had to come first.
    pub(super) open: Vec<(RequiredTopic, Option<String>)>,
}

impl Topics {
    /// Starts the thread, which asks for the topics that the literal topics of `config` need.
    pub(super) fn start(config: &Arc<Config>, supervisor: &Supervisor) -> anyhow::Result<Self> {
        let mailbox = Arc::new(Mailbox::default());
        let checker = Checker {
            mailbox: mailbox.clone(),
            config: config.clone(),
            endings: supervisor.endings(),
            open: Vec::new(),
        };
        let first = required_topics::by_literals(config);
        let thread = supervisor.spawn("topics", Kind::Observed(TURN_MAX), move |beat| {
            checker.run(first, &beat);
        })?;
        Ok(Self { mailbox, thread })
    }

    /// The mailbox to which consumers send the matches of their patterns.
    pub(super) fn mailbox(&self) -> Arc<Mailbox<ToTopics>> {
        self.mailbox.clone()
    }

    /// Follows another configuration in force; `open` are those of its topics without an answer yet.
    pub(super) fn follow(&self, config: &Arc<Config>, open: Vec<RequiredTopic>) {
        self.mailbox.send(ToTopics::Reload {
            config: config.clone(),
            open,
        });
    }

    /// Ends the thread; a running question has its own deadline.
    pub(super) fn stop(self) -> Handle {
        self.thread.may_end();
        self.mailbox.send(ToTopics::Stop);
        self.thread
    }
}

/// Asks, once, for the topics that `new` needs beyond those of `old`.
pub(super) fn ask_for_new(old: &Config, new: &Config) -> Found {
    let before = required_topics::by_literals(old);
    let properties = |config: &Config, name: &str| {
        let mut consumers = config.consumers.iter();
        consumers
            .find(|one| one.name == name)
            .map(|one| one.properties.clone())
    };
    let is_new = |one: &RequiredTopic| {
        !before.contains(one) || properties(old, &one.consumer) != properties(new, &one.consumer)
    };
    let needed = required_topics::by_literals(new);
    let needed = needed.into_iter().filter(is_new).collect();
    let found = ask(new, needed, &|| false);
    for (needed, error) in &found.open {
        if let Some(error) = error {
            say_open(needed, error);
        }
    }
    found
}

struct Checker {
    mailbox: Arc<Mailbox<ToTopics>>,
    config: Arc<Config>,
    endings: Endings,
    open: Vec<Open>,
}

/// A topic without an answer yet.
struct Open {
    needed: RequiredTopic,
    /// The daemon has needed it since its start: a missing topic is then a mistake in the configuration.
    since_start: bool,
    is_told: bool,
}

impl Checker {
    fn run(mut self, first: Vec<RequiredTopic>, beat: &Beat) {
        self.add(first, true, false);
        let mut letters = Vec::new();
        loop {
            beat.turn();
            failpoint!("topics-turn");
            self.round(beat);
            let pause = if self.open.is_empty() { TURN } else { AGAIN };
            self.mailbox.wait(&mut letters, Instant::now() + pause);
            for letter in letters.drain(..) {
                match letter {
                    ToTopics::Stop => return,
                    ToTopics::Reload { config, open } => self.reload(config, open),
                    ToTopics::Matched { consumer, topics } => {
                        let topics: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
                        let needed = required_topics::by_matches(&self.config, &consumer, &topics);
                        self.add(needed, false, false);
                    }
                }
            }
        }
    }

    fn add(&mut self, needed: Vec<RequiredTopic>, since_start: bool, is_told: bool) {
        for needed in needed {
            if !self.open.iter().any(|open| open.needed == needed) {
                self.open.push(Open {
                    needed,
                    since_start,
                    is_told,
                });
            }
        }
    }

    /// Topics that are no longer needed are dropped. An accepted reload does not end the daemon later.
    fn reload(&mut self, config: Arc<Config>, open: Vec<RequiredTopic>) {
        self.config = config;
        let literals = required_topics::by_literals(&self.config);
        self.open.retain(|open| literals.contains(&open.needed));
        self.add(open, false, true);
    }

    fn round(&mut self, beat: &Beat) {
        let asked = std::mem::take(&mut self.open);
        let (first, later): (Vec<_>, Vec<_>) = asked.into_iter().partition(|one| one.since_start);
        for (asked, since_start) in [(first, true), (later, false)] {
            let told: Vec<_> = asked.iter().map(|open| open.is_told).collect();
            let needed: Vec<_> = asked.into_iter().map(|open| open.needed).collect();
            let found = ask(&self.config, needed.clone(), &|| {
                beat.turn();
                !self.mailbox.is_empty()
            });
            if since_start && !found.missing.is_empty() {
                // The daemon may be about to end already.
                let _ = self.endings.send(Ending::Config(found.missing.join("\n")));
            } else {
                for error in found.missing {
                    log!(error, topics, error, "a topic is missing");
                }
            }
            for (open, error) in found.open {
                let index = needed.iter().position(|one| *one == open);
                let is_told = index.is_some_and(|index| told[index]);
                if let Some(error) = error.as_ref().filter(|_| !is_told) {
                    say_open(&open, error);
                }
                self.open.push(Open {
                    needed: open,
                    since_start,
                    is_told: is_told || error.is_some(),
                });
            }
        }
    }
}

fn say_open(needed: &RequiredTopic, error: &str) {
    log!(warn, topics,
        consumer = needed.consumer,
        listener = needed.listener,
        topic = needed.topic,
        purpose = %needed.purpose,
        error,
        "not known yet whether the topic exists"
    );
}

/// Asks for topics and creates those that Moontide may create. **Blocks** for one deadline a question, unless it
/// `is_over` before.
fn ask(config: &Config, needed: Vec<RequiredTopic>, is_over: &dyn Fn() -> bool) -> Found {
    let mut by_consumer: BTreeMap<String, Vec<RequiredTopic>> = BTreeMap::new();
    for one in needed {
        by_consumer
            .entry(one.consumer.clone())
            .or_default()
            .push(one);
    }
    let mut found = Found::default();
    for (name, needed) in by_consumer {
        let Some(consumer) = config.consumers.iter().find(|one| one.name == name) else {
            continue;
        };
        if is_over() {
            found.open.extend(needed.into_iter().map(|one| (one, None)));
            continue;
        }
        if let Err(error) = ask_of(consumer, &needed, &mut found, is_over) {
            let error = format!("{error:#}");
            found
                .open
                .extend(needed.into_iter().map(|one| (one, Some(error.clone()))));
        }
    }
    found
}

/// An error means that the brokers do not answer.
fn ask_of(
    consumer: &Consumer,
    needed: &[RequiredTopic],
    found: &mut Found,
    is_over: &dyn Fn() -> bool,
) -> anyhow::Result<()> {
    let admin = Admin::new(&consumer.properties, DEADLINE)?;
    let topics = admin.topics()?;
    let brokers = brokers(&consumer.properties);
    for one in needed {
        if topics.partitions(&one.topic).is_some() {
            continue;
        }
        if is_over() {
            found.open.push((one.clone(), None));
            continue;
        }
        match admin.is_missing(&one.topic) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => {
                found.open.push((one.clone(), Some(format!("{error:#}"))));
                continue;
            }
        }
        let partitions = topics.partitions(&one.source);
        if one.create != Create::Yes {
            found.missing.push(one.missing(brokers, partitions, None));
            continue;
        }
        let settings = NewSettings {
            needed: one.purpose.settings(),
            wanted: required_topics::ANY_TIMESTAMP,
        };
        match admin.create(&topics, &one.topic, partitions, settings) {
            Ok(Created::Now) => log!(info, topics,
                consumer = consumer.name,
                listener = one.listener,
                topic = one.topic,
                partitions,
                purpose = %one.purpose,
                "topic created"
            ),
            Ok(Created::Before) => {}
            Ok(Created::Refused(why)) => {
                found
                    .missing
                    .push(one.missing(brokers, partitions, Some(&why)));
            }
            Err(error) => found.open.push((one.clone(), Some(format!("{error:#}")))),
        }
    }
    Ok(())
}

fn brokers(properties: &BTreeMap<String, Value>) -> &str {
    properties
        .get("bootstrap.servers")
        .map_or("", |value| value.text.as_str())
}
