//! One call: a connection for its commands, and their replies, until its deadline.

use std::sync::Arc;
use std::time::Duration;

use openssl::sha::sha1;
use tokio::time::{Instant, timeout_at};

use super::command::{self, Blocks};
use super::connection::Pool;
use super::reply::Reply;
use super::{Client, faults};
use crate::config::Address;
use crate::duration::short;
use crate::rules::hex;
use crate::wait::redis::{Command, Work};
use crate::wait::{Fault, Value};

/// A call under way.
pub(super) struct Call<'c> {
    pub(super) client: &'c Client,
    pool: &'c Arc<Pool>,
    /// None while a command blocks without a time of its own.
    pub(super) deadline: Option<Instant>,
    within: Duration,
    /// Bytes of replies that it may still read.
    left: usize,
}

impl Client {
    pub(super) async fn run(&self, work: Work, timeout: Option<Duration>) -> Result<Value, Fault> {
        let timeout = timeout.unwrap_or(self.settings.timeout);
        let blocks = match &work {
            Work::One(command) => command::blocks(command),
            _ => Blocks::No,
        };
        let (pool, within) = match blocks {
            Blocks::No => (&self.pool, Some(timeout)),
            Blocks::For(time) => (&self.blocking, timeout.checked_add(time)),
            Blocks::Forever => (&self.blocking, None),
        };
        let mut call = Call {
            client: self,
            pool,
            deadline: within.and_then(|within| Instant::now().checked_add(within)),
            within: within.unwrap_or_default(),
            left: self.settings.max_reply,
        };
        match work {
            Work::One(command) => value(call.one(&command).await?),
            Work::Script {
                text,
                keys,
                arguments,
            } => call.script(text, keys, arguments).await,
            Work::Pipeline {
                commands,
                is_atomic: true,
            } => call.transaction(&commands).await,
            Work::Pipeline { commands, .. } => call.pipeline(&commands).await,
        }
    }
}

/// The value of a reply, or its error.
fn value(reply: Reply) -> Result<Value, Fault> {
    match reply {
        Reply::Error(error) => Err(faults::of_reply(&error)),
        reply => Ok(reply.value()),
    }
}

impl Call<'_> {
    /// The reply to one command, wherever its key lies.
    pub(super) async fn one(&mut self, command: &Command) -> Result<Reply, Fault> {
        if self.client.settings.is_cluster {
            return self.one_of_cluster(command).await;
        }
        let address = self.address()?;
        let mut bytes = Vec::new();
        command::write(command, &mut bytes);
        let replies = self.exchange(&address, &bytes, 1).await?;
        Ok(last(replies))
    }

    /// That of the one server.
    pub(super) fn address(&self) -> Result<Address, Fault> {
        let address = self.client.settings.addresses.first().cloned();
        address.ok_or_else(|| Fault::new("internal", "a server without an address"))
    }

    /// `None` when its deadline comes first.
    pub(super) async fn in_time<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        match self.deadline {
            None => Some(work.await),
            Some(deadline) => timeout_at(deadline, work).await.ok(),
        }
    }

    /// EVALSHA, and EVAL where the server does not know the script.
    async fn script(
        &mut self,
        text: Vec<u8>,
        keys: Vec<Vec<u8>>,
        arguments: Vec<Vec<u8>>,
    ) -> Result<Value, Fault> {
        let digest = hex::encoded(&sha1(&text));
        let count = keys.len().to_string().into_bytes();
        let mut command = vec![b"EVALSHA".to_vec(), digest.into_bytes(), count];
        command.extend(keys);
        command.extend(arguments);
        let reply = self.one(&command).await?;
        let is_unknown = matches!(&reply, Reply::Error(error) if faults::code(error) == "NOSCRIPT");
        if !is_unknown {
            return value(reply);
        }
        command[0] = b"EVAL".to_vec();
        command[1] = text;
        value(self.one(&command).await?)
    }

    /// Sends these bytes, which are `count` commands, over one connection.
    pub(super) async fn exchange(
        &mut self,
        address: &Address,
        bytes: &[u8],
        count: usize,
    ) -> Result<Vec<Reply>, Fault> {
        let settings = &self.client.settings;
        let until = Instant::now() + settings.acquire_timeout;
        let until = self.deadline.map_or(until, |deadline| deadline.min(until));
        let Some(_permit) = self.pool.acquire(until).await else {
            let (size, acquire) = (settings.size, short(settings.acquire_timeout));
            let message = format!(
                "all {size} connections are in use, and none became free within {acquire}; `size` and `acquireTimeout` \
                 of its table are the limits"
            );
            return Err(Fault::new("busy", message));
        };
        let mut connection = if let Some(connection) = self.pool.take(address) {
            connection
        } else {
            let connecting = self.client.connect(self.pool, address, self.deadline);
            connecting.await?
        };
        let exchange = connection.exchange(bytes, count, &mut self.left);
        let replies = match self.deadline {
            None => Ok(exchange.await),
            Some(deadline) => timeout_at(deadline, exchange).await,
        };
        let Ok(replies) = replies else {
            let within = short(self.within);
            let message = format!("no reply within {within}; the server may have acted");
            return Err(Fault::new("timeout", message));
        };
        let replies = replies.map_err(|broken| broken.fault(settings.max_reply))?;
        let mut errors = replies.iter().filter_map(Reply::error);
        if !errors.any(faults::ends_connection) {
            self.pool.put_back(address.clone(), connection);
        }
        Ok(replies)
    }
}

/// An exchange has as many replies as commands.
pub(super) fn last(mut replies: Vec<Reply>) -> Reply {
    replies.pop().unwrap_or(Reply::Nil)
}
