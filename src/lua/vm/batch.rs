//! The calls of batches: one call has many messages.

#![expect(unsafe_code, reason = "Lua's C API")]

use std::ptr;
use std::sync::Arc;

use mlua::ffi;

use super::beat::Pulse;
use super::last_words::About;
use super::run::Ended;
use super::{Origin, Vm, Waiting, owing};
use crate::lua::open_batch::OpenBatch;
use crate::lua::shared::BatchFrame;
use crate::lua::{BatchCall, BatchEnd, CallId, How, Step, Verdict};

impl Vm {
    /// Starts the call of a batch and runs it until it waits or ends.
    pub(crate) fn call_batch(&mut self, pulse: &Pulse, batch: &BatchCall<'_>) -> Step {
        let call = &batch.call;
        let about = About {
            listener: &self.config.listeners[call.listener].name,
            topic: call.topic,
            partition: call.partition,
            offset: call.record.offset(),
            timestamp_ms: call.record.timestamp_ms(),
        };
        let Some(coroutine) = self.coroutine(&about) else {
            return end(0, How::Failed(self.out_of_memory()));
        };
        self.last_call += 1;
        let id = CallId(self.last_call);
        let offsets = batch.records.iter().map(|record| record.offset());
        let open = OpenBatch::new(offsets.collect(), batch.auto_resolve);
        self.shared.batches.borrow_mut().insert(id.0, open);
        let frame = BatchFrame { batch, id: id.0 };
        // SAFETY: the coroutine is empty and has room, and the push allocates nothing.
        unsafe {
            let entry = self.batch_entry.into();
            ffi::lua_rawgeti(coroutine.state, ffi::LUA_REGISTRYINDEX, entry);
        }
        self.shared.hand_over_batch(&raw const frame);
        let limit = self.config.listeners[call.listener].limits.blocking;
        let listener = Some(call.listener);
        let ended = self.run(pulse, id, coroutine, limit, listener, &about);
        self.shared.hand_over_batch(ptr::null());
        let Ended::Waits(waits) = ended else {
            return self.end_batch(id, listener, ended);
        };
        let origin = Origin::Message {
            listener: call.listener,
            topic: Arc::clone(call.topic),
            partition: call.partition,
            offset: about.offset,
            timestamp_ms: about.timestamp_ms,
            is_batch: true,
        };
        self.waiting.insert(id, Waiting { coroutine, origin });
        Step::Waits(id, waits)
    }

    pub(super) fn end_batch(&self, id: CallId, listener: Option<usize>, ended: Ended) -> Step {
        let how = match ended {
            Ended::Done => How::Returned,
            Ended::Asked(verdict) => How::Blamed(verdict),
            Ended::Failed(kind, words) => How::Failed(self.described(listener, kind, words)),
            // The caller has taken the waits.
            Ended::Waits(_) => How::Failed(owing()),
        };
        self.end_batch_as(id, how)
    }

    pub(super) fn end_batch_as(&self, id: CallId, how: How) -> Step {
        let Some(mut batch) = self.shared.close_batch(id) else {
            return end(0, how);
        };
        // What was to be written before a commit is not: the messages to which it belongs are not done.
        let owes = self.shared.emits.get() && self.shared.owes(id);
        let how = match how {
            How::Returned | How::Blamed(_) if owes => How::Failed(owing()),
            how => how,
        };
        let done = match &how {
            _ if owes => batch.settled(),
            How::Returned if batch.auto_resolve => batch.len(),
            How::Blamed(Verdict::FailAt { index, .. }) => *index,
            _ => batch.resolved(),
        };
        let emitted = if self.shared.emits.get() {
            let returns = batch.auto_resolve && matches!(how, How::Returned);
            let emitted = self.shared.take_emitted_of(id, &mut batch, done, returns);
            self.emits_nothing(id);
            emitted
        } else {
            None
        };
        Step::Batch(Box::new(BatchEnd { done, how, emitted }))
    }
}

fn end(done: usize, how: How) -> Step {
    Step::Batch(Box::new(BatchEnd {
        done,
        how,
        emitted: None,
    }))
}
