//! Operator commands: skip, retry, pause, resume, accept. Each is logged with its operator and its reason.
//!
//! The workers carry them out, on a letter. This file finds the workers concerned, and gives the reason when a
//! command has no effect. The daemon remembers a pause for the status; the workers keep the pause itself, also
//! through a reload.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Roster;
use crate::assignment::{Handle, Order as Letter, ToConsumer, ToWorker};
use crate::clock::now_ms;
use crate::config::Config;
use crate::log::log;
use crate::nearest::nearest;
use crate::rules::route;
use crate::service::control::Who;
use crate::telemetry::status::{ConsumerStatus, Order, Paused, Response, Status};

/// How long a worker may take to read its letters: usually a handler computes meanwhile.
const ANSWER: Duration = Duration::from_secs(20);

#[derive(Clone)]
pub(super) struct OperatorCommands {
    roster: Roster,
    status: Arc<Mutex<Status>>,
}

/// The effect of a command, or the reason for its refusal.
type Outcome = Result<String, String>;

impl OperatorCommands {
    pub(super) fn new(roster: Roster, status: Arc<Mutex<Status>>) -> Self {
        Self { roster, status }
    }

    /// Runs on another thread, since it waits.
    pub(super) fn carry_out(&self, order: Order, who: Who, answer: oneshot::Sender<Response>) {
        let hands = self.clone();
        tokio::task::spawn_blocking(move || {
            let outcome = hands.obey(order, &who);
            // The peer may have closed its connection.
            let _ = answer.send(outcome.map_or_else(Response::Error, Response::Done));
        });
    }

    fn obey(&self, order: Order, who: &Who) -> Outcome {
        let config = self
            .roster
            .config()
            .ok_or_else(|| "moontide is starting".to_owned())?;
        match order {
            Order::Skip {
                topic,
                partition,
                offset,
                listener,
                dead_letter,
                reason,
            } => {
                let message = Handle {
                    topic,
                    partition,
                    offset,
                };
                check_listener(&config, listener.as_deref())?;
                self.skip(
                    &message,
                    listener.as_deref(),
                    dead_letter,
                    reason.as_deref(),
                    who,
                )
            }
            Order::Retry { listener, reason } => {
                check_listener(&config, listener.as_deref())?;
                Ok(self.retry(listener, reason.as_deref(), who))
            }
            Order::Pause { listener, reason } => {
                check_listener(&config, Some(&listener))?;
                Ok(self.pause(&listener, reason, who))
            }
            Order::Resume { listener, reason } => {
                self.resume(&config, &listener, reason.as_deref(), who)
            }
            Order::Accept {
                topic,
                partition,
                reason,
            } => self.accept(&topic, partition, reason.as_deref(), who),
        }
    }

    fn skip(
        &self,
        message: &Handle,
        listener: Option<&str>,
        dead_letter: bool,
        reason: Option<&str>,
        who: &Who,
    ) -> Outcome {
        let said = match reason {
            Some(reason) => format!("skipped by {who}: {reason}"),
            None => format!("skipped by {who}"),
        };
        let replies = self.ask(|reply| Letter::Skip {
            message: message.clone(),
            listener: listener.map(str::to_owned),
            dead_letter,
            reason: said.clone(),
            reply,
        });
        let Handle {
            topic,
            partition,
            offset,
        } = message;
        let (done, refused): (Vec<_>, Vec<_>) =
            replies.answers.into_iter().partition(Result::is_ok);
        // Several groups may have the message: the success in one stands, even if another refuses.
        let done: Vec<String> = done.into_iter().flatten().collect();
        if !done.is_empty() {
            let outcome = done.join("; ");
            log!(warn, control,
                topic,
                partition,
                offset,
                listener,
                by = %who,
                reason,
                outcome,
                "an operator skipped the message"
            );
            return Ok(outcome);
        }
        if let Some(why) = refused.into_iter().find_map(Result::err) {
            return Err(why);
        }
        if replies.is_late {
            return Err(late("the message is skipped when the call ends"));
        }
        Err(why_not(&self.roster.status(), message))
    }

    fn retry(&self, listener: Option<String>, reason: Option<&str>, who: &Who) -> String {
        let replies = self.ask(|reply| Letter::Retry {
            listener: listener.clone(),
            reply,
        });
        let ended: usize = replies.answers.iter().sum();
        log!(info, control, listener, ended, by = %who, reason, "an operator ended the back-offs");
        let of = listener.map_or_else(String::new, |name| format!(" of listener `{name}`"));
        let sentence = match ended {
            0 => format!("no message{of} is in back-off"),
            1 => format!("1 message{of} runs again now"),
            many => format!("{many} messages{of} run again now"),
        };
        if replies.is_late {
            format!("{sentence}; {}", late("messages that wait there follow"))
        } else {
            sentence
        }
    }

