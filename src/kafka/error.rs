//! What can go wrong with Kafka, and the one place that decides what follows.

use std::fmt;

use rdkafka_sys::RDKafkaErrorCode as Code;
use rdkafka_sys::rd_kafka_resp_err_t;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Error {
    code: Code,
    text: String,
}

/// What an error means for the one who gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Goes away by itself or by trying again: broker, coordinator, network, a rebalance under way.
    Transient,
    /// This member no longer owns what it asked about: nothing may be committed for it any more.
    NotOwner,
    /// The commit's metadata does not fit: commit again without.
    Metadata,
    /// Somebody has to change something (authorization, an unknown topic); trying again is right meanwhile.
    Lasting,
    /// The client is dead.
    Fatal,
}

impl Error {
    pub(crate) fn new(code: rd_kafka_resp_err_t, text: impl Into<String>) -> Self {
        let code = Code::from(code);
        let text = text.into();
        Self {
            code,
            text: if text.is_empty() {
                code.to_string()
            } else {
                text
            },
        }
    }

    /// `None` for the code that means success.
    pub(crate) fn check(code: rd_kafka_resp_err_t) -> Result<(), Self> {
        match Code::from(code) {
            Code::NoError => Ok(()),
            _ => Err(Self::new(code, "")),
        }
    }

    /// For what librdkafka reports without a code.
    pub(crate) fn fatal(text: impl Into<String>) -> Self {
        Self {
            code: Code::Fatal,
            text: text.into(),
        }
    }

    pub(crate) fn class(&self) -> Class {
        match self.code {
            // The client itself says that it can't go on.
            Code::Fatal => Class::Fatal,
            // Another member with our static id took over: librdkafka makes it fatal for the classic protocol, and a
            // member that commits anyway would be the zombie that fencing is for.
            Code::FencedInstanceId
            // The group went on without us: the partitions are somebody else's.
            | Code::IllegalGeneration
            | Code::UnknownMemberId
            | Code::AssignmentLost
            // The partition was taken from this client before the request got out.
            | Code::UnknownPartition
            | Code::State => Class::NotOwner,
            Code::OffsetMetadataTooLarge => Class::Metadata,
            Code::GroupAuthorizationFailed
            | Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::InvalidTopic => Class::Lasting,
            // A new epoch under KIP-848 (`StaleMemberEpoch`) too: the next heartbeat brings it, while we own the partition.
            _ => Class::Transient,
        }
    }

    /// Follows the errors of each broker, without their reasons.
    pub(crate) fn is_summary(&self) -> bool {
        self.code == Code::AllBrokersDown
    }

    /// Not an error: the end of a partition, of no use to anyone here.
    pub(crate) fn is_partition_end(&self) -> bool {
        self.code == Code::PartitionEOF
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}
