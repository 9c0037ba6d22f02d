//! From an origin to a connection: lookup, allow-list, proxy, TCP and TLS, each until the same deadline.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Client;
use super::connection::{Connection, Key};
use super::url::Origin;
use crate::config::{Proxy, Secret};
use crate::outgoing::sockets::dialing::{Until, addresses, dial, unreachable};
use crate::outgoing::sockets::tls;
use crate::wait::Fault;

/// The most bytes of a proxy's answer.
const ANSWER_BYTES_MAX: usize = 16 << 10;

fn refused(message: String) -> Fault {
    Fault::new("refused", message)
}

impl Client {
    /// A new connection. Its error says nothing of the request, which is before it.
    pub(super) async fn connect(&self, key: &Key, deadline: Instant) -> Result<Connection, Fault> {
        let now = Instant::now();
        let at = deadline.min(now + self.settings.connect_timeout);
        let within = Duration::from_millis((at - now).as_millis() as u64);
        let until = Until { at, within };
        self.pool.make_room();
        let origin = &key.origin;
        let stream = match self.proxy(origin) {
            Some(proxy) => self.by_proxy(proxy, origin, until).await?,
            None => self.direct(origin, until).await?,
        };
        let connection = if origin.is_tls {
            let connector = self.connector(key.certificate.as_deref())?;
            let handshake = tls::connect(&connector, &origin.host, stream);
            let stream = until.wait("the TLS handshake", handshake).await?;
            let stream = stream.map_err(|failed| match failed {
                tls::Failed::Untrusted(reason) => refused(format!(
                    "the certificate of the server is not valid: {reason}"
                )),
                tls::Failed::Other(reason) => {
                    unreachable(format!("the TLS handshake failed: {reason}"))
                }
            })?;
            Connection::new(&self.pool, stream).await
        } else {
            Connection::new(&self.pool, stream).await
        };
        connection.map_err(|error| unreachable(error.to_string()))
    }

    /// The proxy for requests to this origin.
    pub(super) fn proxy(&self, origin: &Origin) -> Option<&Proxy> {
        let proxy = self.settings.proxy.as_ref()?;
        let no_proxy = &self.settings.no_proxy;
        (!no_proxy.allows_host(&origin.host, origin.port)).then_some(proxy)
    }

    async fn direct(&self, origin: &Origin, until: Until) -> Result<TcpStream, Fault> {
        let allow = &self.settings.allow;
        let is_named = allow.allows_host(&origin.host, origin.port);
        if !is_named && !allow.has_addresses() {
            return Err(not_allowed(origin, None));
        }
        let mut addresses = addresses(&self.shared.resolver, &origin.host, until).await?;
        if !is_named {
            let first = addresses.first().copied();
            addresses.retain(|address| allow.allows_address(*address));
            if addresses.is_empty() {
                return Err(not_allowed(origin, first));
            }
        }
        dial(&addresses, origin.port, until).await
    }

    /// The proxy looks the name up, so only what a name or a literal address allows is allowed.
    async fn by_proxy(
        &self,
        proxy: &Proxy,
        origin: &Origin,
        until: Until,
    ) -> Result<TcpStream, Fault> {
        let allow = &self.settings.allow;
        if !allow.allows_host(&origin.host, origin.port) {
            return Err(not_allowed(origin, None));
        }
        let addresses = addresses(&self.shared.resolver, &proxy.host, until).await?;
        let mut stream = dial(&addresses, proxy.port, until).await.map_err(|fault| {
            unreachable(format!("no connection to the proxy: {}", fault.message))
        })?;
        if origin.is_tls {
            let tunnel = tunnel(&mut stream, proxy, origin);
            until.wait("the answer of the proxy", tunnel).await??;
        }
        Ok(stream)
    }
}

fn not_allowed(origin: &Origin, address: Option<IpAddr>) -> Fault {
    let host = origin.with_port();
    let address = address.map_or_else(String::new, |address| {
        format!(", whose address is {address},")
    });
    refused(format!(
        "`{host}`{address} is not allowed; `allow` of `[http.client]` has the hosts and networks that requests may reach"
    ))
}

/// The credentials of a proxy as a header.
pub(super) fn proxy_authorization(credentials: &Secret) -> String {
    format!("Basic {}", STANDARD.encode(&credentials.0))
}

/// Asks the proxy for a tunnel to the origin.
async fn tunnel(stream: &mut TcpStream, proxy: &Proxy, origin: &Origin) -> Result<(), Fault> {
    let to = origin.with_port();
    let credentials = proxy.credentials.as_ref();
    let authorization = credentials.map(|credentials| {
        let value = proxy_authorization(credentials);
        format!("Proxy-Authorization: {value}\r\n")
    });
    let authorization = authorization.unwrap_or_default();
    let head = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{authorization}\r\n");
    let broken = |error: std::io::Error| unreachable(format!("the proxy: {error}"));
    stream.write_all(head.as_bytes()).await.map_err(broken)?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        // What follows the answer belongs to the tunnel, so no byte more is read.
        let byte = stream.read_u8().await.map_err(broken)?;
        answer.push(byte);
        if answer.len() > ANSWER_BYTES_MAX {
            return Err(unreachable("the answer of the proxy has no end".to_owned()));
        }
    }
    let status = answer.split(|byte| *byte == b' ').nth(1);
    let status = status.and_then(|status| std::str::from_utf8(status).ok());
    match status {
        Some(status) if status.starts_with('2') && status.len() == 3 => Ok(()),
        Some("407") => Err(refused(
            "the proxy takes other credentials; `proxy` of `[http.client]` has them".to_owned(),
        )),
        status => {
            let status = status.unwrap_or("none").escape_default();
            Err(unreachable(format!(
                "the proxy answers with status {status}"
            )))
        }
    }
}
