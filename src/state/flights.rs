//! Flights: of several calls that want the same, one does it, and the others get its result. Pure.
//!
//! The calls may belong to any worker. **A call that gives the lead up passes it on**, whatever its end was: a `Lead`
//! that is dropped goes to the next one that waits. So no call waits for one that is gone.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot::{self, Receiver, Sender};

use super::op::Bytes;

/// The most calls that wait for one flight.
pub(crate) const WAITING_MAX: usize = 10_000;

/// What a call that waits gets.
#[derive(Debug)]
pub(crate) enum Landed {
    /// The result of the one that did it.
    Result(Arc<[u8]>),
    /// The call does it itself now.
    Lead(Lead),
}

#[derive(Debug)]
pub(crate) enum Joined {
    Lead(Lead),
    Waits(Receiver<Landed>),
    /// Too many wait already.
    Full,
}

/// The flights under way, by key, each with the calls that wait for it.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<Bytes, VecDeque<Sender<Landed>>>>);

/// The right to do what the others wait for.
#[derive(Debug)]
pub(crate) struct Lead {
    flights: Arc<Flights>,
    /// `None` once it is over, or passed on.
    key: Option<Bytes>,
}

impl Flights {
    pub(crate) fn join(self: &Arc<Self>, key: &[u8]) -> Joined {
        let mut flights = self.lock();
        let Some(waiting) = flights.get_mut(key) else {
            flights.insert(key.into(), VecDeque::new());
            drop(flights);
            return Joined::Lead(Lead::of(self, key.into()));
        };
        if waiting.len() >= WAITING_MAX {
            waiting.retain(|one| !one.is_closed());
        }
        if waiting.len() >= WAITING_MAX {
            return Joined::Full;
        }
        let (sender, receiver) = oneshot::channel();
        waiting.push_back(sender);
        Joined::Waits(receiver)
    }

    /// The lead, if nobody has it.
    pub(crate) fn lead(self: &Arc<Self>, key: &[u8]) -> Option<Lead> {
        let mut flights = self.lock();
        if flights.contains_key(key) {
            return None;
        }
        flights.insert(key.into(), VecDeque::new());
        drop(flights);
        Some(Lead::of(self, key.into()))
    }

    /// Gives the lead to the next call that still waits for it.
    fn pass_on(self: &Arc<Self>, mut key: Bytes) {
        loop {
            // The lock is free while a call gets it: one that is gone drops it here.
            let next = {
                let mut flights = self.lock();
                let Some(waiting) = flights.get_mut(&key) else {
                    return;
                };
                let next = waiting.pop_front();
                if next.is_none() {
                    flights.remove(&key);
                }
                next
            };
            let Some(next) = next else {
                return;
            };
            if let Err(Landed::Lead(mut lead)) = next.send(Landed::Lead(Lead::of(self, key)))
                && let Some(same) = lead.key.take()
            {
                key = same;
            } else {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Bytes, VecDeque<Sender<Landed>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lead {
    fn of(flights: &Arc<Flights>, key: Bytes) -> Self {
        Self {
            flights: Arc::clone(flights),
            key: Some(key),
        }
    }

    /// Everyone that waits gets the result.
    pub(crate) fn land(mut self, result: &Arc<[u8]>) {
        let Some(key) = self.key.take() else {
            return;
        };
        let waiting = self.flights.lock().remove(&key).unwrap_or_default();
        for one in waiting {
            // A call that is gone gets nothing.
            let _ = one.send(Landed::Result(Arc::clone(result)));
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.flights.pass_on(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead(flights: &Arc<Flights>, key: &[u8]) -> Lead {
        match flights.join(key) {
            Joined::Lead(lead) => lead,
            other => panic!("{other:?}"),
        }
    }

    fn wait(flights: &Arc<Flights>, key: &[u8]) -> Receiver<Landed> {
        match flights.join(key) {
            Joined::Waits(receiver) => receiver,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_leads_and_all_others_get_its_result() {
        let flights = Arc::new(Flights::default());
        let first = lead(&flights, b"a");
        let mut waiting: Vec<_> = (0..3).map(|_| wait(&flights, b"a")).collect();
        let other = lead(&flights, b"b");
        assert!(flights.lead(b"a").is_none());
        first.land(&b"r".as_slice().into());
        for one in &mut waiting {
            assert!(matches!(one.try_recv(), Ok(Landed::Result(result)) if *result == *b"r"));
        }
        drop(other);
        assert!(flights.lock().is_empty());
        drop(lead(&flights, b"a"));
    }

    #[test]
    fn a_lead_that_is_given_up_goes_to_the_next_that_still_waits() {
        let flights = Arc::new(Flights::default());
        let first = lead(&flights, b"a");
        let gone = wait(&flights, b"a");
        let mut next = wait(&flights, b"a");
        let mut last = wait(&flights, b"a");
        drop(gone);
        drop(first);
        let Ok(Landed::Lead(second)) = next.try_recv() else {
            panic!("nobody leads");
        };
        assert!(last.try_recv().is_err());
        assert!(matches!(flights.join(b"a"), Joined::Waits(_)));
        // It was offered, and its call is given up before it takes it.
        drop(second);
        drop(last);
        assert!(
            flights.lock().is_empty(),
            "a call that is gone holds a flight"
        );
    }

    #[test]
    fn an_offer_that_nobody_takes_goes_on() {
        let flights = Arc::new(Flights::default());
        let first = lead(&flights, b"a");
        let offered = wait(&flights, b"a");
        let mut last = wait(&flights, b"a");
        drop(first);
        drop(offered);
        assert!(matches!(last.try_recv(), Ok(Landed::Lead(_))));
    }

    #[test]
    fn so_many_wait_and_no_more() {
        let flights = Arc::new(Flights::default());
        let first = lead(&flights, b"a");
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| wait(&flights, b"a")).collect();
        assert!(matches!(flights.join(b"a"), Joined::Full));
        waiting.truncate(1);
        let _further = wait(&flights, b"a");
        // Ten thousand that are gone need no deep stack.
        drop(waiting);
        drop(first);
    }
}
