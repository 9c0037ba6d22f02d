//! Operator commands: messages given up, back-offs ended, listeners paused.
//!
//! The operator and the reason are logged where the command arrives. A command that does not concern this worker is
//! dropped with its reply.

use crate::assignment::{Handle, Order};
use crate::config::Config;
use crate::kafka::Message;
use crate::lua::{Failure, FailureKind};
use crate::message::Record as _;
use crate::rules::lanes::{Lane, Stage};

use super::Worker;
use super::head::Head;
use super::ids::RecordId;
use super::outcomes::named;
use super::slot::Slot;

/// The message that the operator skips, and how.
struct Skip<'a> {
    listener: Option<&'a str>,
    dead_letter: bool,
    reason: &'a str,
}

/// The result, or the reason why it is not possible.
type Outcome = Result<String, String>;

impl Worker {
    pub(super) fn obey(&mut self, order: Order) {
        match order {
            Order::Skip {
                message,
                listener,
                dead_letter,
                reason,
                reply,
            } => {
                let skip = Skip {
                    listener: listener.as_deref(),
                    dead_letter,
                    reason: &reason,
                };
                for epoch in self.epochs_of(&message) {
                    if let Some(outcome) = self.skip(epoch, &message, &skip) {
                        // The receiver may be gone.
                        let _ = reply.send(outcome);
                    }
                }
            }
            Order::Retry { listener, reply } => {
                let ended = self.retry(listener.as_deref());
                let _ = reply.send(ended);
            }
            Order::Pause { listener, paused } => self.gates.set_paused(&listener, paused),
        }
    }

    /// Several consumers may have the same partition.
    fn epochs_of(&self, message: &Handle) -> Vec<u64> {
        let is_it = |slot: &Slot| {
            *slot.partition.topic == *message.topic && slot.partition.number == message.partition
        };
        let slots = self.slots.iter().filter(|(_, slot)| is_it(slot));
        slots.map(|(epoch, _)| *epoch).collect()
    }

    fn skip(&mut self, epoch: u64, message: &Handle, skip: &Skip<'_>) -> Option<Outcome> {
        let config = self.engine.bundle().config.clone();
        let mut slot = self.slots.remove(&epoch)?;
        slot.release_trials();
        let meant = (message.offset, skip.listener);
        let reason = skip.dead_letter.then_some(skip.reason);
        if let Some(outcome) = self.skip_deferred(&mut slot, &config, meant, reason) {
            self.put_back(slot);
            return Some(outcome);
        }
        let outcome = lane_with(&mut slot, &config, message.offset).map(|key| {
            let mut lane = slot
                .lanes
                .take(key)
                .expect("the lane was found a moment ago");
            let outcome = self.skip_head(&mut slot, &config, key, &mut lane, skip);
            slot.lanes.put(key, lane);
            slot.lanes.wake(key);
            outcome
        });
        self.put_back(slot);
        self.let_start();
        outcome
    }

    /// All or nothing: if one listener cannot skip the message, none does.
    fn skip_head(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        key: u64,
        lane: &mut Lane<Message>,
        skip: &Skip<'_>,
    ) -> Outcome {
        let place = format!(
            "message {} of {}[{}]",
            lane.message.offset(),
            slot.partition.topic,
            slot.partition.number
        );
        let meant = meant(lane, skip.listener).map_err(|why| format!("{place}: {why}"))?;
        let names: Vec<_> = meant
            .iter()
            .map(|&index| lane.progress[index].listener.clone())
            .collect();
        if skip.dead_letter {
            for (&index, name) in meant.iter().zip(&names) {
                let has_topic = named(config, name).is_some_and(|one| one.dead_letter.is_some());
                if !has_topic {
                    return Err(format!(
                        "{place}: listener `{name}` has no dead-letter topic"
                    ));
                }
                let id = RecordId {
                    lane: slot.lane_id(key),
                    listener: name.clone(),
                };
                if self.forwarded.contains_key(&id) && lane.progress[index].stage == Stage::Sending
                {
                    return Err(format!("{place}: its dead letter is already on its way"));
                }
            }
        }
        for index in meant {
            let mut head = Head {
                slot,
                config,
                key,
                lane,
                index,
            };
            self.give_up(&mut head, skip);
        }
        let names = names.join("`, `");
        Ok(if skip.dead_letter {
            format!("{place} goes to the dead-letter topic of listener `{names}`")
        } else {
            format!("{place} is skipped in listener `{names}`")
        })
    }

