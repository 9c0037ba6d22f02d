//! Lua: one VM with the handlers of a bundle, and the calls that run in it.
//!
//! **Only this module names mlua**, and it knows nothing of Kafka. A message comes in as a [`Record`]. The requests
//! of a handler (to sleep, to commit) go out as [`Waits`], which the worker answers by [`Vm::resume`].

mod api;
mod at_once;
mod attributes;
mod build;
pub(crate) mod control;
mod deferrals;
mod function;
mod guards;
mod loader;
mod open_batch;
mod ordinals;
mod outside_calls;
mod patterns;
mod plain;
mod shared;
mod stack;
mod states;
mod suspend;
mod transactions;
mod used;
mod vm;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use attributes::{AdminSource, App, HttpSource, ProducerSource, RedisSource, SqlSource};
pub(crate) use deferrals::{Deferral, DeferralId, Given};
pub(crate) use loader::{Loader, Unloaded};
pub(crate) use vm::Vm;
pub(crate) use vm::beat::Pulse;
pub(crate) use vm::ticket::Ticket;
pub(crate) use vm::watchdog::Watchdog;

use crate::message::Record;
use crate::wait::Waits;
use crate::wait::send::Emitted;

/// One message for one listener's handler.
pub(crate) struct Call<'a> {
    /// Index in the listeners of the VM's config.
    pub(crate) listener: usize,
    /// The same `Arc` for all messages of a lane: the VM keeps the Lua string of the last one it saw.
    pub(crate) topic: &'a std::sync::Arc<str>,
    pub(crate) partition: i32,
    pub(crate) record: &'a dyn Record,
    /// Runs of this message by this listener, this one included.
    pub(crate) attempt: u32,
    /// The record lies in a retry topic; topic and partition are those of its origin.
    pub(crate) is_retry: bool,
}

/// A batch of one partition for one listener's handler.
pub(crate) struct BatchCall<'a> {
    /// Its record is the first one.
    pub(crate) call: Call<'a>,
    /// In the order of offsets; at least one.
    pub(crate) records: &'a [&'a dyn Record],
    pub(crate) high_watermark: i64,
    /// A return resolves every message.
    pub(crate) auto_resolve: bool,
}

/// A call that waits; unique within its VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CallId(pub(crate) u64);

/// The progress of a call.
#[derive(Debug)]
pub(crate) enum Step {
    Done,
    /// It is done once these records are acknowledged.
    Emitted(Arc<Emitted>),
    /// Its handler has returned, and the deferral finishes it later. What it has emitted leaves now.
    Deferred(Deferral, Option<Arc<Emitted>>),
    Failed(Failure),
    /// The handler gave its verdict on the message.
    Asked(Verdict),
    /// The call of a batch has ended.
    Batch(Box<BatchEnd>),
    /// Answer each wait by `Vm::resume`, or give the call up by `Vm::cancel`.
    Waits(CallId, Waits),
}

/// How the call of a batch ended.
#[derive(Debug)]
pub(crate) struct BatchEnd {
    /// So many of the first messages are done.
    pub(crate) done: usize,
    pub(crate) how: How,
    /// The records that belong to them.
    pub(crate) emitted: Option<Emitted>,
}

#[derive(Debug)]
pub(crate) enum How {
    Returned,
    /// The rest has failed.
    Failed(Failure),
    /// The first message of the rest has failed, by `ctx.failAt`.
    Blamed(Verdict),
}

impl BatchEnd {
    /// The result for the one message of the batch.
    pub(crate) fn of_one(self) -> Step {
        match (self.done, self.how, self.emitted) {
            (0, How::Failed(failure), _) => Step::Failed(failure),
            (0, How::Blamed(verdict), _) => Step::Asked(verdict),
            (0, How::Returned, _) => Step::Failed(Failure::nothing_resolved()),
            (_, _, Some(emitted)) => Step::Emitted(Arc::new(emitted)),
            (_, _, None) => Step::Done,
        }
    }
}

/// The request of `ctx.retry`, `ctx.deadLetter` or `ctx.skip`. Later actions of the handler do not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A retry counts as an attempt; without `after` it uses the policy's own back-off.
    Retry {
        after: Option<Duration>,
        reason: Option<String>,
    },
    DeadLetter {
        reason: Option<String>,
    },
    Skip {
        reason: Option<String>,
    },
    /// In a batch: the message at this index, from 0, has failed.
    FailAt {
        index: usize,
        reason: Option<String>,
    },
}

impl Verdict {
    /// The reason that the handler gave.
    pub(crate) fn reason(&self) -> Option<&str> {
        let (Self::Retry { reason, .. }
        | Self::DeadLetter { reason }
        | Self::Skip { reason }
        | Self::FailAt { reason, .. }) = self;
        reason.as_deref()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    /// One sentence, with `handlers/orders.lua:12:` where Lua knows it.
    pub(crate) message: String,
    pub(crate) traceback: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    Raised,
    /// The handler requested a retry, a dead letter or a skip.
    Asked,
    /// The handler returned `nil, err` or `false, err`.
    Returned,
    /// An uncaught error of `tide`, raised or returned, that says that something outside is away.
    Away,
    /// `limits.blocking`: the watchdog ended it; the VM should be replaced.
    Blocking,
    /// `[lua] memory`: the VM should be replaced.
    Memory,
    /// `limits.timeout`: the worker gave the call up.
    Timeout,
}

impl Failure {
    /// The worker gave the call up after `limit`.
    pub(crate) fn timeout(limit: Duration) -> Self {
        let limit = match limit.as_millis() {
            ms if ms > 0 && ms.is_multiple_of(1000) => format!("{} s", ms / 1000),
            ms => format!("{ms} ms"),
        };
        Self {
            kind: FailureKind::Timeout,
            message: format!(
                "took more than {limit}, its waits included (limits.timeout), and was given up; raise the limit, or wait for less"
            ),
            traceback: None,
        }
    }

    /// The worker gave the call up, for this reason.
    pub(crate) fn given_up(message: String) -> Self {
        Self {
            kind: FailureKind::Raised,
            message,
            traceback: None,
        }
    }

    /// A batch whose handler has to resolve its messages, and resolved none.
    pub(crate) fn nothing_resolved() -> Self {
        let message = "the handler returned and resolved no message of its batch; call `ctx.resolveOffset`, or remove \
                       `eachBatchAutoResolve = false`";
        Self::given_up(message.to_owned())
    }

    /// A verdict as the reason why a message is retried, skipped or dead-lettered.
    pub(crate) fn of_verdict(verdict: &Verdict) -> Self {
        let asked = match verdict {
            Verdict::Retry { .. } => "the handler requested a retry",
            Verdict::DeadLetter { .. } => "the handler requested a dead letter",
            Verdict::Skip { .. } => "the handler requested a skip",
            Verdict::FailAt { .. } => "the handler named the message by ctx.failAt",
        };
        Self {
            kind: FailureKind::Asked,
            message: verdict.reason().unwrap_or(asked).to_owned(),
            traceback: None,
        }
    }
}

/// Type definitions of everything that a handler sees, for the Lua language server.
pub(crate) fn definitions() -> String {
    let classes = include_str!("lua/api/classes.lua");
    format!("{classes}{}\nreturn tide\n", api::tide::definitions())
}

#[cfg(test)]
mod tests;