    fn pause(&self, listener: &str, reason: Option<String>, who: &Who) -> String {
        let mut status = self.status();
        if let Some(before) = status.paused.iter().find(|one| one.listener == listener) {
            return format!("listener `{listener}` is paused already, by {}", before.by);
        }
        log!(warn, control, listener, by = %who, reason, "an operator paused the listener");
        status.paused.push(Paused {
            listener: listener.to_owned(),
            since: now_ms(),
            by: who.to_string(),
            reason,
        });
        // Under the lock, so that a pause and a resume reach the workers in their order.
        self.tell(listener, true);
        format!(
            "listener `{listener}` is paused: calls under way finish, its messages wait until \
             `moontide resume {listener}` or a restart"
        )
    }

    fn resume(&self, config: &Config, listener: &str, reason: Option<&str>, who: &Who) -> Outcome {
        let mut status = self.status();
        let Some(index) = status
            .paused
            .iter()
            .position(|one| one.listener == listener)
        else {
            drop(status);
            check_listener(config, Some(listener))?;
            return Ok(format!("listener `{listener}` is not paused"));
        };
        let before = status.paused.remove(index);
        log!(warn, control, listener, by = %who, reason, paused_by = before.by, "an operator resumed the listener");
        self.tell(listener, false);
        drop(status);
        let kept = kept_by_code(config, &self.roster.status(), listener);
        Ok(format!("listener `{listener}` takes messages again{kept}"))
    }

    /// Several groups may have the partition: each accepts for itself.
    fn accept(&self, topic: &str, partition: i32, reason: Option<&str>, who: &Who) -> Outcome {
        let (sender, receiver) = mpsc::channel();
        for consumer in self.roster.consumers() {
            consumer.send(ToConsumer::Accept {
                topic: topic.to_owned(),
                partition,
                reply: sender.clone(),
            });
        }
        drop(sender);
        let replies = replies(&receiver, Instant::now() + ANSWER);
        let (done, refused): (Vec<_>, Vec<_>) =
            replies.answers.into_iter().partition(Result::is_ok);
        let done: Vec<String> = done.into_iter().flatten().collect();
        if !done.is_empty() {
            log!(warn, control, topic, partition, by = %who, reason, "an operator accepted that messages run again");
            return Ok(done.join("; "));
        }
        let refused = refused.into_iter().find_map(Result::err);
        let elsewhere = || not_here(&self.roster.status(), topic, partition);
        Err(refused.or_else(elsewhere).unwrap_or_else(|| {
            format!("the consumer of partition {topic}[{partition}] has not answered; try again")
        }))
    }

    fn tell(&self, listener: &str, paused: bool) {
        for worker in self.roster.workers() {
            worker.send(ToWorker::Order(Letter::Pause {
                listener: listener.to_owned(),
                paused,
            }));
        }
    }

