//! From the address of a server to a connection that is logged in, until a deadline.

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::exchange::{Event, Exchange, Phase};
use super::faults;
use super::greeting::{self, Greeting};
use super::scramble::{self, Method};
use super::wire::{Broken, PACKET_MAX, Parts, Wire, unexpected};
use crate::config::MySql as Settings;
use crate::outgoing::sockets::dialer::{self, Dialer};
use crate::outgoing::sockets::dialing::{Until, unreachable};
use crate::outgoing::sockets::stream::Stream;
use crate::wait::Fault;

pub(super) const QUIT: &[u8] = &[1];
const QUERY: u8 = 3;
/// Times are those of UTC, so that they are milliseconds since the epoch. A statement outside of a transaction commits by
/// itself. The SQL mode stays that of the server.
const SESSION: &str = "SET time_zone = '+00:00', autocommit = 1";
/// A balancer may lead the next connection to another server, which has other connections with the same numbers.
const ABOUT: &str = "SELECT @@max_allowed_packet, CONCAT(@@hostname, ':', @@port)";

/// A server, and how it is reached.
pub(super) struct Server {
    pub(super) settings: Settings,
    dialer: Dialer,
}

/// What the server tells at the log-in.
#[derive(Debug, Default)]
pub(super) struct LoggedIn {
    /// The number of the connection, by which another one ends its statement.
    pub(super) thread: u32,
    /// The name of the server itself.
    pub(super) server: Vec<u8>,
    /// The longest packet that it takes.
    pub(super) packet_max: usize,
    /// It describes its own types of columns.
    pub(super) is_extended: bool,
}

/// The command that runs statements without preparing them.
pub(super) fn query(text: &str) -> Vec<u8> {
    [&[QUERY], text.as_bytes()].concat()
}

fn broken(broken: Broken) -> Fault {
    unreachable(match broken {
        Broken::Closed(reason) => format!("the connection ended: {reason}"),
        Broken::TooLarge => "a packet is too large".to_owned(),
        Broken::Unexpected(what) => format!("the server does not speak as MySQL: {what}"),
    })
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
        let connect = |until: Until| self.connect(until);
        self.dialer
            .attempt(&self.settings.address, Some(deadline), connect)
            .await
    }

    async fn connect(&self, until: Until) -> Result<(Wire<Stream>, LoggedIn), Fault> {
        let address = &self.settings.address;
        let mut wire = Wire::new(self.dialer.socket(address, until).await?, 0);
        let greeting = dialer::logged_in(address, until, greeted(&mut wire)).await?;
        let own = greeting::capabilities(&self.settings, &greeting);
        if self.dialer.has_tls() {
            if !greeting.has_tls() {
                let message = format!("{address} has no TLS; `tls` of its table asks for it");
                return Err(unreachable(message));
            }
            wire.packet(&greeting::head(own, &greeting));
            let sending = async { wire.send().await.map_err(broken) };
            dialer::logged_in(address, until, sending).await?;
        }
        let (socket, number) = wire.into_stream().map_err(broken)?;
        let stream = self.dialer.secured(address, socket, until).await?;
        let mut wire = Wire::new(stream, number);
        wire.packet(&greeting::response(&self.settings, own, &greeting));
        let logging_in = async {
            wire.send().await.map_err(broken)?;
            authenticate(&self.settings, &greeting, &mut wire).await?;
            about(&mut wire).await
        };
        let logged_in = dialer::logged_in(address, until, logging_in).await?;
        let logged_in = LoggedIn {
            thread: greeting.thread,
            is_extended: greeting.is_extended(),
            ..logged_in
        };
        Ok((wire, logged_in))
    }

    /// Tells the server to end the statement of a connection, over a connection of its own. It may do so later.
    pub(super) async fn kill(&self, logged_in: &LoggedIn) {
        let until = self.dialer.until(None);
        let killing = async {
            let (mut wire, other) = self.connect(until).await.ok()?;
            if other.server == logged_in.server {
                let text = format!("KILL QUERY {}", logged_in.thread);
                wire.command(&query(&text));
                wire.send().await.ok()?;
                wire.receive(PACKET_MAX).await.ok()?;
            }
            wire.command(QUIT);
            wire.send().await.ok()?;
            wire.shut_down().await;
            Some(())
        };
        // The statement has ended meanwhile, or the next attempt succeeds.
        let _ = timeout_at(until.at, killing).await;
    }
}

