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

/// A file that is half written, one that raises, one that requires what is not there, one that is not Lua text.
#[test]
fn whatever_is_wrong_with_a_file_is_said_with_its_place() {
    let Some(kafka) = kafka::shared() else { return };
    let mut running = Running::start(kafka);
    let whole = version("new");
    let cases = [
        (&whole[..whole.len() / 2], "handlers/orders.lua:"),
        (
            "\nerror(\"not today\")\n",
            "handlers/orders.lua:2: not today",
        ),
        ("local m = require \"no.such\"\nreturn m\n", "no.such"),
        ("\u{1b}Lua", "handlers/orders.lua"),
        ("return 17\n", "handlers/orders.lua"),
        ("", "handlers/orders.lua"),
    ];

    for (text, expected) in cases {
        let error = running.wait_rejected(|project| project.handler("orders.lua", text));
        assert!(error.contains(expected), "`{text}`: {error}");
        running.handles_as("old");
    }
    running.wait_reloaded(|project| project.handler("orders.lua", &whole));

    running.handles_as("new");
    running.never_left_the_group();
    running.daemon.stop();
}

/// A file that is written bit by bit: whatever is seen of it in between, the whole one is in force in the end.
#[test]
fn a_file_that_is_written_slowly_is_in_force_when_it_is_whole() {
    use std::io::Write;
    let Some(kafka) = kafka::shared() else { return };
    let mut running = Running::start(kafka);
    let whole = version("new");

    running.wait_reloaded(|project| {
        let mut file = fs::File::create(project.path("handlers/orders.lua")).unwrap();
        for piece in whole.as_bytes().chunks(8) {
            file.write_all(piece).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(60));
        }
    });

    running.handles_as("new");
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
