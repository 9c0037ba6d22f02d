//! From an address to a connection that is logged in, until a deadline.

use std::sync::Arc;

use tokio::time::Instant;

use super::connection::{Connection, Pool};
use super::reply::Reply;
use super::{Client, command, faults};
use crate::config::Address;
use crate::outgoing::sockets::dialer;
use crate::outgoing::sockets::dialing::Until;
use crate::wait::Fault;
use crate::wait::redis::Command;

/// What the replies to a log-in may have.
const LOG_IN_BYTES: usize = 64 << 10;

impl Client {
    pub(super) async fn connect(
        &self,
        pool: &Arc<Pool>,
        address: &Address,
        deadline: Option<Instant>,
    ) -> Result<Connection, Fault> {
        let connect = |until: Until| async move {
            pool.make_room();
            let socket = self.dialer.socket(address, until).await?;
            let open = pool.opened();
            let stream = self.dialer.secured(address, socket, until).await?;
            let mut connection = Connection::new(stream, open);
            let log_in = log_in(&self.settings, &mut connection);
            dialer::logged_in(address, until, log_in).await?;
            Ok(connection)
        };
        self.dialer.attempt(address, deadline, connect).await
    }
}

/// The first commands of a connection.
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
