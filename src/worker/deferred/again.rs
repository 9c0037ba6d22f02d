//! Deferred messages that are fetched again: each runs in a lane of its own.

use crate::assignment::ToWorker;
use crate::config::Config;
use crate::kafka::Message;
use crate::kafka::refetch::{News, Wanted};
use crate::log::log;
use crate::rules::lanes::{Lane, Stage};
use crate::telemetry::metrics::Outcome;
use crate::worker::Worker;
use crate::worker::slot::Slot;

use super::Open;

/// The number, in place of a message's, under which a partition shows why its messages are not fetched again.
const TROUBLED: u64 = u64::MAX - 2;

impl Worker {
    /// Asks for messages that have to run again.
    pub(in crate::worker) fn fetch_again(&self, slot: &mut Slot) {
        if slot.released || slot.partition.is_over() {
            return;
        }
        let Some(deferred) = &mut slot.deferred else {
            return;
        };
        let offsets = deferred.ask();
        if offsets.is_empty() {
            return;
        }
        let (mailbox, epoch) = (self.mailbox.clone(), slot.partition.epoch);
        let partition = slot.partition.clone();
        slot.partition.refetch.ask(Wanted {
            topic: slot.partition.topic.clone(),
            partition: slot.partition.number,
            offsets: offsets.into(),
            is_over: Box::new(move || partition.is_over()),
            tell: Box::new(move |news| mailbox.send(ToWorker::FetchedAgain { epoch, news })),
        });
    }

    pub(in crate::worker) fn fetched_again(&mut self, epoch: u64, news: News) {
        let Some(mut slot) = self.slots.remove(&epoch) else {
            return;
        };
        match news {
            News::Troubled(error) => self.show_unfetched(&mut slot, &error),
            News::Found(found) => {
                slot.unblock(TROUBLED);
                let config = self.engine.bundle().config.clone();
                for (offset, message) in found {
                    let deferred = slot.deferred.as_mut();
                    let Some(number) = deferred.and_then(|all| all.found(offset)) else {
                        continue;
                    };
                    match message {
                        Some(message) => open_own_lane(&mut slot, &config, number, message),
                        None => self.lose_deferred(&mut slot, number, offset),
                    }
                }
                if let Some(deferred) = &mut slot.deferred {
                    deferred.end_request();
                }
            }
        }
        self.put_back(slot);
    }

    fn show_unfetched(&self, slot: &mut Slot, error: &str) {
        let first = slot.deferred.as_ref().and_then(|all| all.requested());
        let Some((offset, open)) = first else {
            return;
        };
        let error = format!("deferred messages have to run again, and are not fetched: {error}");
        let blocked = open.blocks(offset, self.clock.wall_ms(), error);
        slot.block(TROUBLED, blocked);
    }

    /// The log has lost the message: it cannot run again, and nothing of it is left to keep.
    fn lose_deferred(&mut self, slot: &mut Slot, number: u64, offset: i64) {
        let Some(deferred) = &mut slot.deferred else {
            return;
        };
        let (lost, is_finished) = deferred.lost(number);
        for open in lost {
            log!(
                error,
                worker,
                listener = open.listener,
                topic = &*slot.partition.topic,
                partition = slot.partition.number,
                offset,
                attempt = open.attempt,
                deferred_at = &*open.position,
                "deferred message lost: it was to run again, and the log does not have it any more; retention or compaction \
                 has deleted it, and it counts as skipped"
            );
            if let Some(listener) = self.meter.index_of(&open.listener) {
                self.meter.outcome(listener, Outcome::Skipped);
            }
            slot.note(number, Outcome::Skipped);
        }
        if is_finished {
            slot.finish(number);
        }
    }
}

/// The message is here again. Its stages are final until its lane looks at its deferrals.
fn open_own_lane(slot: &mut Slot, config: &Config, number: u64, message: Message) {
    let mut lane = Lane::new(number, message, slot.names(config));
    let Some(deferred) = &mut slot.deferred else {
        return;
    };
    let all = deferred.here_again(number);
    for progress in &mut lane.progress {
        progress.stage = Stage::Final;
        let mut own = all.iter();
        if let Some(open) = own.find(|open| open.listener == progress.listener) {
            let Open {
                attempt,
                failing_since,
                failed_in,
                ..
            } = open;
            (progress.attempt, progress.failing_since) = (*attempt, *failing_since);
            progress.failed_in = *failed_in;
        }
    }
    // No message has this number; a hash may have it.
    let mut key = !number;
    while slot.lanes.is_open(key) {
        key = key.wrapping_sub(1 << 32);
    }
    slot.lanes.put(key, lane);
    slot.lanes.wake(key);
}
