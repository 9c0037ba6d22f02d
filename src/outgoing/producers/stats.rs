//! The counts of one producer, over all its clients and reloads. They are no matter of a message's road: a send waits
//! for a broker.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::now_ms;
use crate::telemetry::metrics::{Histogram, ProducerSnapshot};
use crate::telemetry::status::ProducerStatus;

#[derive(Debug, Default)]
pub(super) struct Stats(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    acknowledged: u64,
    failed: u64,
    sends: Histogram,
    /// Sends that wait for room.
    queued: usize,
    /// Records that the client has, and their bytes.
    in_flight: usize,
    bytes: usize,
    /// The last error since an acknowledgement, and when the first of them came.
    error: Option<(String, i64)>,
}

impl Stats {
    pub(super) fn queued(&self, change: isize) {
        let mut counts = self.lock();
        counts.queued = counts.queued.saturating_add_signed(change);
    }

    pub(super) fn sent(&self, bytes: usize) {
        let mut counts = self.lock();
        counts.in_flight += 1;
        counts.bytes += bytes;
    }

    pub(super) fn reported(&self, bytes: usize) {
        let mut counts = self.lock();
        counts.in_flight = counts.in_flight.saturating_sub(1);
        counts.bytes = counts.bytes.saturating_sub(bytes);
    }

    /// A send has ended with so many records acknowledged, and so many not.
    pub(super) fn ended(
        &self,
        took: Duration,
        acknowledged: usize,
        failed: usize,
        error: Option<&str>,
    ) {
        let mut counts = self.lock();
        counts.sends.record(took);
        counts.acknowledged += acknowledged as u64;
        counts.failed += failed as u64;
        if acknowledged > 0 {
            counts.error = None;
        }
        if let Some(error) = error {
            let since = counts
                .error
                .as_ref()
                .map_or_else(now_ms, |(_, since)| *since);
            counts.error = Some((error.to_owned(), since));
        }
    }

    pub(super) fn snapshot(&self, name: &str, clients: usize) -> ProducerSnapshot {
        let counts = self.lock();
        ProducerSnapshot {
            status: ProducerStatus {
                name: name.to_owned(),
                clients,
                queued: counts.queued,
                in_flight: counts.in_flight,
                in_flight_bytes: counts.bytes,
                error: counts.error.as_ref().map(|(error, _)| error.clone()),
                error_since: counts.error.as_ref().map(|(_, since)| *since),
            },
            acknowledged: counts.acknowledged,
            failed: counts.failed,
            sends: counts.sends.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