    fn ask<T>(&self, letter: impl Fn(mpsc::Sender<T>) -> Letter) -> Replies<T> {
        let (sender, receiver) = mpsc::channel();
        for worker in self.roster.workers() {
            worker.send(ToWorker::Order(letter(sender.clone())));
        }
        drop(sender);
        replies(&receiver, Instant::now() + ANSWER)
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Replies<T> {
    answers: Vec<T>,
    /// A worker has not read its letter in time.
    is_late: bool,
}

/// Waits until every worker has answered or dropped its letter.
fn replies<T>(receiver: &mpsc::Receiver<T>, until: Instant) -> Replies<T> {
    let mut answers = Vec::new();
    loop {
        match receiver.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(answer) => answers.push(answer),
            Err(error) => {
                return Replies {
                    answers,
                    is_late: error == mpsc::RecvTimeoutError::Timeout,
                };
            }
        }
    }
}

fn late(then: &str) -> String {
    let seconds = ANSWER.as_secs();
    format!("a worker has not answered within {seconds} s, because a handler computes; {then}")
}

fn check_listener(config: &Config, name: Option<&str>) -> Result<(), String> {
    let Some(name) = name else { return Ok(()) };
    let names = || config.listeners.iter().map(|one| one.name.as_str());
    if names().any(|one| one == name) {
        return Ok(());
    }
    let meant = nearest(name, names()).map(|meant| format!(", did you mean `{meant}`?"));
    Err(format!(
        "no listener is named `{name}`{}",
        meant.unwrap_or_default()
    ))
}

/// The partitions of a listener that handlers have paused: an operator does not resume them.
fn kept_by_code(config: &Config, consumers: &[ConsumerStatus], listener: &str) -> String {
    let mut kept = Vec::new();
    for consumer in consumers {
        for one in &consumer.partitions {
            let plan = route::plan(config, &consumer.name, &one.topic);
            if let Some(by) = &one.paused_by
                && plan.is_some_and(|plan| plan.has(listener))
            {
                kept.push(format!("{}[{}] (by {})", one.topic, one.partition, by.who));
            }
        }
    }
    if kept.is_empty() {
        return String::new();
    }
    format!(
        ", except in partitions that code has paused and has to resume: {}",
        kept.join(", ")
    )
}

/// The reason why no consumer has the partition. `None`: one has it.
fn not_here(consumers: &[ConsumerStatus], topic: &str, partition: i32) -> Option<String> {
    let mut partitions = consumers.iter().flat_map(|one| &one.partitions);
    if partitions.any(|one| one.topic == topic && one.partition == partition) {
        return None;
    }
    let mut topics = consumers.iter().flat_map(|one| &one.subscription);
    if topics.clone().any(|one| one == topic) {
        return Some(format!(
            "partition {partition} of topic `{topic}` is not assigned to this daemon: ask the daemon that has it"
        ));
    }
    let meant = nearest(topic, topics.by_ref().map(String::as_str));
    let meant = meant.map(|meant| format!(", did you mean `{meant}`?"));
    Some(format!(
        "no consumer has subscribed to topic `{topic}`{}",
        meant.unwrap_or_default()
    ))
}

/// The reason why no worker has the message.
fn why_not(consumers: &[ConsumerStatus], message: &Handle) -> String {
    let Handle {
        topic,
        partition,
        offset,
    } = message;
    let mut partitions = consumers.iter().flat_map(|one| &one.partitions);
    let found = partitions.find(|one| one.topic == *topic && one.partition == *partition);
    let Some(found) = found else {
        return not_here(consumers, topic, *partition).unwrap_or_default();
    };
    let position = found.position.unwrap_or_default();
    if *offset < position {
        return format!(
            "message {topic}[{partition}]@{offset} is finished already: the position is {position}"
        );
    }
    match &found.blocked {
        Some(blocked) if blocked.offset != *offset => format!(
            "message {topic}[{partition}]@{offset} neither runs nor blocks its lane: the blocking message is \
             {topic}[{partition}]@{} in listener `{}`; skip that one first",
            blocked.offset, blocked.listener
        ),
        _ => format!(
            "message {topic}[{partition}]@{offset} is not in flight: the position is {position}, and nothing blocks"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::status::{Blocked, PartitionStatus};

    fn consumer(blocked: Option<i64>) -> ConsumerStatus {
        let blocked = blocked.map(|offset| Blocked {
            offset,
            listener: "orders".into(),
            attempt: 3,
            since: 0,
            next_attempt_at: 0,
            error: "no customer".into(),
        });
        ConsumerStatus {
            subscription: vec!["orders".into()],
            partitions: vec![PartitionStatus {
                topic: "orders".into(),
                partition: 1,
                position: Some(100),
                blocked,
                ..PartitionStatus::default()
            }],
            ..ConsumerStatus::default()
        }
    }

    #[track_caller]
    fn check(blocked: Option<i64>, topic: &str, partition: i32, offset: i64, expected: &str) {
        let message = Handle {
            topic: topic.into(),
            partition,
            offset,
        };
        assert_eq!(why_not(&[consumer(blocked)], &message), expected);
    }

    #[test]
    fn whoever_asks_in_vain_hears_why() {
        check(
            None,
            "ordrs",
            1,
            5,
            "no consumer has subscribed to topic `ordrs`, did you mean `orders`?",
        );
        check(None, "x", 1, 5, "no consumer has subscribed to topic `x`");
        check(
            None,
            "orders",
            2,
            5,
            "partition 2 of topic `orders` is not assigned to this daemon: ask the daemon that has it",
        );
        check(
            None,
            "orders",
            1,
            99,
            "message orders[1]@99 is finished already: the position is 100",
        );
        check(
            None,
            "orders",
            1,
            100,
            "message orders[1]@100 is not in flight: the position is 100, and nothing blocks",
        );
        check(
            Some(100),
            "orders",
            1,
            107,
            "message orders[1]@107 neither runs nor blocks its lane: the blocking message is orders[1]@100 in listener `orders`; skip that one first",
        );
    }

    #[test]
    fn a_worker_that_it_does_not_concern_is_not_waited_for() {
        let (sender, receiver) = mpsc::channel();
        let other = sender.clone();
        sender.send(7).unwrap();
        drop((sender, other));
        let replies = replies(&receiver, Instant::now() + Duration::from_secs(60));
        assert_eq!((replies.answers, replies.is_late), (vec![7], false));
    }

    #[test]
    fn a_worker_that_is_busy_is_not_waited_for_without_end() {
        let (sender, receiver) = mpsc::channel::<u32>();
        let replies = replies(&receiver, Instant::now());
        assert!(replies.is_late && replies.answers.is_empty());
        drop(sender);
    }
}
