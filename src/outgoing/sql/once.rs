//! What a client knows of the table of `once`: whether it is made, and when its old rows are deleted next.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The longest time between two deletions.
const EVERY: Duration = Duration::from_secs(600);

pub(super) struct Once {
    state: Mutex<State>,
    /// The time between two deletions.
    every: Duration,
}

#[derive(Default)]
struct State {
    is_made: bool,
    /// When rows are deleted next; none before the first use.
    next: Option<Instant>,
}

impl Once {
    pub(super) fn new(retention: Duration) -> Self {
        Self {
            state: Mutex::default(),
            // Seldom enough for the database, and often enough for a short retention.
            every: EVERY.min(retention / 100),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_made(&self) -> bool {
        self.state().is_made
    }

    pub(super) fn set_made(&self, is_made: bool) {
        self.state().is_made = is_made;
    }

    /// Whether rows are to be deleted now.
    pub(super) fn is_due(&self) -> bool {
        let now = Instant::now();
        let mut state = self.state();
        let is_due = state.next.is_some_and(|next| next <= now);
        if is_due || state.next.is_none() {
            state.next = Some(now + self.every);
        }
        is_due
    }
}
