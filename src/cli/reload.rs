//! `moontide reload`: the running daemon reads its files again, and the command prints the result.
//!
//! The command reads no file itself: only the daemon's verdict counts.

use std::time::Duration;

use anyhow::Result;

use super::locate::Daemon;
use super::terminal::{complain, harmless, say};
use super::{Exit, locate};
use crate::telemetry::status::{ReloadReport, ReloadResult, Request, Response};

/// Reloads config and handlers of the running daemon
///
/// Exits with 0 when the files are in force, with 1 when they are bad or no daemon runs, and with 3 when a changed key
/// needs a restart.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: locate::Daemon,
    /// Seconds to wait for the result
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    deadline: u64,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Exit {
    let report = match reload(&arguments.daemon, Duration::from_secs(arguments.deadline)) {
        Ok(report) => report,
        Err(error) => {
            complain(format_args!("{error:#}"));
            return Exit::Failed;
        }
    };
    match serde_json::to_string_pretty(&report) {
        Ok(json) if arguments.json => say(json),
        _ => say(harmless(&sentence(&report))),
    }
    exit(&report)
}

fn reload(daemon: &Daemon, deadline: Duration) -> Result<ReloadReport> {
    daemon.ask(&Request::Reload, deadline, |response| match response {
        Response::Reloaded(report) => Some(report),
        _ => None,
    })
}

fn exit(report: &ReloadReport) -> Exit {
    match report.result {
        ReloadResult::Rejected => Exit::Failed,
        _ if report.waiting_for_restart.is_empty() => Exit::Ok,
        _ => Exit::WaitsForRestart,
    }
}

fn sentence(report: &ReloadReport) -> String {
    let ReloadReport {
        bundle, message, ..
    } = report;
    let outcome = match report.result {
        ReloadResult::Applied => format!("applied, bundle {bundle} is in force: {message}"),
        ReloadResult::Unchanged => format!("unchanged, bundle {bundle} is in force"),
        ReloadResult::Rejected => format!("rejected, bundle {bundle} stays in force:\n{message}"),
    };
    if report.waiting_for_restart.is_empty() {
        return outcome;
    }
    format!(
        "{outcome}\nwaits for a restart: `{}`",
        report.waiting_for_restart.join("`, `")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::control;

    #[track_caller]
    fn check(
        result: ReloadResult,
        message: &str,
        waiting: &[&str],
        expected: &str,
        expected_exit: Exit,
    ) {
        let report = ReloadReport {
            at: 0,
            result,
            bundle: 7,
            message: message.into(),
            waiting_for_restart: waiting.iter().map(|&key| key.into()).collect(),
        };
        assert_eq!(
            (sentence(&report).as_str(), exit(&report)),
            (expected, expected_exit)
        );
    }

    #[tokio::test]
    async fn the_daemon_is_asked_for_its_outcome() {
        let temp = tempfile::TempDir::new().unwrap();
        let server =
            control::Server::bind(temp.path(), std::path::Path::new("config.toml")).unwrap();
        let (sender, mut requests) = tokio::sync::mpsc::channel::<control::Ask>(1);
        let serving = tokio::spawn(server.serve(sender));
        let daemon = Daemon::of(temp.path());
        let asking =
            tokio::task::spawn_blocking(move || reload(&daemon, Duration::from_secs(20)).unwrap());
        let control::Ask {
            request, answer, ..
        } = requests.recv().await.unwrap();
        assert!(matches!(request, Request::Reload));
        let report = ReloadReport {
            at: 1,
            result: ReloadResult::Rejected,
            bundle: 7,
            message: "config.toml:12:1: unknown key".into(),
            waiting_for_restart: vec!["log.file".into()],
        };
        answer.send(Response::Reloaded(report.clone())).unwrap();
        assert_eq!(
            format!("{:?}", asking.await.unwrap()),
            format!("{report:?}")
        );
        drop(requests);
        serving.await.unwrap().unwrap();
    }

    #[test]
    fn people_and_scripts_learn_how_it_ended() {
        let added = "listeners added: `orders`";
        check(
            ReloadResult::Applied,
            added,
            &[],
            "applied, bundle 7 is in force: listeners added: `orders`",
            Exit::Ok,
        );
        check(
            ReloadResult::Applied,
            added,
            &["lua.workers", "log.file"],
            "applied, bundle 7 is in force: listeners added: `orders`\nwaits for a restart: `lua.workers`, `log.file`",
            Exit::WaitsForRestart,
        );
        check(
            ReloadResult::Unchanged,
            "",
            &[],
            "unchanged, bundle 7 is in force",
            Exit::Ok,
        );
        check(
            ReloadResult::Rejected,
            "config.toml:12:1: unknown key `handlr`",
            &["log.file"],
            "rejected, bundle 7 stays in force:\nconfig.toml:12:1: unknown key `handlr`\nwaits for a restart: `log.file`",
            Exit::Failed,
        );
    }
}
