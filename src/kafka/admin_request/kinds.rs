//! The kind of error that a handler sees for a code of an admin request. Pure.

use rdkafka_sys::RDKafkaErrorCode as Code;

use crate::kafka::Error;

/// The kind of every other code is `refused`.
const KINDS: &[(Code, &str)] = &[
    (Code::OperationTimedOut, "timeout"),
    (Code::TimedOutQueue, "timeout"),
    (Code::RequestTimedOut, "timeout"),
    (Code::BrokerTransportFailure, "unreachable"),
    (Code::AllBrokersDown, "unreachable"),
    (Code::Resolve, "unreachable"),
    (Code::NodeUpdate, "unreachable"),
    (Code::UnknownBroker, "notFound"),
    (Code::WaitingForCoordinator, "unreachable"),
    (Code::UnknownTopic, "notFound"),
    (Code::UnknownTopicOrPartition, "notFound"),
    (Code::UnknownPartition, "notFound"),
    (Code::GroupIdNotFound, "notFound"),
    (Code::UnknownGroup, "notFound"),
    (Code::ResourceNotFound, "notFound"),
    (Code::TopicAlreadyExists, "conflict"),
    (Code::NonEmptyGroup, "conflict"),
    // The group has members, so that nobody else may commit for it.
    (Code::UnknownMemberId, "conflict"),
    (Code::IllegalGeneration, "conflict"),
    (Code::GroupSubscribedToTopic, "conflict"),
    (Code::ReassignmentInProgress, "conflict"),
    (Code::RebalanceInProgress, "conflict"),
    (Code::InvalidArgument, "invalid"),
    (Code::InvalidTopic, "invalid"),
    (Code::InvalidPartitions, "invalid"),
    (Code::InvalidReplicationFactor, "invalid"),
    (Code::InvalidReplicaAssignment, "invalid"),
    (Code::InvalidConfig, "invalid"),
    (Code::InvalidRequest, "invalid"),
    (Code::InvalidGroupId, "invalid"),
    (Code::OffsetOutOfRange, "invalid"),
    (Code::BrokerDestroy, "closed"),
    (Code::Fatal, "closed"),
];

/// The brokers have done nothing, and another try soon may find the right one.
const PASSING: &[Code] = &[
    Code::LeaderNotAvailable,
    Code::NotLeaderForPartition,
    Code::CoordinatorLoadInProgress,
    Code::CoordinatorNotAvailable,
    Code::NotCoordinator,
    Code::NotController,
    Code::BrokerNotAvailable,
    Code::ReplicaNotAvailable,
];

impl Error {
    /// One of [`crate::wait::KINDS`].
    pub(crate) fn admin_kind(&self) -> &'static str {
        if self.is_passing() {
            return "unreachable";
        }
        let mut table = KINDS.iter();
        table
            .find(|(code, _)| *code == self.code())
            .map_or("refused", |(_, kind)| kind)
    }

    pub(crate) fn is_passing(&self) -> bool {
        PASSING.contains(&self.code())
    }

    /// Whether it is about a topic that exists already.
    pub(crate) fn is_existing_topic(&self) -> bool {
        self.code() == Code::TopicAlreadyExists
    }

    /// Whether it is about a group with members.
    pub(crate) fn is_of_members(&self) -> bool {
        matches!(
            self.code(),
            Code::UnknownMemberId | Code::IllegalGeneration | Code::NonEmptyGroup
        )
    }

    /// Whether it is about a group that does not exist.
    pub(crate) fn is_missing_group(&self) -> bool {
        self.code() == Code::GroupIdNotFound
    }

    /// Whether the request was still waiting for a connection when its time was over. librdkafka's sentence tells that,
    /// and it has none where its call for all topics has found no connection.
    pub(crate) fn is_without_connection(&self) -> bool {
        let sentence = self.to_string();
        match self.code() {
            Code::OperationTimedOut => !sentence.contains("response from broker"),
            code @ Code::BrokerTransportFailure => sentence == code.to_string(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_one_that_handlers_know() {
        for (code, kind) in KINDS {
            assert!(crate::wait::KINDS.contains(kind), "{code:?}");
            assert!(!PASSING.contains(code), "{code:?}");
        }
    }
}
