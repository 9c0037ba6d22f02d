//! What is bad on disk is refused, and the old bundle goes on.

use std::fs;

use crate::support::kafka;
use crate::support::project::from_beginning;

use super::{Running, version};

#[test]
fn a_syntax_error_keeps_the_old_handlers_and_says_where() {
    let Some(kafka) = kafka::shared() else { return };
    let mut running = Running::start(kafka);

    let error = running.wait_rejected(|project| {
        project.handler("orders.lua", "local M = {}\nfunction M.handle(\n");
    });

    assert!(error.contains("handlers/orders.lua:"), "{error}");
    running.handles_as("old");
    let disk = running.disk().expect("a restart would fail");
    assert!(disk.contains("orders.lua"), "{disk}");
    running.wait_reloaded(|project| project.handler("orders.lua", &version("new")));
    running.handles_as("new");
    assert_eq!(running.disk(), None);
    running.never_left_the_group();
    running.daemon.stop();
}

/// The file that the daemon runs on is saved again after a bad one: nothing to load, but the disk is good again.
#[test]
fn undoing_a_bad_save_makes_the_disk_good_again() {
    let Some(kafka) = kafka::shared() else { return };
    let mut running = Running::start(kafka);
    running.wait_rejected(|project| project.handler("orders.lua", "not lua at all"));

    running.project.handler("orders.lua", &version("old"));

    running.daemon.wait_for("the status says so", |daemon| {
        daemon
            .try_status()
            .is_some_and(|status| status["disk"].is_null())
    });
    running.handles_as("old");
    running.never_left_the_group();
    running.daemon.stop();
}

#[test]
fn a_bad_config_keeps_the_old_one_and_says_where() {
    let Some(kafka) = kafka::shared() else { return };
    let mut running = Running::start(kafka);
    let orders = from_beginning("orders", &running.topic.name, "orders.handle");

    let error =
        running.wait_rejected(|project| project.config(&(orders.clone() + "handlr = \"x\"\n")));
    assert!(
        error.contains("config.toml:") && error.contains("handlr"),
        "{error}"
    );
    let error = running.wait_rejected(|project| project.config("[[listeners\n"));
    assert!(error.contains("config.toml:"), "{error}");
    running.handles_as("old");

    running.never_left_the_group();
    running.daemon.stop();
}

#[test]
fn an_endless_loop_at_the_top_level_is_refused() {
    let Some(kafka) = kafka::shared() else { return };
    let mut running = Running::start(kafka);

    let error =
        running.wait_rejected(|project| project.handler("orders.lua", "while true do end\n"));

    assert!(error.contains("orders.lua"), "{error}");
    running.handles_as("old");
    running.never_left_the_group();
    running.daemon.stop();
}

#[test]
fn a_handler_that_vanished_is_refused() {
    let Some(kafka) = kafka::shared() else { return };
    let mut running = Running::start(kafka);

    let error = running
        .wait_rejected(|project| project.handler("orders.lua", "return { other = print }\n"));
    assert!(error.contains("handle"), "the function: {error}");
    running.handles_as("old");
    let error = running
        .wait_rejected(|project| fs::remove_file(project.path("handlers/orders.lua")).unwrap());
    assert!(error.contains("orders.lua"), "the file: {error}");
    running.handles_as("old");

    running.wait_reloaded(|project| project.handler("orders.lua", &version("new")));
    running.handles_as("new");
    running.never_left_the_group();
    running.daemon.stop();
}
