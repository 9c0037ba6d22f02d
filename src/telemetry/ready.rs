//! The readiness of the daemon: the answer of `/ready` and a line of `moontide status`.
//!
//! Pure: a status and a time in, reasons out. **Lag alone is no reason**, and neither is work that makes progress. A
//! partition counts as stalled only when its position stands still although messages wait.

use std::time::Duration;

use crate::telemetry::status::{
    BreakerState, ConsumerStatus, ErrorStatus, ListenerStatus, PartitionStatus, Pause, Readiness,
    Reason, Status,
};

/// The end offset counts the messages of an open transaction, which are not delivered before its end. A partition
/// without messages in flight may lag by this many.
const OPEN_MAX: i64 = 100;

/// The readiness at `now_ms`. `stall_after` is how long a position may stand still.
pub(crate) fn readiness(status: &Status, stall_after: Duration, now_ms: i64) -> Readiness {
    let limit_ms = i64::try_from(stall_after.as_millis()).unwrap_or(i64::MAX);
    let mut reasons = Vec::new();
    for consumer in &status.consumers {
        let membership = membership(consumer, limit_ms, now_ms);
        if membership.is_none() {
            let errors = consumer.errors.iter();
            let lasting = errors.filter(|error| is_lasting(error, limit_ms, now_ms));
            reasons.extend(lasting.map(|error| failing(consumer, error)));
        }
        reasons.extend(membership);
        reasons.extend(missing_topics(consumer, limit_ms, now_ms));
        for partition in &consumer.partitions {
            let error = partition.error.as_ref();
            let error = error.filter(|error| is_lasting(error, limit_ms, now_ms));
            reasons.extend(match error {
                Some(error) => Some(failing(consumer, error)),
                None => standstill(consumer, partition, limit_ms, now_ms),
            });
        }
    }
    reasons.extend(status.listeners.iter().filter_map(breaker));
    Readiness {
        ready: reasons.is_empty(),
        reasons,
    }
}

/// A consumer without its group consumes nothing. A rebalance is no reason until it lasts too long.
fn membership(consumer: &ConsumerStatus, limit_ms: i64, now_ms: i64) -> Option<Reason> {
    let since = consumer.state_since;
    match consumer.state.as_str() {
        "assigned" => return None,
        "rebalancing" if now_ms - since < limit_ms => return None,
        _ => {}
    }
    let why = match (&consumer.error, consumer.state.as_str()) {
        (Some(error), state) => format!("{state}: {error}"),
        (None, "silent") => "it does not answer".to_owned(),
        (None, state) => format!("{state}, not assigned"),
    };
    Some(Reason {
        what: format!("consumer {}", consumer.name),
        since,
        why,
    })
}

/// An error that only an operator ends is a reason at once. Brokers come and go, and librdkafka tries one again only
/// while a partition or the group needs it.
fn is_lasting(error: &ErrorStatus, limit_ms: i64, now_ms: i64) -> bool {
    (error.lasts && !error.is_broker) || now_ms - error.since >= limit_ms
}

fn failing(consumer: &ConsumerStatus, error: &ErrorStatus) -> Reason {
    Reason {
        what: format!("{} of consumer {}", error.place, consumer.name),
        since: error.since,
        why: error.error.clone(),
    }
}

/// A configured topic without which messages may stay unhandled: it was deleted, never created, or may not be read.
fn missing_topics(
    consumer: &ConsumerStatus,
    limit_ms: i64,
    now_ms: i64,
) -> impl Iterator<Item = Reason> {
    let errors = consumer.topic_errors.iter();
    let lasting = errors.filter(move |one| now_ms - one.since >= limit_ms);
    lasting.map(|one| Reason {
        what: format!("topic {} of consumer {}", one.topic, consumer.name),
        since: one.since,
        why: one.error.clone(),
    })
}

fn breaker(listener: &ListenerStatus) -> Option<Reason> {
    let state = match listener.breaker {
        BreakerState::Closed => return None,
        BreakerState::HalfOpen => "half-open",
        BreakerState::Open => "open",
    };
    let why = listener.breaker_reason.as_deref().unwrap_or_default();
    Some(Reason {
        what: format!("listener {}", listener.name),
        since: listener.breaker_since.unwrap_or_default(),
        why: format!("its breaker is {state}: {why}"),
    })
}

