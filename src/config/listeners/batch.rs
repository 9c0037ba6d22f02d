//! The batches of a listener with eachBatch.

use super::One;
use crate::config::unit::{Millis, Size};
use crate::config::{Batch, Handler, file};

/// A handler whose function has this name gets batches.
const FUNCTION: &str = "eachBatch";
/// What a consumer has in flight at most.
const MESSAGES_MAX: u64 = 8_192;
const BYTES_MAX: Size = Size(32 << 20);
const WAIT_MAX: Millis = Millis(60_000);

impl One<'_, '_, '_> {
    pub(super) fn batch(
        &mut self,
        listener: &file::Listener,
        handler: Option<&Handler>,
    ) -> Option<Batch> {
        let policies = &listener.policies;
        let named = || handler.is_some_and(|one| one.function.as_deref() == Some(FUNCTION));
        if !listener.each_batch.unwrap_or_else(named) {
            self.refuse_without_batches("batch", &["batch"], policies.batch.is_some());
            let auto_resolve = policies.run_config.each_batch_auto_resolve;
            let keys = ["runConfig", "eachBatchAutoResolve"];
            self.refuse_without_batches("runConfig.eachBatchAutoResolve", &keys, !auto_resolve);
            return None;
        }
        let written = policies.batch.clone().unwrap_or_default();
        let (messages, bytes, wait) = (written.messages, written.bytes, written.wait);
        if !(1..=MESSAGES_MAX).contains(&messages) {
            let message = format!("`batch.messages` is {messages}, not from 1 to {MESSAGES_MAX}");
            self.error(&["batch", "messages"], message);
        }
        if bytes.0 == 0 || bytes > BYTES_MAX {
            let message = format!("`batch.bytes` is {bytes}, not from 1 byte to {BYTES_MAX}");
            self.error(&["batch", "bytes"], message);
        }
        if wait > WAIT_MAX {
            let message = format!("`batch.wait` is {wait}, not from 0 to {WAIT_MAX}");
            self.error(&["batch", "wait"], message);
        }
        Some(Batch {
            messages: messages as usize,
            bytes: bytes.0 as usize,
            wait: wait.duration(),
            auto_resolve: policies.run_config.each_batch_auto_resolve,
        })
    }

    /// What a listener says of batches and gets none; defaults of all listeners may say so.
    fn refuse_without_batches(&mut self, name: &str, keys: &[&str], is_written: bool) {
        if is_written && !self.is_inherited(keys) {
            let message =
                format!("`{name}` counts only with batches; set `eachBatch = true`, or remove it");
            self.error(keys, message);
        }
    }
}
