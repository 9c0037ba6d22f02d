//! One connection to a server of MySQL or MariaDB: an exchange at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::decode::{self, Column};
use super::encode;
use super::exchange::{Event, Exchange, Phase, Prepared};
use super::faults::Reported;
use super::log_in::{LoggedIn, QUIT, Server, query};
use super::statements::{Statements, is_kept};
use super::wire::{Broken, PACKET_MAX, Wire, unexpected};
use crate::config::{Sql as Settings, Timestamps};
use crate::outgoing::pool::{Open, Reusable};
use crate::outgoing::sockets::stream::Stream;
use crate::outgoing::sql::driver::{Bounds, Outcome, VALUE_BYTES, row_too_large};
use crate::wait::Fault;
use crate::wait::sql::Statement;

const PREPARE: u8 = 0x16;
const CLOSE: u8 = 0x19;
const PING: &[u8] = &[0x0E];
/// The time between two requests to end a statement.
const AGAIN: Duration = Duration::from_millis(250);
/// The longest row that is read to be thrown away.
const ROW_MAX: usize = 1 << 30;

/// What statements need of the configuration.
#[derive(Clone, Copy, Debug)]
struct Mode {
    timestamps: Timestamps,
    prepare: bool,
}

pub(in crate::outgoing::sql) struct Connection {
    wire: Wire<Stream>,
    exchange: Exchange,
    server: Arc<Server>,
    logged_in: LoggedIn,
    mode: Mode,
    statements: Statements,
    /// The server has rolled the transaction back, and the call does not know it yet.
    has_failed: bool,
    /// The transaction only reads.
    only_reads: bool,
    /// The server ends the connection.
    is_ended: bool,
    _open: Open,
}

/// Why an exchange has no result.
#[derive(Debug)]
pub(super) enum Failed {
    /// The connection is of no use any more.
    Broken(Broken),
    /// The server says so.
    Reported(Reported),
    /// An argument, or the statement, is wrong.
    Fault(Fault),
}

impl From<Broken> for Failed {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl Failed {
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::Fault(Fault::new("invalid", message))
    }

    pub(super) fn fault(self) -> Fault {
        match self {
            Self::Broken(Broken::Closed(reason)) => {
                let message = format!(
                    "the connection ended before the result: {reason}; the statement may have run"
                );
                Fault::new("closed", message)
            }
            Self::Broken(Broken::TooLarge) => row_too_large(),
            Self::Broken(Broken::Unexpected(what)) => {
                let message = format!("the server does not speak as MySQL: {what}");
                Fault::new("closed", message)
            }
            Self::Reported(reported) => reported.fault(),
            Self::Fault(fault) => fault,
        }
    }
}

/// The rows of a result, as they come.
struct Reading {
    bounds: Bounds,
    is_prepared: bool,
    /// Results that have begun. Of a procedure with several the first one counts.
    results: usize,
    columns: Vec<Column>,
    bytes: usize,
    outcome: Outcome,
}

/// What follows a row.
enum Next {
    Read,
    /// The rest is not read, so the connection is of no use any more.
    Enough,
}

impl Reading {
    fn row(&mut self, body: &[u8], timestamps: Timestamps) -> Result<Next, Failed> {
        if self.results > 1 {
            return Ok(Next::Read);
        }
        self.outcome.count += 1;
        if self.bounds.only_count {
            return Ok(Next::Read);
        }
        // One row too many tells that there are more. What follows is thrown away, up to the bound of the result.
        let has_all = self.outcome.rows.len() > self.bounds.rows;
        self.bytes += body.len() + self.columns.len() * VALUE_BYTES;
        if self.bytes > self.bounds.bytes {
            return if has_all {
                Ok(Next::Enough)
            } else {
                Err(Failed::Fault(self.bounds.too_large()))
            };
        }
        if !has_all {
            let row = if self.is_prepared {
                decode::row(body, &self.columns, timestamps)
            } else {
                decode::text_row(body, &self.columns, timestamps)
            };
            self.outcome
                .rows
                .push(row.ok_or_else(|| unexpected("a row"))?);
        }
        Ok(Next::Read)
    }

    fn ended(mut self) -> Outcome {
        let names = self.columns.into_iter().map(|column| column.name);
        self.outcome.columns = names.collect();
        self.outcome
    }
}

impl Connection {
    pub(super) fn new(
        wire: Wire<Stream>,
        logged_in: LoggedIn,
        server: Arc<Server>,
        settings: &Settings,
        open: Open,
    ) -> Self {
        Self {
            wire,
            exchange: Exchange::new(),
            server,
            logged_in,
            mode: Mode {
                timestamps: settings.timestamps,
                prepare: settings.prepare,
            },
            statements: Statements::default(),
            has_failed: false,
            only_reads: false,
            is_ended: false,
            _open: open,
        }
    }

