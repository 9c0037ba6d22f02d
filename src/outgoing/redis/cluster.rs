//! The way of a command to the member of a cluster that has its key.
//!
//! What is known comes from CLUSTER SLOTS at the first call, and from each redirect. It is asked for again behind a
//! redirect and behind a member that is away, one call at a time and not too often.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::call::{Call, last};
use super::command;
use super::faults::{self, Redirect};
use super::members::Known;
use super::reply::Reply;
use super::slots::Slots;
use crate::config::Address;
use crate::wait::Fault;
use crate::wait::redis::Command;

/// How often a command follows its slot, or waits for it.
const REDIRECTS_MAX: usize = 10;
/// The wait for a slot that is between two members.
const TRY_AGAIN: Duration = Duration::from_millis(30);

impl Call<'_> {
    /// The member for a slot; any for a command without a key.
    pub(super) async fn master(&mut self, slot: Option<u16>) -> Result<Address, Fault> {
        let members = &self.client.members;
        if members.must_ask() {
            self.refresh().await?;
        }
        let known = members.lock();
        let Some(slot) = slot else {
            let mut masters = known.slots.masters();
            if masters.is_empty() {
                return Err(Fault::new(
                    "unreachable",
                    "no member of the cluster has a slot",
                ));
            }
            return Ok(masters.swap_remove(fastrand::usize(..masters.len())));
        };
        let master = known.slots.master(slot).cloned();
        drop(known);
        master.ok_or_else(|| {
            members.doubt();
            let message = format!("no member of the cluster has the slot {slot}");
            Fault::new("unreachable", message)
        })
    }

    /// Asks one member after the other who has which slot.
    async fn refresh(&mut self) -> Result<(), Fault> {
        let members = &self.client.members;
        let Some(_one_at_a_time) = self.in_time(members.refreshing.lock()).await else {
            let message = "the members of the cluster do not tell in time who has which slot";
            return Err(Fault::new("unreachable", message));
        };
        if !members.must_ask() {
            return Ok(());
        }
        let mut candidates = members.lock().slots.masters();
        fastrand::shuffle(&mut candidates);
        candidates.extend(self.client.settings.addresses.iter().cloned());
        let mut bytes = Vec::new();
        command::write(&command::words("CLUSTER SLOTS"), &mut bytes);
        let mut why = Fault::new("unreachable", "the cluster has no member");
        for member in &candidates {
            let reply = match self.exchange(member, &bytes, 1).await {
                Ok(replies) => last(replies),
                Err(fault) => {
                    // Nothing of the command itself has been sent.
                    let kind = if fault.kind == "busy" {
                        "busy"
                    } else {
                        "unreachable"
                    };
                    why = Fault { kind, ..fault };
                    continue;
                }
            };
            if let Some(slots) = Slots::read(&reply, member) {
                *members.lock() = Known {
                    slots,
                    is_stale: false,
                    asked_at: Some(Instant::now()),
                };
                return Ok(());
            }
            let reason = reply.error().map_or_else(
                || "its reply to CLUSTER SLOTS has another form".to_owned(),
                faults::harmless,
            );
            why = Fault::new(
                "unreachable",
                format!("{member} is no member of a cluster: {reason}"),
            );
        }
        let mut known = members.lock();
        // What was known may still be right.
        if known.asked_at.is_some() {
            known.asked_at = Some(Instant::now());
            return Ok(());
        }
        Err(why)
    }

    /// The reply to one command, from the member that has its key.
    pub(super) async fn one_of_cluster(&mut self, command: &Command) -> Result<Reply, Fault> {
        let slot = command::key(command).map(command::slot);
        let mut to = self.master(slot).await?;
        let mut is_asking = false;
        let mut has_looked = false;
        for _ in 0..=REDIRECTS_MAX {
            let mut bytes = Vec::new();
            if is_asking {
                command::write(&command::words("ASKING"), &mut bytes);
            }
            command::write(command, &mut bytes);
            let exchanged = self.exchange(&to, &bytes, 1 + usize::from(is_asking));
            let reply = match exchanged.await {
                Ok(replies) => last(replies),
                Err(fault) => {
                    self.client.members.doubt();
                    // Nothing of the command has been sent, and another member may have its key now.
                    if fault.kind == "unreachable" && !has_looked {
                        has_looked = true;
                        let other = self.master(slot).await?;
                        if other != to {
                            (to, is_asking) = (other, false);
                            continue;
                        }
                    }
                    return Err(fault);
                }
            };
            match faults::redirect(&reply, &to) {
                Some(Redirect::Moved(slot, other)) => {
                    self.client.members.moved(slot, other.clone());
                    (to, is_asking) = (other, false);
                }
                Some(Redirect::Ask(other)) => (to, is_asking) = (other, true),
                None => match reply.error().map(faults::code) {
                    Some("TRYAGAIN") => sleep(TRY_AGAIN).await,
                    Some("CLUSTERDOWN") => {
                        self.client.members.doubt();
                        return Ok(reply);
                    }
                    _ => return Ok(reply),
                },
            }
        }
        let message = "the slot of the key is being moved to another server";
        Err(Fault::new("busy", message))
    }

    /// The replies in the order of the commands. Each member gets its commands at once.
    pub(super) async fn pipeline_of_cluster(
        &mut self,
        commands: &[Command],
    ) -> Result<Vec<Reply>, Fault> {
        let mut parts: Vec<(Address, Vec<usize>)> = Vec::new();
        for (at, command) in commands.iter().enumerate() {
            let slot = command::key(command).map(command::slot);
            let to = self.master(slot).await?;
            match parts.iter_mut().find(|(member, _)| *member == to) {
                Some((_, part)) => part.push(at),
                None => parts.push((to, vec![at])),
            }
        }
        let mut replies: Vec<Reply> = commands.iter().map(|_| Reply::Nil).collect();
        let mut again = Vec::new();
        for (to, part) in parts {
            let mut bytes = Vec::new();
            let own = part.iter().filter_map(|at| commands.get(*at));
            own.for_each(|command| command::write(command, &mut bytes));
            let exchanged = self.exchange(&to, &bytes, part.len()).await;
            let found = exchanged.inspect_err(|_| self.client.members.doubt())?;
            for (at, reply) in part.into_iter().zip(found) {
                let is_elsewhere = faults::redirect(&reply, &to).is_some()
                    || reply.error().map(faults::code) == Some("TRYAGAIN");
                if is_elsewhere {
                    again.push(at);
                } else {
                    replies[at] = reply;
                }
            }
        }
        // Commands of one key were all sent elsewhere, so they keep their order.
        again.sort_unstable();
        for at in again {
            replies[at] = self.one(&commands[at]).await?;
        }
        Ok(replies)
    }
}
