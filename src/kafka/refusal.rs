//! A record that the client or a broker refused: the one table that decides what follows from the error code.
//!
//! Pure. A broker answers a request as a whole, so that a code may be the fault of a neighbour: only the answer to a
//! request of one record says something about that record.

use rdkafka_sys::RDKafkaErrorCode as Code;

/// What the refusal of a record calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The same record may be taken later: a broker, the network, a missing topic or a missing right.
    Transient,
    /// A neighbour in the request is at fault, or the bytes changed on their way.
    Neighbour,
    /// The topic has no such partition.
    NoPartition,
    /// More bytes than the topic takes, or than the client sends at all.
    TooLarge,
    /// The topic does not take a timestamp that far from the time of day.
    Timestamp,
    /// The topic never takes this record.
    ForGood,
}

/// Every code that is not transient.
const TABLE: &[(Code, Refusal)] = &[
    (Code::InvalidDifferentRecord, Refusal::Neighbour),
    (Code::InvalidMessage, Refusal::Neighbour),
    (Code::UnknownPartition, Refusal::NoPartition),
    (Code::MessageSizeTooLarge, Refusal::TooLarge),
    (Code::MessageBatchTooLarge, Refusal::TooLarge),
    (Code::InvalidTimestamp, Refusal::Timestamp),
    // A compacted topic and no key, or the validation of a schema.
    (Code::InvalidRecord, Refusal::ForGood),
    // The name is none, or that of an internal topic.
    (Code::InvalidTopic, Refusal::ForGood),
    (Code::PolicyViolation, Refusal::ForGood),
    (Code::UnsupportedForMessageFormat, Refusal::ForGood),
];

impl Refusal {
    pub(super) fn of(code: Code) -> Self {
        let mut table = TABLE.iter();
        table
            .find(|(one, _)| *one == code)
            .map_or(Self::Transient, |(_, refusal)| *refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_nobody_has_thought_of_is_tried_again() {
        for (code, expected) in TABLE {
            assert_eq!(Refusal::of(*code), *expected, "{code:?}");
        }
        for code in [
            Code::TopicAuthorizationFailed,
            Code::UnknownTopicOrPartition,
            Code::MessageTimedOut,
            Code::QueueFull,
            Code::NotEnoughReplicas,
            Code::Unknown,
        ] {
            assert_eq!(Refusal::of(code), Refusal::Transient, "{code:?}");
        }
    }
}