    pub(super) fn is_clean(&self) -> bool {
        self.exchange.is_idle() && !self.is_ended
    }

    /// Until the call knows that it is rolled back, it is one that has failed.
    pub(super) fn is_in_transaction(&self) -> bool {
        self.exchange.is_in_transaction() || self.has_failed
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    pub(super) fn packet_max(&self) -> usize {
        self.logged_in.packet_max
    }

    /// A transaction has begun or ended, by a command of ours.
    pub(super) fn begun(&mut self, only_reads: bool) {
        self.has_failed = false;
        self.only_reads = only_reads;
    }

    /// Nothing more is sent over it.
    pub(super) fn give_up(&mut self) {
        self.is_ended = true;
    }

    /// Sends a command. **From here on the connection is unclean**, until the answer has ended.
    async fn send(&mut self, phase: Phase, body: &[u8]) -> Result<(), Failed> {
        self.write(body)?;
        self.begin(phase).await
    }

    fn write(&mut self, body: &[u8]) -> Result<(), Failed> {
        if body.len() >= self.logged_in.packet_max {
            let (found, most) = (body.len(), self.logged_in.packet_max);
            let message = format!(
                "the statement has {found} bytes with its arguments, and `max_allowed_packet` of the server is {most}"
            );
            return Err(Failed::Fault(Fault::new("tooLarge", message)));
        }
        for id in self.statements.closing() {
            self.write_close(id);
        }
        self.wire.command(body);
        Ok(())
    }

    /// The server answers nothing to it.
    fn write_close(&mut self, id: u32) {
        let mut body = vec![CLOSE];
        body.extend_from_slice(&id.to_le_bytes());
        self.wire.command(&body);
    }

    async fn begin(&mut self, phase: Phase) -> Result<(), Failed> {
        self.exchange.begin(phase);
        self.wire.send().await?;
        Ok(())
    }

    async fn event(&mut self, most: usize) -> Result<Event<'_>, Broken> {
        let body = self.wire.receive(most).await?;
        self.exchange.step(body)
    }

    fn reported(&mut self, mut reported: Reported) -> Failed {
        self.is_ended |= reported.is_fatal();
        reported.only_reads = self.only_reads && self.is_in_transaction();
        Failed::Reported(reported)
    }

    /// Tells the server to end what it does for this connection, until it has, and closes it.
    pub(super) async fn abandon(mut self) {
        while !self.exchange.is_idle() && !self.wire.is_sending() {
            self.server.kill(&self.logged_in).await;
            // A request that comes before the statement begins is lost. What has been sent is read, so that the server
            // does not stand still at it.
            if timeout(AGAIN, self.until_idle()).await.is_ok() {
                break;
            }
        }
        if self.exchange.is_idle() && !self.is_ended {
            self.wire.command(QUIT);
            let _ = self.wire.send().await;
        }
        self.wire.shut_down().await;
    }

    async fn until_idle(&mut self) -> Result<(), Broken> {
        while !self.exchange.is_idle() {
            self.event(ROW_MAX).await?;
        }
        Ok(())
    }

    /// Runs a statement, and once more where it had to be prepared again.
    pub(super) async fn run(
        &mut self,
        statement: &Statement,
        bounds: Bounds,
    ) -> Result<Outcome, Failed> {
        if self.has_failed {
            let message = "an earlier statement of the transaction has failed, and the server has rolled it back";
            return Err(Failed::invalid(message));
        }
        let was_idle = !self.is_in_transaction();
        let first = self.try_to_run(statement, bounds).await;
        match first {
            Err(Failed::Reported(reported)) if reported.is_stale() => {
                self.statements.forget(&statement.text);
                // In a transaction nothing can be repeated.
                if was_idle && self.is_clean() {
                    self.try_to_run(statement, bounds).await
                } else {
                    Err(Failed::Reported(reported))
                }
            }
            Err(Failed::Reported(reported)) if !was_idle => {
                self.look_at_transaction(&reported).await?;
                Err(Failed::Reported(reported))
            }
            first => first,
        }
    }

    /// An error packet says nothing of the transaction, which the server may have ended.
    async fn look_at_transaction(&mut self, reported: &Reported) -> Result<(), Failed> {
        if !self.is_clean() {
            return Ok(());
        }
        self.send(Phase::Answer, PING).await?;
        self.until_idle().await?;
        let is_over = !self.exchange.is_in_transaction();
        self.has_failed = reported.is_deadlock() || is_over && reported.may_roll_back();
        Ok(())
    }

