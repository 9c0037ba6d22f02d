//! The databases of handlers, `tide.sql`: the clients of the bundle in force, and those of VMs that still drain.
//!
//! Configurations with an equal `[sql.NAME]` share a client and its pool. It ends when no VM has it any more.
//! A connection serves one call at a time, or one transaction. **A call that is given up never puts a connection back
//! half used**: the database is told to end the statement, and the connection is closed (`lease.rs`).

mod calendar;
mod client;
mod driver;
mod insertion;
mod json;
mod lease;
mod mysql;
mod once;
mod once_rows;
mod postgres;
mod sqlite;
#[cfg(test)]
mod tests;
mod transaction;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::registry::{Configured, Registry};
use super::sockets::resolver::{self, Resolver};
use crate::config::{Config, Location, Sql as Settings};
use crate::lua::SqlSource;
use crate::nearest::suggestion;
use crate::telemetry::status::SqlStatus;
use crate::wait::Fault;
use crate::wait::sql::{Begin, Databases, Prepared, Request, Transaction, Work};

use client::Client;
use driver::Driver;
use mysql::MySql;
use postgres::Postgres;
use sqlite::Sqlite;

/// The clients of the process.
pub(crate) struct SqlClients {
    shared: Shared,
    clients: Registry<Opened>,
}

/// What all clients share.
#[derive(Clone)]
struct Shared {
    resolver: Arc<Resolver>,
}

/// A client with its settings.
struct Opened {
    settings: Settings,
    database: Arc<dyn Database>,
}

type Reaching = Pin<Box<dyn Future<Output = Result<(), Fault>> + Send>>;

/// A client of any kind of database.
trait Database: Send + Sync {
    fn request(self: Arc<Self>, request: Request) -> Prepared;

    fn transaction(self: Arc<Self>, begin: Begin) -> Arc<dyn Transaction>;

    fn status(&self) -> SqlStatus;

    fn reach(self: Arc<Self>) -> Reaching;

    fn location(&self) -> String;
}

/// **The one place that knows every kind of database.**
fn open(settings: &Settings, shared: &Shared) -> Arc<dyn Database> {
    match settings.location {
        Location::Postgres(_) => Arc::new(Client::<Postgres>::new(settings, shared)),
        Location::MySql(_) => Arc::new(Client::<MySql>::new(settings, shared)),
        Location::Sqlite(_) => Arc::new(Client::<Sqlite>::new(settings, shared)),
    }
}

/// The clients of one configuration, as VMs have them.
struct Handle(Vec<Arc<Opened>>);

impl Default for SqlClients {
    fn default() -> Self {
        Self {
            shared: Shared {
                resolver: Arc::new(Resolver::new(resolver::system())),
            },
            clients: Registry::default(),
        }
    }
}

impl SqlClients {
    fn client(&self, settings: &Settings) -> Arc<Opened> {
        self.clients.find_or_make(settings, || Opened {
            settings: settings.clone(),
            database: open(settings, &self.shared),
        })
    }

    /// The pools by name: those of the bundle in force, with those that drain.
    pub(crate) fn status(&self) -> Vec<SqlStatus> {
        let mut found: Vec<SqlStatus> = Vec::new();
        for client in self.clients.alive() {
            let status = client.database.status();
            match found.iter_mut().find(|one| one.name == status.name) {
                Some(one) => {
                    one.pool.add(&status.pool);
                    one.transactions += status.transactions;
                }
                None => found.push(status),
            }
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        found
    }

    /// Whether the database answers, and where it is, for `moontide check --connect`.
    pub(crate) async fn reach(&self, settings: &Settings) -> (String, Duration, Result<(), Fault>) {
        let client = self.client(settings);
        let began = std::time::Instant::now();
        let reached = client.database.clone().reach().await;
        (client.database.location(), began.elapsed(), reached)
    }
}

impl Configured for Opened {
    type Settings = Settings;

    fn settings(&self) -> &Settings {
        &self.settings
    }
}

impl fmt::Debug for SqlClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlClients").finish_non_exhaustive()
    }
}

impl SqlSource for SqlClients {
    fn open(&self, config: &Arc<Config>) -> Arc<dyn Databases> {
        let clients = config.sql.iter().map(|one| self.client(one));
        Arc::new(Handle(clients.collect()))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Databases").finish_non_exhaustive()
    }
}

impl Handle {
    fn database(&self, name: &str, function: &str) -> Result<Arc<dyn Database>, Fault> {
        if let Some(client) = self.0.iter().find(|one| one.settings.name == name) {
            return Ok(client.database.clone());
        }
        let names: Vec<&str> = self.0.iter().map(|one| &*one.settings.name).collect();
        let nearest = suggestion(name, &names);
        let message =
            format!("`{function}`: the configuration has no table `[sql.{name}]`, {nearest}");
        Err(Fault::new("invalid", message))
    }
}

impl Databases for Handle {
    fn request(&self, database: &str, request: Request) -> Result<Prepared, Fault> {
        checked(&request)?;
        Ok(self.database(database, request.function)?.request(request))
    }

    fn transaction(&self, database: &str, begin: Begin) -> Result<Arc<dyn Transaction>, Fault> {
        Ok(self.database(database, begin.function)?.transaction(begin))
    }
}

impl<D: Driver> Database for Client<D> {
    fn request(self: Arc<Self>, request: Request) -> Prepared {
        let verb = verb(&request.work);
        let about = format!("{} {verb}", self.settings.name);
        let requesting = Box::pin(async move {
            let result = Self::request(&self, &request).await;
            result.map_err(|fault| sentence(request.function, &verb, &self.settings.name, fault))
        });
        Prepared { about, requesting }
    }

    fn transaction(self: Arc<Self>, begin: Begin) -> Arc<dyn Transaction> {
        Arc::new(transaction::Own::new(self, begin))
    }

    fn status(&self) -> SqlStatus {
        self.status()
    }

    fn reach(self: Arc<Self>) -> Reaching {
        Box::pin(async move { Self::reach(&self).await })
    }

    fn location(&self) -> String {
        self.location()
    }
}

fn checked(request: &Request) -> Result<(), Fault> {
    let function = request.function;
    match &request.work {
        Work::Run(statement, _) if statement.text.contains('\0') => {
            let message = format!("`{function}`: the statement has a zero byte");
            Err(Fault::new("invalid", message))
        }
        _ => Ok(()),
    }
}

/// The first word of a statement, for the status and for errors.
fn verb(work: &Work) -> String {
    let Work::Run(statement, _) = work else {
        return "INSERT".to_owned();
    };
    let text = statement.text.trim_start();
    let first = text.split(|c: char| !c.is_ascii_alphabetic()).next();
    match first.filter(|first| (1..=12).contains(&first.len())) {
        Some(first) => first.to_ascii_uppercase(),
        None => "a statement".to_owned(),
    }
}

/// An error with its place.
fn sentence(function: &str, what: &str, database: &str, fault: Fault) -> Fault {
    let message = format!("`{function}`: {what} in `{database}`: {}", fault.message);
    Fault { message, ..fault }
}
