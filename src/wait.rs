//! The waits of handlers and their answers. Knows neither Lua nor Kafka.
//!
//! A handler asks for a [`Wait`] and is suspended; whoever serves the wait answers by a [`Reply`]. To give a wait up is to
//! drop its [`Cancel`]: the work hears of it and ends in its own way, so that no connection is left half used.

pub(crate) mod admin;
pub(crate) mod http;
pub(crate) mod redis;
pub(crate) mod send;
pub(crate) mod sql;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use send::Emitted;

/// One wait of a call; unique within its VM. A call has several within `tide.parallel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WaitId(pub(crate) u64);

/// The thing that a handler waits for.
#[derive(Debug)]
pub(crate) enum Wait {
    Sleep(Duration),
    /// `ctx.commitOffsets(offset)`: the literal offset.
    Commit(i64),
    /// The same, once these records of the call are acknowledged.
    EmitAndCommit(Arc<Emitted>, i64),
    /// The first `done` messages of a batch are done, once these records of them are acknowledged. A listener with
    /// manual commits commits `behind`.
    Settle {
        done: usize,
        behind: i64,
        emitted: Option<Arc<Emitted>>,
    },
    /// Work of the outside runtime.
    Outside(Job),
}

/// The waits that a slice of a call has begun, and those that it gave up.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    pub(crate) begun: Vec<(WaitId, Wait)>,
    pub(crate) given_up: Vec<WaitId>,
}

impl Waits {
    /// Most slices leave nothing: for them this is two comparisons.
    pub(crate) fn clear(&mut self) {
        if !(self.begun.is_empty() && self.given_up.is_empty()) {
            *self = Self::default();
        }
    }
}

/// The commit requests of a slice that wait for no answer: `ctx.commitOffsets(offset, { wait = false })`, once or more often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Requested {
    pub(crate) highest: i64,
    pub(crate) last: i64,
}

/// The answer to one wait.
#[derive(Debug)]
pub(crate) enum Answer {
    Slept,
    /// The offset that is committed now, or why there is none: raised in the handler.
    Committed(Result<i64, String>),
    Outside(Result<Value, Fault>),
    /// Records that were to be written before a commit are not.
    Unwritten(Fault),
    /// The reply was dropped: its future panicked, or its server ended.
    Lost,
}

/// Data that can go from any thread into a VM, and out of one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Nil,
    Boolean(bool),
    Integer(i64),
    Number(f64),
    Bytes(Box<[u8]>),
    /// `tide.json.null`.
    Null,
    Table(Vec<(Value, Value)>),
}

impl Value {
    /// A string that is text.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// For errors: a number itself, or the type of another value.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Nil => "nil".to_owned(),
            Self::Boolean(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::Number(value) => value.to_string(),
            Self::Bytes(_) => "a string".to_owned(),
            Self::Null => "null".to_owned(),
            Self::Table(_) => "a table".to_owned(),
        }
    }
}
/// The kinds of errors, by which handlers decide.
pub(crate) const KINDS: [&str; 11] = [
    "busy",
    "closed",
    "conflict",
    "internal",
    "invalid",
    "notFound",
    "refused",
    "timeout",
    "tooLarge",
    "unknown",
    "unreachable",
];

/// Those that say nothing of the message: what a handler needs is away.
pub(crate) const AWAY: [&str; 4] = ["busy", "closed", "unknown", "unreachable"];

/// An error with a kind. A handler sees a table with `kind` and `message`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fault {
    /// One of [`KINDS`].
    pub(crate) kind: &'static str,
    pub(crate) message: String,
    /// Further fields of the table.
    pub(crate) fields: Vec<(&'static str, Value)>,
}

impl Fault {
    pub(crate) fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            fields: Vec::new(),
        }
    }
}

type Work = Pin<Box<dyn Future<Output = Result<Value, Fault>> + Send>>;

/// Work for the outside runtime. Nothing of it runs before it is started there.
pub(crate) struct Job {
    /// For log lines: `echo.later`.
    pub(crate) name: &'static str,
    pub(crate) start: Box<dyn FnOnce(Told) -> Work + Send>,
    pub(crate) ends: Ends,
}

/// How work ends that is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// It is dropped, which is all that it needs.
    ByDrop,
    /// It hears of it, and has a grace period.
    Itself,
}

impl Job {
    /// Work that is given up by its drop.
    pub(crate) fn new(
        name: &'static str,
        work: impl Future<Output = Result<Value, Fault>> + Send + 'static,
    ) -> Self {
        Self {
            name,
            start: Box::new(move |_| Box::pin(work)),
            ends: Ends::ByDrop,
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Job({})", self.name)
    }
}

/// The work's side of a [`Cancel`].
#[derive(Clone)]
pub(crate) struct Told(watch::Receiver<()>);

/// Held by the call that waits. **To drop it is to tell the work**, so that no end of a call can forget it.
#[derive(Debug)]
pub(crate) struct Cancel {
    _told_by_its_end: watch::Sender<()>,
}

impl Cancel {
    pub(crate) fn new() -> (Self, Told) {
        let (sender, receiver) = watch::channel(());
        let cancel = Self {
            _told_by_its_end: sender,
        };
        (cancel, Told(receiver))
    }
}

impl Told {
    /// Resolves when nobody wants the answer any more.
    pub(crate) async fn told(&mut self) {
        // Nothing is ever sent: the channel changes only by its end.
        let _ = self.0.changed().await;
    }

    pub(crate) fn is_told(&self) -> bool {
        self.0.has_changed().is_err()
    }
}

/// The way back of an answer. A reply that is dropped unsent answers [`Answer::Lost`]: a call never waits for nothing.
pub(crate) struct Reply(Option<Box<dyn FnOnce(Answer) + Send>>);

impl Reply {
    pub(crate) fn new(give: impl FnOnce(Answer) + Send + 'static) -> Self {
        Self(Some(Box::new(give)))
    }

    pub(crate) fn send(mut self, answer: Answer) {
        if let Some(give) = self.0.take() {
            give(answer);
        }
    }

    /// Answers a [`Wait::Commit`].
    pub(crate) fn committed(self, result: Result<i64, String>) {
        self.send(Answer::Committed(result));
    }

    /// Nobody wants the answer.
    pub(crate) fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(give) = self.0.take() {
            give(Answer::Lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_reply_that_is_dropped_answers_and_one_that_is_forgotten_does_not() {
        let (sender, answers) = mpsc::channel();
        let reply = |sender: &mpsc::Sender<Answer>| {
            let sender = sender.clone();
            Reply::new(move |answer| sender.send(answer).unwrap())
        };
        reply(&sender).committed(Ok(7));
        assert!(matches!(answers.try_recv(), Ok(Answer::Committed(Ok(7)))));
        assert!(answers.try_recv().is_err());
        drop(reply(&sender));
        assert!(matches!(answers.try_recv(), Ok(Answer::Lost)));
        reply(&sender).forget();
        assert!(answers.try_recv().is_err());
    }

    #[test]
    fn the_end_of_a_cancel_tells_the_work() {
        let (cancel, told) = Cancel::new();
        assert!(!told.is_told());
        drop(cancel);
        assert!(told.is_told());
    }
}
