//! A reload that is asked for: SIGHUP and `moontide reload`.

use crate::support::kafka;
use crate::support::project::from_beginning;

use super::{Running, version};

/// `systemctl reload`.
#[test]
fn sighup_reloads_and_says_how_it_ended() {
    let Some(kafka) = kafka::shared() else { return };
    let mut running = Running::start(kafka);
    running.wait_reloaded(|project| project.handler("orders.lua", &version("new")));
    let before = running.daemon.status()["lastReload"]["at"]
        .as_i64()
        .unwrap();

    running.daemon.hup();

    running.daemon.wait_for("it is reported", |daemon| {
        daemon
            .try_status()
            .is_some_and(|status| status["lastReload"]["at"].as_i64() > Some(before))
    });
    running.handles_as("new");
    running.never_left_the_group();
    running.daemon.stop();
}

/// `moontide reload`: 0 in force, 1 refused, 3 something waits for a restart.
#[test]
fn the_reload_command_tells_how_it_ended() {
    let Some(kafka) = kafka::shared() else { return };
    let running = Running::start(kafka);
    let orders = from_beginning("orders", &running.topic.name, "orders.handle");

    let (code, printed) = running.daemon.reload();
    assert_eq!(code, 0, "nothing has changed: {printed}");
    running.project.handler("orders.lua", &version("new"));
    let (code, printed) = running.daemon.reload();
    assert_eq!(code, 0, "{printed}");
    running.handles_as("new");

    running.project.handler("orders.lua", "return {\n");
    let (code, printed) = running.daemon.reload();
    assert_eq!(code, 1, "{printed}");
    assert!(printed.contains("handlers/orders.lua:"), "{printed}");
    running.handles_as("new");

    running.project.handler("orders.lua", &version("newer"));
    running.project.config(&(orders + "\n[lua]\nworkers = 2\n"));
    let (code, printed) = running.daemon.reload();
    assert_eq!(code, 3, "{printed}");
    assert!(printed.contains("workers"), "{printed}");
    running.handles_as("newer");
    let (code, printed) = running.daemon.reload();
    assert_eq!(
        code, 3,
        "nothing has changed, and a key still waits: {printed}"
    );
    assert!(
        running.daemon.status()["waitingForRestart"]
            .to_string()
            .contains("workers")
    );

    running.never_left_the_group();
    running.daemon.stop();
}
