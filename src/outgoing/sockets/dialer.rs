//! The way to the servers of one table of the configuration, such as `[redis.NAME]`: lookup, socket, TLS and log-in
//! until a deadline. After a failed attempt the next one waits.
//!
//! An error says nothing of the call that needs the connection: nothing of it has been sent.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openssl::ssl::SslConnector;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::dialing::{Until, addresses, dial, unreachable};
use super::resolver::Resolver;
use super::stream::Stream;
use super::tls;
use crate::config::{Address, Tls};
use crate::outgoing::back_off::BackOff;
use crate::wait::Fault;

pub(in crate::outgoing) struct Dialer {
    resolver: Arc<Resolver>,
    tls: Option<Tls>,
    connect_timeout: Duration,
    back_off: Mutex<BackOff>,
    /// Made at the first use.
    connector: Mutex<Option<SslConnector>>,
}

impl Dialer {
    pub(in crate::outgoing) fn new(
        resolver: &Arc<Resolver>,
        tls: Option<&Tls>,
        connect_timeout: Duration,
    ) -> Self {
        Self {
            resolver: Arc::clone(resolver),
            tls: tls.cloned(),
            connect_timeout,
            back_off: Mutex::default(),
            connector: Mutex::default(),
        }
    }

    /// Connects, unless an attempt has just failed. `connect` has until `deadline`, and no longer than
    /// `connectTimeout`.
    pub(in crate::outgoing) async fn attempt<T, F>(
        &self,
        address: &Address,
        deadline: Option<Instant>,
        connect: impl FnOnce(Until) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        self.back_off().begin(address, Instant::now())?;
        let connected = connect(self.until(deadline)).await;
        let mut back_off = self.back_off();
        match &connected {
            Ok(_) => back_off.succeeded(address),
            Err(fault) => back_off.failed(address, Instant::now(), fault),
        }
        drop(back_off);
        connected
    }

    /// The end of an attempt that begins now.
    pub(in crate::outgoing) fn until(&self, deadline: Option<Instant>) -> Until {
        let now = Instant::now();
        let at = now + self.connect_timeout;
        let at = deadline.map_or(at, |deadline| deadline.min(at));
        let within = Duration::from_millis(at.saturating_duration_since(now).as_millis() as u64);
        Until { at, within }
    }

    pub(in crate::outgoing) async fn socket(
        &self,
        address: &Address,
        until: Until,
    ) -> Result<TcpStream, Fault> {
        let addresses = addresses(&self.resolver, &address.host, until).await?;
        dial(&addresses, address.port, until).await
    }

    pub(in crate::outgoing) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The socket with TLS, where the settings have that.
    pub(in crate::outgoing) async fn secured(
        &self,
        address: &Address,
        socket: TcpStream,
        until: Until,
    ) -> Result<Stream, Fault> {
        let Some(tls) = &self.tls else {
            return Ok(Stream::Plain(socket));
        };
        let connector = self.connector(tls)?;
        let handshake = tls::connect(&connector, &address.host, socket);
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

/// The first exchange with a server. One that accepts and never answers is found out here.
pub(in crate::outgoing) async fn logged_in<T>(
    address: &Address,
    until: Until,
    logging_in: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    let what = format!("the log-in at {address}");
    let result = until.wait(&what, logging_in).await?;
    result.map_err(|fault| Fault {
        message: format!("{what} failed: {}", fault.message),
        ..fault
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialer() -> Dialer {
        let resolver = Arc::new(Resolver::new(Arc::new(|_| {
            Err(std::io::Error::other("no such name"))
        })));
        Dialer::new(&resolver, None, Duration::from_secs(5))
    }

    fn address(host: &str, port: u16) -> Address {
        Address {
            host: host.to_owned(),
            port,
        }
    }

    fn on_a_runtime<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(work)
    }

    #[test]
    fn an_attempt_ends_at_the_earlier_of_both_deadlines() {
        on_a_runtime(async {
            let dialer = dialer();
            assert_eq!(dialer.until(None).within, Duration::from_secs(5));
            let soon = Instant::now() + Duration::from_secs(1);
            let until = dialer.until(Some(soon));
            assert_eq!(until.at, soon);
            assert!(until.within <= Duration::from_secs(1));
            let past = Instant::now();
            assert_eq!(dialer.until(Some(past)).within, Duration::ZERO);
        });
    }

    #[test]
    fn a_failed_attempt_is_told_until_the_next_one() {
        on_a_runtime(async {
            let (dialer, address) = (dialer(), address("nowhere.test", 1));
            let mut attempts = 0;
            for _ in 0..2 {
                let attempt = dialer.attempt(&address, None, |until| {
                    attempts += 1;
                    dialer.socket(&address, until)
                });
                let fault = attempt.await.err().unwrap();
                assert_eq!(fault.kind, "unreachable");
                let expected = "the lookup of `nowhere.test` failed: no such name";
                assert!(fault.message.starts_with(expected), "{}", fault.message);
            }
            assert_eq!(attempts, 1, "the second one comes too soon");
        });
    }

    #[test]
    fn an_error_of_the_log_in_has_its_server() {
        on_a_runtime(async {
            let (dialer, address) = (dialer(), address("db.test", 1));
            let fault = Fault::new("busy", "too many clients");
            let refused = logged_in(&address, dialer.until(None), async { Err::<(), _>(fault) });
            let fault = refused.await.unwrap_err();
            assert_eq!(fault.kind, "busy");
            assert_eq!(
                fault.message,
                "the log-in at db.test:1 failed: too many clients"
            );
            let until = dialer.until(Some(Instant::now() + Duration::from_millis(10)));
            let silent = logged_in(&address, until, std::future::pending::<Result<(), _>>());
            let message = silent.await.unwrap_err().message;
            assert!(
                message.starts_with("the log-in at db.test:1 has not ended within "),
                "{message}"
            );
        });
    }
}
