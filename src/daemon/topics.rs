//! Looks after the topics that must exist: asks for them, creates those that may be created, and says what is missing.
//!
//! At the start on a thread of its own, again and again until there is an answer, so that a broker that is away delays
//! nothing; what is missing then ends the daemon, as any other mistake in its configuration does. A reload asks itself,
//! once: what is missing refuses it. For what a pattern matches later there is an ERROR.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::assignment::ToTopics;
use crate::config::{Config, Consumer};
use crate::failpoint::failpoint;
use crate::kafka::admin::{Admin, Created};
use crate::kafka::property::Value;
use crate::log::log;
use crate::outgoing::required_topics::{self, Needed};
use crate::threads::mailbox::Mailbox;
use crate::threads::progress::Beat;
use crate::threads::supervisor::{Ending, Endings, Handle, Kind, Supervisor};

/// How long one question may take.
const DEADLINE: Duration = Duration::from_secs(2);
/// Between two rounds of questions without an answer.
const AGAIN: Duration = Duration::from_secs(3);
/// How often the thread turns at least, so that its hang is seen.
const TURN: Duration = Duration::from_secs(5);
/// How long one turn may take: as some questions.
const TURN_MAX: Duration = Duration::from_secs(30);
const NOT_ASKED: &str = "not asked, as something else is to be done";

pub(super) struct Topics {
    mailbox: Arc<Mailbox<ToTopics>>,
    thread: Handle,
}

/// What asking brought.
#[derive(Default)]
pub(super) struct Found {
    /// A sentence each.
    pub(super) missing: Vec<String>,
    /// The brokers did not say, and why.
    pub(super) open: Vec<(Needed, String)>,
}

impl Topics {
    /// Begins to ask for what the literal topics of `config` need.
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

    /// Where consumers tell what their patterns match.
    pub(super) fn mailbox(&self) -> Arc<Mailbox<ToTopics>> {
        self.mailbox.clone()
    }

    /// Another configuration is in force; these of its topics could not be asked for yet.
    pub(super) fn follow(&self, config: &Arc<Config>, open: Vec<Needed>) {
        self.mailbox.send(ToTopics::Reload {
            config: config.clone(),
            open,
        });
    }

    /// Ends the thread; a question under way has its own deadline.
    pub(super) fn stop(self) -> Handle {
        self.thread.may_end();
        self.mailbox.send(ToTopics::Stop);
        self.thread
    }
}

/// Asks, once, for what `new` needs beyond what `old` does.
pub(super) fn ask_for_new(old: &Config, new: &Config) -> Found {
    let before = required_topics::by_literals(old);
    let properties = |config: &Config, name: &str| {
        let mut consumers = config.consumers.iter();
        consumers
            .find(|one| one.name == name)
            .map(|one| one.properties.clone())
    };
    let is_new = |one: &Needed| {
        !before.contains(one) || properties(old, &one.consumer) != properties(new, &one.consumer)
    };
    let needed = required_topics::by_literals(new);
    let needed = needed.into_iter().filter(is_new).collect();
    let found = ask(new, needed, &|| false);
    for (needed, error) in &found.open {
        say_open(needed, error);
    }
    found
}

struct Checker {
    mailbox: Arc<Mailbox<ToTopics>>,
    config: Arc<Config>,
    endings: Endings,
    open: Vec<Open>,
}

/// What was not answered yet.
struct Open {
    needed: Needed,
    /// The daemon does without it since it started: that it is missing is a mistake in the configuration.
    since_start: bool,
    is_told: bool,
}

impl Checker {
    fn run(mut self, first: Vec<Needed>, beat: &Beat) {
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

    fn add(&mut self, needed: Vec<Needed>, since_start: bool, is_told: bool) {
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

    /// What is needed no more is asked for no more; a reload that was accepted does not end the daemon later.
    fn reload(&mut self, config: Arc<Config>, open: Vec<Needed>) {
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
                // The daemon may be on its way out already.
                let _ = self.endings.send(Ending::Config(found.missing.join("\n")));
            } else {
                for error in found.missing {
                    log!(error, topics, error, "a topic is missing");
                }
            }
            for (open, error) in found.open {
                let index = needed.iter().position(|one| *one == open);
                let is_told = index.is_some_and(|index| told[index]);
                if !is_told {
                    say_open(&open, &error);
                }
                self.open.push(Open {
                    needed: open,
                    since_start,
                    is_told: true,
                });
            }
        }
    }
}

fn say_open(needed: &Needed, error: &str) {
    log!(warn, topics,
        consumer = needed.consumer,
        listener = needed.listener,
        topic = needed.topic,
        purpose = %needed.purpose,
        error,
        "not known yet whether the topic exists"
    );
}

/// Asks for topics and creates what may be created. **Blocks** for a deadline a question, unless it `is_over` before.
fn ask(config: &Config, needed: Vec<Needed>, is_over: &dyn Fn() -> bool) -> Found {
    let mut by_consumer: BTreeMap<String, Vec<Needed>> = BTreeMap::new();
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
        let asked = if is_over() {
            Err(anyhow::anyhow!(NOT_ASKED))
        } else {
            ask_of(consumer, &needed, &mut found, is_over)
        };
        if let Err(error) = asked {
            let error = format!("{error:#}");
            found
                .open
                .extend(needed.into_iter().map(|one| (one, error.clone())));
        }
    }
    found
}

/// An error is that the brokers do not answer.
fn ask_of(
    consumer: &Consumer,
    needed: &[Needed],
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
            found.open.push((one.clone(), NOT_ASKED.to_owned()));
            continue;
        }
        match admin.is_missing(&one.topic) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => {
                found.open.push((one.clone(), format!("{error:#}")));
                continue;
            }
        }
        let partitions = topics.partitions(&one.source);
        if !one.create {
            found.missing.push(one.missing(brokers, partitions, None));
            continue;
        }
        match admin.create(&topics, &one.topic, partitions, one.purpose.settings()) {
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
            Err(error) => found.open.push((one.clone(), format!("{error:#}"))),
        }
    }
    Ok(())
}

fn brokers(properties: &BTreeMap<String, Value>) -> &str {
    properties
        .get("bootstrap.servers")
        .map_or("", |value| value.text.as_str())
}
