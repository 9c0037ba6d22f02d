//! From a name to addresses, and from these to a socket, until a deadline.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::resolver::Resolver;
use crate::duration::short;
use crate::wait::Fault;

/// A connection over which nothing comes is probed, so that firewalls keep it, and a peer that is gone is noticed
/// after some 75 s. There is no limit for unacknowledged bytes beside the time-out of the request.
const KEEPALIVE: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;

/// A deadline, and how an error tells it.
#[derive(Clone, Copy)]
pub(in crate::outgoing) struct Until {
    pub(in crate::outgoing) at: Instant,
    pub(in crate::outgoing) within: Duration,
}

impl Until {
    pub(in crate::outgoing) async fn wait<T>(
        self,
        what: &str,
        work: impl Future<Output = T>,
    ) -> Result<T, Fault> {
        timeout_at(self.at, work).await.map_err(|_| {
            unreachable(format!(
                "{what} has not ended within {}",
                short(self.within)
            ))
        })
    }
}

pub(in crate::outgoing) fn unreachable(message: String) -> Fault {
    Fault::new("unreachable", message)
}

/// The addresses of a host, which may be one itself.
pub(in crate::outgoing) async fn addresses(
    resolver: &Arc<Resolver>,
    host: &str,
    until: Until,
) -> Result<Vec<IpAddr>, Fault> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let what = format!("the lookup of `{host}`");
    let found = until.wait(&what, resolver.resolve(host)).await?;
    found.map_err(|reason| unreachable(format!("{what} failed: {reason}")))
}

/// The first address that answers; each has its share of the time.
pub(in crate::outgoing) async fn dial(
    addresses: &[IpAddr],
    port: u16,
    until: Until,
) -> Result<TcpStream, Fault> {
    let mut last = None;
    for (index, address) in addresses.iter().enumerate() {
        let left = until.at.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - index).unwrap_or(1);
        let address = SocketAddr::new(*address, port);
        let connecting = TcpStream::connect(address);
        match timeout_at(Instant::now() + share, connecting).await {
            Ok(Ok(stream)) => {
                let socket = SockRef::from(&stream);
                let keepalive = TcpKeepalive::new()
                    .with_time(KEEPALIVE)
                    .with_interval(KEEPALIVE)
                    .with_retries(PROBES);
                // Without these options the connection works, too.
                let _ = socket.set_tcp_keepalive(&keepalive);
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => last = Some(format!("{address}: {error}")),
            Err(_) => {
                let within = short(until.within);
                last = Some(format!("{address}: no answer within {within}"));
            }
        }
    }
    let last = last.unwrap_or_else(|| "the name has no address".to_owned());
    Err(unreachable(format!("no connection to {last}")))
}
