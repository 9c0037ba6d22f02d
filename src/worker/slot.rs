//! The state of one partition in one epoch, in a worker.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use crate::assignment::Partition;
use crate::config::{Config, Ordering};
use crate::crash::journal::InPartition;
use crate::kafka::Message;
use crate::message::Record as _;
use crate::outgoing::retry_topic::{self, Original};
use crate::rules::lanes::{Lane, Lanes, Stage, lane_of};
use crate::rules::route::Plan;
use crate::rules::turns::Of;
use crate::rules::unacknowledged::Unacknowledged;
use crate::telemetry::metrics::{Outcome, Outcomes};
use crate::telemetry::status::Blocked;
use crate::topic_name;
use crate::wait::Requested;

use super::batches::state::Batches;
use super::commit_requests::{CommitRequests, Who};
use super::deferred::Deferred;
use super::ids::LaneId;
use super::kept::{Emitting, Settled, Then, Unwritten};
use super::taken::Taken;

/// The messages are declared, hence dropped, before the partition that holds their client.
pub(super) struct Slot {
    pub(super) lanes: Lanes<Message>,
    pub(super) plan: Arc<Plan>,
    /// The bundle since which the listeners of the topic are unchanged; 0 if the epoch began with them.
    pub(super) listeners_since_bundle: u64,
    pub(super) partition: Arc<Partition>,
    /// For a retry topic: the topic whose messages wait in it.
    source: Option<Arc<str>>,
    /// The partition's slot in the journal.
    pub(super) place: InPartition,
    /// Calls that wait, and records on their way to another topic.
    pub(super) under_way: usize,
    pub(super) queued: bool,
    pub(super) released: bool,
    pub(super) taken: Taken,
    pub(super) outcomes: Outcomes,
    /// Outcomes other than done, of messages that have not ended yet, by number.
    unusual: BTreeMap<u64, Outcome>,
    /// Messages that block their lanes, by number; the status shows the first.
    blocked: BTreeMap<u64, Blocked>,
    /// The messages finished since the last report; the last range is still growing.
    finished: Vec<Range<u64>>,
    growing: Range<u64>,
    /// Commit requests of handlers that do not wait, since the last report.
    pub(super) asks: CommitRequests,
    /// Messages that are done but for the acknowledgement of records.
    pub(super) unacknowledged: Unacknowledged<Settled>,
    /// What heads of lanes have emitted, by number.
    pub(super) emitting: HashMap<u64, Emitting>,
    /// Records that are written again when their lane comes to them, by number and listener.
    pub(super) unwritten: HashMap<(u64, String), Unwritten>,
    pub(super) batches: Batches,
    /// Only messages below this number begin: the partition comes to rest.
    pub(super) begins_below: u64,
    /// The consumer knows that it has.
    pub(super) has_told_rest: bool,
    /// `None` where no handler has deferred a message.
    pub(super) deferred: Option<Box<Deferred>>,
}

/// A message of a retry topic that runs for no listener.
pub(super) enum Stray {
    /// Its headers do not name a listener of this group.
    Unreadable,
    /// The listener is removed.
    Gone(String),
}

impl Slot {
    /// Its topic, if the topics of its consumer have shares.
    pub(super) fn share(&self) -> Option<Of> {
        Some(Of {
            share: self.plan.share?,
            consumer: self.partition.consumer.clone(),
            topic: self.partition.topic.clone(),
        })
    }

    pub(super) fn new(plan: Arc<Plan>, partition: Arc<Partition>, place: InPartition) -> Self {
        let source = if plan.is_retry {
            topic_name::retry_source(&partition.topic, &partition.group).map(Into::into)
        } else {
            None
        };
        let batches = Batches::new(place.crashed_below());
        Self {
            lanes: Lanes::new(),
            plan,
            listeners_since_bundle: 0,
            partition,
            source,
            place,
            under_way: 0,
            queued: false,
            released: false,
            taken: Taken::default(),
            outcomes: Outcomes::default(),
            unusual: BTreeMap::new(),
            blocked: BTreeMap::new(),
            finished: Vec::new(),
            growing: 0..0,
            asks: CommitRequests::default(),
            unacknowledged: Unacknowledged::default(),
            emitting: HashMap::new(),
            unwritten: HashMap::new(),
            batches,
            begins_below: u64::MAX,
            has_told_rest: false,
            deferred: None,
        }
    }

