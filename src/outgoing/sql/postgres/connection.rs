//! One connection to a PostgreSQL server: an exchange at a time, by the extended protocol.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::decode::{self, Column};
use super::encode::{Parameter, parameter};
use super::faults::{self, Reported};
use super::log_in::{LoggedIn, Server};
use super::statements::{Known, Statements};
use super::wire::{Broken, MESSAGE_MAX, Parts, Wire, string, unexpected};
use crate::config::{Sql as Settings, Timestamps};
use crate::outgoing::pool::{Open, Reusable};
use crate::outgoing::sockets::stream::Stream;
use crate::outgoing::sql::driver::{Bounds, Outcome, VALUE_BYTES};
use crate::wait::sql::Statement;
use crate::wait::{Fault, Value};

/// The time between two requests to cancel.
const AGAIN: Duration = Duration::from_millis(250);

/// What statements need of the configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode {
    pub(super) timestamps: Timestamps,
    pub(super) prepare: bool,
}

pub(in crate::outgoing::sql) struct Connection {
    pub(super) wire: Wire<Stream>,
    server: Arc<Server>,
    logged_in: LoggedIn,
    mode: Mode,
    statements: Statements,
    /// The last exchange has ended.
    is_clean: bool,
    /// Of the server: `I` idle, `T` in a transaction, `E` in one that has failed.
    state: u8,
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
    pub(super) fn fault(self) -> Fault {
        match self {
            Self::Broken(Broken::Closed(reason)) => {
                let message = format!(
                    "the connection ended before the result: {reason}; the statement may have run"
                );
                Fault::new("closed", message)
            }
            Self::Broken(Broken::TooLarge) => too_large_message(),
            Self::Broken(Broken::Unexpected(what)) => {
                let message = format!("the server does not speak as PostgreSQL: {what}");
                Fault::new("closed", message)
            }
            Self::Reported(reported) => reported.fault(),
            Self::Fault(fault) => fault,
        }
    }
}

fn too_large_message() -> Fault {
    Fault::new("tooLarge", "a row is larger than `maxResult` allows")
}

