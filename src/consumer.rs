//! The consumer: one group membership, on a thread of its own.
//!
//! The loop never blocks inside librdkafka: one mailbox wakes it, rung by librdkafka's queues, by workers and by the
//! daemon. Each turn serves events and messages from other threads, takes records within the budget, commits the
//! positions that are due and checks the deadlines. **Back-pressure is not taking**: messages beyond the budget stay
//! in librdkafka's bounded queue.

mod budget;
mod commit_requests;
mod commits;
mod connections;
mod control;
mod deferred;
mod drain;
mod ends;
mod epoch;
mod fairness;
mod first_seen;
mod held;
mod intake;
mod known_topics;
mod leave;
pub(crate) mod lookups;
mod lost_offsets;
mod membership;
mod not_due;
mod observers;
mod pauses;
mod phase;
mod report;
mod rest;
mod seeks;
mod standstill;
mod starts;
mod subscription;
mod superseded;
mod topic_watch;
mod transactions;
mod trouble;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::assignment::Answered;
use crate::assignment::ToWorker;
use crate::assignment::{self, Partition, PartitionKey, Requests, ToConsumer, ToTopics};
use crate::bundle::Bundle;
use crate::config;
use crate::consumer::lookups::Lookups;
use crate::failpoint::failpoint;
use crate::kafka::refetch::Refetch;
use crate::kafka::{Broker, Class, Client, Error, Event, Rebalance, Security, Unfit};
use crate::lua::control::Control;
use crate::outgoing::outbox::Outbox;
use crate::telemetry::metrics::ConsumerCounts;
use crate::threads::mailbox::Mailbox;
use crate::threads::progress::Beat;
use crate::threads::supervisor::{Ending, Endings, Supervisor};

use budget::Ahead;
use commits::Commits;
use connections::Connections;
use held::{Held, Stage};
use intake::Intake;
use known_topics::KnownTopics;
use observers::Observations;
use phase::Phase;
use report::State;
use subscription::Topics;
use topic_watch::TopicWatch;
use transactions::Transactions;
use trouble::{Subject, Trouble};

/// The longest time between two turns: polls count towards the poll limit, and the daemon watches for progress.
const TURN: Duration = Duration::from_secs(1);
/// How long one query may take. A query is repeated after a failure, and a stop waits for it.
const QUERY: Duration = Duration::from_secs(3);
/// Twice `metadataMaxAge`, and this long at least: until then every member of the group has seen a new topic id.
const SPREAD_MIN: Duration = Duration::from_secs(300);

pub(crate) struct Consumer {
    name: Arc<str>,
    group: Arc<str>,
    outbox: Arc<Outbox>,
    refetch: Arc<Refetch>,
    needed: Arc<Mailbox<ToTopics>>,
    settings: config::Consumer,
    bundle: Arc<Bundle>,
    inbox: Arc<Mailbox<ToConsumer>>,
    workers: Vec<Arc<Mailbox<ToWorker>>>,
    endings: Endings,
    supervisor: Supervisor,
    /// The requests of handlers.
    control: Arc<Control>,
    lookups: Lookups,
    known: Arc<Mutex<KnownTopics>>,
    topics: Topics,
    watch: TopicWatch,
    phase: Phase,
    observations: Observations,
    held: HashMap<PartitionKey, Held>,
    intake: Intake,
    commits: Commits,
    /// With `exactlyOnce`.
    transactions: Option<Transactions>,
    connections: Connections,
    security: Security,
    trouble: Trouble,
    state: State,
    counts: ConsumerCounts,
    /// When all partitions are checked again, even if only messages and outcomes arrive.
    look_at: Instant,
    client: Arc<Client>,
}

/// The inputs of a new consumer.
pub(crate) struct Start {
    pub(crate) settings: config::Consumer,
    pub(crate) bundle: Arc<Bundle>,
    pub(crate) inbox: Arc<Mailbox<ToConsumer>>,
    pub(crate) workers: Vec<Arc<Mailbox<ToWorker>>>,
    pub(crate) supervisor: Supervisor,
    pub(crate) control: Arc<Control>,
    /// Numbers the epochs of partitions, for the whole process.
    pub(crate) epochs: Arc<AtomicU64>,
    /// Receives the topics that patterns match.
    pub(crate) topics: Arc<Mailbox<ToTopics>>,
}

