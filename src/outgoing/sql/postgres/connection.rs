//! One connection to a PostgreSQL server: an exchange at a time, by the extended protocol.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::backend::{DataRowBody, Message, RowDescriptionBody};
use postgres_protocol::message::frontend::{self, BindError};
use tokio::time::timeout;

use super::decode::{self, Column};
use super::encode::{Parameter, parameter};
use super::failed::{Failed, reported};
use super::faults::{self, Reported};
use super::log_in::{LoggedIn, Server};
use super::statements::{Known, Statements};
use super::wire::{Broken, MESSAGE_MAX, Wire, unexpected};
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
            let _ = output.try_push(|buffer| frontend::copy_fail("given up", buffer));
            output.push(frontend::sync);
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
            self.wire.output.push(frontend::terminate);
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
        self.bind(&known, &parameters, bounds)?;
        self.send().await?;
        self.result(&known, bounds).await
    }

    /// Prepares a statement, and learns its parameters and columns. The exchange goes on: a pool in front of the server
    /// would otherwise give the next part to another connection.
    pub(super) async fn prepare(&mut self, text: &str, keep: bool) -> Result<Known, Failed> {
        let output = &mut self.wire.output;
        let name = self.statements.name(text, keep, output)?;
        output.try_push(|buffer| frontend::parse(&name, text, [], buffer))?;
        output.try_push(|buffer| frontend::describe(b'S', &name, buffer))?;
        output.push(frontend::flush);
        self.send().await?;
        let mut parameters: Vec<u32> = Vec::new();
        loop {
            let (letter, message) = self.wire.receive(MESSAGE_MAX).await?;
            let columns = match message {
                Message::ErrorResponse(body) => {
                    let reported = faults::read(&body);
                    return Err(self.failed(reported).await);
                }
                Message::ParameterDescription(body) => {
                    let types = body.parameters().collect();
                    parameters = types.map_err(Broken::Malformed)?;
                    continue;
                }
                Message::RowDescription(body) => columns(&body).map_err(Broken::Malformed)?,
                Message::NoData => Vec::new(),
                Message::ParseComplete
                | Message::CloseComplete
                | Message::NoticeResponse(_)
                | Message::ParameterStatus(_)
                | Message::NotificationResponse(_) => continue,
                _ => return Err(unexpected("the description of a statement", letter).into()),
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

    fn bind(
        &mut self,
        known: &Known,
        parameters: &[Parameter],
        bounds: Bounds,
    ) -> Result<(), Broken> {
        let timestamps = self.mode.timestamps;
        let formats = parameters.iter().map(|one| i16::from(one.is_binary()));
        let of_columns = known
            .columns
            .iter()
            .map(|column| i16::from(decode::is_binary(column.oid, timestamps)));
        let output = &mut self.wire.output;
        output.try_push(|buffer| {
            let written = frontend::bind(
                "",
                &known.name,
                formats,
                parameters,
                |parameter: &Parameter, buffer| Ok(parameter.write(buffer)),
                of_columns,
                buffer,
            );
            written.map_err(|error| match error {
                BindError::Serialization(error) => error,
                BindError::Conversion(error) => io::Error::other(error),
            })
        })?;
        // One row too many tells that there are more.
        let most = if bounds.only_count || known.columns.is_empty() {
            0
        } else {
            bounds.rows as u32 + 1
        };
        output.try_push(|buffer| frontend::execute("", most as i32, buffer))?;
        output.push(frontend::sync);
        Ok(())
    }

    /// The end of the exchange without a result.
    pub(super) async fn sync(&mut self) -> Result<(), Failed> {
        self.wire.output.push(frontend::sync);
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
            let (_, message) = self.wire.receive(MESSAGE_MAX).await?;
            if let Message::ReadyForQuery(body) = message {
                self.ready(body.status());
                return Ok(());
            }
        }
    }

    fn ready(&mut self, state: u8) {
        self.state = state;
        self.is_clean = true;
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
            let (letter, message) = self.wire.receive(bounds.bytes.max(MESSAGE_MAX)).await?;
            match message {
                Message::DataRow(_) if bounds.only_count => {}
                Message::DataRow(body) => {
                    bytes += body.buffer().len() + known.columns.len() * VALUE_BYTES;
                    if bytes > bounds.bytes {
                        // The rest is not read, so the connection is of no use any more.
                        return Err(Failed::Fault(bounds.too_large()));
                    }
                    let row = row(&body, &known.columns, timestamps);
                    let row = row.ok_or_else(|| unexpected("a row", letter))?;
                    outcome.rows.push(row);
                }
                Message::CommandComplete(body) => {
                    outcome.count = count(body.tag().map_err(Broken::Malformed)?);
                }
                Message::ErrorResponse(body) => {
                    // Behind the refusal of a COPY it says no more.
                    wrong = wrong.or(Some(Failed::Reported(reported(&body)?)));
                }
                Message::CopyInResponse(_) => {
                    let output = &mut self.wire.output;
                    output.try_push(|buffer| frontend::copy_fail("no data", buffer))?;
                    // The server has ended the exchange at this message, and wants another end.
                    output.push(frontend::sync);
                    self.send().await?;
                    let message = "COPY FROM STDIN is not possible here; `insert` copies rows";
                    wrong = Some(Failed::Fault(Fault::new("invalid", message)));
                }
                Message::CopyOutResponse(_) => {
                    let message = "COPY TO STDOUT is not possible here; write a query";
                    wrong = Some(Failed::Fault(Fault::new("invalid", message)));
                }
                Message::ReadyForQuery(body) => {
                    self.ready(body.status());
                    return match wrong {
                        Some(wrong) => Err(wrong),
                        None => Ok(outcome),
                    };
                }
                Message::BindComplete
                | Message::CloseComplete
                | Message::EmptyQueryResponse
                | Message::PortalSuspended
                | Message::CopyData(_)
                | Message::CopyDone
                | Message::NoticeResponse(_)
                | Message::ParameterStatus(_)
                | Message::NotificationResponse(_) => {}
                _ => return Err(unexpected("a result", letter).into()),
            }
        }
    }

    pub(super) fn known(&mut self, text: &str) -> Option<Known> {
        self.statements.known(text)
    }

    /// Statements of our own, without arguments and rows.
    pub(super) fn begin_command(&mut self, text: &str) -> Result<(), Broken> {
        let output = &mut self.wire.output;
        output.try_push(|buffer| frontend::query(text, buffer))
    }

    /// Runs such statements. Returns the tag of the last one.
    pub(super) async fn command(&mut self, text: &str) -> Result<String, Failed> {
        self.begin_command(text)?;
        self.send().await?;
        self.tag().await
    }

    /// The end of such statements.
    pub(super) async fn tag(&mut self) -> Result<String, Failed> {
        let (mut tag, mut wrong) = (String::new(), None);
        loop {
            let (letter, message) = self.wire.receive(MESSAGE_MAX).await?;
            match message {
                Message::CommandComplete(body) => {
                    body.tag().map_err(Broken::Malformed)?.clone_into(&mut tag);
                }
                Message::ErrorResponse(body) => wrong = Some(reported(&body)?),
                Message::ReadyForQuery(body) => {
                    self.ready(body.status());
                    return match wrong {
                        Some(reported) => Err(Failed::Reported(reported)),
                        None => Ok(tag),
                    };
                }
                Message::RowDescription(_)
                | Message::DataRow(_)
                | Message::EmptyQueryResponse
                | Message::NoticeResponse(_)
                | Message::ParameterStatus(_)
                | Message::NotificationResponse(_) => {}
                _ => return Err(unexpected("a command", letter).into()),
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

fn columns(body: &RowDescriptionBody) -> io::Result<Vec<Column>> {
    let fields = body.fields().map(|field| {
        Ok(Column {
            name: field.name().as_bytes().into(),
            oid: field.type_oid(),
        })
    });
    fields.collect()
}

/// `None` where it has other columns.
fn row(body: &DataRowBody, columns: &[Column], timestamps: Timestamps) -> Option<Vec<Value>> {
    let mut ranges = body.ranges();
    let mut values = Vec::with_capacity(columns.len());
    for column in columns {
        values.push(match ranges.next().ok()?? {
            Some(range) => decode::value(column.oid, body.buffer().get(range)?, timestamps),
            None => Value::Nil,
        });
    }
    matches!(ranges.next(), Ok(None)).then_some(values)
}

/// The number of rows at the end of a tag: `INSERT 0 5`.
fn count(tag: &str) -> u64 {
    let last = tag.rsplit(' ').next();
    last.and_then(|last| last.parse().ok()).unwrap_or_default()
}
