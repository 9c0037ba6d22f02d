//! The deferred messages of a partition: their handlers have returned, and their deferrals finish them later.
//!
//! A deferred message leaves its lane as a finished one does, and gives its bytes back: it is *away*. One that has
//! failed, or whose VM has ended, is *wanted*: it is fetched again, and runs in a lane of its own. **Order is given up
//! for it.** A message may be deferred in one listener and done in another, so it is finished when none is open.

pub(super) mod again;
pub(super) mod answers;
mod leaving;
pub(super) mod skip;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::lua::{DeferralId, Failure};
use crate::rules::offsets::Moved;
use crate::telemetry::status::Blocked;

pub(super) use leaving::Leaving;

/// The most messages of a partition that are fetched again and not finished. The others wait, away.
const AGAIN_MAX: usize = 1024;
/// The most messages of one request.
const REQUESTED_MAX: usize = 256;

/// A deferral, by its VM.
pub(super) type Key = (u64, DeferralId);

#[derive(Default)]
pub(super) struct Deferred {
    /// By number.
    messages: BTreeMap<u64, Entry>,
    /// How many of them are away.
    away: usize,
    /// Those that are to be fetched again, by offset.
    wanted: BTreeMap<i64, u64>,
    /// Those that are being fetched.
    requested: BTreeMap<i64, u64>,
    /// The numbers of those that were fetched again, until they are finished or away.
    again: HashSet<u64>,
    /// Not reported yet.
    moved: Vec<Moved>,
}

struct Entry {
    offset: i64,
    lane: u64,
    is_away: bool,
    open: Vec<Open>,
}

/// A deferral without an end.
pub(super) struct Open {
    pub(super) key: Key,
    pub(super) listener: String,
    /// The place of `ctx.defer`.
    pub(super) position: Arc<str>,
    /// The return of its handler, in milliseconds since the epoch.
    pub(super) since: i64,
    pub(super) limit: Duration,
    pub(super) attempt: u32,
    pub(super) failing_since: Option<i64>,
    pub(super) failed_in: Option<u64>,
    /// Its handler has emitted: the run counts as done at the acknowledgement.
    pub(super) emits: bool,
    /// Its listener committed automatically when it was deferred.
    pub(super) is_automatic: bool,
    pub(super) answer: Option<Answer>,
}

impl Open {
    /// The partition waits since `now` because of this deferral of the message at `offset`.
    fn blocks(&self, offset: i64, now: i64, error: String) -> Blocked {
        Blocked {
            offset,
            listener: self.listener.clone(),
            attempt: self.attempt,
            since: now,
            next_attempt_at: now,
            error,
        }
    }
}

/// Why a message has to run, or to be given up, although it was deferred.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Failed(Failure),
    /// Its VM has ended: it runs again without the loss of an attempt.
    Again,
    /// An operator gives it up, for this reason.
    Buried(String),
}

/// Where a deferred message was in its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InLane {
    pub(super) offset: i64,
    pub(super) lane: u64,
}

impl Deferred {
    /// How many messages are away.
    pub(super) fn len(&self) -> usize {
        self.away
    }

    /// The message with the lowest number: that number, its offset, and its first deferral.
    pub(super) fn first(&self) -> Option<(u64, i64, &Open)> {
        let mut away = self.messages.iter().filter(|(_, one)| one.is_away);
        let (number, entry) = away.next()?;
        Some((*number, entry.offset, entry.open.first()?))
    }

    pub(super) fn add(&mut self, number: u64, at: InLane, open: Open) {
        let entry = self.messages.entry(number).or_insert_with(|| Entry {
            offset: at.offset,
            lane: at.lane,
            is_away: false,
            open: Vec::with_capacity(1),
        });
        entry.open.push(open);
    }

    /// Whether a message whose lane is done with it is finished. If not, it goes away.
    pub(super) fn is_finished(&mut self, number: u64) -> bool {
        self.again.remove(&number);
        let Some(entry) = self.messages.get_mut(&number) else {
            return true;
        };
        if entry.open.is_empty() {
            self.away -= usize::from(entry.is_away);
            self.messages.remove(&number);
            return true;
        }
        if !entry.is_away {
            entry.is_away = true;
            self.away += 1;
            self.moved.push(Moved::Away(number));
        }
        if entry.open.iter().any(|one| one.answer.is_some()) {
            self.wanted.insert(entry.offset, number);
        }
        false
    }

    pub(super) fn in_lane(&self, number: u64) -> Option<InLane> {
        let entry = self.messages.get(&number)?;
        Some(InLane {
            offset: entry.offset,
            lane: entry.lane,
        })
    }

    pub(super) fn open(&self, number: u64, key: Key) -> Option<&Open> {
        let entry = self.messages.get(&number)?;
        entry.open.iter().find(|one| one.key == key)
    }

