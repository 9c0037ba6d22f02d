//! Records of consumers with `exactlyOnce`, which leave by a transaction. A look at their topics comes first: one
//! refused record would abort the transaction for all the others.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Config;
use crate::message::Outgoing;
use crate::wait::Fault;
use crate::wait::send::{Request, Troubled};

use super::clients::Use;
use super::group::Group;

/// The pauses between two looks, at first and at most.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long one look may take.
const LOOK: Duration = Duration::from_secs(10);
/// The bytes of a batch beside its records.
const BATCH: usize = 70;

/// The topics of a request, each with the bytes of its largest record.
pub(super) struct Records {
    function: &'static str,
    topics: Vec<(Arc<str>, usize)>,
}

impl Records {
    pub(super) fn of(request: &Request) -> Self {
        let mut topics: Vec<(Arc<str>, usize)> = Vec::new();
        for record in &request.records {
            let size = record.size() + BATCH;
            match topics.iter_mut().find(|(topic, _)| *topic == record.topic) {
                Some((_, largest)) => *largest = size.max(*largest),
                None => topics.push((record.topic.clone(), size)),
            }
        }
        Self {
            function: request.function,
            topics,
        }
    }
}

/// Whether the limits of all topics are known, and no record is above that of its topic.
pub(super) fn fit(group: &Arc<Group>, request: &Request) -> bool {
    let fits = |record: &Outgoing| {
        let limit = group.known_limit(&record.topic);
        limit.is_some_and(|limit| record.size() + BATCH <= limit)
    };
    request.records.iter().all(fits)
}

/// Looks until all topics are known.
pub(super) async fn look(
    requests: Vec<(Arc<Group>, Records)>,
    troubled: Troubled,
) -> Result<(), Fault> {
    for (group, records) in requests {
        let mut pause = PAUSE;
        while let Err(fault) = once(&group, &records).await? {
            troubled(fault);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
    Ok(())
}

/// The outer error is the refusal of a record, the inner one may end by itself.
async fn once(group: &Arc<Group>, records: &Records) -> Result<Result<(), Fault>, Fault> {
    let names: Vec<&str> = records.topics.iter().map(|(name, _)| &**name).collect();
    let purpose = Use::Awaited(usize::MAX);
    let client = match group.client(group.default_pair(), purpose).await {
        Ok(client) => client,
        Err(fault) => return Ok(Err(fault)),
    };
    let deadline = Instant::now() + LOOK;
    if group.largest(&client, &names, deadline).await.is_none() {
        let message = "no broker tells what its topics accept".to_owned();
        return Ok(Err(Fault::new("unreachable", message)));
    }
    for (topic, largest) in &records.topics {
        if group.is_missing(topic) {
            let message = format!("topic `{topic}` does not exist");
            return Ok(Err(Fault::new("notFound", message)));
        }
        let limit = group.limit(topic);
        if *largest > limit {
            let function = records.function;
            let message = format!(
                "`{function}`: topic `{topic}`: a record has {largest} bytes, more than the {limit} of \
                 `max.message.bytes`"
            );
            return Err(Fault::new("tooLarge", message));
        }
    }
    Ok(Ok(()))
}

const BROKERS: &str = "bootstrap.servers";

/// By listener, as in `Set`.
pub(super) fn brokers_of_exactly_once(config: &Config) -> Vec<Option<String>> {
    let of = |listener| {
        let consumer = config.exactly_once(listener)?;
        consumer.properties.get(BROKERS).map(|one| one.text.clone())
    };
    (0..config.listeners.len()).map(of).collect()
}

fn of<'a>(exactly_once: &'a [Option<String>], request: &Request) -> Option<&'a String> {
    exactly_once.get(request.listener?)?.as_ref()
}

/// Its records are in the transaction of its consumer.
pub(super) fn may_emit(exactly_once: &[Option<String>], request: &Request) -> Result<(), Fault> {
    match (of(exactly_once, request), &request.producer) {
        (Some(_), Some(_)) => {
            let message = format!(
                "`{}`: `producer` is not possible where the consumer has `exactlyOnce`, since its transactions write what \
                 is emitted; remove it",
                request.function
            );
            Err(Fault::new("invalid", message))
        }
        _ => Ok(()),
    }
}

/// What is sent to the same brokers may be there twice, which nobody expects there.
pub(super) fn may_send(
    exactly_once: &[Option<String>],
    group: &Group,
    request: &Request,
) -> Result<(), Fault> {
    let brokers = group.settings.properties.get(BROKERS);
    let own = of(exactly_once, request);
    if own.is_none() || brokers.map(|one| &one.text) != own {
        return Ok(());
    }
    let message = format!(
        "`{}`: the consumer has `exactlyOnce`, and a record that is sent is not in its transactions; use `ctx.emit`, or a \
         producer of other brokers",
        request.function
    );
    Err(Fault::new("invalid", message))
}
