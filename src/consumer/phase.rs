//! The phase of a membership: what a consumer is busy with beside its messages.

use std::collections::VecDeque;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::assignment::Assigned;
use crate::bundle::Bundle;
use crate::kafka::{Rebalance, TopicPartition};

/// How long the last commit of a revocation may take.
pub(super) const LAST_COMMIT: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Phase {
    pub(super) queue: VecDeque<Rebalance>,
    pub(super) doing: Doing,
    pub(super) retiring: Option<Retiring>,
    pub(super) emptying: Option<Emptying>,
    /// The bundle that is coming: what it does not have is not begun any more.
    pub(super) retired: Option<Arc<Bundle>>,
    pub(super) asked: u64,
    /// Partitions that are ours, whose start could not be found out with the others'.
    pub(super) late: Vec<Assigned>,
    pub(super) ask_late_at: Option<Instant>,
    pub(super) asked_late: Option<u64>,
    pub(super) has_joined: bool,
    /// How long the last commit of a close may take, once everything is drained.
    pub(super) commit_until: Option<Instant>,
    pub(super) close_begun: bool,
}

#[derive(Default)]
pub(super) enum Doing {
    #[default]
    Steady,
    /// The starts of these partitions are being asked for.
    Assigning {
        id: u64,
        partitions: Vec<Assigned>,
        ask_at: Option<Instant>,
    },
    Revoking(Revoking),
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Revoking {
    pub(super) partitions: Vec<TopicPartition>,
    /// Not a revocation but a failure: everything goes.
    pub(super) everything: bool,
    pub(super) is_lost: bool,
    /// Another assignment has come already: librdkafka is not told.
    pub(super) is_replaced: bool,
    pub(super) cancel_at: Instant,
    pub(super) is_cancelled: bool,
    pub(super) commit_until: Option<Instant>,
}

impl Phase {
    pub(super) fn queue(&mut self, rebalance: Rebalance) {
        self.queue.push_back(rebalance);
    }

    pub(super) fn is_busy(&self) -> bool {
        !matches!(self.doing, Doing::Steady) || !self.queue.is_empty()
    }

    /// The partitions under revocation are somebody else's: no commit.
    pub(super) fn is_lost(&self) -> bool {
        matches!(&self.doing, Doing::Revoking(revoking) if revoking.is_lost)
    }

    pub(super) fn commits_everything(&self) -> bool {
        matches!(self.doing, Doing::Revoking(_)) || self.emptying.is_some()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let retiring = self.retiring.as_ref().map(|retiring| retiring.cancel_at);
        let doing = match &self.doing {
            Doing::Steady => None,
            Doing::Assigning { ask_at, .. } => *ask_at,
            Doing::Revoking(revoking) => revoking
                .commit_until
                .or((!revoking.is_cancelled).then_some(revoking.cancel_at)),
        };
        let late = self.ask_late_at.filter(|_| !self.is_busy());
        let emptying = self
            .emptying
            .as_ref()
            .filter(|_| !self.is_busy())
            .map(|emptying| emptying.commit_until.unwrap_or(emptying.cancel_at));
        [retiring, emptying, doing, late]
            .into_iter()
            .flatten()
            .min()
    }

    /// For the status.
    pub(super) fn name(&self, is_closing: bool, has_trouble: bool) -> &'static str {
        match self.doing {
            _ if is_closing => "draining",
            Doing::Assigning { .. } | Doing::Revoking(_) => "rebalancing",
            Doing::Steady if self.emptying.is_some() => "rebalancing",
            Doing::Steady if self.has_joined => "assigned",
            Doing::Steady if has_trouble => "connecting",
            Doing::Steady => "joining",
        }
    }
}

/// Topics that a reload removes, until nothing of them runs.
pub(super) struct Retiring {
    pub(super) done: mpsc::Sender<()>,
    pub(super) cancel_at: Instant,
}

/// What we hold is given up for a new subscription.
pub(super) struct Emptying {
    pub(super) cancel_at: Instant,
    pub(super) commit_until: Option<Instant>,
}