fn standstill(
    consumer: &ConsumerStatus,
    partition: &PartitionStatus,
    limit_ms: i64,
    now_ms: i64,
) -> Option<Reason> {
    if matches!(partition.paused, Some(Pause::Listener | Pause::Handler)) {
        // An operator has paused it, or its own code.
        return None;
    }
    let is_late = |since: &i64| now_ms - since >= limit_ms;
    // The end of a partition that has been paused since its start is not fetched.
    let unknown = partition.lag_unknown_since.filter(is_late);
    let unknown = unknown.filter(|_| partition.paused.is_none());
    let since = partition.stands_still_since.filter(is_late).or(unknown)?;
    let lag = partition.lag.unwrap_or(0);
    let deferred = partition.deferred.as_ref().filter(|all| all.holds_position);
    let why = if let Some(first) = deferred {
        format!(
            "the message at offset {} is deferred in listener `{}` at {}, and neither `done` nor `fail` has come",
            first.offset, first.listener, first.at
        )
    } else if let Some(blocked) = &partition.blocked {
        format!(
            "the message at offset {} is not done after {} runs in listener `{}`: {}",
            blocked.offset,
            blocked.attempt,
            blocked.listener,
            blocked.error.lines().next().unwrap_or_default()
        )
    } else if partition.in_flight > 0 {
        let offset = partition.position.unwrap_or(-1);
        format!("the message at offset {offset} is not finished")
    } else if lag > OPEN_MAX {
        format!("{lag} messages wait, and none is received")
    } else if unknown.is_some() {
        "its end is not known: nothing is received from its leader".to_owned()
    } else {
        return None;
    };
    Some(Reason {
        what: format!(
            "partition {}[{}] of consumer {}",
            partition.topic, partition.partition, consumer.name
        ),
        since,
        why,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::status::{Blocked, Deferred, TopicError};

    const NOW: i64 = 1_000_000;
    const LIMIT: Duration = Duration::from_secs(60);

    fn status(state: &str, partition: PartitionStatus) -> Status {
        Status {
            consumers: vec![ConsumerStatus {
                name: "default".to_owned(),
                state: state.to_owned(),
                state_since: NOW - 1,
                partitions: vec![partition],
                ..ConsumerStatus::default()
            }],
            ..Status::default()
        }
    }

    fn partition() -> PartitionStatus {
        PartitionStatus {
            topic: "orders".to_owned(),
            partition: 3,
            position: Some(40),
            lag: Some(5),
            in_flight: 2,
            ..PartitionStatus::default()
        }
    }

    #[track_caller]
    fn check(status: &Status, whys: &[&str]) {
        let readiness = readiness(status, LIMIT, NOW);
        let found: Vec<&str> = readiness.reasons.iter().map(|one| &*one.why).collect();
        assert_eq!(found, whys);
        assert_eq!(readiness.ready, whys.is_empty());
    }

    #[test]
    fn lag_and_work_in_hand_are_no_reason() {
        check(&status("assigned", partition()), &[]);
    }

    #[test]
    fn a_position_that_stands_still_for_too_long_is_one() {
        let mut one = partition();
        one.stands_still_since = Some(NOW - 59_999);
        check(&status("assigned", one.clone()), &[]);
        one.stands_still_since = Some(NOW - 60_000);
        check(
            &status("assigned", one.clone()),
            &["the message at offset 40 is not finished"],
        );
        one.blocked = Some(Blocked {
            offset: 40,
            listener: "l".to_owned(),
            attempt: 3,
            since: 0,
            next_attempt_at: 0,
            error: "no\ntraceback".to_owned(),
        });
        let why = "the message at offset 40 is not done after 3 runs in listener `l`: no";
        check(&status("assigned", one), &[why]);
    }

    #[test]
    fn one_that_waits_for_a_deferred_message_names_where_it_was_deferred() {
        let mut one = partition();
        one.stands_still_since = Some(NOW - 60_000);
        let mut deferred = Deferred {
            messages: 7,
            offset: 40,
            listener: "sums".to_owned(),
            at: "handlers/sums.lua:12".to_owned(),
            since: 0,
            holds_position: true,
        };
        one.deferred = Some(deferred.clone());
        let why = "the message at offset 40 is deferred in listener `sums` at handlers/sums.lua:12, and neither `done` nor \
                   `fail` has come";
        check(&status("assigned", one.clone()), &[why]);
        deferred.holds_position = false;
        one.deferred = Some(deferred);
        let why = "the message at offset 40 is not finished";
        check(&status("assigned", one), &[why]);
    }

    #[test]
    fn what_is_not_received_counts_beyond_an_open_transaction() {
        let mut one = partition();
        one.in_flight = 0;
        one.stands_still_since = Some(0);
        check(&status("assigned", one.clone()), &[]);
        one.lag = Some(101);
        let why = "101 messages wait, and none is received";
        check(&status("assigned", one), &[why]);
    }

    #[test]
    fn a_consumer_has_to_be_a_member_of_its_group() {
        check(&status("joining", partition()), &["joining, not assigned"]);
        check(&status("silent", partition()), &["it does not answer"]);
        let mut away = status("connecting", partition());
        away.consumers[0].error = Some("brokers down".to_owned());
        check(&away, &["connecting: brokers down"]);
    }

    #[test]
    fn a_rebalance_is_a_reason_only_when_it_does_not_end() {
        let mut one = status("rebalancing", partition());
        check(&one, &[]);
        one.consumers[0].state_since = NOW - 60_000;
        check(&one, &["rebalancing, not assigned"]);
    }

    fn error(since: i64, lasts: bool) -> ErrorStatus {
        ErrorStatus {
            place: "orders[3]".to_owned(),
            error: "denied".to_owned(),
            since,
            is_broker: false,
            lasts,
        }
    }

    #[test]
    fn an_error_that_does_not_end_is_a_reason() {
        let with = |error| {
            let mut one = partition();
            one.error = Some(error);
            status("assigned", one)
        };
        check(&with(error(NOW, true)), &["denied"]);
        check(&with(error(NOW - 59_999, false)), &[]);
        check(&with(error(NOW - 60_000, false)), &["denied"]);

        let mut one = status("assigned", partition());
        one.consumers[0].errors = vec![ErrorStatus {
            is_broker: true,
            ..error(NOW - 59_999, true)
        }];
        check(&one, &[]);
        one.consumers[0].errors[0].since -= 1;
        check(&one, &["denied"]);
        let reasons = readiness(&one, LIMIT, NOW).reasons;
        assert_eq!(reasons[0].what, "orders[3] of consumer default");
        one.consumers[0].state = "joining".to_owned();
        check(&one, &["joining, not assigned"]);
    }

    #[test]
    fn unknown_lag_is_not_no_lag() {
        let mut one = partition();
        (one.lag, one.in_flight) = (None, 0);
        one.lag_unknown_since = Some(NOW - 59_999);
        check(&status("assigned", one.clone()), &[]);
        one.lag_unknown_since = Some(NOW - 60_000);
        let why = "its end is not known: nothing is received from its leader";
        check(&status("assigned", one.clone()), &[why]);
        one.paused = Some(Pause::NotDue);
        check(&status("assigned", one), &[]);
    }

    #[test]
    fn what_somebody_has_paused_is_no_reason() {
        let mut one = partition();
        one.stands_still_since = Some(0);
        one.paused = Some(Pause::Listener);
        check(&status("assigned", one.clone()), &[]);
        // That a partition has used up its share is no excuse.
        one.paused = Some(Pause::Budget);
        let why = "the message at offset 40 is not finished";
        check(&status("assigned", one), &[why]);
    }

    #[test]
    fn a_breaker_that_is_not_closed_is_a_reason() {
        let mut one = status("assigned", partition());
        one.listeners = vec![ListenerStatus {
            name: "orders".to_owned(),
            breaker: BreakerState::HalfOpen,
            breaker_since: Some(7),
            breaker_reason: Some("9 of 10 runs failed".to_owned()),
            ..ListenerStatus::default()
        }];
        let why = "its breaker is half-open: 9 of 10 runs failed";
        check(&one, &[why]);
        let reason = &readiness(&one, LIMIT, NOW).reasons[0];
        assert_eq!((&*reason.what, reason.since), ("listener orders", 7));
    }

    #[test]
    fn a_topic_that_stays_missing_is_a_reason() {
        let mut one = status("assigned", partition());
        one.consumers[0].topic_errors = vec![TopicError {
            topic: "gone".to_owned(),
            error: "unknown topic".to_owned(),
            since: NOW - 59_999,
        }];
        check(&one, &[]);
        one.consumers[0].topic_errors[0].since = NOW - 60_000;
        check(&one, &["unknown topic"]);
        let reason = &readiness(&one, LIMIT, NOW).reasons[0];
        assert_eq!(reason.what, "topic gone of consumer default");
    }

    #[test]
    fn a_daemon_without_consumers_is_ready() {
        check(&Status::default(), &[]);
    }
}
