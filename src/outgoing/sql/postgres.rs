//! PostgreSQL. A library writes and reads the messages (`postgres-protocol`). The connection is our own: the call itself
//! owns it, so that the drop of the call ends it, wherever that was.

mod arrays;
mod authentication;
mod binary;
mod connection;
mod copying;
mod decode;
mod encode;
mod failed;
mod faults;
mod log_in;
mod statements;
mod types;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::driver::{self, Bounds, Driver, NotCommitted, Ran, Role};
use super::{Shared, insertion};
use crate::config::{Location, Sql as Settings};
use crate::outgoing::pool::Open;
use crate::outgoing::sockets::dialer::Dialer;
use crate::wait::Fault;
use crate::wait::sql::{Begin, Insert, Isolation, Statement};

use connection::Connection;
use failed::Failed;
use log_in::Server;

pub(super) struct Postgres {
    settings: Settings,
    /// `None` where the settings are those of another kind, which `open` never does.
    server: Option<Arc<Server>>,
}

impl Driver for Postgres {
    type Connection = Connection;

    const HAS_READERS: bool = false;

    fn new(settings: &Settings, shared: &Shared) -> Self {
        let server = match &settings.location {
            Location::Postgres(postgres) => {
                let tls = postgres.tls.as_ref();
                let dialer = Dialer::new(&shared.resolver, tls, settings.connect_timeout);
                Some(Server::new(postgres, dialer))
            }
            Location::MySql(_) | Location::Sqlite(_) => None,
        };
        Self {
            settings: settings.clone(),
            server: server.map(Arc::new),
        }
    }

    fn location(&self) -> String {
        self.server
            .as_ref()
            .map_or_else(String::new, |server| server.settings.address.to_string())
    }

    fn delete_done(table: &str, age: Duration, most: usize) -> String {
        let seconds = age.as_secs_f64();
        format!(
            "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE scope = $1 AND message_offset < $2 AND \
             at < now() - interval '{seconds} s' LIMIT {most})"
        )
    }

    async fn connect(&self, _: Role, open: Open, deadline: Instant) -> Result<Connection, Fault> {
        let Some(server) = &self.server else {
            return Err(Fault::new("internal", "a server without an address"));
        };
        let (wire, logged_in) = server.log_in(deadline).await?;
        Ok(Connection::new(
            wire,
            logged_in,
            server.clone(),
            &self.settings,
            open,
        ))
    }
}

impl driver::Connection for Connection {
    fn is_clean(&self) -> bool {
        self.is_clean()
    }

    fn is_in_transaction(&self) -> bool {
        self.is_in_transaction()
    }

    fn has_failed(&self) -> bool {
        self.has_failed()
    }

    async fn run(&mut self, statement: &Statement, bounds: Bounds) -> Result<Ran, Fault> {
        let outcome = self.run(statement, bounds).await;
        outcome.map(Ran::Done).map_err(Failed::fault)
    }

    async fn insert(&mut self, insert: &Insert) -> Result<u64, Fault> {
        self.insert(insert).await.map_err(Failed::fault)
    }

    async fn begin(&mut self, begin: &Begin) -> Result<(), Fault> {
        let isolation = match begin.isolation {
            None => "",
            Some(Isolation::ReadCommitted) => " ISOLATION LEVEL READ COMMITTED",
            Some(Isolation::RepeatableRead) => " ISOLATION LEVEL REPEATABLE READ",
            Some(Isolation::Serializable) => " ISOLATION LEVEL SERIALIZABLE",
        };
        let access = if begin.is_read_only { " READ ONLY" } else { "" };
        let text = format!("BEGIN{isolation}{access}");
        self.command(&text).await.map(drop).map_err(Failed::fault)
    }

    async fn commit(&mut self) -> Result<(), NotCommitted> {
        match self.command("COMMIT").await {
            Ok(tag) if tag == "ROLLBACK" => {
                let message =
                    "an earlier statement of the transaction has failed, so it is rolled back";
                Err(NotCommitted::Refused(Fault::new("invalid", message)))
            }
            Ok(_) => Ok(()),
            Err(Failed::Broken(broken)) => Err(NotCommitted::Unanswered(
                Failed::Broken(broken).fault().message,
            )),
            // The server ends, before or after it has committed.
            Err(Failed::Reported(reported)) if reported.is_fatal => {
                Err(NotCommitted::Unanswered(reported.fault().message))
            }
            Err(failed) => Err(NotCommitted::Refused(failed.fault())),
        }
    }

    async fn rollback(&mut self) -> Result<(), Fault> {
        self.command("ROLLBACK")
            .await
            .map(drop)
            .map_err(Failed::fault)
    }

    async fn make_once_table(&mut self, table: &[String]) -> Result<(), Fault> {
        let (name, index) = (insertion::table(table), index(table));
        let found = self.command(&format!("SELECT 1 FROM {name} LIMIT 0")).await;
        let missing = match found {
            Ok(_) => return Ok(()),
            Err(Failed::Reported(reported)) if reported.sqlstate == "42P01" => reported,
            Err(failed) => return Err(failed.fault()),
        };
        drop(missing);
        let text = format!(
            "CREATE TABLE IF NOT EXISTS {name} (id text PRIMARY KEY, scope text NOT NULL, message_offset bigint NOT NULL, \
             at timestamptz NOT NULL DEFAULT now()); CREATE INDEX IF NOT EXISTS {index} ON {name} (scope, at)"
        );
        // Two daemons that make it at once are in each other's way.
        for is_last in [false, true] {
            match self.command(&text).await {
                Ok(_) => break,
                Err(Failed::Reported(reported))
                    if !is_last && matches!(&*reported.sqlstate, "23505" | "42P07" | "40P01") => {}
                Err(failed) => {
                    let fault = failed.fault();
                    let message = format!(
                        "the table of `once` cannot be made: {}; run as its owner: {text}",
                        fault.message
                    );
                    return Err(Fault { message, ..fault });
                }
            }
        }
        Ok(())
    }

    async fn abandon(self) {
        self.abandon().await;
    }
}

/// The name of the index by scope and time.
fn index(table: &[String]) -> String {
    let name = table.last().map_or("moontide_once", String::as_str);
    insertion::quoted(&format!("{name}_at"))
}
