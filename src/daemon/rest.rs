//! Before a reload that changes listeners of a consumer with exactly once, its partitions come to rest.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::assignment::ToConsumer;
use crate::bundle::Bundle;
use crate::config::Config;
use crate::threads::mailbox::Mailbox;

use super::AFTER_DRAIN;
use super::fleet::Roster;

/// Waits until every consumer is at rest. An error is the reason for which the reload is refused.
pub(super) fn come_to_rest(
    roster: &Roster,
    old: &Config,
    bundle: &Arc<Bundle>,
    drain: Duration,
) -> Result<(), String> {
    let mut consumers = old.consumers.iter().chain(&bundle.config.consumers);
    if !consumers.any(|one| one.transaction.is_some()) {
        return Ok(());
    }
    let consumers = roster.consumers();
    let asked = consumers.iter().map(|inbox| ask(inbox, bundle));
    let answers: Vec<_> = asked.collect();
    let until = Instant::now() + drain + AFTER_DRAIN;
    for answer in answers {
        // The consumer has its own, shorter deadline. Without an answer it has ended, or is stuck.
        let answer = answer.recv_timeout(until.saturating_duration_since(Instant::now()));
        let answer =
            answer.unwrap_or_else(|_| Err("a consumer has not answered; reload again".to_owned()));
        if let Err(why) = answer {
            for inbox in &consumers {
                inbox.send(ToConsumer::GoOn);
            }
            return Err(why);
        }
    }
    Ok(())
}

fn ask(inbox: &Mailbox<ToConsumer>, bundle: &Arc<Bundle>) -> mpsc::Receiver<Result<(), String>> {
    let (done, answer) = mpsc::channel();
    inbox.send(ToConsumer::ComeToRest {
        bundle: bundle.clone(),
        done,
    });
    answer
}
