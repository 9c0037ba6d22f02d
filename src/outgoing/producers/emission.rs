//! What a handler has emitted: sent until each record is acknowledged or refused, however long that takes.
//!
//! This is the way of records that something has to be found out for first, and of those that were not acknowledged.
//! Most leave by `ways.rs`.

use std::sync::Arc;
use std::time::Duration;

use crate::message::Outgoing;
use crate::wait::Fault;
use crate::wait::send::{Failed, Fate, Request, Troubled};

use super::group::{Counted, Group};
use super::sending::{self, Kind};

/// The pauses between two sends of the same record, at first and at most.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The requests follow one after the other, in their order.
pub(super) async fn emit(
    requests: Vec<(Arc<Group>, Request)>,
    troubled: Troubled,
) -> Result<(), Fault> {
    for (group, mut request) in requests {
        let mut pause = PAUSE;
        while let Err(failed) = once(&group, &request).await {
            let fault = rest(&mut request, failed)?;
            troubled(fault);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
    Ok(())
}

async fn once(group: &Arc<Group>, request: &Request) -> Result<(), Failed> {
    let bytes: usize = request.records.iter().map(Outgoing::size).sum();
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    let Some(room) = group.room(bytes).await else {
        let message = format!("producer `{}` is closing", group.settings.name);
        return Err(Failed {
            kind: "closed",
            message,
            results: Vec::new(),
        });
    };
    let counted = Counted::Room(room);
    let timeout = group.settings.timeout;
    let request = request.clone();
    let sent = sending::send(
        group.clone(),
        request,
        timeout,
        (counted, bytes),
        Kind::Emitted,
    );
    sent.await.map(drop)
}

/// Keeps the records that are to be sent again, and returns why. An error is the refusal of a record: nothing is sent
/// again then.
fn rest(request: &mut Request, failed: Failed) -> Result<Fault, Fault> {
    let Failed {
        kind,
        message,
        results,
    } = failed;
    let mut fates = results.iter();
    if let Some(Fate::Refused(fault)) = fates.find(|fate| matches!(fate, Fate::Refused(_))) {
        let message = format!("`{}`: {}", request.function, fault.message);
        return Err(Fault::new(fault.kind, message));
    }
    // What is behind a record that is not written is written again behind it. Without a result no record was sent.
    let is_written = |fate: &Fate| matches!(fate, Fate::Written(_));
    let written = results.iter().take_while(|fate| is_written(fate)).count();
    request.records.drain(..written);
    Ok(Fault::new(kind, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::send::Coordinates;

    const WRITTEN: Fate = Fate::Written(Coordinates {
        partition: 0,
        offset: Some(1),
        timestamp_ms: None,
    });

    fn request(values: &[&str]) -> Request {
        let record = |value: &&str| Outgoing {
            topic: (*value).into(),
            ..Outgoing::default()
        };
        Request {
            function: "ctx.emit",
            records: values.iter().map(record).collect(),
            ..Request::default()
        }
    }

    fn failed(results: Vec<Fate>) -> Failed {
        Failed {
            kind: "timeout",
            message: "no answer".to_owned(),
            results,
        }
    }

    fn fault(message: &str) -> Fault {
        Fault::new("tooLarge", message)
    }

    #[test]
    fn what_is_not_written_is_sent_again() {
        let mut request = request(&["a", "b", "c"]);
        let results = vec![WRITTEN, Fate::Failed(fault("later")), WRITTEN];
        let fault = rest(&mut request, failed(results)).unwrap();
        assert_eq!(
            (fault.kind, fault.message.as_str()),
            ("timeout", "no answer")
        );
        let left: Vec<_> = request.records.iter().map(|one| &*one.topic).collect();
        assert_eq!(left, ["b", "c"], "in their order");
    }

    #[test]
    fn without_a_result_everything_is_sent_again() {
        let mut request = request(&["a", "b"]);
        rest(&mut request, failed(Vec::new())).unwrap();
        assert_eq!(request.records.len(), 2);
    }

    #[test]
    fn a_refused_record_ends_the_emission() {
        let mut request = request(&["a", "b", "c"]);
        let results = vec![
            WRITTEN,
            Fate::Unknown,
            Fate::Refused(fault("topic `c`: too large")),
        ];
        let fault = rest(&mut request, failed(results)).unwrap_err();
        assert_eq!(fault.message, "`ctx.emit`: topic `c`: too large");
    }
}
