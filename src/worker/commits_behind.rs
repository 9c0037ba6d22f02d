//! Awaited commits: each follows what its call has emitted, and what its lane has emitted before.

use std::sync::Arc;

use crate::assignment::ToWorker;
use crate::lua::CallId;
use crate::wait::send::Emitted;
use crate::wait::{Answer, Cancel, Fault, Reply, Requested, WaitId};

use super::Worker;
use super::calls::Open;
use super::emissions::{job, result};
use super::kept::Then;
use super::slot::Slot;

impl Worker {
    /// A commit that a call waits for: it follows what the call has emitted, and what its lane has emitted before.
    pub(super) fn commit_behind(
        &mut self,
        slot: &mut Slot,
        open: &Open,
        of: (u64, CallId, WaitId),
        offset: i64,
        emitted: Option<Arc<Emitted>>,
    ) -> Option<Cancel> {
        if let Some(last) = slot.unacknowledged.last_mut(open.lane) {
            last.follow_with(Then::Commit {
                of,
                offset,
                emitted,
            });
            return None;
        }
        if let Some(emitted) = emitted {
            return Some(self.write_before_commit(&emitted, &open.listener, of, offset));
        }
        let (vm, call, wait) = of;
        let reply = self.reply(vm, call, wait);
        self.commit(slot, offset, open, reply);
        None
    }

    /// The messages before the call of this commit are final.
    pub(super) fn go_on_to_commit(
        &mut self,
        slot: &mut Slot,
        of: (u64, CallId, WaitId),
        offset: i64,
        emitted: Option<Arc<Emitted>>,
    ) {
        let (vm, call, wait) = of;
        // The call may have been given up.
        if !self.calls.waits(vm, call, wait) {
            return;
        }
        let Some(mut open) = self.calls.remove(vm, call) else {
            return;
        };
        let cancel = self.commit_behind(slot, &open, of, offset, emitted);
        let mut waits = open.waits.iter_mut();
        if let Some(one) = waits.find(|(one, _)| *one == wait) {
            one.1 = cancel;
        }
        self.calls.insert(vm, call, open);
    }

    pub(super) fn write_before_commit(
        &mut self,
        emitted: &Emitted,
        listener: &str,
        (vm, call, wait): (u64, CallId, WaitId),
        offset: i64,
    ) -> Cancel {
        let (mailbox, asked) = (self.mailbox.clone(), emitted.asked);
        // The call waits for it, and `limits.timeout` ends the wait.
        let share = self.emissions.share(listener, emitted.bytes);
        let job = job(emitted, Box::new(|_| ()), Some(share));
        let reply = Reply::new(move |answer| {
            mailbox.send(ToWorker::WrittenBeforeCommit {
                vm,
                call,
                wait,
                offset,
                asked,
                result: result(answer),
            });
        });
        self.app.outside.begin(job, reply)
    }

    /// They are acknowledged, so the commit follows; or one is refused, which the handler hears.
    pub(super) fn written_before_commit(
        &mut self,
        of: (u64, CallId, WaitId),
        (offset, asked): (i64, Option<Requested>),
        result: Result<(), Fault>,
    ) {
        let (vm, call, wait) = of;
        if let Err(fault) = result {
            let answer = Answer::Unwritten(fault);
            return self.resume(vm, call, wait, answer);
        }
        let Some(open) = self.calls.get(vm, call) else {
            return;
        };
        let epoch = open.epoch;
        let Some(mut slot) = self.slots.remove(&epoch) else {
            return;
        };
        match (asked, open.batch) {
            (Some(asked), Some(id)) => slot.ask_of_batch(id, asked),
            (Some(asked), None) => slot.ask(open.who(), asked),
            (None, _) => {}
        }
        if self
            .calls
            .get(vm, call)
            .is_some_and(|open| slot.is_settling(open))
        {
            if let Some(open) = self.calls.remove(vm, call) {
                self.settle_batch(&mut slot, &open, of, offset);
                self.calls.insert(vm, call, open);
            }
        } else {
            self.go_on_to_commit(&mut slot, of, offset, None);
        }
        self.slots.insert(epoch, slot);
        self.let_start();
    }
}
