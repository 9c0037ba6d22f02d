//! The operator command `skip` for a message that is deferred.

use crate::config::Config;
use crate::telemetry::metrics::Outcome;
use crate::worker::Worker;
use crate::worker::outcomes::named;
use crate::worker::slot::Slot;

use super::{Answer, Key};

impl Worker {
    /// Gives up the deferrals of the message at this offset, in all listeners or the named one. `None`: no message there
    /// is deferred, or it is in its lane for other listeners, too. With a dead letter a message that is away is fetched
    /// first.
    pub(in crate::worker) fn skip_deferred(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        (offset, listener): (i64, Option<&str>),
        dead_letter: Option<&str>,
    ) -> Option<Result<String, String>> {
        let deferred = slot.deferred.as_mut()?;
        let (number, is_away) = deferred.at(offset)?;
        let place = format!(
            "message {offset} of {}[{}]",
            slot.partition.topic, slot.partition.number
        );
        let open = deferred.all_open(number).iter();
        let meant = open.filter(|one| listener.is_none_or(|name| one.listener == name));
        let meant: Vec<(Key, String)> = meant.map(|one| (one.key, one.listener.clone())).collect();
        if meant.is_empty() {
            return is_away.then(|| Err(format!("{place} is not deferred in that listener")));
        }
        let has_topic =
            |name: &str| named(config, name).is_some_and(|one| one.dead_letter.is_some());
        let without = meant.iter().find(|(_, name)| !has_topic(name));
        if let (Some((_, name)), Some(_)) = (without, dead_letter) {
            return Some(Err(format!(
                "{place}: listener `{name}` has no dead-letter topic"
            )));
        }
        let mut is_finished = false;
        for (key, name) in &meant {
            self.deferrals.remove(key);
            self.engine.forget_deferral(*key);
            let Some(deferred) = &mut slot.deferred else {
                continue;
            };
            if let Some(reason) = dead_letter {
                deferred.answered(number, *key, Answer::Buried(reason.to_owned()));
                continue;
            }
            if let Some((_, is_last)) = deferred.done(number, *key) {
                is_finished |= is_last;
            }
            if let Some(listener) = self.meter.index_of(name) {
                self.meter.outcome(listener, Outcome::Skipped);
            }
            slot.note(number, Outcome::Skipped);
        }
        if is_finished {
            slot.finish(number);
        }
        if !is_away && listener.is_none() {
            return None;
        }
        let names: Vec<_> = meant.into_iter().map(|one| one.1).collect();
        let names = names.join("`, `");
        Some(Ok(if dead_letter.is_some() {
            format!("{place} goes to the dead-letter topic of listener `{names}` once it is here")
        } else {
            format!("{place} is skipped in listener `{names}`")
        }))
    }
}