impl Consumer {
    pub(crate) fn new(start: Start) -> anyhow::Result<Self> {
        let Start {
            settings,
            bundle,
            inbox,
            workers,
            supervisor,
            control,
            epochs,
            topics,
        } = start;
        let security = Security::of(
            settings
                .properties
                .get("security.protocol")
                .map_or("", |value| &value.text),
        );
        let name: Arc<str> = settings.name.as_str().into();
        control.connect(bell(&inbox));
        let known = Arc::new(Mutex::new(KnownTopics::open(
            &bundle.config.daemon.state_directory,
            &name,
            &settings.group_id,
            settings.metadata_max_age.max(SPREAD_MIN) * 2,
        )));
        let (client, lookups) = connect(&settings, &inbox, &known, &supervisor)?;
        let transactions = Transactions::open(&settings, &bundle.config)?;
        let ahead = Ahead::of(|name| settings.properties.get(name).map(|one| one.text.as_str()));
        Ok(Self {
            name,
            group: settings.group_id.as_str().into(),
            needed: topics,
            outbox: Arc::new(Outbox::new(
                &settings.name,
                &settings.properties,
                &supervisor,
            )),
            refetch: Arc::new(Refetch::new(
                &settings.name,
                &settings.properties,
                &supervisor,
            )),
            topics: Topics::new(&bundle.config, &settings.name),
            watch: TopicWatch::new(Instant::now()),
            known,
            settings,
            bundle,
            inbox,
            workers,
            endings: supervisor.endings(),
            supervisor,
            control,
            lookups,
            phase: Phase::default(),
            observations: Observations::default(),
            held: HashMap::new(),
            intake: Intake::new(epochs, ahead),
            commits: Commits::default(),
            transactions,
            connections: Connections::new(Instant::now()),
            security,
            trouble: Trouble::default(),
            state: State::new(Instant::now()),
            counts: ConsumerCounts::default(),
            look_at: Instant::now(),
            client,
        })
    }

    /// Runs until `Close` is done.
    pub(crate) fn run(mut self, beat: &Beat) {
        // Closes also on a panic: a queued batch holds messages, which keep the client.
        let _closes = self.inbox.close_on_drop();
        let mut letters = Vec::new();
        self.subscribe(Instant::now());
        loop {
            beat.turn();
            failpoint!("consumer-turn");
            let now = Instant::now();
            let mut is_due = now >= self.look_at || self.phase.is_busy() || self.phase.is_closing();
            is_due |= self.phase.resting.is_some();
            for event in self.client.events() {
                self.event(event, now);
                is_due = true;
            }
            for letter in letters.drain(..) {
                let is_plain = matches!(
                    letter,
                    ToConsumer::Finished { .. } | ToConsumer::Deferred { .. }
                );
                is_due |= !is_plain;
                self.open(letter, now);
            }
            is_due |= self.settle_replies(now);
            is_due |= self.serve_requests();
            if is_due {
                self.intake.look_anew();
            }
            let took = self.take(now);
            let mut deadline = self.look_at;
            if is_due {
                self.look_around(now);
                if let Some(left) = self.has_left(now) {
                    if !left.again {
                        self.tell_left_out(None);
                        return self.leave();
                    }
                    if let Err(error) = self.join_again(now) {
                        return self.give_up(&error);
                    }
                }
                deadline = if self.intake.is_to_look() {
                    now
                } else {
                    self.deadline(now)
                };
            }
            if took || !self.inbox.is_empty() {
                self.inbox.take(&mut letters);
            } else {
                self.inbox.wait(&mut letters, deadline);
            }
        }
    }

    /// Work that may be due in any partition. **Each part looks at all partitions**, hence it does not run after
    /// every batch. The pause is as many microseconds as there are partitions, which is about the cost of a look.
    fn look_around(&mut self, now: Instant) {
        let held = self.held.len();
        let was_moved = self.keep_fair(now) | self.wake(now);
        self.progress(now);
        self.commit(now);
        self.progress_rest(now);
        self.subscribe(now);
        self.watch(now);
        self.look(now);
        if was_moved || self.held.len() != held {
            self.intake.look_anew();
        }
        self.look_at = now + Duration::from_micros(self.held.len() as u64);
    }