fn too_large(bounds: Bounds) -> Fault {
    let message = format!(
        "the result has more than {} bytes, which `maxResult` of the table allows; read it in parts, by LIMIT",
        bounds.bytes
    );
    Fault::new("tooLarge", message)
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
            server,
            logged_in,
            mode: Mode {
                timestamps: settings.timestamps,
                prepare: settings.prepare,
            },
            statements: Statements::default(),
            is_clean: true,
            state: b'I',
            _open: open,
        }
    }

    pub(super) fn is_clean(&self) -> bool {
        self.is_clean
    }

    pub(super) fn is_in_transaction(&self) -> bool {
        self.state != b'I'
    }

    pub(super) fn has_failed(&self) -> bool {
        self.state == b'E'
    }

    /// Sends what is written. **From here on the connection is unclean**, until the server waits for the next exchange.
    pub(super) async fn send(&mut self) -> Result<(), Broken> {
        self.is_clean = false;
        self.wire.send().await
    }

    /// Tells the server to end what it does for this connection, until it has, and closes it.
    pub(super) async fn abandon(mut self) {
        if !self.is_clean && !self.wire.is_sending() {
            // Ends a COPY or an exchange that waits for its next part; otherwise the server ignores it.
            let output = &mut self.wire.output;
            output.message(b'f', |body| string(body, b"given up"));
            output.message(b'S', |_| {});
            let _ = self.wire.send().await;
            loop {
                self.server.cancel(&self.logged_in).await;
                // A request that comes before the statement begins is lost. What has been sent is read, so that the
                // server does not stand still at it.
                if timeout(AGAIN, self.until_ready()).await.is_ok() {
                    break;
                }
            }
        }
        if !self.wire.is_sending() {
            self.wire.output.message(b'X', |_| {});
            let _ = self.wire.send().await;
        }
        self.wire.shut_down().await;
    }

    /// Runs a statement, and once more where it had to be prepared again.
    pub(super) async fn run(
        &mut self,
        statement: &Statement,
        bounds: Bounds,
    ) -> Result<Outcome, Failed> {
        let was_idle = !self.is_in_transaction();
        let first = self.try_to_run(statement, bounds).await;
        match first {
            Err(Failed::Reported(reported)) if reported.is_stale() => {
                self.statements.forget(&statement.text);
                // In a transaction nothing can be repeated.
                if was_idle && self.is_clean {
                    self.try_to_run(statement, bounds).await
                } else {
                    Err(Failed::Reported(reported))
                }
            }
            first => first,
        }
    }

    async fn try_to_run(
        &mut self,
        statement: &Statement,
        bounds: Bounds,
    ) -> Result<Outcome, Failed> {
        let keep = statement.prepare.unwrap_or(self.mode.prepare);
        let known = match self.statements.known(&statement.text) {
            Some(known) if keep => known,
            _ => self.prepare(&statement.text, keep).await?,
        };
        let parameters = match parameters(&known.parameters, &statement.arguments) {
            Ok(parameters) => parameters,
            Err(message) => {
                // The server waits for the rest of the exchange, which is its end.
                self.sync().await?;
                return Err(Failed::Fault(Fault::new("invalid", message)));
            }
        };
        self.bind(&known, &parameters, bounds);
        self.send().await?;
        self.result(&known, bounds).await
    }

    /// Prepares a statement, and learns its parameters and columns. The exchange goes on: a pool in front of the server
    /// would otherwise give the next part to another connection.
    pub(super) async fn prepare(&mut self, text: &str, keep: bool) -> Result<Known, Failed> {
        let name = self.statements.name(text, keep, &mut self.wire.output);
        let output = &mut self.wire.output;
        output.message(b'P', |body| {
            string(body, name.as_bytes());
            string(body, text.as_bytes());
            body.extend_from_slice(&[0; 2]);
        });
        output.message(b'D', |body| {
            body.push(b'S');
            string(body, name.as_bytes());
        });
        output.message(b'H', |_| {});
        self.send().await?;
        let mut parameters = Vec::new();
        loop {
            let (letter, body) = self.wire.receive(MESSAGE_MAX).await?;
            let columns = match letter {
                b'E' => {
                    let reported = faults::read(body);
                    return Err(self.failed(reported).await);
                }
                b't' => {
                    let mut parts = Parts(body);
                    let count = parts.u16().unwrap_or_default();
                    parameters = (0..count).filter_map(|_| parts.u32()).collect();
                    continue;
                }
                b'T' => columns(body).ok_or_else(|| unexpected("the columns", letter))?,
                b'n' => Vec::new(),
                // Parsed, closed; a notice, a setting, a notification.
                b'1' | b'3' | b'N' | b'S' | b'A' => continue,
                letter => return Err(unexpected("the description of a statement", letter).into()),
            };
            let known = Known {
                name,
                parameters: parameters.into(),
                columns: columns.into(),
            };
            if keep {
                self.statements.keep(text, known.clone());
            }
            return Ok(known);
        }
    }

    fn bind(&mut self, known: &Known, parameters: &[Parameter], bounds: Bounds) {
        let timestamps = self.mode.timestamps;
        let output = &mut self.wire.output;
        output.message(b'B', |body| {
            body.push(0);
            string(body, known.name.as_bytes());
            let count = (parameters.len() as u16).to_be_bytes();
            body.extend_from_slice(&count);
            for parameter in parameters {
                let is_binary = matches!(parameter, Parameter::Binary(_));
                body.extend_from_slice(&u16::from(is_binary).to_be_bytes());
            }
            body.extend_from_slice(&count);
            for parameter in parameters {
                match parameter {
                    Parameter::Null => body.extend_from_slice(&(-1i32).to_be_bytes()),
                    Parameter::Text(bytes) | Parameter::Binary(bytes) => {
                        body.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
                        body.extend_from_slice(bytes);
                    }
                }
            }
            body.extend_from_slice(&(known.columns.len() as u16).to_be_bytes());
            for column in &*known.columns {
                let is_binary = decode::is_binary(column.oid, timestamps);
                body.extend_from_slice(&u16::from(is_binary).to_be_bytes());
            }
        });
        // One row too many tells that there are more.
        let most = if bounds.only_count || known.columns.is_empty() {
            0
        } else {
            bounds.rows as u32 + 1
        };
        output.message(b'E', |body| {
            body.push(0);
            body.extend_from_slice(&most.to_be_bytes());
        });
        output.message(b'S', |_| {});
    }

    /// The end of the exchange without a result.
    pub(super) async fn sync(&mut self) -> Result<(), Failed> {
        self.wire.output.message(b'S', |_| {});
        self.send().await?;
        self.until_ready().await
    }

    /// The error of the server, once the exchange has ended.
    pub(super) async fn failed(&mut self, reported: Reported) -> Failed {
        if reported.is_fatal {
            return Failed::Reported(reported);
        }
        match self.sync().await {
            Ok(()) => Failed::Reported(reported),
            Err(failed) => failed,
        }
    }

    /// Reads until the server waits for the next exchange.
    pub(super) async fn until_ready(&mut self) -> Result<(), Failed> {
        loop {
            let (letter, body) = self.wire.receive(MESSAGE_MAX).await?;
            if letter == b'Z' {
                self.state = body.first().copied().unwrap_or(b'I');
                self.is_clean = true;
                return Ok(());
            }
        }
    }

    async fn result(&mut self, known: &Known, bounds: Bounds) -> Result<Outcome, Failed> {
        let timestamps = self.mode.timestamps;
        let mut outcome = Outcome {
            columns: known
                .columns
                .iter()
                .map(|column| column.name.clone())
                .collect(),
            ..Outcome::default()
        };
        let (mut bytes, mut wrong) = (0, None);
        loop {
            let (letter, body) = self.wire.receive(bounds.bytes.max(MESSAGE_MAX)).await?;
            match letter {
                b'D' if bounds.only_count => {}
                b'D' => {
                    bytes += body.len() + known.columns.len() * VALUE_BYTES;
                    if bytes > bounds.bytes {
                        // The rest is not read, so the connection is of no use any more.
                        return Err(Failed::Fault(too_large(bounds)));
                    }
                    let row = row(body, &known.columns, timestamps);
                    outcome
                        .rows
                        .push(row.ok_or_else(|| unexpected("a row", letter))?);
                }
                b'C' => outcome.count = count(body),
                b'E' => {
                    let reported = faults::read(body);
                    if reported.is_fatal {
                        return Err(Failed::Reported(reported));
                    }
                    // Behind the refusal of a COPY it says no more.
                    wrong = wrong.or(Some(Failed::Reported(reported)));
                }
                b'G' => {
                    self.wire
                        .output
                        .message(b'f', |body| string(body, b"no data"));
                    // The server has ended the exchange at this message, and wants another end.
                    self.wire.output.message(b'S', |_| {});
                    self.send().await?;
                    let message = "COPY FROM STDIN is not possible here; `insert` copies rows";
                    wrong = Some(Failed::Fault(Fault::new("invalid", message)));
                }
                b'H' => {
                    let message = "COPY TO STDOUT is not possible here; write a query";
                    wrong = Some(Failed::Fault(Fault::new("invalid", message)));
                }
                b'Z' => {
                    self.state = body.first().copied().unwrap_or(b'I');
                    self.is_clean = true;
                    return match wrong {
                        Some(wrong) => Err(wrong),
                        None => Ok(outcome),
                    };
                }
                // Bound, an empty statement, no more rows; data of a COPY and its end; a notice, a setting, a notification.
                b'2' | b'3' | b'I' | b's' | b'd' | b'c' | b'N' | b'S' | b'A' => {}
                letter => return Err(unexpected("a result", letter).into()),
            }
        }
    }

    pub(super) fn known(&mut self, text: &str) -> Option<Known> {
        self.statements.known(text)
    }

    /// Statements of our own, without arguments and rows.
    pub(super) fn begin_command(&mut self, text: &str) {
        self.wire
            .output
            .message(b'Q', |body| string(body, text.as_bytes()));
    }

    /// Runs such statements. Returns the tag of the last one.
    pub(super) async fn command(&mut self, text: &str) -> Result<String, Failed> {
        self.begin_command(text);
        self.send().await?;
        self.tag().await
    }

    /// The end of such statements.
    pub(super) async fn tag(&mut self) -> Result<String, Failed> {
        let (mut tag, mut wrong) = (String::new(), None);
        loop {
            let (letter, body) = self.wire.receive(MESSAGE_MAX).await?;
            match letter {
                b'C' => {
                    let text = Parts(body).string().unwrap_or_default();
                    tag = String::from_utf8_lossy(text).into_owned();
                }
                b'E' => {
                    let reported = faults::read(body);
                    if reported.is_fatal {
                        return Err(Failed::Reported(reported));
                    }
                    wrong = Some(reported);
                }
                b'Z' => {
                    self.state = body.first().copied().unwrap_or(b'I');
                    self.is_clean = true;
                    return match wrong {
                        Some(reported) => Err(Failed::Reported(reported)),
                        None => Ok(tag),
                    };
                }
                b'T' | b'D' | b'I' | b'N' | b'S' | b'A' => {}
                letter => return Err(unexpected("a command", letter).into()),
            }
        }
    }
}