    /// The deferral has ended, and the message has its outcome in its listener. Returns the deferral, and whether the
    /// message may be finished now.
    pub(super) fn done(&mut self, number: u64, key: Key) -> Option<(Open, bool)> {
        let entry = self.messages.get_mut(&number)?;
        let at = entry.open.iter().position(|one| one.key == key)?;
        let open = entry.open.remove(at);
        if entry.open.iter().all(|one| one.answer.is_none()) {
            self.wanted.remove(&entry.offset);
        }
        Some((open, entry.is_away && entry.open.is_empty()))
    }

    /// The message has to run again, or to be given up.
    pub(super) fn answered(&mut self, number: u64, key: Key, answer: Answer) {
        let Some(entry) = self.messages.get_mut(&number) else {
            return;
        };
        let Some(open) = entry.open.iter_mut().find(|one| one.key == key) else {
            return;
        };
        open.answer = Some(answer);
        if entry.is_away && !self.requested.contains_key(&entry.offset) {
            self.wanted.insert(entry.offset, number);
        }
    }

    /// Takes the deferral that a listener has of a message in its lane: its run has not ended well, or begins again.
    pub(super) fn take_of(&mut self, number: u64, listener: &str) -> Option<Open> {
        let entry = self.messages.get_mut(&number)?;
        let at = entry.open.iter().position(|one| one.listener == listener)?;
        let open = entry.open.remove(at);
        if entry.open.is_empty() && !entry.is_away {
            self.messages.remove(&number);
        }
        Some(open)
    }

    /// Takes the deferrals of a message in its lane that have to run again, or to be given up.
    pub(super) fn take_answered(&mut self, number: u64) -> Vec<Open> {
        let Some(entry) = self.messages.get_mut(&number) else {
            return Vec::new();
        };
        let answered = entry.open.extract_if(.., |one| one.answer.is_some());
        let answered: Vec<_> = answered.collect();
        if entry.open.is_empty() && !entry.is_away {
            self.messages.remove(&number);
        }
        answered
    }

    /// The offsets of the next request, ascending; none while one is under way.
    pub(super) fn ask(&mut self) -> Vec<i64> {
        if !self.requested.is_empty() {
            return Vec::new();
        }
        let room = AGAIN_MAX
            .saturating_sub(self.again.len())
            .min(REQUESTED_MAX);
        let offsets: Vec<_> = self.wanted.keys().copied().take(room).collect();
        for offset in &offsets {
            if let Some((offset, number)) = self.wanted.remove_entry(offset) {
                self.requested.insert(offset, number);
            }
        }
        offsets
    }

    /// The first offset of the request under way.
    pub(super) fn requested(&self) -> Option<(i64, &Open)> {
        let (offset, number) = self.requested.first_key_value()?;
        Some((*offset, self.messages.get(number)?.open.first()?))
    }

    /// This message of the request has an answer: its number, if it is still wanted.
    pub(super) fn found(&mut self, offset: i64) -> Option<u64> {
        let number = self.requested.remove(&offset)?;
        let entry = self.messages.get(&number)?;
        let is_wanted = entry.open.iter().any(|one| one.answer.is_some());
        is_wanted.then_some(number)
    }

    /// The request is over: what has no answer is asked for again.
    pub(super) fn end_request(&mut self) {
        let rest = std::mem::take(&mut self.requested);
        let messages = &self.messages;
        self.wanted
            .extend(rest.into_iter().filter(|one| messages.contains_key(&one.1)));
    }

    /// The message is here again. Returns its deferrals.
    pub(super) fn here_again(&mut self, number: u64) -> &[Open] {
        let Some(entry) = self.messages.get_mut(&number) else {
            return &[];
        };
        if std::mem::replace(&mut entry.is_away, false) {
            self.away -= 1;
            self.again.insert(number);
            self.moved.push(Moved::Again(number));
        }
        &entry.open
    }

    /// The message is not in the log any more. Returns its deferrals that needed it, and whether the message may be
    /// finished now.
    pub(super) fn lost(&mut self, number: u64) -> (Vec<Open>, bool) {
        let Some(entry) = self.messages.get_mut(&number) else {
            return (Vec::new(), false);
        };
        let lost = entry.open.extract_if(.., |one| one.answer.is_some());
        let lost = lost.collect();
        self.moved.push(Moved::Lost(number));
        (lost, entry.open.is_empty())
    }

    /// The number of the deferred message at this offset, and whether it is away.
    pub(super) fn at(&self, offset: i64) -> Option<(u64, bool)> {
        let mut messages = self.messages.iter();
        let (number, entry) = messages.find(|(_, one)| one.offset == offset)?;
        Some((*number, entry.is_away))
    }

    pub(super) fn all_open(&self, number: u64) -> &[Open] {
        self.messages.get(&number).map_or(&[], |one| &one.open)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        let open = self.messages.values().flat_map(|one| &one.open);
        open.map(|one| one.key)
    }

    pub(super) fn take_moved(&mut self) -> Vec<Moved> {
        std::mem::take(&mut self.moved)
    }
}

#[cfg(test)]
mod tests;
