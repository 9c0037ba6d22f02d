//! The answers to emitted records: from the threads of clients to those who wait for the numbers.
//!
//! A number has two parts: who waits for it, and that one's own number. So an answer needs no look at any table.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Semaphore;

use crate::kafka::Refusal;
use crate::kafka::producer::{Failure, Numbers, Reported};
use crate::wait::Fault;
use crate::wait::send::{Acknowledgements, Run};

use super::limits::Limits;
use super::routes::Routes;
use super::stats::Stats;

/// The bits of a receiver's own number. There is room for 65,536 receivers.
const OWN: u32 = 47;

/// Those who wait for answers: the workers. They are few, and none leaves.
#[derive(Default)]
pub(super) struct Receivers(Mutex<Vec<Arc<dyn Acknowledgements>>>);

impl Receivers {
    /// The part of its numbers that tells this one from the others.
    pub(super) fn base_of(&self, receiver: &Arc<dyn Acknowledgements>) -> u64 {
        let mut all = self.lock();
        let found = all.iter().position(|one| Arc::ptr_eq(one, receiver));
        let index = found.unwrap_or_else(|| {
            all.push(receiver.clone());
            all.len() - 1
        });
        (index as u64) << OWN
    }

    /// Each receiver has all its answers at once.
    fn answer(&self, acknowledged: Vec<Run>, failed: Vec<(u64, Fault)>) {
        let own = |number: u64| number & ((1 << OWN) - 1);
        let mut all = ByReceiver::default();
        for run in acknowledged {
            let first = own(run.first);
            all.of(run.first).1.push(Run { first, ..run });
        }
        for (number, fault) in failed {
            all.of(number).2.push((own(number), fault));
        }
        for (index, acknowledged, failed) in all.0 {
            let receiver = self.lock().get(index).cloned();
            if let Some(receiver) = receiver {
                receiver.answered(acknowledged, failed);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<dyn Acknowledgements>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By the index of the receiver: mostly there is one.
#[derive(Default)]
struct ByReceiver(Vec<Answered>);

type Answered = (usize, Vec<Run>, Vec<(u64, Fault)>);

impl ByReceiver {
    /// The answers for the receiver of this number.
    fn of(&mut self, number: u64) -> &mut Answered {
        let index = (number >> OWN) as usize;
        let found = self.0.iter().position(|one| one.0 == index);
        let at = found.unwrap_or_else(|| {
            self.0.push((index, Vec::new(), Vec::new()));
            self.0.len() - 1
        });
        &mut self.0[at]
    }
}

/// Hears of the records that the clients of one producer have for workers.
pub(super) struct Hearing {
    room: Arc<Semaphore>,
    stats: Arc<Stats>,
    limits: Arc<Limits>,
    /// They hold the clients, which hold this.
    routes: Weak<Routes>,
    receivers: Arc<Receivers>,
}

impl Hearing {
    pub(super) fn new(
        room: &Arc<Semaphore>,
        stats: &Arc<Stats>,
        limits: &Arc<Limits>,
        routes: &Arc<Routes>,
        receivers: &Arc<Receivers>,
    ) -> Self {
        Self {
            room: room.clone(),
            stats: stats.clone(),
            limits: limits.clone(),
            routes: Arc::downgrade(routes),
            receivers: receivers.clone(),
        }
    }
}

impl Numbers for Hearing {
    fn reported(&self, reported: Reported) {
        let Reported {
            topic,
            acknowledged,
            failed,
            records,
            bytes,
            took,
        } = reported;
        self.stats.reported(records, bytes);
        let error = failed.first().map(|(_, failure)| failure.sentence.as_str());
        let written = records - failed.len();
        self.stats
            .ended((records, took), written, failed.len(), error);
        let route = self.routes.upgrade();
        let route = route.and_then(|routes| routes.reported(topic, records));
        let is_too_large = |(_, failure): &(u64, Failure)| failure.refusal() == Refusal::TooLarge;
        if let Some(route) = route
            && failed.iter().any(is_too_large)
        {
            self.limits.forget(route.topic.name());
            route.make_stale();
        }
        let fault = |(number, failure): (u64, Failure)| {
            (number, Fault::new(failure.kind, failure.sentence))
        };
        let failed = failed.into_iter().map(fault).collect();
        self.receivers.answer(acknowledged, failed);
        // Who waits for room finds those of this client behind the answers.
        self.room.add_permits(bytes);
    }
}