async fn greeted(wire: &mut Wire<TcpStream>) -> Result<Greeting, Fault> {
    let body = wire.receive(PACKET_MAX).await.map_err(broken)?;
    if body.first() == Some(&0xFF) {
        return Err(refused(body));
    }
    Greeting::read(body).ok_or_else(|| broken(unexpected("its greeting")))
}

/// Answers what the server asks, until it is content.
async fn authenticate(
    settings: &Settings,
    greeting: &Greeting,
    wire: &mut Wire<Stream>,
) -> Result<(), Fault> {
    let password = settings.password.as_ref().map_or("", |one| one.0.as_str());
    let is_secure = settings.tls.is_some();
    let (mut method, mut nonce) = (greeting.method(), greeting.nonce.clone());
    loop {
        let body = wire.receive(PACKET_MAX).await.map_err(broken)?;
        let (first, rest) = body
            .split_first()
            .ok_or_else(|| broken(unexpected("an empty packet")))?;
        let answer = match (first, rest) {
            (0x00, _) => return Ok(()),
            (0xFF, _) => return Err(refused(body)),
            (0xFE, rest) => {
                (method, nonce) = switched(rest)?;
                if method == Method::Clear && !is_secure {
                    let message = "the server asks for the password itself; `tls` of its table has to be set for that";
                    return Err(unreachable(message.to_owned()));
                }
                method.answer(password, &nonce)
            }
            // The server knows the password already.
            (0x01, [3]) if method == Method::Sha2 => continue,
            (0x01, [4]) if method == Method::Sha2 && is_secure => {
                scramble::clear(password.as_bytes())
            }
            // It sends its key first.
            (0x01, [4]) if method == Method::Sha2 => vec![2],
            (0x01, key) if method == Method::Sha2 && key.starts_with(b"-----BEGIN") => {
                let encrypted = scramble::encrypted(password, &nonce, key);
                encrypted.map_err(|error| unreachable(format!("the key of the server: {error}")))?
            }
            _ => return Err(broken(unexpected("the log-in"))),
        };
        wire.packet(&answer);
        wire.send().await.map_err(broken)?;
    }
}

/// The server wants another method.
fn switched(body: &[u8]) -> Result<(Method, Vec<u8>), Fault> {
    let mut parts = Parts(body);
    // The password hashes of MySQL 4.0 have no name.
    let name = parts.string().unwrap_or(b"mysql_old_password");
    let method = Method::of(name).ok_or_else(|| {
        let name = String::from_utf8_lossy(name).escape_debug().to_string();
        unreachable(format!(
            "the server asks for the log-in method `{name}`, and `mysql_native_password`, `caching_sha2_password` and, \
             with TLS, `mysql_clear_password` are possible"
        ))
    })?;
    let nonce = parts.0.strip_suffix(b"\0").unwrap_or(parts.0);
    Ok((method, nonce.to_vec()))
}

/// Prepares the session, and learns about the server.
async fn about(wire: &mut Wire<Stream>) -> Result<LoggedIn, Fault> {
    let mut logged_in = LoggedIn::default();
    for text in [SESSION, ABOUT] {
        let mut exchange = Exchange::new();
        exchange.begin(Phase::Answer);
        wire.command(&query(text));
        wire.send().await.map_err(broken)?;
        while !exchange.is_idle() {
            let body = wire.receive(PACKET_MAX).await.map_err(broken)?;
            match exchange.step(body).map_err(broken)? {
                Event::Failed(reported) => {
                    let fault = reported.fault();
                    let kind = "unreachable";
                    return Err(Fault { kind, ..fault });
                }
                Event::Row(row) => {
                    let mut parts = Parts(row);
                    let packet_max = parts.counted().and_then(number);
                    let server = parts.counted().unwrap_or_default();
                    logged_in.packet_max = packet_max.unwrap_or(PACKET_MAX);
                    logged_in.server = server.to_vec();
                }
                _ => {}
            }
        }
    }
    Ok(logged_in)
}

