//! The Redis servers of handlers, `tide.redis`: the clients of the bundle in force, and those of VMs that still drain.
//!
//! Configurations with an equal `[redis.NAME]` share a client and its pool. It ends when no VM has it any more.
//! A connection serves one call at a time, so no call meets another one's transaction or reply. A call is a future:
//! **its drop closes its connection**, wherever it was, and gives its permit back.

mod call;
mod cluster;
mod command;
mod connecting;
mod connection;
mod faults;
mod members;
mod pipeline;
mod reaching;
mod reply;
mod slots;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::registry::{Configured, Registry};
use super::sockets::dialer::Dialer;
use super::sockets::resolver::{self, Resolver};
use crate::config::{Config, Redis as Settings};
use crate::lua::RedisSource;
use crate::nearest::suggestion;
use crate::telemetry::status::RedisStatus;
use crate::wait::Fault;
use crate::wait::redis::{Prepared, Redis, Request, Work};

use command::Blocks;
use connection::Pool;
use members::Members;

/// How long a connection may be idle: a server keeps it for ever, and firewalls for some minutes.
const IDLE_MAX: Duration = Duration::from_secs(60);
const PIPELINE_MAX: usize = 100_000;

/// The clients of the process.
pub(crate) struct RedisClients {
    resolver: Arc<Resolver>,
    clients: Registry<Client>,
}

/// The client of one table of one configuration.
struct Client {
    settings: Settings,
    dialer: Dialer,
    pool: Arc<Pool>,
    /// Of commands that wait in the server: they would take the connections of all others.
    blocking: Arc<Pool>,
    /// Of a cluster.
    members: Members,
}

/// The clients of one configuration, as VMs have them.
struct Handle(Vec<Arc<Client>>);

impl Default for RedisClients {
    fn default() -> Self {
        Self {
            resolver: Arc::new(Resolver::new(resolver::system())),
            clients: Registry::default(),
        }
    }
}

impl RedisClients {
    fn client(&self, settings: &Settings) -> Arc<Client> {
        self.clients.find_or_make(settings, || Client {
            settings: settings.clone(),
            dialer: Dialer::new(
                &self.resolver,
                settings.tls.as_ref(),
                settings.connect_timeout,
            ),
            pool: Pool::new(settings.size, IDLE_MAX),
            blocking: Pool::new(settings.size, IDLE_MAX),
            members: Members::default(),
        })
    }

    /// The pools by name: those of the bundle in force, with those that drain.
    pub(crate) fn status(&self) -> Vec<RedisStatus> {
        let mut found: Vec<RedisStatus> = Vec::new();
        for client in self.clients.alive() {
            let (pool, blocking) = (client.pool.counts(), client.blocking.counts());
            let name = &client.settings.name;
            let at = found.iter().position(|one| one.name == *name);
            let at = at.unwrap_or_else(|| {
                found.push(RedisStatus {
                    name: name.clone(),
                    ..RedisStatus::default()
                });
                found.len() - 1
            });
            let one = &mut found[at];
            one.pool.size += pool.size;
            one.pool.in_use += pool.in_use;
            one.pool.idle += pool.idle;
            one.pool.waiting += pool.waiting + blocking.waiting;
            one.pool.open += pool.open + blocking.open;
            one.blocking += blocking.in_use;
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        found
    }
}

impl Configured for Client {
    type Settings = Settings;

    fn settings(&self) -> &Settings {
        &self.settings
    }
}

impl fmt::Debug for RedisClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisClients").finish_non_exhaustive()
    }
}

impl RedisSource for RedisClients {
    fn open(&self, config: &Arc<Config>) -> Arc<dyn Redis> {
        let clients = config.redis.iter().map(|one| self.client(one));
        Arc::new(Handle(clients.collect()))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}

impl Redis for Handle {
    fn request(&self, request: Request) -> Result<Prepared, Fault> {
        let Request {
            function,
            server,
            work,
            timeout,
        } = request;
        let invalid = |reason| Fault::new("invalid", format!("`{function}`: {reason}"));
        let mut clients = self.0.iter();
        let Some(client) = clients.find(|one| one.settings.name == server) else {
            let names: Vec<&str> = self.0.iter().map(|one| &*one.settings.name).collect();
            let nearest = suggestion(&server, &names);
            return Err(invalid(format!(
                "there is no redis `{server}`, {nearest}; it is a table `[redis.NAME]` of the configuration"
            )));
        };
        check(&work).map_err(invalid)?;
        let about = match &work {
            Work::One(command) => command::name(command),
            Work::Pipeline { .. } => "pipeline".to_owned(),
            Work::Script { .. } => "script".to_owned(),
        };
        let what = match &work {
            Work::One(_) => about.clone(),
            _ => format!("a {about}"),
        };
        let client = Arc::clone(client);
        let requesting = Box::pin(async move {
            let result = client.run(work, timeout).await;
            result.map_err(|fault| {
                let message = format!("`{function}`: {what} at `{server}`: {}", fault.message);
                Fault { message, ..fault }
            })
        });
        Ok(Prepared { about, requesting })
    }
}

/// An error is the part of a sentence behind the name of the function.
fn check(work: &Work) -> Result<(), String> {
    let one = |command: &[Vec<u8>]| {
        let name = command::name(command);
        command::refusal(command).map_or(Ok(()), |instead| {
            Err(format!("{name} is not possible here: {instead}"))
        })
    };
    let Work::Pipeline { commands, .. } = work else {
        return match work {
            Work::One(command) => one(command),
            _ => Ok(()),
        };
    };
    if commands.len() > PIPELINE_MAX {
        let found = commands.len();
        return Err(format!(
            "the pipeline has {found} commands, more than {PIPELINE_MAX}; make several of it"
        ));
    }
    for (command, number) in commands.iter().zip(1..) {
        one(command).map_err(|reason| format!("command {number}: {reason}"))?;
        if command::blocks(command) != Blocks::No {
            let name = command::name(command);
            return Err(format!(
                "command {number}: {name} blocks, which holds up the others; call it alone"
            ));
        }
    }
    Ok(())
}
