//! From the address of a server to a connection that is logged in, until a deadline.

use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openssl::hash::MessageDigest;
use openssl::ssl::SslConnector;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::faults;
use super::scram::{self, Expecting, Scram};
use super::wire::{Broken, MESSAGE_MAX, Output, Parts, Wire, string, unexpected};
use crate::config::{Postgres as Settings, Tls};
use crate::outgoing::back_off::BackOff;
use crate::outgoing::sockets::dialing::{Until, dial};
use crate::outgoing::sockets::stream::Stream;
use crate::outgoing::sockets::tls;
use crate::outgoing::sql::Shared;
use crate::wait::Fault;

/// A server, and how it is reached.
pub(super) struct Server {
    pub(super) settings: Settings,
    connect_timeout: Duration,
    shared: Shared,
    back_off: Mutex<BackOff>,
    /// Made at the first use.
    connector: Mutex<Option<SslConnector>>,
}

/// What the server tells at the log-in.
#[derive(Debug, Default)]
pub(super) struct LoggedIn {
    /// By which it takes a cancel request.
    pub(super) process: u32,
    pub(super) secret: u32,
}

fn unreachable(message: String) -> Fault {
    Fault::new("unreachable", message)
}

impl Server {
    pub(super) fn new(settings: &Settings, connect_timeout: Duration, shared: &Shared) -> Self {
        Self {
            settings: settings.clone(),
            connect_timeout,
            shared: shared.clone(),
            back_off: Mutex::default(),
            connector: Mutex::default(),
        }
    }

    /// Its error says nothing of the call, whose statement has not been sent.
    pub(super) async fn log_in(
        &self,
        deadline: Instant,
    ) -> Result<(Wire<Stream>, LoggedIn), Fault> {
        let now = Instant::now();
        let address = &self.settings.address;
        self.back_off().begin(address, now)?;
        let at = deadline.min(now + self.connect_timeout);
        let within = Duration::from_millis((at - now).as_millis() as u64);
        let until = Until { at, within };
        let connected = match self.stream(until).await {
            Ok(stream) => {
                let what = format!("the log-in at {address}");
                let mut wire = Wire::new(stream);
                let logged_in = until.wait(&what, log_in(&self.settings, &mut wire)).await;
                logged_in.and_then(|logged_in| {
                    let logged_in = logged_in.map_err(|fault| Fault {
                        message: format!("{what} failed: {}", fault.message),
                        ..fault
                    })?;
                    Ok((wire, logged_in))
                })
            }
            Err(fault) => Err(fault),
        };
        let mut back_off = self.back_off();
        match &connected {
            Ok(_) => back_off.succeeded(address),
            Err(fault) => back_off.failed(address, Instant::now(), fault),
        }
        connected
    }

    /// A socket to it, with TLS where that is set.
    async fn stream(&self, until: Until) -> Result<Stream, Fault> {
        let address = &self.settings.address;
        let addresses = if let Ok(one) = address.host.parse() {
            vec![one]
        } else {
            let what = format!("the lookup of `{}`", address.host);
            let found = until.wait(&what, self.shared.resolver.resolve(&address.host));
            let found = found.await?;
            found.map_err(|reason| unreachable(format!("{what} failed: {reason}")))?
        };
        let mut stream = dial(&addresses, address.port, until).await?;
        let Some(tls) = &self.settings.tls else {
            return Ok(Stream::Plain(stream));
        };
        let connector = self.connector(tls)?;
        let asked = until.wait(
            "the answer to the request for TLS",
            ask_for_tls(&mut stream),
        );
        if !asked
            .await?
            .map_err(|error| unreachable(error.to_string()))?
        {
            let message = format!("{address} has no TLS; `tls` of its table asks for it");
            return Err(unreachable(message));
        }
        let what = format!("the TLS handshake with {address}");
        let handshake = tls::connect(&connector, &address.host, stream);
        match until.wait(&what, handshake).await? {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err(tls::Failed::Untrusted(reason)) => Err(unreachable(format!(
                "the certificate of {address} is not valid: {reason}"
            ))),
            Err(tls::Failed::Other(reason)) => Err(unreachable(format!("{what} failed: {reason}"))),
        }
    }

