//! The policies of a listener in the output of `check`: its order, and the handling of a failed message.

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::config::{
    Batch, DeadLetter, HeaderStyle, Infrastructure, Listener, NullKeys, OnError, OnRefusal,
    Ordering, TooLarge, Topic,
};
use crate::duration::short;
use crate::topic_name;

fn start(listener: &Listener) -> String {
    let start = if listener.from_beginning {
        "the beginning"
    } else {
        "the end"
    };
    let commit = if listener.run.auto_commit {
        "commits automatically"
    } else {
        "commits: only by ctx.commitOffsets"
    };
    format!("a new group starts at {start}; {commit}")
}

/// One line for each policy.
pub(super) fn as_lines(listener: &Listener, group: &str) -> Vec<String> {
    let limits = &listener.limits;
    let mut lines = vec![
        start(listener),
        format!(
            "{}; at most {} in flight",
            order(listener),
            listener.max_in_flight
        ),
        format!(
            "at most {} of Lua without a wait, {} of a whole call",
            short(limits.blocking),
            short(limits.timeout)
        ),
        failure(listener, group),
    ];
    if listener.retry.infrastructure == Infrastructure::Count {
        lines.push("infrastructure that is away counts as any other failure".to_owned());
    }
    if let Some(limit) = &listener.rate_limit {
        lines.insert(
            3,
            format!(
                "at most {} in {}, retries included, over all workers",
                super::counted(limit.messages as usize, "run"),
                short(limit.per)
            ),
        );
    }
    if let Some(batch) = &listener.batch {
        lines.insert(1, batches(batch));
    }
    if let Some(delay) = listener.delay {
        let delay = short(delay);
        lines.insert(
            1,
            format!("a message runs when it is {delay} old by its timestamp"),
        );
    }
    if let Some(share) = listener.share {
        lines.insert(
            1,
            format!("a share of {share} beside the other topics of its consumer"),
        );
    }
    if let Some(dead_letter) = &listener.dead_letter {
        lines.push(dead_letters(listener, dead_letter, group));
    }
    if let Some(topics) = produces(listener) {
        lines.push(match topics.as_slice() {
            [] => "sends to no topic".to_owned(),
            topics => format!("sends to {} only", topics.join(", ")),
        });
    }
    if let Some(breaker) = &listener.breaker {
        lines.push(format!(
            "the breaker opens when {} % of at least {} runs in {} fail, pauses for {}, and closes after {}",
            breaker.ratio * 100.0,
            breaker.runs_min,
            short(breaker.window),
            short(breaker.pause),
            super::counted(breaker.probes as usize, "probe"),
        ));
    }
    lines
}

fn batches(batch: &Batch) -> String {
    let done = if batch.auto_resolve {
        "all are done when it returns"
    } else {
        "those that ctx.resolveOffset names are done"
    };
    format!(
        "in batches of at most {}, {} bytes or {}; {done}",
        super::counted(batch.messages, "message"),
        batch.bytes,
        short(batch.wait)
    )
}

/// The topics to which it may send.
fn produces(listener: &Listener) -> Option<Vec<&str>> {
    let topics = listener.produces.as_ref()?.iter();
    Some(topics.map(|one| one.text.as_str()).collect())
}

fn order(listener: &Listener) -> &'static str {
    match (listener.ordering, listener.null_keys) {
        (Ordering::Partition, _) => "in the order of their partition",
        (Ordering::Key, NullKeys::Parallel) => {
            "in the order of their key; without a key in no order"
        }
        (Ordering::Key, NullKeys::Partition) => {
            "in the order of their key; those without a key in the order of their partition"
        }
        (Ordering::None, _) => "in no order",
    }
}

fn failure(listener: &Listener, group: &str) -> String {
    let retry = &listener.retry;
    let waits = if retry.topics.is_empty() {
        let (initial, most) = (short(retry.initial_delay), short(retry.max_delay));
        format!("after waits of {initial} to {most}")
    } else {
        let names: Vec<String> = listener
            .topics
            .iter()
            .flat_map(|topic| {
                let topic = name(topic);
                retry
                    .topics
                    .iter()
                    .map(move |delay| topic_name::retry_topic(&topic, group, *delay))
            })
            .collect();
        let missing = made(retry.create_topics);
        format!(
            "through {}{missing}, which gives up their order",
            names.join(", ")
        )
    };
    let last = match listener.on_error {
        OnError::Retry => return format!("a failed message runs again until it is done, {waits}"),
        OnError::DeadLetter => "becomes a dead letter",
        OnError::Skip => "is skipped",
        OnError::Stop => "stops the daemon",
    };
    match retry.attempts {
        Some(1) | None => format!("a failed message {last}"),
        Some(attempts) => format!("a failed message runs {attempts} times, {waits}, then {last}"),
    }
}

