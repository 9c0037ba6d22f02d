//! The deferrals of a VM: those of calls that run, those that the host knows, and what became of them. No Lua.
//!
//! A deferral counts from the return of its handler on. It ends at its first answer: `done()`, `fail()`, the collection
//! of its object, or the host forgets it.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::CallId;

/// Unique in its VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DeferralId(pub(crate) u64);

/// What became of a deferral.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    Done,
    /// `fail()`, with its text.
    Failed(String),
    /// Its object was collected: nothing can finish it any more.
    Collected,
}

/// The deferral of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deferral {
    pub(crate) id: DeferralId,
    /// `None`: `limits.timeout` of the listener.
    pub(crate) timeout: Option<Duration>,
    /// The place of `ctx.defer`: `handlers/sums.lua:12`.
    pub(crate) position: Arc<str>,
}

struct Begun {
    call: u64,
    deferral: Deferral,
    /// Its answer came before the return of its handler.
    given: Option<Given>,
}

#[derive(Default)]
pub(super) struct Deferrals {
    last: Cell<u64>,
    /// Of calls that have not ended: few wait after it.
    begun: RefCell<Vec<Begun>>,
    /// Those that the host knows, without an answer.
    open: RefCell<HashSet<u64>>,
    /// The answers that the host has not taken yet.
    given: RefCell<Vec<(DeferralId, Given)>>,
    /// The last place, which is the next one's mostly.
    position: RefCell<Arc<str>>,
}

impl Deferrals {
    pub(super) fn is_deferred(&self, call: u64) -> bool {
        self.begun.borrow().iter().any(|one| one.call == call)
    }

    /// Whether any call that runs has one.
    pub(super) fn has_begun(&self) -> bool {
        !self.begun.borrow().is_empty()
    }

    pub(super) fn next(&self) -> DeferralId {
        self.last.set(self.last.get() + 1);
        DeferralId(self.last.get())
    }

    pub(super) fn begin(
        &self,
        call: u64,
        id: DeferralId,
        timeout: Option<Duration>,
        position: &str,
    ) {
        let mut last = self.position.borrow_mut();
        if **last != *position {
            *last = position.into();
        }
        self.begun.borrow_mut().push(Begun {
            call,
            deferral: Deferral {
                id,
                timeout,
                position: last.clone(),
            },
            given: None,
        });
    }

    /// Returns whether the answer counts.
    pub(super) fn give(&self, id: DeferralId, given: Given) -> bool {
        if self.open.borrow_mut().remove(&id.0) {
            self.given.borrow_mut().push((id, given));
            return true;
        }
        let mut begun = self.begun.borrow_mut();
        let one = begun.iter_mut().find(|one| one.deferral.id == id);
        let Some(one) = one.filter(|one| one.given.is_none()) else {
            return false;
        };
        one.given = Some(given);
        true
    }

    /// The call has returned. `None`: it has deferred nothing.
    pub(super) fn returned(&self, call: CallId) -> Option<(Deferral, Option<Given>)> {
        let Begun {
            deferral, given, ..
        } = self.take(call)?;
        if given.is_none() {
            self.open.borrow_mut().insert(deferral.id.0);
        }
        Some((deferral, given))
    }

    /// The call has ended in another way: its deferral has no say.
    pub(super) fn drop_of(&self, call: CallId) {
        self.take(call);
    }

    fn take(&self, call: CallId) -> Option<Begun> {
        let mut begun = self.begun.borrow_mut();
        let at = begun.iter().rposition(|one| one.call == call.0)?;
        Some(begun.swap_remove(at))
    }

    /// The host needs no answer any more.
    pub(super) fn forget(&self, id: DeferralId) {
        self.open.borrow_mut().remove(&id.0);
    }

    /// The answers since the last call of this function.
    pub(super) fn take_given(&self) -> Vec<(DeferralId, Given)> {
        self.given.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_answer_counts() {
        let all = Deferrals::default();
        let id = all.next();
        all.begin(7, id, None, "a.lua:1");
        assert!(all.is_deferred(7) && !all.is_deferred(8));
        let (deferral, given) = all.returned(CallId(7)).unwrap();
        assert_eq!((deferral.id, given), (id, None));
        assert!(!all.has_begun());
        assert!(all.give(id, Given::Done));
        assert!(!all.give(id, Given::Collected));
        assert_eq!(all.take_given(), [(id, Given::Done)]);
        assert!(all.take_given().is_empty());
    }

    #[test]
    fn an_answer_before_the_return_is_the_result_of_the_call() {
        let all = Deferrals::default();
        let id = all.next();
        all.begin(7, id, None, "a.lua:1");
        assert!(all.give(id, Given::Failed("no".to_owned())));
        assert!(!all.give(id, Given::Done));
        let (_, given) = all.returned(CallId(7)).unwrap();
        assert_eq!(given, Some(Given::Failed("no".to_owned())));
        assert!(all.take_given().is_empty());
    }

    #[test]
    fn what_is_dropped_or_forgotten_has_no_say() {
        let all = Deferrals::default();
        let (failed, forgotten) = (all.next(), all.next());
        all.begin(1, failed, None, "a.lua:1");
        all.drop_of(CallId(1));
        assert!(!all.give(failed, Given::Done));
        all.begin(2, forgotten, None, "a.lua:1");
        assert!(all.returned(CallId(2)).is_some());
        all.forget(forgotten);
        assert!(!all.give(forgotten, Given::Done));
        assert!(all.returned(CallId(3)).is_none());
    }
}
