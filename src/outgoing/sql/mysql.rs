//! MySQL and MariaDB, by a client of our own. The usual client opens its sockets itself, and its drop reads the rest of
//! a result and rolls back, in a task that nobody counts and nothing bounds. Here the call owns the socket.

mod connection;
mod decode;
mod encode;
mod exchange;
mod faults;
mod greeting;
mod inserting;
mod log_in;
mod scramble;
mod statements;
mod times;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use super::driver::{self, Bounds, Driver, NotCommitted, Ran, Role};
use crate::config::{Location, Sql as Settings};
use crate::outgoing::pool::Open;
use crate::outgoing::sockets::dialer::Dialer;
use crate::wait::Fault;
use crate::wait::sql::{Begin, Insert, Isolation, Statement};

use connection::{Connection, Failed};
use log_in::Server;

pub(super) struct MySql {
    settings: Settings,
    /// `None` where the settings are those of another kind, which `open` never does.
    server: Option<Arc<Server>>,
}

impl Driver for MySql {
    type Connection = Connection;

    const HAS_READERS: bool = false;

    fn new(settings: &Settings, shared: &Shared) -> Self {
        let server = match &settings.location {
            Location::MySql(mysql) => {
                let tls = mysql.tls.as_ref();
                let dialer = Dialer::new(&shared.resolver, tls, settings.connect_timeout);
                Some(Server::new(mysql, dialer))
            }
            Location::Postgres(_) | Location::Sqlite(_) => None,
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

    fn table(parts: &[String]) -> String {
        inserting::table(parts)
    }

    /// A row that is there keeps its value, so none is changed. IGNORE would hide other errors, too.
    fn once_text(table: &str) -> String {
        format!(
            "INSERT INTO {table} (id, scope, message_offset) VALUES (?, ?, ?) ON DUPLICATE KEY UPDATE id = id"
        )
    }

    fn delete_done(table: &str, age: Duration, most: usize) -> String {
        let micros = age.as_micros();
        format!(
            "DELETE FROM {table} WHERE scope = ? AND message_offset < ? AND at < NOW() - INTERVAL {micros} MICROSECOND \
             LIMIT {most}"
        )
    }

    async fn connect(&self, _: Role, open: Open, deadline: Instant) -> Result<Connection, Fault> {
        let Some(server) = &self.server else {
            return Err(Fault::new("internal", "a server without an address"));
        };
        let (wire, logged_in) = server.log_in(deadline).await?;
        let server = server.clone();
        Ok(Connection::new(
            wire,
            logged_in,
            server,
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

    /// MySQL undoes a failed statement alone, but a deadlock ends the transaction.
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
            None => None,
            Some(Isolation::ReadCommitted) => Some("READ COMMITTED"),
            Some(Isolation::RepeatableRead) => Some("REPEATABLE READ"),
            Some(Isolation::Serializable) => Some("SERIALIZABLE"),
        };
        if let Some(isolation) = isolation {
            // Of the next transaction alone.
            let text = format!("SET TRANSACTION ISOLATION LEVEL {isolation}");
            self.command(&text).await.map_err(Failed::fault)?;
        }
        let text = if begin.is_read_only {
            "START TRANSACTION READ ONLY"
        } else {
            "START TRANSACTION"
        };
        let result = self.command(text).await.map_err(Failed::fault);
        match result {
            Ok(()) => self.begun(begin.is_read_only),
            // The level would be that of the next one.
            Err(_) => self.give_up(),
        }
        result
    }

    async fn commit(&mut self) -> Result<(), NotCommitted> {
        match self.command("COMMIT").await {
            Ok(()) => {
                self.begun(false);
                Ok(())
            }
            Err(Failed::Broken(broken)) => Err(NotCommitted::Unanswered(
                Failed::Broken(broken).fault().message,
            )),
            // The server ends, before or after it has committed.
            Err(Failed::Reported(reported)) if reported.leaves_open() => {
                self.give_up();
                Err(NotCommitted::Unanswered(reported.fault().message))
            }
            Err(failed) => Err(NotCommitted::Refused(failed.fault())),
        }
    }

    async fn rollback(&mut self) -> Result<(), Fault> {
        self.command("ROLLBACK").await.map_err(Failed::fault)?;
        self.begun(false);
        Ok(())
    }

    async fn make_once_table(&mut self, table: &[String]) -> Result<(), Fault> {
        let name = inserting::table(table);
        match self.command(&format!("SELECT 1 FROM {name} LIMIT 0")).await {
            Ok(()) => return Ok(()),
            Err(failed) => {
                let fault = failed.fault();
                if fault.kind != "notFound" {
                    return Err(fault);
                }
            }
        }
        let text = format!(
            "CREATE TABLE IF NOT EXISTS {name} (id varchar(255) PRIMARY KEY, scope varchar(255) NOT NULL, message_offset bigint \
             NOT NULL, at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, KEY (scope, at)) ENGINE = InnoDB CHARACTER SET \
             utf8mb4 COLLATE utf8mb4_bin"
        );
        self.command(&text).await.map_err(|failed| {
            let fault = failed.fault();
            let message = format!(
                "the table of `once` cannot be made: {}; run as its owner: {text}",
                fault.message
            );
            Fault { message, ..fault }
        })
    }

    async fn abandon(self) {
        self.abandon().await;
    }
}
