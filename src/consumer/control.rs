//! The requests of handlers: the consumer's side of `ctx.consumer` and `tide.kafka.consumer`.
//!
//! A pause has marked the partition before this thread hears of it, so its worker begins no run of it. Here the
//! client stops its fetches, and the worker is woken after a resume.

use std::time::Instant;

use crate::assignment::{PartitionKey, ToWorker};
use crate::consumer::lookups::Lookup;
use crate::lua::control::{Question, What, not_ours};
use crate::telemetry::status::{Pause, PausedBy};
use crate::wait::Value;

use super::Consumer;

impl Consumer {
    /// Serves the requests since the last call. Returns whether there were any.
    pub(super) fn serve_requests(&mut self) -> bool {
        let Some(news) = self.control.take_news() else {
            return false;
        };
        for (topic, number) in news.resumed {
            let key = PartitionKey::new(&topic.into(), number);
            if let Some(held) = self.held.get(&key) {
                let partition = held.epoch.partition.clone();
                held.worker.send(ToWorker::Wake(partition));
            }
        }
        for question in news.questions {
            self.answer(question);
        }
        true
    }

    fn answer(&self, question: Question) {
        let Question { key, what, reply } = question;
        let at = PartitionKey::new(&key.0.as_str().into(), key.1);
        let Some(held) = self.held.get(&at) else {
            // The handler may have been given up.
            let _ = reply.send(Err(not_ours(&key)));
            return;
        };
        let position = held.epoch.tracker.finished().offset;
        let value = match what {
            What::Position => Value::Integer(position),
            What::Committed => held.epoch.committed.map_or(Value::Nil, Value::Integer),
            What::Lag => {
                let known = self.client.known_watermarks(&at.topic, at.number);
                // Nothing is fetched from a paused partition, so that its known end is an old one.
                let known = known.filter(|_| !held.pauses.is_any());
                let Some((_, end)) = known else {
                    return self.lookups.ask(Lookup::Lag {
                        key: at,
                        position,
                        reply,
                    });
                };
                Value::Integer((end - position).max(0))
            }
        };
        let _ = reply.send(Ok(value));
    }

    /// The pauses of handlers become reasons to pause in the client.
    pub(super) fn follow_pauses(&mut self, now: Instant) {
        let pauses = self.control.pauses();
        for (key, held) in &mut self.held {
            let by = pauses
                .as_ref()
                .and_then(|all| all.of(&key.topic, key.number));
            if by.is_some() != held.pauses.has(Pause::Handler) {
                held.pauses.set_by_handler(by.is_some());
                if by.is_none() {
                    held.epoch.ages.resumed(now);
                }
            }
        }
    }

    /// For the status.
    pub(super) fn paused_by(&self, key: &PartitionKey) -> Option<PausedBy> {
        let pauses = self.control.pauses()?;
        let by = pauses.of(&key.topic, key.number)?;
        Some(PausedBy {
            who: by.who.clone(),
            since: by.since,
        })
    }
}
