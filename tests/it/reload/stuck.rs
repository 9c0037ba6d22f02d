//! Loads that do not end: the daemon gives them up and goes on; a newer save and a stop wait for none of them.

use std::time::{Duration, Instant};

use crate::support::daemon::Daemon;
use crate::support::http::{address, get, scrape};
use crate::support::project::{Project, RECORDING, from_beginning};

use super::version;

/// No message is needed, so no broker either.
const NOWHERE: &str = "127.0.0.1:1";

/// Blocks in C until the gate is open, or for a minute, in line 2.
const BLOCKS: &str = "io.open(\"loading\", \"w\"):close()\n\
                      os.execute(\"for i in $(seq 600); do [ -e gate ] && break; sleep 0.1; done\")\n\
                      return { handle = function() end }\n";

/// The time of a stop with nothing to drain, on a busy machine. A load that is waited for takes a minute.
const STOP: Duration = Duration::from_secs(20);

fn project(blocking: &str) -> Project {
    let sections = "[log]\nformat = \"json\"\n[http]\nlisten = \"127.0.0.1:0\"\n[daemon]\n";
    let project = Project::at(NOWHERE.to_owned()).sections(sections);
    project.handler("orders.lua", RECORDING);
    let limits = format!("limits = {{ blocking = \"{blocking}\" }}\n");
    project.config(&(from_beginning("orders", "orders", "orders.handle") + &limits));
    project
}

fn wait_until_it_loads(daemon: &mut Daemon, project: &Project) {
    daemon.wait_for("the file is being loaded", |_| {
        project.path("loading").exists()
    });
}

#[track_caller]
fn wait_rejected(daemon: &mut Daemon, seen: usize) -> String {
    let line = daemon.wait_line_after(seen, "reload rejected", |line| {
        line.field("message").starts_with("reload rejected")
    });
    assert!(line.is_error(), "{line:?}");
    line.field("error")
}

#[test]
fn a_load_that_blocks_in_c_is_given_up_and_the_next_save_waits_for_its_end() {
    let project = project("100ms");
    let mut daemon = Daemon::start(&project);
    let http = address(&mut daemon);
    assert_eq!(scrape(&http).get("moontide_load_stuck", &[]), Some(0.0));

    project.replace_handler("orders.lua", BLOCKS);
    let error = wait_rejected(&mut daemon, 0);
    assert!(error.starts_with("handlers/orders.lua:2: "), "{error}");
    assert_eq!(get(&http, "/live").code, 200);
    assert_eq!(scrape(&http).get("moontide_load_stuck", &[]), Some(1.0));
    let why = daemon.status()["stuckLoad"]["why"].clone();
    assert_eq!(why.as_str(), Some(&*error));

    let seen = daemon.lines().len();
    project.replace_handler("orders.lua", &version("new"));
    let refusal = wait_rejected(&mut daemon, seen);
    let is_named = refusal.starts_with("handlers/orders.lua:2: ");
    assert!(
        is_named && refusal.contains("no reload is possible"),
        "{refusal}"
    );
    let (code, printed) = daemon.reload();
    assert!(
        code == 1 && printed.contains("handlers/orders.lua:2: "),
        "{code}: {printed}"
    );

    let seen = daemon.lines().len();
    project.open_gate();
    daemon.wait_line_after(seen, "reloaded", |line| line.is("reloaded"));
    assert!(daemon.status()["stuckLoad"].is_null());
    assert!(daemon.status()["disk"].is_null());
    assert_eq!(scrape(&http).get("moontide_load_stuck", &[]), Some(0.0));
    daemon.stop();
}

/// The same bytes would block again: only a request loads them.
#[test]
fn what_was_given_up_is_loaded_again_on_request_only() {
    let project = project("100ms");
    let mut daemon = Daemon::start(&project);
    project.replace_handler("orders.lua", BLOCKS);
    wait_rejected(&mut daemon, 0);

    project.open_gate();
    daemon.wait_line("the end of the load", |line| {
        line.mentions("the load that was given up has ended")
    });
    daemon.wait_for("the disk is looked at", |daemon| {
        let status = daemon.try_status();
        status.is_some_and(|status| {
            let rejected = status["reloads"]["rejected"].as_u64();
            status["stuckLoad"].is_null() && rejected >= Some(2)
        })
    });
    let reloaded = daemon.count(|line| line.is("reloaded"));
    assert_eq!(reloaded, 0, "the same bytes");
    let (code, printed) = daemon.reload();
    assert_eq!(code, 0, "{printed}");
    daemon.stop();
}

#[test]
fn a_stop_does_not_wait_for_a_load_that_was_given_up() {
    let project = project("100ms");
    let mut daemon = Daemon::start(&project);
    project.replace_handler("orders.lua", BLOCKS);
    wait_rejected(&mut daemon, 0);
    let began = Instant::now();
    daemon.term();
    assert_eq!(daemon.exit_code(STOP), 0);
    assert!(began.elapsed() < STOP);
}

#[test]
fn a_stop_does_not_wait_for_a_load_under_way() {
    let project = project("1m");
    let mut daemon = Daemon::start(&project);
    project.replace_handler("orders.lua", BLOCKS);
    wait_until_it_loads(&mut daemon, &project);
    daemon.term();
    assert_eq!(daemon.exit_code(STOP), 0);
}

#[test]
fn a_newer_save_ends_an_endless_loop_at_once() {
    let project = project("2m");
    let mut daemon = Daemon::start(&project);
    let loops = "io.open(\"loading\", \"w\"):close()\nwhile true do pcall(error) end\n";
    project.replace_handler("orders.lua", loops);
    wait_until_it_loads(&mut daemon, &project);
    let saved = Instant::now();

    project.replace_handler("orders.lua", &version("new"));
    daemon.wait_line("reloaded", |line| line.is("reloaded"));
    assert!(
        saved.elapsed() < Duration::from_secs(30),
        "{:?}",
        saved.elapsed()
    );
    let rejected = daemon.count(|line| line.field("message").starts_with("reload rejected"));
    assert_eq!(rejected, 0);
    daemon.stop();
}

#[test]
fn a_start_with_a_file_that_blocks_ends_with_its_position() {
    let project = project("100ms");
    project.handler("orders.lua", BLOCKS);
    let mut daemon = Daemon::spawn(&project);
    assert_eq!(daemon.exit_code(Duration::from_secs(40)), 78);
    let log = daemon.log_text();
    assert!(log.contains("handlers/orders.lua:2: "), "{log}");
}
