//! A handler in a VM of its own, called repeatedly with one message.
//!
//! It depends neither on lanes nor on a worker.

use std::sync::Arc;

use super::{Shape, TOPIC};
use crate::lua::{Call, Pulse, Step, Vm, Watchdog};
use crate::message::OwnedRecord;
use crate::threads::supervisor::Supervisor;

/// Two of them must not be alive at once: a thread has one pulse.
pub struct Handler {
    vm: Vm,
    pulse: Pulse,
    topic: Arc<str>,
    record: OwnedRecord,
    _watchdog: Watchdog,
}

impl Handler {
    /// `file` is the text of the handler's file.
    pub fn new(file: &str, shape: &Shape) -> Self {
        let watchdog =
            Watchdog::start(&Supervisor::without_daemon()).expect("a thread can be started");
        let pulse = watchdog.watch_current_thread("micro");
        let vm = Vm::build(&super::bundle(file), &Arc::default(), &pulse);
        Self {
            vm: vm.unwrap_or_else(|error| panic!("{error}")),
            pulse,
            topic: TOPIC.into(),
            record: shape.record(0),
            _watchdog: watchdog,
        }
    }

    /// Makes the message's table and calls the handler, protected and watched.
    pub fn call(&mut self) {
        self.record.offset += 1;
        let call = Call {
            listener: 0,
            topic: &self.topic,
            partition: 0,
            record: &self.record,
            attempt: 1,
            is_retry: false,
        };
        let step = self.vm.call(&self.pulse, &call);
        assert!(matches!(step, Step::Done), "{step:?}");
    }
}
