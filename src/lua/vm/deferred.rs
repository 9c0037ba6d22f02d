//! Deferrals: what the call of one returns, and what the host hears of them later.

use crate::lua::deferrals::{Deferral, DeferralId, Given};
use crate::lua::{CallId, Failure};

use super::Vm;

/// The result of a call that has deferred its message, and returned.
pub(super) enum Returned {
    Deferred(Deferral),
    /// It has failed before the return.
    Failed(Failure),
}

impl Failure {
    /// A deferral ended in another way than done. `None`: it is done.
    pub(crate) fn of_deferral(given: Given, position: &str) -> Option<Self> {
        match given {
            Given::Done => None,
            Given::Failed(reason) => Some(Self::given_up(reason)),
            Given::Collected => Some(Self::given_up(format!(
                "{position}: Lua collected the object of `ctx.defer`, so that nothing could finish the message; keep it \
                 until `done` or `fail`"
            ))),
        }
    }
}

impl Vm {
    /// `None`: the call has deferred nothing, or what it deferred is done. `is_dropped`: the call has failed all the
    /// same.
    pub(super) fn returned_deferred(&self, id: CallId, is_dropped: bool) -> Option<Returned> {
        if is_dropped {
            self.shared.deferrals.drop_of(id);
            return None;
        }
        let (deferral, given) = self.shared.deferrals.returned(id)?;
        match given {
            None => Some(Returned::Deferred(deferral)),
            Some(given) => Failure::of_deferral(given, &deferral.position).map(Returned::Failed),
        }
    }

    /// What became of deferrals since the last call of this function.
    pub(crate) fn take_given(&self) -> Vec<(DeferralId, Given)> {
        self.shared.deferrals.take_given()
    }

    /// The deferral has no say any more.
    pub(crate) fn forget_deferral(&self, id: DeferralId) {
        self.shared.deferrals.forget(id);
    }
}
