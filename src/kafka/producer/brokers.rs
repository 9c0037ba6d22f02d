//! The reason why a broker was not reachable, and the failures of records.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::Failure;
use crate::kafka::refusal;

/// An error that lasts is told every 30 s by librdkafka, and its pause before a connection is 10 s.
const ERROR_LASTS: Duration = Duration::from_secs(45);

/// The code of a time-out says only that the wait is over.
pub(super) struct Brokers {
    pub(super) addresses: String,
    deadline: Duration,
    /// The first error since the last acknowledgement, and the time of the latest one.
    last_error: Mutex<Option<(Instant, String)>>,
}

impl Brokers {
    pub(super) fn new(addresses: &str, deadline: Duration) -> Self {
        Self {
            addresses: addresses.to_owned(),
            deadline,
            last_error: Mutex::default(),
        }
    }

    pub(super) fn failure(&self, topic: &str, error: &KafkaError) -> Failure {
        let code = error.rdkafka_error_code();
        let mut kind = code.map_or("refused", refusal::kind);
        let text = match code {
            Some(Code::MessageTimedOut) => {
                if self.last_error().is_some() {
                    kind = "unreachable";
                }
                self.unreachable(error)
            }
            Some(Code::PurgeQueue | Code::PurgeInflight) => "the producer was closed".to_owned(),
            Some(code) => code.to_string(),
            None => error.to_string(),
        };
        Failure {
            code,
            kind,
            sentence: format!("topic `{topic}`: {text}"),
        }
    }

    pub(super) fn unreachable(&self, error: &KafkaError) -> String {
        let reason = self.last_error().unwrap_or_else(|| {
            error
                .rdkafka_error_code()
                .map_or_else(|| error.to_string(), |code| code.to_string())
        });
        format!(
            "{} did not answer within {} s: {reason}",
            self.addresses,
            self.deadline.as_secs_f32()
        )
    }

    /// An idle connection may have ended long ago, and another one be up.
    pub(super) fn last_error(&self) -> Option<String> {
        let last = self.locked();
        let (at, reason) = last.as_ref()?;
        (at.elapsed() < ERROR_LASTS).then(|| reason.clone())
    }

    pub(super) fn failed(&self, reason: &str) {
        let first = self.last_error().unwrap_or_else(|| reason.to_owned());
        *self.locked() = Some((Instant::now(), first));
    }

    pub(super) fn answered(&self) {
        *self.locked() = None;
    }

    fn locked(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