    /// Nothing begins from here on but what stands before a message that has begun.
    pub(super) fn come_to_rest(&mut self) {
        if self.begins_below == u64::MAX {
            self.begins_below = self.lanes.untouched_from();
            self.has_told_rest = false;
        }
    }

    pub(super) fn has_fresh_that_may_begin(&self) -> bool {
        let fresh = self.lanes.fresh();
        fresh.is_some_and(|(number, _)| number < self.begins_below)
    }

    /// Notes an outcome of a message in one listener, if it is not done.
    pub(super) fn note(&mut self, number: u64, outcome: Outcome) {
        let noted = self.unusual.entry(number).or_insert(outcome);
        *noted = outcome.max(*noted);
    }

    /// The message has its outcome in every listener, or is deferred in some.
    pub(super) fn finish(&mut self, number: u64) {
        if let Some(deferred) = &mut self.deferred
            && !deferred.is_finished(number)
        {
            self.unblock(number);
            return;
        }
        let outcome = if self.unusual.is_empty() {
            None
        } else {
            self.unusual.remove(&number)
        };
        self.outcomes.add(outcome.unwrap_or(Outcome::Done));
        if number == self.growing.end {
            self.growing.end += 1;
        } else {
            let full = std::mem::replace(&mut self.growing, number..number + 1);
            if !full.is_empty() {
                self.finished.push(full);
            }
        }
        self.unblock(number);
    }

    /// The messages finished since the last call of this function.
    pub(super) fn take_finished(&mut self) -> impl Iterator<Item = Range<u64>> {
        let end = self.growing.end;
        let growing = std::mem::replace(&mut self.growing, end..end);
        let last = (!growing.is_empty()).then_some(growing);
        std::mem::take(&mut self.finished).into_iter().chain(last)
    }

    /// A handler has requested commits and does not wait for them.
    pub(super) fn ask(&mut self, who: Who<'_>, asked: Requested) {
        // It follows the records that the lane has emitted before.
        if let Some(last) = self.unacknowledged.last_mut(who.lane) {
            last.follow_with(Then::Ask {
                listener: who.listener.to_owned(),
                at: who.at,
                asked,
            });
            return;
        }
        self.ask_now(who, asked);
    }

    pub(super) fn ask_now(&mut self, who: Who<'_>, asked: Requested) {
        // In its own topic, the position has passed a message of a retry topic when it was put there.
        if !self.plan.is_retry {
            let by_lane = self.plan.ordering != Ordering::Partition;
            self.asks.add(who, asked, by_lane, &self.plan.manual);
        }
    }

    /// The emissions of the head of a lane.
    pub(super) fn emitting(&mut self, lane: u64, number: u64) -> &mut Emitting {
        self.emitting.entry(number).or_insert_with(|| Emitting {
            lane,
            ..Emitting::default()
        })
    }

    /// Whether a message that has ended waits for no acknowledgement.
    pub(super) fn is_final_without(&self, lane: u64, number: u64) -> bool {
        let emitting = self.emitting.get(&number);
        emitting.is_none_or(Emitting::is_acknowledged) && !self.unacknowledged.has(lane)
    }

    pub(super) fn block(&mut self, number: u64, blocked: Blocked) {
        self.blocked.insert(number, blocked);
        self.show_blocked();
    }

    pub(super) fn is_blocked(&self, number: u64) -> bool {
        self.blocked.contains_key(&number)
    }

    /// The reason for which the message blocked its lane has ended.
    pub(super) fn unblock(&mut self, number: u64) {
        if !self.blocked.is_empty() && self.blocked.remove(&number).is_some() {
            self.show_blocked();
        }
    }

    fn show_blocked(&self) {
        self.partition
            .set_blocked(self.blocked.values().next().cloned());
    }

    /// A lane that begins with this message. A message of a retry topic runs for the listener that its headers name,
    /// and continues its attempts. For other listeners it is done, as is a message that is not meant for this group.
    pub(super) fn new_lane(&self, config: &Config, number: u64, message: Message) -> Lane<Message> {
        let mut lane = Lane::new(number, message, self.names(config));
        if self.plan.is_retry {
            pass_over(&self.partition, &mut lane);
        }
        lane
    }

    /// After a reload: sets the listeners of the plan. Calls `gone` for each listener removed without an outcome,
    /// with its message.
    pub(super) fn set_listeners(&mut self, config: &Config, gone: impl FnMut(&str, &Message)) {
        let names = self.names(config);
        self.lanes.set_listeners(&names, gone);
        if self.plan.is_retry {
            for (_, lane) in self.lanes.open_mut() {
                pass_over(&self.partition, lane);
            }
        }
    }

