//! Whose turn it is to go to librdkafka, for records whose senders wait.
//!
//! librdkafka's idempotent producer has one request of a partition under way. While further records are queued, its
//! broker thread polls without a pause until the answer comes. With 100 senders that is most of the processor time. So
//! records wait here while more than a few are unanswered, and go together when the last of these has its answer, or
//! after a short while.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::BaseProducer;

use super::brokers::Brokers;
use super::reports::Reports;
use super::{Outgoing, Then, send_then};

/// librdkafka does not poll busily for so few records.
const FEW: usize = 5;

pub(super) struct Turns {
    /// Records in flight do not keep the client alive.
    client: Weak<BaseProducer<Reports>>,
    brokers: Arc<Brokers>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Records that librdkafka has.
    open: usize,
    held: Vec<(Outgoing, Then)>,
}

impl Turns {
    pub(super) fn new(client: &Arc<BaseProducer<Reports>>, brokers: &Arc<Brokers>) -> Arc<Self> {
        Arc::new(Self {
            client: Arc::downgrade(client),
            brokers: brokers.clone(),
            state: Mutex::default(),
        })
    }

    /// Returns whether the records wait. Records of one call are never parted.
    pub(super) fn send(
        self: &Arc<Self>,
        records: &[Outgoing],
        mut then: impl FnMut(usize) -> Then,
    ) -> bool {
        let mut state = self.lock();
        let may_go =
            state.held.is_empty() && (state.open == 0 || state.open + records.len() <= FEW);
        if !may_go {
            let held = records.iter().cloned().enumerate();
            let held = held.map(|(index, record)| (record, then(index)));
            state.held.extend(held);
            return true;
        }
        state.open += records.len();
        drop(state);
        for (index, record) in records.iter().enumerate() {
            self.hand_over(record, then(index));
        }
        false
    }

    /// Nothing waits any longer.
    pub(super) fn release(self: &Arc<Self>) {
        let state = self.lock();
        self.let_go(state);
    }

    fn answered(self: &Arc<Self>) {
        let mut state = self.lock();
        state.open -= 1;
        if state.open == 0 {
            self.let_go(state);
        }
    }

    fn let_go(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let held = std::mem::take(&mut state.held);
        state.open += held.len();
        drop(state);
        for (record, then) in held {
            self.hand_over(&record, then);
        }
    }

    fn hand_over(self: &Arc<Self>, record: &Outgoing, then: Then) {
        let turns = self.clone();
        let then: Then = Box::new(move |answer| {
            then(answer);
            turns.answered();
        });
        if let Some(client) = self.client.upgrade() {
            send_then(&client, &self.brokers, record, then);
        } else {
            let purged = KafkaError::MessageProduction(Code::PurgeQueue);
            then(Err(self.brokers.failure(&record.topic, &purged)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
