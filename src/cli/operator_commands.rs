//! `moontide skip`, `retry`, `pause`, `resume` and `accept`: operator commands for a running daemon.
//!
//! The daemon decides, and reports the effect or the reason for a refusal; this file only sends the request.

use std::time::Duration;

use anyhow::Result;

use super::{Exit, locate, terminal};
use crate::telemetry::status::{Order, Request, Response};

/// Longer than the daemon waits for its own threads.
const DEADLINE: Duration = Duration::from_secs(30);

/// Gives up a message in flight: its handlers do not run again, and its lane goes on
///
/// Ends a running call of the message. Exits with 1 and the reason if the message is not in flight in this daemon.
#[derive(Debug, clap::Args)]
pub(crate) struct Skip {
    #[command(flatten)]
    common: Common,
    topic: String,
    #[arg(value_parser = clap::value_parser!(i32).range(0..))]
    partition: i32,
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    offset: i64,
    /// The listener; default: all listeners in which the message has no outcome yet
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Sends the message to the listener's dead-letter topic
    #[arg(long)]
    dead_letter: bool,
}

/// Ends back-offs: failed messages run again at once
#[derive(Debug, clap::Args)]
pub(crate) struct Retry {
    #[command(flatten)]
    common: Common,
    /// The listener; default: all listeners
    listener: Option<String>,
}

/// What `pause` and `resume` take.
#[derive(Debug, clap::Args)]
pub(crate) struct OneListener {
    #[command(flatten)]
    common: Common,
    listener: String,
}

/// Lets a held partition go on: messages that are finished beyond its position run again
///
/// For a consumer with exactlyOnce. What these messages emit is then there twice. Exits with 1 and the reason if the
/// partition is not held in this daemon.
#[derive(Debug, clap::Args)]
pub(crate) struct Accept {
    #[command(flatten)]
    common: Common,
    topic: String,
    #[arg(value_parser = clap::value_parser!(i32).range(0..))]
    partition: i32,
}

/// What every order takes.
#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    daemon: locate::Daemon,
    /// The reason, for the log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl Common {
    /// Sends the order that `of` makes of the reason.
    fn order(&self, of: impl FnOnce(Option<String>) -> Order) -> Exit {
        terminal::print(send(&self.daemon, of(self.reason.clone())))
    }
}

pub(crate) fn skip(arguments: &Skip) -> Exit {
    arguments.common.order(|reason| Order::Skip {
        topic: arguments.topic.clone(),
        partition: arguments.partition,
        offset: arguments.offset,
        listener: arguments.listener.clone(),
        dead_letter: arguments.dead_letter,
        reason,
    })
}

pub(crate) fn retry(arguments: &Retry) -> Exit {
    let listener = arguments.listener.clone();
    arguments
        .common
        .order(|reason| Order::Retry { listener, reason })
}

pub(crate) fn pause(arguments: &OneListener) -> Exit {
    let listener = arguments.listener.clone();
    arguments
        .common
        .order(|reason| Order::Pause { listener, reason })
}

pub(crate) fn resume(arguments: &OneListener) -> Exit {
    let listener = arguments.listener.clone();
    arguments
        .common
        .order(|reason| Order::Resume { listener, reason })
}

pub(crate) fn accept(arguments: &Accept) -> Exit {
    arguments.common.order(|reason| Order::Accept {
        topic: arguments.topic.clone(),
        partition: arguments.partition,
        reason,
    })
}

fn send(daemon: &locate::Daemon, order: Order) -> Result<String> {
    daemon.ask(
        &Request::Order(order),
        DEADLINE,
        |response| match response {
            Response::Done(done) => Some(done),
            _ => None,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::locate::Daemon;
    use crate::service::control;

    #[tokio::test]
    async fn the_daemon_hears_the_order_and_who_gave_it() {
        let temp = tempfile::TempDir::new().unwrap();
        let server =
            control::Server::bind(temp.path(), std::path::Path::new("config.toml")).unwrap();
        let (sender, mut requests) = tokio::sync::mpsc::channel::<control::Ask>(1);
        let _serving = tokio::spawn(server.serve(sender));
        let orders = [
            Order::Skip {
                topic: "orders".into(),
                partition: 3,
                offset: i64::MAX,
                listener: None,
                dead_letter: true,
                reason: Some("no customer".into()),
            },
            Order::Retry {
                listener: None,
                reason: None,
            },
            Order::Pause {
                listener: "orders".into(),
                reason: None,
            },
            Order::Resume {
                listener: "orders".into(),
                reason: None,
            },
            Order::Accept {
                topic: "orders".into(),
                partition: 3,
                reason: None,
            },
        ];
        for order in orders {
            let (daemon, sent) = (Daemon::of(temp.path()), order.clone());
            let asking = tokio::task::spawn_blocking(move || send(&daemon, sent));
            let ask = requests.recv().await.unwrap();
            assert!(matches!(ask.request, Request::Order(got) if got == order));
            assert_eq!(ask.who.pid, Some(std::process::id() as i32));
            ask.answer.send(Response::Done("done".into())).unwrap();
            assert_eq!(asking.await.unwrap().unwrap(), "done");
        }
    }
}
