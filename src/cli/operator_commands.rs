//! `moontide skip`, `retry`, `pause` and `resume`: what somebody does to a running daemon by hand.
//!
//! The daemon decides and says what was done or why not; here it is only asked.

use std::time::Duration;

use anyhow::{Result, bail};

use super::terminal::{complain, say};
use super::{Exit, locate};
use crate::service::control;
use crate::telemetry::status::{Order, Request, Response};

/// Longer than the daemon waits for its own threads.
const DEADLINE: Duration = Duration::from_secs(30);

/// Gives up a message that is in flight: its handlers are not run (again), and its lane goes on
///
/// A call of it that runs is ended. Exits with 1, and says why, where the message is not in flight in this daemon.
#[derive(Debug, clap::Args)]
pub(crate) struct Skip {
    #[command(flatten)]
    daemon: locate::Daemon,
    topic: String,
    #[arg(value_parser = clap::value_parser!(i32).range(0..))]
    partition: i32,
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    offset: i64,
    /// Only for this listener; default: all that have no outcome yet
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Send it to the listener's dead-letter topic
    #[arg(long)]
    dead_letter: bool,
    #[command(flatten)]
    why: Why,
}

/// Ends back-offs at once: what has failed runs again now
#[derive(Debug, clap::Args)]
pub(crate) struct Retry {
    #[command(flatten)]
    daemon: locate::Daemon,
    /// Only this listener's; default: everybody's
    listener: Option<String>,
    #[command(flatten)]
    why: Why,
}

/// Stops a listener from taking messages; calls under way finish
///
/// Its messages wait, and with them what is behind them in their lanes. It lasts until `moontide resume` or a restart; a
/// reload does not end it.
#[derive(Debug, clap::Args)]
pub(crate) struct Pause {
    #[command(flatten)]
    daemon: locate::Daemon,
    listener: String,
    #[command(flatten)]
    why: Why,
}

/// Lets a paused listener take messages again
#[derive(Debug, clap::Args)]
pub(crate) struct Resume {
    #[command(flatten)]
    daemon: locate::Daemon,
    listener: String,
    #[command(flatten)]
    why: Why,
}

#[derive(Debug, clap::Args)]
struct Why {
    /// Why, for the log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub(crate) fn skip(arguments: &Skip) -> Exit {
    let order = Order::Skip {
        topic: arguments.topic.clone(),
        partition: arguments.partition,
        offset: arguments.offset,
        listener: arguments.listener.clone(),
        dead_letter: arguments.dead_letter,
        reason: arguments.why.reason.clone(),
    };
    ask(&arguments.daemon, order)
}

pub(crate) fn retry(arguments: &Retry) -> Exit {
    let order = Order::Retry {
        listener: arguments.listener.clone(),
        reason: arguments.why.reason.clone(),
    };
    ask(&arguments.daemon, order)
}

pub(crate) fn pause(arguments: &Pause) -> Exit {
    let order = Order::Pause {
        listener: arguments.listener.clone(),
        reason: arguments.why.reason.clone(),
    };
    ask(&arguments.daemon, order)
}

pub(crate) fn resume(arguments: &Resume) -> Exit {
    let order = Order::Resume {
        listener: arguments.listener.clone(),
        reason: arguments.why.reason.clone(),
    };
    ask(&arguments.daemon, order)
}

fn ask(daemon: &locate::Daemon, order: Order) -> Exit {
    match answer(daemon, order) {
        Ok(done) => {
            say(done);
            Exit::Ok
        }
        Err(error) => {
            complain(format_args!("{error:#}"));
            Exit::Failed
        }
    }
}

fn answer(daemon: &locate::Daemon, order: Order) -> Result<String> {
    match control::ask(&daemon.directory()?, &Request::Order(order), DEADLINE)? {
        Response::Done(done) => Ok(done),
        Response::Error(error) => bail!("{error}"),
        Response::Status(_) | Response::Reloaded(_) => {
            bail!("moontide has answered another question")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::locate::Daemon;

    #[tokio::test]
    async fn the_daemon_hears_the_order_and_who_gave_it() {
        let temp = tempfile::TempDir::new().unwrap();
        let server = control::Server::bind(temp.path()).unwrap();
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
        ];
        for order in orders {
            let (daemon, sent) = (Daemon::of(temp.path()), order.clone());
            let asking = tokio::task::spawn_blocking(move || answer(&daemon, sent));
            let ask = requests.recv().await.unwrap();
            assert!(matches!(ask.request, Request::Order(got) if got == order));
            assert_eq!(ask.who.pid, Some(std::process::id() as i32));
            ask.answer.send(Response::Done("done".into())).unwrap();
            assert_eq!(asking.await.unwrap().unwrap(), "done");
        }
    }
}
