//! Errors of Kafka, and the one place that decides their consequence.

use std::fmt;

use rdkafka_sys::RDKafkaErrorCode as Code;
use rdkafka_sys::rd_kafka_resp_err_t;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Error {
    code: Code,
    text: String,
}

/// The consequence of an error for its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Ends by itself or by a retry: broker, coordinator, network, a rebalance under way.
    Transient,
    /// This member no longer owns the partitions: nothing may be committed for them any more.
    NotOwner,
    /// The commit's metadata does not fit: commit again without it.
    Metadata,
    /// The operator must change something (authorization, an unknown topic); retries continue meanwhile.
    Lasting,
    /// The client is dead.
    Fatal,
}

/// librdkafka gives this error to a batch that it cannot decompress. A limit is the only cause that an operator can
/// remove.
const TOO_LARGE: &str =
    "; a zstd batch of more bytes than the property `receive.message.max.bytes` fails so, too";

impl Error {
    pub(crate) fn new(code: rd_kafka_resp_err_t, text: impl Into<String>) -> Self {
        let code = Code::from(code);
        let mut text = text.into();
        if code == Code::BadCompression {
            text += TOO_LARGE;
        }
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

    /// An error that librdkafka reports without a code.
    pub(crate) fn fatal(text: impl Into<String>) -> Self {
        Self {
            code: Code::Fatal,
            text: text.into(),
        }
    }

    /// What the group has stored does not agree with the configuration, until an operator changes one of them.
    pub(crate) fn inconsistent(text: impl Into<String>) -> Self {
        Self {
            code: Code::Inconsistent,
            text: text.into(),
        }
    }

    /// A connection that ends too early, which librdkafka does not report as an error.
    pub(crate) fn closed(text: impl Into<String>) -> Self {
        Self {
            code: Code::BrokerTransportFailure,
            text: text.into(),
        }
    }

    /// The error with a sentence about its likely cause.
    #[must_use]
    pub(crate) fn with_hint(self, hint: &str) -> Self {
        let text = format!("{}; {hint}", self.text);
        Self { text, ..self }
    }

    /// The name of the code. Errors of one code may differ in their texts.
    pub(crate) fn name(&self) -> String {
        format!("{:?}", self.code)
    }

    pub(super) fn code(&self) -> Code {
        self.code
    }

    pub(crate) fn class(&self) -> Class {
        match self.code {
            // The client itself reports that it cannot continue.
            Code::Fatal => Class::Fatal,
            // Another member with the same static id took over. For the classic protocol librdkafka makes this fatal.
            // A member that commits anyway would be the zombie that fencing excludes.
            Code::FencedInstanceId
            // The group continued without this member: the partitions belong to other members.
            | Code::IllegalGeneration
            | Code::UnknownMemberId
            | Code::AssignmentLost
            // The partition was revoked from this client before the request was sent.
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
            | Code::InvalidTopic
            | Code::Inconsistent => Class::Lasting,
            // So is a new epoch under KIP-848 (`StaleMemberEpoch`): the next heartbeat brings it, while this member
            // owns the partition.
            _ => Class::Transient,
        }
    }

    /// Whether a topic is missing, is another one than before, or may not be read.
    pub(crate) fn is_of_topic(&self) -> bool {
        matches!(
            self.code,
            Code::TopicAuthorizationFailed
                | Code::UnknownTopicOrPartition
                | Code::UnknownTopic
                | Code::UnknownTopicId
                | Code::InvalidTopic
        )
    }

    pub(crate) fn is_inconsistent(&self) -> bool {
        self.code == Code::Inconsistent
    }

    /// Whether a topic is missing.
    pub(crate) fn is_missing_topic(&self) -> bool {
        matches!(
            self.code,
            Code::UnknownTopicOrPartition | Code::UnknownTopic
        )
    }

    /// Whether the brokers do not know the request.
    pub(crate) fn is_unsupported(&self) -> bool {
        matches!(
            self.code,
            Code::UnsupportedFeature | Code::UnsupportedVersion
        )
    }

    /// Whether the error follows the errors of each broker, without their reasons.
    pub(crate) fn is_summary(&self) -> bool {
        self.code == Code::AllBrokersDown
    }

    /// Whether the log does not have the offset.
    pub(crate) fn is_out_of_range(&self) -> bool {
        matches!(self.code, Code::AutoOffsetReset | Code::OffsetOutOfRange)
    }

    /// Whether this is the end of a partition, which is not an error.
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