    fn give_up(&mut self, head: &mut Head<'_>, skip: &Skip<'_>) {
        let epoch = head.slot.partition.epoch;
        if head.progress().stage == Stage::Running
            && let Some((vm, call)) = self.calls.of_lane(epoch, head.key)
        {
            self.calls.remove(vm, call);
            self.engine.cancel(vm, call);
            head.slot.under_way -= 1;
            self.running.end(head.id());
            self.leave(&head.slot.partition);
        }
        let mut progress = head.lane.progress.iter().enumerate();
        let others_run =
            progress.any(|(index, one)| index != head.index && one.stage == Stage::Running);
        if !others_run {
            self.end_alone(head.id());
            self.gates.forget_probe(head.id());
        }
        let name = head.listener().to_owned();
        // If a record of it is under way, its answer is ignored later.
        self.forwarded.remove(&head.record_id());
        if self.emissions.give_up(&head.record_id()).is_some() {
            head.slot.under_way -= 1;
        }
        let number = head.lane.number;
        head.slot.unwritten.remove(&(number, name.clone()));
        let stage = match named(head.config, &name) {
            Some(listener) if skip.dead_letter => {
                let failure = Failure {
                    kind: FailureKind::Asked,
                    message: skip.reason.to_owned(),
                    traceback: None,
                };
                self.dead_letter(head, listener, &failure)
            }
            _ => self.ended(head, crate::telemetry::metrics::Outcome::Skipped),
        };
        head.come_to(stage);
    }

    /// Returns the number of waits ended.
    fn retry(&mut self, listener: Option<&str>) -> usize {
        let mut ended = 0;
        let mut awake = Vec::new();
        for (epoch, slot) in &mut self.slots {
            slot.pardon(listener);
            let waits = match listener {
                Some(listener) if !slot.wants(listener) => 0,
                _ => slot.batches.end_waits(),
            };
            let count = slot.lanes.end_back_offs(listener) + waits;
            if count > 0 {
                ended += count;
                awake.push(*epoch);
            }
        }
        for epoch in awake {
            self.wake(epoch);
        }
        ended
    }
}

/// The indices of the listeners that are to give up the message.
fn meant(lane: &Lane<Message>, listener: Option<&str>) -> Result<Vec<usize>, String> {
    let all = lane.progress.iter().enumerate();
    let meant: Vec<_> = all
        .filter(|(_, one)| listener.is_none_or(|name| one.listener == name))
        .collect();
    if let ([], Some(name)) = (&meant[..], listener) {
        return Err(format!("listener `{name}` does not take this topic"));
    }
    let open: Vec<_> = meant
        .into_iter()
        .filter(|(_, one)| one.stage != Stage::Final)
        .map(|(index, _)| index)
        .collect();
    if open.is_empty() {
        return Err("it already has its outcome".to_owned());
    }
    let is_batched = |index: &usize| lane.progress[*index].stage == Stage::Batched;
    if open.iter().any(is_batched) {
        return Err("it runs in a batch; try again when the batch has ended".to_owned());
    }
    Ok(open)
}

/// The lane whose head has this offset. A message that has not begun, because its listener takes none now, begins
/// here.
fn lane_with(slot: &mut Slot, config: &Config, offset: i64) -> Option<u64> {
    let mut open = slot.lanes.open();
    if let Some((key, _)) = open.find(|(_, lane)| lane.message.offset() == offset) {
        return Some(key);
    }
    drop(open);
    let (number, message) = slot.lanes.fresh()?;
    let key = slot.lane_of(number, message);
    if message.offset() != offset || slot.lanes.is_open(key) {
        return None;
    }
    let (number, message) = slot.lanes.take_fresh()?;
    let lane = slot.new_lane(config, number, message);
    slot.lanes.put(key, lane);
    Some(key)
}
