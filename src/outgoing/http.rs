//! The requests of handlers, `tide.http`: the client of the bundle in force, and those of VMs that still drain.
//!
//! Configurations with equal `[http.client]` share a client and its pool. It ends when no VM has it any more.
//! A request is a future: **its drop closes its connection**, wherever it was, and gives its permit back.

mod connecting;
mod connection;
mod exchange;
mod redirects;
mod stats;
#[cfg(test)]
pub(super) mod tests;
mod url;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openssl::ssl::SslConnector;
use tokio::time::Instant;

use crate::config::{Config, HttpClient};
use crate::duration::short;
use crate::lua::HttpSource;
use crate::nearest::suggestion;
use crate::telemetry::metrics::HostSnapshot;
use crate::telemetry::status::PoolStatus;
use crate::wait::Fault;
use crate::wait::http::{Http, Prepared, Request, Response};

use super::registry::{Configured, Registry};
use super::sockets::{resolver, tls};
use connection::Pool;
use resolver::Resolver;
use stats::Stats;
use url::Url;

/// How long a connection may be idle: Node closes it after 5 s, most other servers later.
const IDLE_MAX: Duration = Duration::from_secs(4);
/// The redirects that are followed where a request says nothing.
const REDIRECTS: u32 = 5;

/// The HTTP clients of the process.
pub(crate) struct HttpClients {
    shared: Arc<Shared>,
    idle_max: Duration,
    clients: Registry<Client>,
}

/// What all clients share.
struct Shared {
    stats: Stats,
    resolver: Arc<Resolver>,
    /// Bytes of responses that are being read.
    buffered: AtomicUsize,
}

/// The client of one configuration.
struct Client {
    settings: HttpClient,
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    /// By the name of the client certificate; made at the first use.
    connectors: Mutex<HashMap<Option<String>, SslConnector>>,
}

/// A client as VMs have it.
struct Handle(Arc<Client>);

impl Default for HttpClients {
    fn default() -> Self {
        Self::new(resolver::system(), IDLE_MAX)
    }
}

impl HttpClients {
    fn new(lookup: resolver::Lookup, idle_max: Duration) -> Self {
        Self {
            shared: Arc::new(Shared {
                stats: Stats::default(),
                resolver: Arc::new(Resolver::new(lookup)),
                buffered: AtomicUsize::new(0),
            }),
            idle_max,
            clients: Registry::default(),
        }
    }

    fn client(&self, settings: &HttpClient) -> Arc<Client> {
        self.clients.find_or_make(settings, || Client {
            settings: settings.clone(),
            shared: Arc::clone(&self.shared),
            pool: Pool::new(settings.size, self.idle_max),
            connectors: Mutex::default(),
        })
    }

    /// The pools together: that of the bundle in force, and those that drain.
    pub(crate) fn status(&self) -> PoolStatus {
        let mut sum = PoolStatus::default();
        for client in self.clients.alive() {
            sum.add(&client.pool.counts());
        }
        sum
    }

    pub(crate) fn hosts(&self) -> Vec<HostSnapshot> {
        self.shared.stats.snapshot()
    }
}

impl Configured for Client {
    type Settings = HttpClient;

    fn settings(&self) -> &HttpClient {
        &self.settings
    }
}

impl fmt::Debug for HttpClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClients").finish_non_exhaustive()
    }
}

impl HttpSource for HttpClients {
    fn open(&self, config: &Arc<Config>) -> Arc<dyn Http> {
        Arc::new(Handle(self.client(&config.http_client)))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").finish_non_exhaustive()
    }
}

impl Http for Handle {
    fn request(&self, request: Request) -> Result<Prepared, Fault> {
        let function = request.function;
        let invalid = |reason| Fault::new("invalid", format!("`{function}`: {reason}"));
        let url =
            Url::parse(&request.url).map_err(|reason| invalid(format!("the URL {reason}")))?;
        exchange::check(&request, &url).map_err(invalid)?;
        let certificates = &self.0.settings.certificates;
        if let Some(name) = &request.certificate
            && !certificates.contains_key(name)
        {
            let names: Vec<&str> = certificates.keys().map(String::as_str).collect();
            let meant = if names.is_empty() {
                "since `[http.client.certificates]` has none".to_owned()
            } else {
                suggestion(name, &names)
            };
            return Err(invalid(format!(
                "there is no client certificate `{name}`, {meant}"
            )));
        }
        let host = url.origin.host.clone();
        let about = format!("{} {}", request.method, url.origin.authority());
        let client = Arc::clone(&self.0);
        let requesting = Box::pin(async move {
            let measured = client.shared.stats.begin(&host);
            let result = client.follow(request, url).await;
            measured.ended(&result);
            result
        });
        Ok(Prepared { about, requesting })
    }
}

impl Client {
    /// Sends the request, and again where a response says so.
    async fn follow(&self, mut request: Request, mut url: Url) -> Result<Response, Fault> {
        let timeout = request.timeout.unwrap_or(self.settings.timeout);
        let deadline = Instant::now() + timeout;
        let most = request.redirects.unwrap_or(REDIRECTS);
        let mut followed = 0;
        loop {
            let told = |fault: Fault, url: &Url, method: &str| {
                let (function, origin) = (request.function, &url.origin);
                let message = format!("`{function}`: {method} {origin}: {}", fault.message);
                Fault { message, ..fault }
            };
            let method = request.method.clone();
            let answered = self.exchange(&request, &url, deadline).await;
            let response = answered.map_err(|fault| {
                let fault = match fault.kind {
                    "timeout" => Fault {
                        message: format!("{} within {}", fault.message, short(timeout)),
                        ..fault
                    },
                    _ => fault,
                };
                told(fault, &url, &method)
            })?;
            if most == 0 {
                return Ok(response);
            }
            let refused = |reason: String| told(Fault::new("refused", reason), &url, &method);
            let next = redirects::next(&request, &url, &response).map_err(refused)?;
            let Some((next_request, next_url)) = next else {
                return Ok(response);
            };
            if followed == most {
                return Err(refused(format!("more than {most} redirects")));
            }
            followed += 1;
            (request, url) = (next_request, next_url);
        }
    }

    /// TLS with this client certificate.
    fn connector(&self, certificate: Option<&str>) -> Result<SslConnector, Fault> {
        let mut made = self
            .connectors
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let name = certificate.map(str::to_owned);
        if let Some(connector) = made.get(&name) {
            return Ok(connector.clone());
        }
        let one = certificate.and_then(|name| self.settings.certificates.get(name));
        let connector = tls::connector(self.settings.ca.as_ref(), one).map_err(|error| {
            Fault::new("unreachable", format!("no TLS is possible here: {error}"))
        })?;
        made.insert(name, connector.clone());
        Ok(connector)
    }
}
