//! The counts of one producer, over all its clients and reloads. A message's road takes the two atomics alone.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::now_ms;
use crate::telemetry::metrics::{Histogram, ProducerSnapshot};
use crate::telemetry::status::ProducerStatus;

#[derive(Debug, Default)]
pub(super) struct Stats {
    /// Records that the client has, and their bytes.
    in_flight: AtomicUsize,
    bytes: AtomicUsize,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    acknowledged: u64,
    failed: u64,
    sends: Histogram,
    /// Sends that wait for room.
    queued: usize,
    /// The last error since an acknowledgement, and when the first of them came.
    error: Option<(String, i64)>,
}

impl Stats {
    pub(super) fn queued(&self, change: isize) {
        let mut counts = self.lock();
        counts.queued = counts.queued.saturating_add_signed(change);
    }

    /// Comes before the records are given to the client.
    pub(super) fn sent(&self, records: usize, bytes: usize) {
        self.in_flight.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many records have their answers.
    pub(super) fn reported(&self, records: usize, bytes: usize) {
        self.in_flight.fetch_sub(records, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// So many sends have ended, which took so long each, with so many records acknowledged, and so many not.
    pub(super) fn ended(
        &self,
        (sends, took): (usize, Duration),
        acknowledged: usize,
        failed: usize,
        error: Option<&str>,
    ) {
        let mut counts = self.lock();
        counts.sends.record_many(took, sends as u64);
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
                in_flight: self.in_flight.load(Ordering::Relaxed),
                in_flight_bytes: self.bytes.load(Ordering::Relaxed),
                error: counts.error.as_ref().map(|(error, _)| error.clone()),
                error_since: counts.error.as_ref().map(|(_, since)| *since),
            },
            acknowledged: counts.acknowledged,
            failed: counts.failed,
            sends: counts.sends.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