    async fn try_to_run(
        &mut self,
        statement: &Statement,
        bounds: Bounds,
    ) -> Result<Outcome, Failed> {
        let Statement {
            text, arguments, ..
        } = statement;
        let keep = statement.prepare.unwrap_or(self.mode.prepare) && is_kept(text);
        if !keep && arguments.is_empty() {
            return self.query(text, bounds).await;
        }
        let prepared = match self.statements.known(text) {
            Some(prepared) if keep => prepared,
            _ => match self.prepare(text, keep).await {
                Err(Failed::Reported(one)) if one.is_unpreparable() && arguments.is_empty() => {
                    return self.query(text, bounds).await;
                }
                prepared => prepared?,
            },
        };
        let body = encode::execute(prepared, arguments).map_err(Failed::invalid);
        let sent = match body {
            Ok(body) => self.execute(&body, (!keep).then_some(prepared)).await,
            Err(failed) => Err(failed),
        };
        if let Err(failed) = sent {
            if !keep {
                self.statements.close(prepared);
            }
            return Err(failed);
        }
        self.result(true, bounds).await
    }

    /// Sends the command that runs a prepared statement, and the one that closes it behind that.
    async fn execute(&mut self, body: &[u8], closing: Option<Prepared>) -> Result<(), Failed> {
        self.write(body)?;
        if let Some(prepared) = closing {
            self.write_close(prepared.id);
        }
        self.begin(Phase::Answer).await
    }

    /// Runs a statement by its text alone.
    async fn query(&mut self, text: &str, bounds: Bounds) -> Result<Outcome, Failed> {
        self.send(Phase::Answer, &query(text)).await?;
        self.result(false, bounds).await
    }

    /// Statements of our own, without arguments and rows.
    pub(super) async fn command(&mut self, text: &str) -> Result<(), Failed> {
        let bounds = Bounds {
            rows: 0,
            bytes: 0,
            only_count: true,
        };
        self.query(text, bounds).await.map(drop)
    }

    async fn prepare(&mut self, text: &str, keep: bool) -> Result<Prepared, Failed> {
        let (prepared, _) = self.described(text).await?;
        if keep {
            self.statements.keep(text, prepared);
        }
        Ok(prepared)
    }

    /// Prepares a statement, and reads its columns.
    async fn described(&mut self, text: &str) -> Result<(Prepared, Vec<Column>), Failed> {
        let body = [&[PREPARE], text.as_bytes()].concat();
        self.send(Phase::Prepare, &body).await?;
        let (mut prepared, mut columns) = (None, Vec::new());
        let is_extended = self.logged_in.is_extended;
        while !self.exchange.is_idle() {
            match self.event(PACKET_MAX).await? {
                Event::Failed(reported) => return Err(self.reported(reported)),
                Event::Prepared(found) => prepared = Some(found),
                Event::Column(body) => {
                    let column = decode::column(body, is_extended);
                    columns.push(column.ok_or_else(|| unexpected("a column"))?);
                }
                _ => {}
            }
        }
        let prepared = prepared.ok_or_else(|| unexpected("a prepared statement"))?;
        Ok((prepared, columns))
    }

    /// The columns of a statement, which does not run.
    pub(super) async fn columns(&mut self, text: &str) -> Result<Vec<Column>, Failed> {
        let (prepared, columns) = self.described(text).await?;
        self.statements.close(prepared);
        Ok(columns)
    }

    async fn result(&mut self, is_prepared: bool, bounds: Bounds) -> Result<Outcome, Failed> {
        let (timestamps, is_extended) = (self.mode.timestamps, self.logged_in.is_extended);
        let mut reading = Reading {
            bounds,
            is_prepared,
            results: 0,
            columns: Vec::new(),
            bytes: 0,
            outcome: Outcome::default(),
        };
        while !self.exchange.is_idle() {
            match self.event(bounds.bytes.max(PACKET_MAX)).await? {
                Event::Failed(reported) => return Err(self.reported(reported)),
                Event::Done(changed) if reading.results == 0 => reading.outcome.count = changed,
                Event::Result => reading.results += 1,
                Event::Column(body) if reading.results == 1 => {
                    let column = decode::column(body, is_extended);
                    reading
                        .columns
                        .push(column.ok_or_else(|| unexpected("a column"))?);
                }
                Event::Row(body) => match reading.row(body, timestamps)? {
                    Next::Read => {}
                    Next::Enough => break,
                },
                _ => {}
            }
        }
        Ok(reading.ended())
    }
}

impl Reusable for Connection {
    fn is_usable(&mut self) -> bool {
        self.is_clean()
            && !self.is_in_transaction()
            && self.exchange.commits_each()
            && self.wire.is_quiet()
    }
}
