//! The phase of a membership: rebalances, drains and the end of the consumer.

use std::collections::VecDeque;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use crate::assignment::Assigned;
use crate::bundle::Bundle;
use crate::kafka::{Rebalance, TopicPartition};

use super::drain::Drain;
use super::held::Held;
use super::rest::Resting;

/// The state of a consumer that has no connection to a broker, whatever else it does.
pub(super) const CONNECTING: &str = "connecting";

#[derive(Default)]
pub(super) struct Phase {
    pub(super) queue: VecDeque<Rebalance>,
    pub(super) doing: Doing,
    pub(super) retiring: Option<Retiring>,
    /// Every partition is drained before a new subscription.
    pub(super) emptying: Option<Drain>,
    pub(super) leaving: Option<Leaving>,
    /// The coming bundle: topics that it does not have are no longer begun.
    pub(super) retired: Option<Arc<Bundle>>,
    /// Partitions come to rest before a reload that changes their listeners.
    pub(super) resting: Option<Resting>,
    pub(super) asked: u64,
    /// Assigned partitions whose start could not be found together with the others.
    pub(super) late: Vec<Assigned>,
    pub(super) ask_late_at: Option<Instant>,
    pub(super) asked_late: Option<u64>,
    pub(super) has_joined: bool,
    /// A new client joins the group in place of an old one.
    pub(super) joins_again: bool,
}

#[derive(Default)]
pub(super) enum Doing {
    #[default]
    Steady,
    /// The starts of these partitions are being looked up.
    Assigning {
        id: u64,
        partitions: Vec<Assigned>,
        ask_at: Option<Instant>,
    },
    Revoking(Revoking),
}

pub(super) struct Revoking {
    pub(super) goes: Goes,
    pub(super) is_lost: bool,
    /// A later assignment has arrived already, so librdkafka is not told.
    pub(super) is_replaced: bool,
    pub(super) drain: Drain,
}

/// The partitions that a revocation takes away.
pub(super) enum Goes {
    Everything,
    These(Vec<TopicPartition>),
}

impl Goes {
    pub(super) fn has(&self, topic: &str, number: i32) -> bool {
        let is = |one: &TopicPartition| one.partition == number && *one.topic == *topic;
        match self {
            Self::Everything => true,
            Self::These(partitions) => partitions.iter().any(is),
        }
    }

    pub(super) fn takes(&self, held: &Held) -> bool {
        let partition = &held.epoch.partition;
        self.has(&partition.topic, partition.number)
    }
}

impl Phase {
    pub(super) fn queue(&mut self, rebalance: Rebalance) {
        self.queue.push_back(rebalance);
    }

    pub(super) fn is_busy(&self) -> bool {
        !matches!(self.doing, Doing::Steady) || !self.queue.is_empty()
    }

    /// `Close` has come, or the client is to be replaced.
    pub(super) fn is_closing(&self) -> bool {
        self.leaving.is_some()
    }

    /// The partitions under revocation belong to another member: no commit.
    pub(super) fn is_lost(&self) -> bool {
        matches!(&self.doing, Doing::Revoking(revoking) if revoking.is_lost)
    }

    pub(super) fn commits_everything(&self) -> bool {
        matches!(self.doing, Doing::Revoking(_)) || self.emptying.is_some()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let retiring = self.retiring.as_ref();
        let retiring = retiring.and_then(|retiring| retiring.drain.deadline());
        let doing = match &self.doing {
            Doing::Steady => None,
            Doing::Assigning { ask_at, .. } => *ask_at,
            Doing::Revoking(revoking) => revoking.drain.deadline(),
        };
        let late = self.ask_late_at.filter(|_| !self.is_busy());
        let emptying = self.emptying.as_ref().filter(|_| !self.is_busy());
        let emptying = emptying.and_then(Drain::deadline);
        let resting = self.resting.as_ref().and_then(Resting::deadline);
        [retiring, emptying, doing, late, resting]
            .into_iter()
            .flatten()
            .min()
    }

    /// For the status.
    pub(super) fn name(&self, is_connecting: bool) -> &'static str {
        let again = |leaving: &Leaving| leaving.again;
        match self.doing {
            _ if self.leaving.as_ref().is_some_and(again) => "rebalancing",
            _ if self.is_closing() => "draining",
            _ if is_connecting => CONNECTING,
            Doing::Assigning { .. } | Doing::Revoking(_) => "rebalancing",
            Doing::Steady if self.emptying.is_some() => "rebalancing",
            Doing::Steady if self.has_joined => "assigned",
            Doing::Steady if self.joins_again => "rebalancing",
            Doing::Steady => "joining",
        }
    }
}

/// Topics that a reload removes, until no call of them runs.
pub(super) struct Retiring {
    pub(super) done: mpsc::Sender<()>,
    pub(super) drain: Drain,
}

/// The end of the consumer.
pub(super) struct Leaving {
    pub(super) drain: Drain,
    /// The consumer stops waiting for the group at this moment, whether or not the group has answered.
    pub(super) until: Instant,
    /// The client was told to leave the group.
    pub(super) is_told: bool,
    /// A new client takes the place of this one.
    pub(super) again: bool,
}