    /// When the loop has work without an event.
    fn deadline(&self, now: Instant) -> Instant {
        let mut deadline = now + TURN;
        for at in [
            self.phase.deadline(),
            self.commit_deadline(now),
            self.transactions.as_ref().and_then(Transactions::deadline),
            self.fairness_deadline(now),
            self.not_due_deadline(),
        ]
        .into_iter()
        .flatten()
        {
            deadline = deadline.min(at);
        }
        deadline
    }

    fn event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Rebalance(rebalance) => {
                if matches!(rebalance, Rebalance::Assign(_)) {
                    self.note_generation();
                }
                self.stay_at_positions();
                self.phase.queue(rebalance);
            }
            // The brokers' own errors have the reasons, and the connections show whether one is left.
            Event::Error(error) if error.is_summary() => {}
            Event::Error(error) => self.error(&error, Subject::Group),
            Event::BrokerError(broker, error) => {
                let hint = self.security.hint(&error.to_string());
                self.broker_error(&broker, error, hint, now);
            }
            Event::Connection(change) => {
                if self.connections.change(&change, now) {
                    self.unfit(&change.broker, Unfit::Silent, now);
                }
            }
            Event::Unfit(broker, unfit) => self.unfit(&broker, unfit, now),
            Event::TopicError(topic, error) => {
                self.topics.trouble(&topic, &error);
                let place = Subject::Topic(topic);
                self.trouble.tell(&self.name, &error, &place, now);
                self.watch.hurry(now);
            }
        }
    }

    fn unfit(&mut self, broker: &Broker, unfit: Unfit, now: Instant) {
        if unfit == Unfit::WithoutTopics {
            self.connections.without_topics(broker, now);
        }
        let may_be_wrong = !self.connections.has_worked(broker);
        let hint = self.security.hint_unfit(unfit).filter(|_| may_be_wrong);
        self.broker_error(broker, Error::closed(unfit.to_string()), hint, now);
    }

    fn broker_error(&mut self, broker: &Broker, error: Error, hint: Option<&str>, now: Instant) {
        let error = match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        };
        let place = Subject::Broker(self.connections.name_of(broker));
        self.trouble.note(&self.name, &error, place, now);
    }

    fn open(&mut self, letter: ToConsumer, now: Instant) {
        match letter {
            ToConsumer::Finished { finished, asked } => self.finished(finished, &asked, now),
            ToConsumer::Deferred { partition, moved } => self.deferred(&partition, &moved),
            ToConsumer::HandedOver(all) => self.handed_over(all, now),
            ToConsumer::WentBack { partition, lane } => {
                if let Some(transactions) = &mut self.transactions {
                    transactions.went_back(partition.epoch, lane);
                }
            }
            ToConsumer::Transaction {
                producer,
                answer,
                text,
            } => self.answered(producer, answer, text, now),
            ToConsumer::Answered(Answered::ReadBack(found)) => self.read_back(found, now),
            ToConsumer::AtRest(partition) => {
                if let Some(resting) = &mut self.phase.resting {
                    resting.note(partition.epoch);
                }
            }
            ToConsumer::Drained(partition) => {
                if let Some(held) = self.of(&partition) {
                    held.stage = Stage::Drained;
                }
            }
            ToConsumer::Commit {
                listeners_since_bundle,
                partition,
                ask,
                reply,
            } => {
                self.ask_commit(&partition, &ask, listeners_since_bundle, reply, now);
            }
            ToConsumer::Answered(Answered::Starts { id, starts }) => self.starts(id, starts, now),
            ToConsumer::Answered(Answered::Topics(topics)) => self.topics_found(topics, now),
            ToConsumer::Answered(Answered::Sought { id, key, found }) => {
                self.sought(id, &key, found, now);
            }
            ToConsumer::Answered(Answered::Described { id, described }) => {
                self.described(id, described, now);
            }
            ToConsumer::Observed { id, worker } => self.observations.ended(id, worker),
            ToConsumer::Reload(bundle) => self.reload(bundle, now),
            ToConsumer::Retire { bundle, done } => self.retire(bundle, done, now),
            // The receiver is gone if the send fails.
            ToConsumer::Status(reply) => drop(reply.send(self.snapshot(now))),
            ToConsumer::ComeToRest { bundle, done } => self.come_to_rest(&bundle, done, now),
            ToConsumer::GoOn => self.end_rest(),
            ToConsumer::Accept {
                topic,
                partition,
                reply,
            } => {
                if let Some(outcome) = self.accept_repeats(&topic, partition, now) {
                    // The operator may be gone.
                    let _ = reply.send(outcome);
                }
            }
            ToConsumer::Close(deadline) => self.begin_close(deadline, now),
        }
    }

    /// These messages have their outcome, and these commit requests have no waiter.
    fn finished(
        &mut self,
        finished: Vec<(Arc<Partition>, Range<u64>)>,
        asked: &[Requests],
        now: Instant,
    ) {
        let are_many = self.held.len() > assignment::MANY;
        for (partition, numbers) in finished {
            let held = self.held.get_mut(&partition.key());
            if let Some(held) = held.filter(|held| held.is_in(&partition)) {
                held.epoch.finished_since_commit += numbers.end - numbers.start;
                let before = held.epoch.tracker.unfinished();
                if let Some(transactions) = &mut self.transactions {
                    transactions.finished(held, numbers.clone());
                }
                held.epoch.tracker.finish(numbers);
                if are_many {
                    held.epoch.tracker.give_room_back();
                }
                held.epoch
                    .ages
                    .finished(held.epoch.tracker.finished().offset, now);
                self.intake.finished(held, before);
            }
        }
        for asked in asked {
            self.requested(asked);
        }
    }

    /// The partition, if its epoch is the present one.
    fn of(&mut self, partition: &Arc<Partition>) -> Option<&mut Held> {
        let held = self.held.get_mut(&partition.key());
        held.filter(|held| held.is_in(partition))
    }

    /// The worker of a partition: chosen by its name among the workers with a share of the topic's concurrency.
    fn worker_of(&self, topic: &str, partition: i32, concurrency: usize) -> Arc<Mailbox<ToWorker>> {
        let candidates = self.workers.len().min(concurrency.max(1));
        let mut hasher = DefaultHasher::new();
        topic.hash(&mut hasher);
        let first = hasher.finish() as usize % candidates;
        self.workers[(first + partition.unsigned_abs() as usize) % candidates].clone()
    }

    /// Handles an error of a place: kept for the status, logged, and fatal or not.
    fn error(&mut self, error: &Error, place: Subject) {
        if error.class() == Class::Fatal {
            let error = self.client.fatal_error().unwrap_or_else(|| error.clone());
            // The first ending counts; the daemon may be ending already.
            let _ = self
                .endings
                .send(Ending::Failed(format!("consumer `{}`: {error}", self.name)));
        }
        self.watch_after(error);
        self.trouble.note(&self.name, error, place, Instant::now());
    }
}

/// Wakes the consumer's thread.
fn bell(inbox: &Arc<Mailbox<ToConsumer>>) -> Arc<dyn Fn() + Send + Sync> {
    let inbox = inbox.clone();
    Arc::new(move || inbox.ring())
}

/// A client, and the thread for its lookups.
fn connect(
    settings: &config::Consumer,
    inbox: &Arc<Mailbox<ToConsumer>>,
    known: &Arc<Mutex<KnownTopics>>,
    supervisor: &Supervisor,
) -> anyhow::Result<(Arc<Client>, Lookups)> {
    let properties = settings.properties.iter();
    let properties = properties.map(|(name, value)| (name.as_str(), value.text.as_str()));
    let asker = match settings.transaction {
        Some(_) => Some(Client::new(properties.clone(), Arc::new(|| ()))?),
        None => None,
    };
    let client = Arc::new(Client::new(properties, bell(inbox))?);
    let lookups = Lookups::start(
        &settings.name,
        client.clone(),
        asker,
        known.clone(),
        inbox.clone(),
        settings.request_timeout.min(QUERY),
        supervisor,
    )?;
    Ok((client, lookups))
}
