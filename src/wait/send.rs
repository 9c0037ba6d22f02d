//! The request of a handler to send or emit records, and its answer. Knows neither Lua nor Kafka.
//!
//! The API of handlers makes a [`Request`], and a [`Senders`] that it was given carries it out.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::{Fault, Requested};
use crate::message::Outgoing;
use crate::message::prefetch::{prefetch, prefetch_bytes};

/// The replicas that must have a record before it is acknowledged, as kafkajs numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acks {
    /// -1: all replicas that are in sync.
    All,
    /// 0: none, and no broker answers.
    None,
    /// 1: the leader alone.
    Leader,
}

impl Acks {
    pub(crate) fn of(number: i64) -> Option<Self> {
        match number {
            -1 => Some(Self::All),
            0 => Some(Self::None),
            1 => Some(Self::Leader),
            _ => None,
        }
    }

    pub(crate) fn number(self) -> i64 {
        match self {
            Self::All => -1,
            Self::None => 0,
            Self::Leader => 1,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compression {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Compression {
    pub(crate) const WORDS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
    const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    pub(crate) fn of(word: &str) -> Option<Self> {
        let index = Self::WORDS.iter().position(|one| *one == word)?;
        Some(Self::ALL[index])
    }

    pub(crate) fn word(self) -> &'static str {
        Self::WORDS[self as usize]
    }
}

/// One, and seldom more: they lie side by side with what holds them.
pub(crate) type Few<T> = SmallVec<[T; 1]>;

/// What one call of `send` or `sendBatch` requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Request {
    /// The name of the function, for errors.
    pub(crate) function: &'static str,
    /// `None`: the producer of `[producerConfig]`.
    pub(crate) producer: Option<String>,
    pub(crate) records: Few<Outgoing>,
    /// `None`: those of the producer, like the two below.
    pub(crate) acks: Option<Acks>,
    pub(crate) compression: Option<Compression>,
    pub(crate) timeout: Option<Duration>,
    /// The listener whose call requests it, by index; `None` in init.lua.
    pub(crate) listener: Option<usize>,
}

/// The coordinates of a record that the broker has acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Coordinates {
    pub(crate) partition: i32,
    /// `None` where no broker answers.
    pub(crate) offset: Option<i64>,
    pub(crate) timestamp_ms: Option<i64>,
}

/// What became of one record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fate {
    Written(Coordinates),
    /// A later send may succeed.
    Failed(Fault),
    /// The topic never accepts this record, or this user may not write to it.
    Refused(Fault),
    /// No answer came in time: the record may be written, now or later.
    Unknown,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failed {
    pub(crate) kind: &'static str,
    pub(crate) message: String,
    /// One entry a record, in the order of the request.
    pub(crate) results: Vec<Fate>,
}

/// Ends with the coordinates of each record, in the order of the request. A drop gives the answer up, and no record.
pub(crate) type Sending = Pin<Box<dyn Future<Output = Result<Vec<Coordinates>, Failed>> + Send>>;

/// Ends when every record is acknowledged, or when one is refused. A drop gives it up, and no record.
pub(crate) type Emission = Pin<Box<dyn Future<Output = Result<(), Fault>> + Send>>;

/// Told each time why records of an emission are not acknowledged yet.
pub(crate) type Troubled = Box<dyn Fn(Fault) + Send + Sync>;

/// Consecutive numbers of acknowledged records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u64,
    pub(crate) count: u64,
}

/// Who hears of numbered records. Each number is answered once: acknowledged, or failed.
pub(crate) trait Acknowledgements: Send + Sync {
    /// The answers that came together.
    fn answered(&self, acknowledged: Vec<Run>, failed: Vec<(u64, Fault)>);
}

/// The producers of one configuration.
pub(crate) trait Senders: fmt::Debug + Send + Sync {
    /// Checks the request, and starts nothing: the answer does, on the runtime of the outside.
    fn send(&self, request: Request) -> Result<Sending, Fault>;

    /// Whether the listener of the request may emit these records, and by which producer.
    fn may_emit(&self, request: &Request) -> Result<(), Fault>;

    /// Sends records of requests that `may_emit` has passed, once only, behind those of earlier calls, and by the next
    /// `flush` at the latest. They have consecutive numbers from `first` on, below 2^47. After a failure those behind it
    /// may have no answer. Where that is not possible now, nothing is sent, and this returns false.
    fn emit_now(&self, emitted: &Arc<Emitted>, first: u64, to: &Arc<dyn Acknowledgements>) -> bool;

    /// What `emit_now` has taken leaves.
    fn flush(&self);

    /// Takes back what was emitted and is in no request yet, whoever emitted it: each such record fails.
    fn take_back(&self);

    /// Whether these records fit their topics, which are known. They leave by a transaction.
    fn fit(&self, requests: &[Request]) -> bool;

    /// Ends when the topics of these records are known, however long that takes; with an error if a record does not fit.
    fn look_at_topics(&self, requests: &[Request], troubled: Troubled) -> Emission;

    /// Sends records of requests that `may_emit` has passed, however long that takes, in their order.
    fn emit(&self, requests: Few<Request>, troubled: Troubled) -> Emission;
}

/// What a call has emitted: the records leave when its handler has returned.
#[derive(Clone, Debug)]
pub(crate) struct Emitted {
    pub(crate) senders: Arc<dyn Senders>,
    pub(crate) requests: Few<Request>,
    pub(crate) bytes: usize,
    /// The bytes of memory that serves another emission after this one; 0: its memory serves none.
    pub(crate) kept: usize,
    /// The bytes of the last request.
    pub(crate) last_bytes: usize,
    /// The commit that the handler requested after that, without a wait: it follows the acknowledgement.
    pub(crate) asked: Option<Requested>,
}

impl Emitted {
    /// Prefetches the emission: it is needed in a moment.
    pub(crate) fn prefetch(one: &Arc<Self>) {
        // The counts of an `Arc` are before what it holds.
        const COUNTS: usize = 2 * size_of::<usize>();
        let start = Arc::as_ptr(one).cast::<u8>();
        prefetch(start.wrapping_sub(COUNTS), COUNTS + size_of::<Self>());
    }

    /// Prefetches the value of its first record. The emission itself should have arrived.
    pub(crate) fn prefetch_value(&self) {
        let record = self
            .requests
            .first()
            .and_then(|request| request.records.first());
        if let Some(value) = record.and_then(|record| record.value.as_deref()) {
            prefetch_bytes(value);
        }
    }
}