impl Reusable for Connection {
    fn is_usable(&mut self) -> bool {
        self.is_clean && self.state == b'I' && self.wire.is_quiet()
    }
}

/// An error is the part of a sentence behind the statement.
fn parameters(oids: &[u32], arguments: &[Value]) -> Result<Vec<Parameter>, String> {
    if oids.len() != arguments.len() {
        let (takes, found) = (oids.len(), arguments.len());
        return Err(format!(
            "the statement has {takes} parameters, and the call has {found} arguments"
        ));
    }
    let all = oids.iter().zip(arguments).zip(1..);
    all.map(|((oid, value), number)| {
        parameter(*oid, value).map_err(|reason| format!("argument ${number} {reason}"))
    })
    .collect()
}

fn columns(body: &[u8]) -> Option<Vec<Column>> {
    let mut parts = Parts(body);
    let count = parts.u16()?;
    (0..count)
        .map(|_| {
            let name = parts.string()?.into();
            parts.bytes(6)?;
            let oid = parts.u32()?;
            parts.bytes(8)?;
            Some(Column { name, oid })
        })
        .collect()
}

fn row(body: &[u8], columns: &[Column], timestamps: Timestamps) -> Option<Vec<Value>> {
    let mut parts = Parts(body);
    if usize::from(parts.u16()?) != columns.len() {
        return None;
    }
    columns
        .iter()
        .map(|column| {
            let length = parts.u32()? as i32;
            if length < 0 {
                return Some(Value::Nil);
            }
            let bytes = parts.bytes(length as usize)?;
            Some(decode::value(column.oid, bytes, timestamps))
        })
        .collect()
}

/// The number of rows at the end of a tag: `INSERT 0 5`.
fn count(body: &[u8]) -> u64 {
    let tag = Parts(body).string().unwrap_or_default();
    let last = tag.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    std::str::from_utf8(last)
        .ok()
        .and_then(|last| last.parse().ok())
        .unwrap_or_default()
}