    /// After a reload, `before` is the plan before it. A reload can switch a listener to manual commits. Then this
    /// requests commits for the messages that the listener has finished and other listeners have not: its handler
    /// will not see them again. Calls and records still under way do the same when they end.
    pub(super) fn ask_as_automatic(&mut self, before: &Plan) {
        let is_among =
            |names: &[Arc<str>], listener: &str| names.iter().any(|one| **one == *listener);
        let mut done = Vec::new();
        for (key, lane) in self.lanes.open_mut() {
            let at = lane.message.offset();
            for progress in &mut lane.progress {
                if !is_among(&self.plan.manual, &progress.listener) {
                    progress.finishes_after_switch_to_manual = false;
                } else if is_among(&before.automatic, &progress.listener) {
                    match progress.stage {
                        Stage::Final => done.push((key, at, progress.listener.clone())),
                        Stage::Running
                        | Stage::Batched
                        | Stage::Sending
                        | Stage::Unsent(_)
                        | Stage::SendDue
                        | Stage::Unwritten => {
                            progress.finishes_after_switch_to_manual = true;
                        }
                        // The message runs again, under manual commits.
                        Stage::Due | Stage::BackOff(_) | Stage::Held | Stage::Halted => {}
                    }
                }
            }
        }
        for (lane, at, listener) in done {
            self.ask_behind(Who {
                listener: &listener,
                lane,
                at,
            });
        }
    }

    /// Requests a commit for a message that a listener has finished, on behalf of its handler.
    pub(super) fn ask_behind(&mut self, who: Who<'_>) {
        let behind = who.at + 1;
        let asked = Requested {
            highest: behind,
            last: behind,
        };
        self.ask(who, asked);
    }

    /// The reason why a message of a retry topic runs for no listener.
    pub(super) fn stray(&self, lane: &Lane<Message>) -> Option<Stray> {
        if !self.plan.is_retry {
            return None;
        }
        let origin = retry_topic::origin(&self.partition.topic, &lane.message);
        let Some(origin) = origin.filter(|origin| *origin.group == *self.partition.group) else {
            return Some(Stray::Unreadable);
        };
        let is_gone = lane.index_of(&origin.listener).is_none();
        is_gone.then_some(Stray::Gone(origin.listener))
    }

    /// A message of a retry topic as its handler sees it: with the coordinates of its own topic.
    pub(super) fn original<'a>(
        &self,
        message: &'a Message,
    ) -> Option<(&Arc<str>, retry_topic::Origin, Original<'a>)> {
        let source = self.source.as_ref()?;
        let origin = retry_topic::origin(&self.partition.topic, message)?;
        let original = Original::new(message, &origin);
        Some((source, origin, original))
    }

    /// The lane with this key.
    pub(super) fn lane_id(&self, key: u64) -> LaneId {
        LaneId {
            epoch: self.partition.epoch,
            lane: key,
        }
    }

    /// The lane of a message.
    pub(super) fn lane_of(&self, number: u64, message: &Message) -> u64 {
        let plan = &self.plan;
        lane_of(
            plan.ordering,
            plan.null_keys,
            self.partition.seed,
            message,
            number,
        )
    }

    /// The names of the topic's listeners in the bundle in force, in order of declaration.
    pub(super) fn names<'a>(
        &self,
        config: &'a Config,
    ) -> impl Iterator<Item = &'a str> + Clone + use<'a> {
        let listeners = self.plan.listeners.clone();
        (0..listeners.len()).map(move |index| config.listeners[listeners[index]].name.as_str())
    }

    /// Whether the topic has this listener in the bundle in force.
    pub(super) fn wants(&self, listener: &str) -> bool {
        self.plan.has(listener)
    }
}

/// For a message of a retry topic. The listener that its headers name continues its attempts. The message is done for
/// every other listener that has not begun it.
fn pass_over(partition: &Partition, lane: &mut Lane<Message>) {
    let origin = retry_topic::origin(&partition.topic, &lane.message)
        .filter(|origin| *origin.group == *partition.group);
    for progress in &mut lane.progress {
        match &origin {
            _ if progress.attempt > 0 || progress.stage != Stage::Due => {}
            Some(origin) if origin.listener == progress.listener => {
                progress.attempt = origin.attempts;
                progress.failing_since = Some(origin.first_failure_ms);
            }
            _ => progress.stage = Stage::Final,
        }
    }
}
