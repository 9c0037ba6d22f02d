//! Clients that end: a thread waits for the answers of each, and drops it. Nobody else waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::kafka::producer::Producer;
use crate::log::log;
use crate::threads::supervisor::{Handle, Kind, Supervisor};

/// The interval between two looks at the records of a client.
const LOOK: Duration = Duration::from_millis(10);
/// How long the drop of a client may take beyond its records.
const DROP_MAX: Duration = Duration::from_secs(10);

pub(in crate::outgoing) struct Endings {
    pub(in crate::outgoing) supervisor: Supervisor,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The daemon stops: no client waits beyond it.
    deadline: Option<Instant>,
    threads: Vec<Handle>,
}

impl Endings {
    pub(in crate::outgoing) fn new(supervisor: &Supervisor) -> Self {
        Self {
            supervisor: supervisor.clone(),
            state: Mutex::default(),
        }
    }

    /// Ends a client when its records have their answers, at the latest after `within`.
    pub(in crate::outgoing) fn end(
        self: &Arc<Self>,
        name: &str,
        producer: Arc<Producer>,
        within: Duration,
    ) {
        let endings = self.clone();
        let until = Instant::now() + within;
        let body = move |_| {
            // A send that still looks at the client would drop it, and the drop blocks.
            let is_used = |producer: &Arc<Producer>| {
                producer.in_flight() > 0 || Arc::strong_count(producer) > 1
            };
            while is_used(&producer) && Instant::now() < endings.until(until) {
                std::thread::sleep(LOOK);
            }
            producer.close(Instant::now());
        };
        let name = format!("ends-{name}");
        let kind = Kind::Job(within + DROP_MAX);
        match self.supervisor.spawn(&name, kind, body) {
            Ok(thread) => {
                let mut state = self.lock();
                state.threads.retain(|thread| !thread.has_ended());
                state.threads.push(thread);
            }
            // The body was dropped, and the client with it.
            Err(error) => log!(warn, kafka, %error, "a producer ended without its last answers"),
        }
    }

    /// Waits for all of them. Returns whether all have ended.
    pub(in crate::outgoing) fn close(&self, deadline: Instant) -> bool {
        let threads = {
            let mut state = self.lock();
            state.deadline = Some(deadline);
            std::mem::take(&mut state.threads)
        };
        let last = deadline + DROP_MAX;
        let mut in_time = true;
        for thread in threads {
            in_time &= thread.join(last);
        }
        in_time
    }

    #[cfg(test)]
    pub(in crate::outgoing) fn running(&self) -> usize {
        let state = self.lock();
        let threads = state.threads.iter();
        threads.filter(|thread| !thread.has_ended()).count()
    }

    fn until(&self, until: Instant) -> Instant {
        let deadline = self.lock().deadline;
        deadline.map_or(until, |deadline| deadline.min(until))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