fn dead_letters(listener: &Listener, dead_letter: &DeadLetter, group: &str) -> String {
    let mut names: Vec<String> = listener
        .topics
        .iter()
        .map(|topic| dead_letter.topic_of(&name(topic), group, &listener.name))
        .collect();
    names.dedup();
    let missing = made(dead_letter.create_topic);
    let who = if listener.on_error == OnError::DeadLetter {
        "dead letters"
    } else {
        "dead letters that ctx.deadLetter requests"
    };
    let large = match dead_letter.too_large {
        TooLarge::Block => "blocks its lane",
        TooLarge::DropValue => "loses its value",
        TooLarge::Skip => "is skipped",
    };
    let refused = match dead_letter.refused {
        OnRefusal::Block => "blocks its lane",
        OnRefusal::Skip => "is skipped",
    };
    format!(
        "{who} go to {}{missing}, with headers as of {}, at most {} a minute; one that is too large {large}, one that \
         is refused {refused}",
        names.join(", "),
        style(dead_letter.header_style),
        dead_letter.per_minute_max
    )
}

/// A pattern stands for the topics that it matches.
fn name(topic: &Topic) -> String {
    match topic {
        Topic::Literal(name) => name.clone(),
        Topic::Pattern(_) => "{topic}".to_owned(),
    }
}

fn made(create: bool) -> &'static str {
    if create { " (made where missing)" } else { "" }
}

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}

fn style(style: HeaderStyle) -> &'static str {
    match style {
        HeaderStyle::Moontide => "moontide",
        HeaderStyle::Spring => "spring",
        HeaderStyle::Connect => "connect",
        HeaderStyle::Kafka => "kafka",
    }
}

/// The policies under the names of the configuration.
pub(super) fn as_json(listener: &Listener, group: &str) -> Json {
    let (run, retry) = (&listener.run, &listener.retry);
    json!({
        "name": listener.name,
        "consumer": listener.consumer,
        "topics": listener.topics.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "handler": listener.handler.text,
        "subscription": { "fromBeginning": listener.from_beginning },
        "runConfig": {
            "autoCommit": run.auto_commit,
            "autoCommitInterval": run.auto_commit_interval.map(millis),
            "autoCommitThreshold": run.auto_commit_threshold,
            "partitionsConsumedConcurrently": run.partitions_consumed_concurrently,
            "eachBatchAutoResolve": listener.batch.map(|batch| batch.auto_resolve),
        },
        "ordering": match listener.ordering {
            Ordering::Partition => "partition",
            Ordering::Key => "key",
            Ordering::None => "none",
        },
        "nullKeys": (listener.ordering == Ordering::Key).then_some(match listener.null_keys {
            NullKeys::Parallel => "parallel",
            NullKeys::Partition => "partition",
        }),
        "maxInFlight": listener.max_in_flight,
        "maxDeferred": listener.max_deferred,
        "delay": listener.delay.map(millis),
        "share": listener.share,
        "onError": match listener.on_error {
            OnError::Retry => "retry",
            OnError::DeadLetter => "deadLetter",
            OnError::Skip => "skip",
            OnError::Stop => "stop",
        },
        "retry": {
            "attempts": retry.attempts,
            "initialDelay": millis(retry.initial_delay),
            "maxDelay": millis(retry.max_delay),
            "multiplier": retry.multiplier,
            "jitter": retry.jitter,
            "topics": retry.topics.iter().map(|delay| millis(*delay)).collect::<Vec<_>>(),
            "allowAutoTopicCreation": retry.create_topics,
            "infrastructure": match retry.infrastructure {
                Infrastructure::Wait => "wait",
                Infrastructure::Count => "count",
            },
        },
        "deadLetter": dead_letter_as_json(listener, group),
        "breaker": listener.breaker.as_ref().map(|breaker| json!({
            "failureRatio": breaker.ratio,
            "window": millis(breaker.window),
            "minimumRuns": breaker.runs_min,
            "pause": millis(breaker.pause),
            "probes": breaker.probes,
        })),
        "produces": produces(listener),
        "eachBatch": listener.batch.is_some(),
        "batch": listener.batch.map(|batch| json!({
            "messages": batch.messages,
            "bytes": batch.bytes,
            "wait": millis(batch.wait),
        })),
        "limits": limits(listener),
        "rateLimit": listener.rate_limit.map(|limit| json!({
            "messages": limit.messages,
            "per": millis(limit.per),
        })),
    })
}

fn dead_letter_as_json(listener: &Listener, group: &str) -> Option<Json> {
    let dead_letter = listener.dead_letter.as_ref()?;
    let topic = |topic: &Topic| dead_letter.topic_of(&name(topic), group, &listener.name);
    Some(json!({
        "topic": dead_letter.topic,
        "topics": listener.topics.iter().map(topic).collect::<Vec<_>>(),
        "headerStyle": style(dead_letter.header_style),
        "allowAutoTopicCreation": dead_letter.create_topic,
        "tooLarge": match dead_letter.too_large {
            TooLarge::Block => "block",
            TooLarge::DropValue => "dropValue",
            TooLarge::Skip => "skip",
        },
        "refused": match dead_letter.refused {
            OnRefusal::Block => "block",
            OnRefusal::Skip => "skip",
        },
        "maxPerMinute": dead_letter.per_minute_max,
    }))
}

fn limits(listener: &Listener) -> Json {
    let limits = &listener.limits;
    json!({
        "blocking": millis(limits.blocking),
        "timeout": millis(limits.timeout),
        "emit": limits.emit,
    })
}
