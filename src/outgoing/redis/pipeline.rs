//! Several commands in one exchange, with or without a transaction.

use super::call::Call;
use super::command;
use super::faults::{self, Redirect};
use super::reply::Reply;
use crate::wait::redis::Command;
use crate::wait::{Fault, Value};

/// How often a transaction follows its slot.
const REDIRECTS_MAX: usize = 5;

/// The error of one command among others.
fn among(commands: &[Command], at: usize, error: &str, others: &str) -> Fault {
    let name = commands
        .get(at)
        .map_or_else(String::new, |one| command::name(one));
    let (number, count) = (at + 1, commands.len());
    let fault = faults::of_reply(error);
    let message = &fault.message;
    let message = format!("command {number} of {count}, {name}: {message}; {others}");
    Fault { message, ..fault }
}

/// The replies as a list, or the first error among them.
fn list(commands: &[Command], replies: Vec<Reply>) -> Result<Value, Fault> {
    for (at, reply) in replies.iter().enumerate() {
        if let Reply::Error(error) = reply {
            return Err(among(commands, at, error, "the other commands have run"));
        }
    }
    Ok(Reply::List(replies).value())
}

impl Call<'_> {
    pub(super) async fn pipeline(&mut self, commands: &[Command]) -> Result<Value, Fault> {
        if commands.is_empty() {
            return Ok(Value::Table(Vec::new()));
        }
        if self.client.settings.is_cluster {
            let replies = self.pipeline_of_cluster(commands).await?;
            return list(commands, replies);
        }
        let address = self.address()?;
        let mut bytes = Vec::new();
        command::write_all(commands, &mut bytes);
        let replies = self.exchange(&address, &bytes, commands.len()).await?;
        list(commands, replies)
    }

    /// All commands or none, and no other command between them.
    pub(super) async fn transaction(&mut self, commands: &[Command]) -> Result<Value, Fault> {
        if commands.is_empty() {
            return Ok(Value::Table(Vec::new()));
        }
        let mut bytes = Vec::new();
        command::write(&command::words("MULTI"), &mut bytes);
        command::write_all(commands, &mut bytes);
        command::write(&command::words("EXEC"), &mut bytes);
        let mut address = if self.client.settings.is_cluster {
            let slot = one_slot(commands)?;
            self.master(slot).await?
        } else {
            self.address()?
        };
        for _ in 0..=REDIRECTS_MAX {
            let replies = self.exchange(&address, &bytes, commands.len() + 2).await?;
            let redirects = replies
                .iter()
                .filter_map(|one| faults::redirect(one, &address));
            let redirect = self
                .client
                .settings
                .is_cluster
                .then(|| redirects.into_iter().next())
                .flatten();
            match redirect {
                None => return executed(commands, replies),
                Some(Redirect::Moved(slot, to)) => {
                    self.client.members.moved(slot, to.clone());
                    address = to;
                }
                Some(Redirect::Ask(_)) => {
                    let message =
                        "the slot of the keys is being moved to another server; nothing has run";
                    return Err(Fault::new("busy", message));
                }
            }
        }
        Err(Fault::new(
            "busy",
            "the servers of the cluster disagree on the slot of the keys",
        ))
    }
}

/// The replies to MULTI, to each command, and to EXEC.
fn executed(commands: &[Command], mut replies: Vec<Reply>) -> Result<Value, Fault> {
    let results = replies.pop().unwrap_or(Reply::Nil);
    // MULTI itself may be refused, as by a server that loads.
    if let Some(Reply::Error(error)) = replies.first() {
        return Err(faults::of_reply(error));
    }
    for (at, reply) in replies.iter().skip(1).enumerate() {
        if let Reply::Error(error) = reply {
            return Err(among(commands, at, error, "nothing has run"));
        }
    }
    match results {
        Reply::List(results) => list(commands, results),
        Reply::Error(error) => Err(faults::of_reply(&error)),
        _ => {
            let message = "the server has ended the transaction; nothing has run";
            Err(Fault::new("conflict", message))
        }
    }
}

/// The slot of all keys; none without a key.
fn one_slot(commands: &[Command]) -> Result<Option<u16>, Fault> {
    let mut slots = commands.iter().enumerate().filter_map(|(at, one)| {
        let key = command::key(one)?;
        Some((at, command::slot(key)))
    });
    let Some((first, slot)) = slots.next() else {
        return Ok(None);
    };
    match slots.find(|(_, other)| *other != slot) {
        None => Ok(Some(slot)),
        Some((other, _)) => {
            let (first, other) = (first + 1, other + 1);
            Err(faults::of_reply(&format!(
                "CROSSSLOT the keys of the commands {first} and {other} lie in different slots, and a transaction is \
                 that of one server"
            )))
        }
    }
}