    /// Tells the server to give up what the connection does, over a connection of its own. It may do so later.
    pub(super) async fn cancel(&self, logged_in: &LoggedIn) {
        if logged_in.process == 0 {
            return;
        }
        let at = Instant::now() + self.connect_timeout;
        let within = self.connect_timeout;
        let Ok(mut stream) = self.stream(Until { at, within }).await else {
            return;
        };
        let request = Output::cancel_request(logged_in.process, logged_in.secret);
        if stream.write_all(&request).await.is_ok() && stream.flush().await.is_ok() {
            // The server closes it when the signal is on its way.
            let mut end = [0];
            let _ = tokio::time::timeout_at(at, stream.read(&mut end)).await;
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

async fn ask_for_tls(stream: &mut TcpStream) -> std::io::Result<bool> {
    stream.write_all(&Output::ssl_request()).await?;
    // What follows the answer is the handshake's, so no byte more is read.
    Ok(stream.read_u8().await? == b'S')
}

fn broken(broken: Broken) -> Fault {
    unreachable(match broken {
        Broken::Closed(reason) => format!("the connection ended: {reason}"),
        Broken::TooLarge => "a message is too large".to_owned(),
        Broken::Unexpected(what) => format!("the server does not speak as PostgreSQL: {what}"),
    })
}

/// A server that accepts and never answers is found out here.
async fn log_in(settings: &Settings, wire: &mut Wire<Stream>) -> Result<LoggedIn, Fault> {
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
    wire.output.start_up(&parameters);
    wire.send().await.map_err(broken)?;
    authenticate(settings, wire).await?;
    let mut logged_in = LoggedIn::default();
    loop {
        let (letter, body) = wire.receive(MESSAGE_MAX).await.map_err(broken)?;
        match letter {
            b'K' => {
                let mut parts = Parts(body);
                logged_in.process = parts.u32().unwrap_or_default();
                logged_in.secret = parts.u32().unwrap_or_default();
            }
            b'Z' => return Ok(logged_in),
            b'E' => return Err(refused(body)),
            b'S' | b'N' => {}
            letter => return Err(broken(unexpected("the log-in", letter))),
        }
    }
}

/// A server that lets nobody in is away.
fn refused(body: &[u8]) -> Fault {
    let fault = faults::read(body).fault();
    let kind = if fault.kind == "busy" {
        "busy"
    } else {
        "unreachable"
    };
    Fault { kind, ..fault }
}

async fn authenticate(settings: &Settings, wire: &mut Wire<Stream>) -> Result<(), Fault> {
    let password = || match &settings.password {
        Some(password) => Ok(password.0.as_str()),
        None => Err(unreachable(
            "the server asks for a password; write `password` in the table".to_owned(),
        )),
    };
    let mut scram = Exchange::None;
    loop {
        let (letter, body) = wire.receive(MESSAGE_MAX).await.map_err(broken)?;
        match letter {
            b'R' => {}
            b'E' => return Err(refused(body)),
            // The version of the protocol, which may be a lower one.
            b'v' | b'N' => continue,
            letter => return Err(broken(unexpected("the log-in", letter))),
        }
        let mut parts = Parts(body);
        let method = parts.u32().unwrap_or(u32::MAX);
        let answer = match method {
            0 if matches!(scram, Exchange::None | Exchange::Done) => return Ok(()),
            3 => Some([password()?.as_bytes(), b"\0"].concat()),
            5 => {
                let digest = md5(&settings.user, password()?, parts.0).map_err(unreachable)?;
                Some([&*digest, b"\0"].concat())
            }
            10..=12 => {
                let (next, answer) = scram
                    .next(method, parts.0, password()?)
                    .map_err(unreachable)?;
                scram = next;
                answer
            }
            0 => {
                return Err(unreachable(
                    "the server has left its part of SCRAM out".to_owned(),
                ));
            }
            method => {
                return Err(unreachable(format!(
                    "the server asks for the log-in method {method}, and a password by SCRAM or MD5 is possible"
                )));
            }
        };
        if let Some(answer) = answer {
            wire.output
                .message(b'p', |body| body.extend_from_slice(&answer));
            wire.send().await.map_err(broken)?;
        }
    }
}

/// The exchange of SCRAM. **A server that does not prove that it knows the password is refused.**
enum Exchange {
    None,
    First(Scram),
    Last(Expecting),
    Done,
}

impl Exchange {
    /// The state behind a message of the server, and the answer to it.
    fn next(
        self,
        method: u32,
        data: &[u8],
        password: &str,
    ) -> Result<(Self, Option<Vec<u8>>), String> {
        match (method, self) {
            (10, Self::None) => {
                let mut mechanisms = data.split(|byte| *byte == 0);
                if !mechanisms.any(|one| one == scram::MECHANISM.as_bytes()) {
                    return Err(
                        "the server has another SASL mechanism than SCRAM-SHA-256".to_owned()
                    );
                }
                let scram = Scram::new(password)?;
                let first = scram.first();
                let mut answer = Vec::new();
                string(&mut answer, scram::MECHANISM.as_bytes());
                answer.extend_from_slice(&(first.len() as u32).to_be_bytes());
                answer.extend_from_slice(first.as_bytes());
                Ok((Self::First(scram), Some(answer)))
            }
            (11, Self::First(scram)) => {
                let (last, expecting) = scram.last(&String::from_utf8_lossy(data))?;
                Ok((Self::Last(expecting), Some(last.into_bytes())))
            }
            (12, Self::Last(expecting)) => {
                expecting.check(&String::from_utf8_lossy(data))?;
                Ok((Self::Done, None))
            }
            _ => Err("the server's messages of SCRAM are out of order".to_owned()),
        }
    }
}

fn md5(user: &str, password: &str, salt: &[u8]) -> Result<Vec<u8>, String> {
    let hex = |parts: [&[u8]; 2]| {
        let digest = openssl::hash::hash(MessageDigest::md5(), &parts.concat());
        let digest = digest.map_err(|error| error.to_string())?;
        let hex = digest.iter().fold(String::new(), |mut hex, byte| {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        Ok::<_, String>(hex)
    };
    let inner = hex([password.as_bytes(), user.as_bytes()])?;
    Ok(format!("md5{}", hex([inner.as_bytes(), salt])?).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_a_password_is_that_of_the_server() {
        // 'md5' || md5(md5('secret' || 'joe') || 'abcd')
        let found = md5("joe", "secret", b"abcd").unwrap();
        assert_eq!(found, b"md504b590e28ca03d93dbfaa35428dd6b74");
    }
}
