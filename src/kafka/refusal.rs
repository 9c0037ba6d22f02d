//! Refusals of a record by the client or a broker: the tables from the error code to its consequence, and to the kind of
//! error that a handler sees.
//!
//! The module is pure. A broker answers a request as a whole, so a code may be the fault of another record in it.
//! Only the answer to a request of one record describes that record.

use rdkafka_sys::RDKafkaErrorCode as Code;

/// The consequence of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The same record may be accepted later. The cause is a broker, the network, a missing topic or a missing right.
    Transient,
    /// Another record in the request is at fault, or the bytes changed on their way.
    Neighbour,
    /// The topic has no such partition.
    NoPartition,
    /// The record has more bytes than the topic accepts, or than the client sends at all.
    TooLarge,
    /// The topic does not accept a timestamp that far from the time of day.
    Timestamp,
    /// The topic never accepts this record.
    ForGood,
}

impl Refusal {
    /// Whether the refusal of a request may be for another record in it. Only the answer to a request of its own
    /// describes such a record.
    pub(crate) fn may_be_a_neighbours(self) -> bool {
        match self {
            Self::Neighbour | Self::TooLarge | Self::Timestamp | Self::ForGood => true,
            Self::Transient | Self::NoPartition => false,
        }
    }
}

/// Every code that is not transient.
const TABLE: &[(Code, Refusal)] = &[
    (Code::InvalidDifferentRecord, Refusal::Neighbour),
    (Code::InvalidMessage, Refusal::Neighbour),
    (Code::UnknownPartition, Refusal::NoPartition),
    (Code::MessageSizeTooLarge, Refusal::TooLarge),
    (Code::MessageBatchTooLarge, Refusal::TooLarge),
    (Code::InvalidTimestamp, Refusal::Timestamp),
    // The topic is compacted and the record has no key, or the validation of a schema failed.
    (Code::InvalidRecord, Refusal::ForGood),
    // The name is invalid, or belongs to an internal topic.
    (Code::InvalidTopic, Refusal::ForGood),
    (Code::PolicyViolation, Refusal::ForGood),
    (Code::UnsupportedForMessageFormat, Refusal::ForGood),
];

/// The kind of error for a handler that waits for the record; the kind of every other code is `refused`.
const KINDS: &[(Code, &str)] = &[
    (Code::UnknownTopic, "notFound"),
    (Code::UnknownTopicOrPartition, "notFound"),
    (Code::UnknownPartition, "notFound"),
    (Code::MessageSizeTooLarge, "tooLarge"),
    (Code::MessageBatchTooLarge, "tooLarge"),
    (Code::InvalidTopic, "invalid"),
    (Code::InvalidTimestamp, "invalid"),
    (Code::InvalidRecord, "invalid"),
    (Code::InvalidMessage, "invalid"),
    (Code::InvalidArgument, "invalid"),
    (Code::UnsupportedForMessageFormat, "invalid"),
    (Code::MessageTimedOut, "timeout"),
    (Code::RequestTimedOut, "timeout"),
    (Code::OperationTimedOut, "timeout"),
    (Code::NotEnoughReplicas, "timeout"),
    (Code::NotEnoughReplicasAfterAppend, "timeout"),
    (Code::BrokerTransportFailure, "unreachable"),
    (Code::AllBrokersDown, "unreachable"),
    (Code::Resolve, "unreachable"),
    (Code::QueueFull, "busy"),
    (Code::PurgeQueue, "closed"),
    (Code::PurgeInflight, "closed"),
    (Code::Fatal, "closed"),
];

pub(super) fn kind(code: Code) -> &'static str {
    let mut table = KINDS.iter();
    table
        .find(|(one, _)| *one == code)
        .map_or("refused", |(_, kind)| kind)
}

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
    fn every_kind_is_one_that_handlers_know() {
        for (code, kind) in KINDS {
            assert!(crate::wait::KINDS.contains(kind), "{code:?}");
        }
        assert_eq!(super::kind(Code::TopicAuthorizationFailed), "refused");
    }

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
