//! From an address to a connection that is logged in, until a deadline.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use openssl::ssl::SslConnector;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::connection::{Connection, Pool};
use super::reply::Reply;
use super::{Client, command, faults};
use crate::config::{Address, Tls};
use crate::outgoing::back_off::BackOff;
use crate::outgoing::sockets::dialing::{Until, dial};
use crate::outgoing::sockets::stream::Stream;
use crate::outgoing::sockets::tls;
use crate::wait::Fault;
use crate::wait::redis::Command;

/// What the replies to a log-in may have.
const LOG_IN_BYTES: usize = 64 << 10;

fn unreachable(message: String) -> Fault {
    Fault::new("unreachable", message)
}

impl Client {
    /// A new connection. Its error says nothing of the call, whose command has not been sent.
    pub(super) async fn connect(
        &self,
        pool: &Arc<Pool>,
        address: &Address,
        deadline: Option<Instant>,
    ) -> Result<Connection, Fault> {
        let now = Instant::now();
        self.back_off().begin(address, now)?;
        let at = now + self.settings.connect_timeout;
        let at = deadline.map_or(at, |deadline| deadline.min(at));
        let within = Duration::from_millis((at - now).as_millis() as u64);
        pool.make_room();
        let connected = self.logged_in(pool, address, Until { at, within }).await;
        let mut back_off = self.back_off();
        match &connected {
            Ok(_) => back_off.succeeded(address),
            Err(fault) => back_off.failed(address, Instant::now(), fault),
        }
        connected
    }

    async fn logged_in(
        &self,
        pool: &Arc<Pool>,
        address: &Address,
        until: Until,
    ) -> Result<Connection, Fault> {
        let addresses = if let Ok(one) = address.host.parse() {
            vec![one]
        } else {
            let what = format!("the lookup of `{}`", address.host);
            let found = until.wait(&what, self.resolver.resolve(&address.host));
            let found = found.await?;
            found.map_err(|reason| unreachable(format!("{what} failed: {reason}")))?
        };
        let stream = dial(&addresses, address.port, until).await?;
        let open = pool.opened();
        let stream = match &self.settings.tls {
            None => Stream::Plain(stream),
            Some(tls) => self.secured(tls, address, stream, until).await?,
        };
        let mut connection = Connection::new(stream, open);
        let what = format!("the log-in at {address}");
        let log_in = log_in(&self.settings, &mut connection);
        until.wait(&what, log_in).await?.map_err(|fault| Fault {
            message: format!("{what} failed: {}", fault.message),
            ..fault
        })?;
        Ok(connection)
    }

    async fn secured(
        &self,
        tls: &Tls,
        address: &Address,
        stream: TcpStream,
        until: Until,
    ) -> Result<Stream, Fault> {
        let connector = self.connector(tls)?;
        let handshake = tls::connect(&connector, &address.host, stream);
        let what = format!("the TLS handshake with {address}");
        match until.wait(&what, handshake).await? {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err(tls::Failed::Untrusted(reason)) => Err(unreachable(format!(
                "the certificate of {address} is not valid: {reason}"
            ))),
            Err(tls::Failed::Other(reason)) => Err(unreachable(format!("{what} failed: {reason}"))),
        }
    }

    fn connector(&self, tls: &Tls) -> Result<SslConnector, Fault> {
        let mut made = self
            .connector
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(connector) = &*made {
            return Ok(connector.clone());
        }
        let connector = tls::connector(tls.ca.as_ref(), tls.certificate.as_ref())
            .map_err(|error| unreachable(format!("no TLS is possible here: {error}")))?;
        Ok(made.insert(connector).clone())
    }

    fn back_off(&self) -> MutexGuard<'_, BackOff> {
        self.back_off.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first commands of a connection. A server that accepts and never answers is found out here.
async fn log_in(settings: &super::Settings, connection: &mut Connection) -> Result<(), Fault> {
    let word = |word: &str| word.as_bytes().to_vec();
    let mut commands: Vec<Command> = Vec::new();
    if let Some(password) = &settings.password {
        let user = settings.user.as_deref().map(word);
        let credentials = user.into_iter().chain([word(&password.0)]);
        commands.push([word("AUTH")].into_iter().chain(credentials).collect());
    }
    if settings.database > 0 {
        commands.push(command::words(&format!("SELECT {}", settings.database)));
    }
    let mandatory = commands.len();
    // CLIENT LIST shows it.
    let name = format!("moontide:{}", settings.name);
    commands.push(command::words(&format!("CLIENT SETNAME {name}")));
    let mut bytes = Vec::new();
    command::write_all(&commands, &mut bytes);
    let mut left = LOG_IN_BYTES;
    let replies = connection.exchange(&bytes, commands.len(), &mut left);
    let replies = replies.await.map_err(|broken| Fault {
        kind: "unreachable",
        ..broken.fault(LOG_IN_BYTES)
    })?;
    for (reply, number) in replies.iter().zip(0..) {
        let Reply::Error(error) = reply else {
            continue;
        };
        let fault = faults::of_reply(error);
        // A server may know no names of clients, and refuse no connection for it.
        if number < mandatory || matches!(fault.kind, "unreachable" | "busy") {
            let kind = if fault.kind == "busy" {
                "busy"
            } else {
                "unreachable"
            };
            return Err(Fault { kind, ..fault });
        }
    }
    Ok(())
}