fn number(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use openssl::pkey::Private;
    use openssl::rsa::{Padding, Rsa};
    use tokio::net::TcpListener;

    use super::super::greeting::tests::{NO_TLS, packet, settings};
    use super::super::wire::put_bytes;
    use super::*;
    use crate::outgoing::sockets::resolver::{self, Resolver};

    const NONCE: &[u8] = b"01234567890123456789";
    const OK: &[u8] = &[0, 0, 0, 2, 0, 0, 0];
    const END: &[u8] = &[0xFE, 0, 0, 2, 0];

    /// A server of MySQL 8, which has the password in its cache or not. Returns the password that it got.
    async fn serve(listener: &TcpListener, key: &Rsa<Private>, is_cached: bool) -> Vec<u8> {
        let (socket, _) = listener.accept().await.unwrap();
        let mut wire = Wire::new(socket, 0);
        wire.packet(&packet(NO_TLS, b"caching_sha2_password"));
        wire.send().await.unwrap();
        wire.receive(PACKET_MAX).await.unwrap();
        let mut password = Vec::new();
        if is_cached {
            wire.packet(&[1, 3]);
        } else {
            wire.packet(&[1, 4]);
            wire.send().await.unwrap();
            assert_eq!(wire.receive(PACKET_MAX).await.unwrap(), [2]);
            wire.packet(&[&[1], &*key.public_key_to_pem().unwrap()].concat());
            wire.send().await.unwrap();
            let sent = wire.receive(PACKET_MAX).await.unwrap();
            let mut found = vec![0; key.size() as usize];
            let length = key
                .private_decrypt(sent, &mut found, Padding::PKCS1_OAEP)
                .unwrap();
            let mask = NONCE.iter().cycle();
            let mixed = found.iter().take(length).zip(mask);
            password = mixed.map(|(one, other)| one ^ other).collect();
        }
        wire.packet(OK);
        wire.send().await.unwrap();
        assert_eq!(wire.receive(PACKET_MAX).await.unwrap(), query(SESSION));
        wire.packet(OK);
        wire.send().await.unwrap();
        assert_eq!(wire.receive(PACKET_MAX).await.unwrap(), query(ABOUT));
        let mut row = Vec::new();
        put_bytes(&mut row, b"1000");
        put_bytes(&mut row, b"h:1");
        for body in [&[2][..], b"\x03def", b"\x03def", END, &row[..], END] {
            wire.packet(body);
        }
        wire.send().await.unwrap();
        password
    }

    #[test]
    fn the_password_goes_encrypted_where_the_server_needs_it_without_tls() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut settings = settings();
            settings.address.host = "127.0.0.1".to_owned();
            settings.address.port = listener.local_addr().unwrap().port();
            let resolver = Arc::new(Resolver::new(resolver::system()));
            let within = Duration::from_secs(30);
            let server = Server::new(&settings, Dialer::new(&resolver, None, within));
            let key = Rsa::generate(2048).unwrap();
            for (is_cached, expected) in [(false, &b"secret\0"[..]), (true, &b""[..])] {
                let logging_in = server.log_in(Instant::now() + within);
                let (logged_in, password) =
                    tokio::join!(logging_in, serve(&listener, &key, is_cached));
                let (_, logged_in) = logged_in.unwrap();
                assert_eq!(password, expected);
                assert_eq!((logged_in.thread, logged_in.packet_max), (7, 1_000));
                assert_eq!(logged_in.server, b"h:1");
            }
        });
    }
}
