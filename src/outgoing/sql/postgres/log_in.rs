//! From the address of a server to a connection that is logged in, until a deadline.

use bytes::BytesMut;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::authentication::{self, broken, next};
use super::wire::{Wire, unexpected};
use crate::config::Postgres as Settings;
use crate::outgoing::sockets::dialer::{self, Dialer};
use crate::outgoing::sockets::dialing::{Until, unreachable};
use crate::outgoing::sockets::stream::Stream;
use crate::wait::Fault;

/// A server, and how it is reached.
pub(super) struct Server {
    pub(super) settings: Settings,
    dialer: Dialer,
}

/// What the server tells at the log-in.
#[derive(Debug, Default)]
pub(super) struct LoggedIn {
    /// By which it takes a cancel request.
    pub(super) process: i32,
    pub(super) secret: i32,
}

impl Server {
    pub(super) fn new(settings: &Settings, dialer: Dialer) -> Self {
        Self {
            settings: settings.clone(),
            dialer,
        }
    }

    pub(super) async fn log_in(
        &self,
        deadline: Instant,
    ) -> Result<(Wire<Stream>, LoggedIn), Fault> {
        let address = &self.settings.address;
        let connect = |until: Until| async move {
            let stream = self.stream(until).await?;
            let end_point = stream.server_end_point();
            let mut wire = Wire::new(stream);
            let logging_in = log_in(&self.settings, &mut wire, end_point);
            let logged_in = dialer::logged_in(address, until, logging_in).await?;
            Ok((wire, logged_in))
        };
        self.dialer.attempt(address, Some(deadline), connect).await
    }

    /// A socket to it, with TLS where that is set.
    async fn stream(&self, until: Until) -> Result<Stream, Fault> {
        let address = &self.settings.address;
        let mut socket = self.dialer.socket(address, until).await?;
        if self.dialer.has_tls() {
            let what = format!("the answer of {address} to the request for TLS");
            let asked = until.wait(&what, ask_for_tls(&mut socket)).await?;
            let has_tls =
                asked.map_err(|error| unreachable(format!("{what} did not come: {error}")))?;
            if !has_tls {
                let message = format!("{address} has no TLS; `tls` of its table asks for it");
                return Err(unreachable(message));
            }
        }
        self.dialer.secured(address, socket, until).await
    }

    /// Tells the server to give up what the connection does, over a connection of its own. It may do so later.
    pub(super) async fn cancel(&self, logged_in: &LoggedIn) {
        if logged_in.process == 0 {
            return;
        }
        let until = self.dialer.until(None);
        let Ok(mut stream) = self.stream(until).await else {
            return;
        };
        let mut request = BytesMut::new();
        frontend::cancel_request(logged_in.process, logged_in.secret, &mut request);
        if stream.write_all(&request).await.is_ok() && stream.flush().await.is_ok() {
            // The server closes it when the signal is on its way.
            let mut end = [0];
            let _ = timeout_at(until.at, stream.read(&mut end)).await;
        }
    }
}

async fn ask_for_tls(socket: &mut TcpStream) -> std::io::Result<bool> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await?;
    // What follows the answer is the handshake's, so no byte more is read.
    Ok(socket.read_u8().await? == b'S')
}

/// `end_point` is the hash of the certificate of the server.
async fn log_in(
    settings: &Settings,
    wire: &mut Wire<Stream>,
    end_point: Option<Vec<u8>>,
) -> Result<LoggedIn, Fault> {
    let mut parameters = vec![
        ("user", settings.user.as_str()),
        ("database", &settings.database),
        ("application_name", &settings.application),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO"),
    ];
    if let Some(options) = &settings.options {
        parameters.push(("options", options));
    }
    let output = &mut wire.output;
    let written = output.try_push(|buffer| frontend::startup_message(parameters, buffer));
    written.map_err(broken)?;
    wire.send().await.map_err(broken)?;
    authentication::authenticate(settings, wire, end_point).await?;
    let mut logged_in = LoggedIn::default();
    loop {
        let (letter, message) = next(wire).await?;
        match message {
            Message::BackendKeyData(body) => {
                logged_in.process = body.process_id();
                logged_in.secret = body.secret_key();
            }
            Message::ReadyForQuery(_) => return Ok(logged_in),
            Message::ParameterStatus(_) => {}
            _ => return Err(broken(unexpected("the log-in", letter))),
        }
    }
}
