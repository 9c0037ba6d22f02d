//! The shipped units: what `systemd-analyze` says of them, and what a real systemd does with the daemon.

#[path = "support/systemd/machine.rs"]
mod machine;

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use machine::{Machine, UNITS, has, skip, wait_for};

/// A broker that is away: a port on which nothing listens.
fn config() -> String {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    format!(
        r#"
[kafkaConfig]
brokers = ["127.0.0.1:{port}"]
[consumerConfig]
groupId = "systemd-test"
[[listeners]]
name = "orders"
topic = "orders"
handler = "orders"
[daemon]
drainDeadline = "5s"
"#
    )
}

/// One key that does not exist.
fn bad_config() -> String {
    config().replace("handler =", "handlr =")
}

#[test]
fn it_is_ready_without_a_broker_says_so_and_stops_cleanly() {
    // A credential that could not be read would be a bad config.
    let config = config().replace("systemd-test", "${credential:group}");
    let credential = "[Service]\nLoadCredential=group:/etc/machine-id";
    let Some(machine) = Machine::boot(&config, credential) else {
        return;
    };
    machine.succeed(&["systemctl", "start", "moontide"]);
    assert_eq!(machine.property("ActiveState"), "active");
    wait_for("a status line", || {
        !machine.property("StatusText").is_empty()
    });
    let status = machine.property("StatusText");
    assert!(status.contains("bundle 1"), "{status}");
    // Its own user, its own directories, nothing else.
    assert_ne!(machine.property("UID"), "0");
    machine.succeed(&["test", "-d", "/run/moontide"]);
    machine.succeed(&["test", "-d", "/var/lib/moontide"]);
    // The journal of running messages, and what tells it a reboot from a crash.
    machine.succeed(&["test", "-s", "/var/lib/moontide/running"]);
    let process = machine.property("MainPID");
    let boot_id = format!("/proc/{process}/root/proc/sys/kernel/random/boot_id");
    machine.succeed(&["test", "-r", &boot_id]);

    machine.succeed(&["systemctl", "stop", "moontide"]);
    assert_eq!(machine.property("Result"), "success", "{}", machine.log());
    assert_eq!(machine.property("ExecMainStatus"), "0", "{}", machine.log());
    assert_eq!(
        machine.property("ExecMainCode"),
        "1",
        "it exited by itself: {}",
        machine.log()
    );
    assert_eq!(machine.property("NRestarts"), "0");
}

#[test]
fn a_reload_succeeds_and_a_bad_one_fails_with_the_reason_while_the_service_stays_up() {
    let Some(machine) = Machine::boot(&config(), "") else {
        return;
    };
    machine.succeed(&["systemctl", "start", "moontide"]);
    let process = machine.property("MainPID");
    machine.succeed(&["systemctl", "reload", "moontide"]);

    machine.write("/etc/moontide/config.toml", &bad_config());
    let output = machine.run(&["systemctl", "reload", "moontide"]);
    assert!(!output.status.success(), "{}", machine.log());
    wait_for("the reason in the journal", || {
        machine.log().contains("handlr")
    });
    assert_eq!(machine.property("ActiveState"), "active");
    assert_eq!(machine.property("MainPID"), process);

    machine.write("/etc/moontide/config.toml", &config());
    machine.succeed(&["systemctl", "reload", "moontide"]);
    assert_eq!(machine.property("MainPID"), process);
}

#[test]
fn a_daemon_that_stands_still_is_restarted_by_the_watchdog() {
    let Some(machine) = Machine::boot(
        &config(),
        "[Service]\nWatchdogSec=5\nTimeoutAbortSec=5\nRestartSec=0",
    ) else {
        return;
    };
    machine.succeed(&["systemctl", "start", "moontide"]);
    let process = machine.property("MainPID");
    // More than one period: it is fed, or else this would be the restart.
    let fed = machine.property("WatchdogTimestampMonotonic");
    wait_for("the watchdog is fed", || {
        machine.property("WatchdogTimestampMonotonic") != fed
    });
    assert_eq!(machine.property("MainPID"), process);

    machine.succeed(&["kill", "-STOP", &process]);
    wait_for("the watchdog restarts it", || {
        machine.property("NRestarts") == "1"
    });
    wait_for("it is ready again", || {
        machine.property("ActiveState") == "active"
    });
    assert_ne!(machine.property("MainPID"), process);
    assert!(
        machine.log().contains("Watchdog timeout"),
        "{}",
        machine.log()
    );
}

#[test]
fn a_bad_config_ends_with_78_and_no_restart() {
    let Some(machine) = Machine::boot(&bad_config(), "") else {
        return;
    };
    let output = machine.run(&["systemctl", "start", "moontide"]);
    assert!(!output.status.success());
    wait_for("it has failed", || {
        machine.property("ActiveState") == "failed"
    });
    assert_eq!(
        machine.property("ExecMainStatus"),
        "78",
        "{}",
        machine.log()
    );
    assert_eq!(machine.property("NRestarts"), "0");
    wait_for("the reason in the journal", || {
        machine.log().contains("handlr")
    });
}

#[test]
fn the_journal_has_priorities_and_fields() {
    // What its errors say already, librdkafka's log says at debug only.
    let config = config() + "[log]\nlevel = \"info,librdkafka=debug\"";
    let Some(machine) = Machine::boot(&config, "") else {
        return;
    };
    machine.succeed(&["systemctl", "start", "moontide"]);
    // librdkafka says that the broker is away.
    let field =
        |line: &serde_json::Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    wait_for("librdkafka's line with its fields", || {
        machine.journal().iter().any(|line| {
            field(line, "TARGET") == "librdkafka"
                && !field(line, "MOONTIDE_FACILITY").is_empty()
                && field(line, "MESSAGE").contains("facility=")
                && field(line, "SYSLOG_IDENTIFIER") == "moontide"
        })
    });
    let journal = machine.journal();
    let ours = journal
        .iter()
        .filter(|line| field(line, "TARGET") == "daemon");
    let priorities: Vec<String> = ours.map(|line| field(line, "PRIORITY")).collect();
    assert!(priorities.contains(&"6".to_owned()), "{priorities:?}");
}

/// The unit around a program that ends at once with `code`.
fn ends_with(code: u8) -> String {
    format!("[Service]\nExecStart=\nExecStart=/bin/sh -c 'exit {code}'\nRestartSec=0")
}

#[test]
fn a_message_that_stopped_it_keeps_it_stopped() {
    let Some(machine) = Machine::boot(&config(), &ends_with(65)) else {
        return;
    };
    assert!(
        !machine
            .run(&["systemctl", "start", "moontide"])
            .status
            .success()
    );
    wait_for("it has failed", || {
        machine.property("ActiveState") == "failed"
    });
    assert_eq!(machine.property("NRestarts"), "0", "{}", machine.log());
}

#[test]
fn any_other_failure_restarts_it_however_often() {
    let Some(machine) = Machine::boot(&config(), &ends_with(1)) else {
        return;
    };
    // The default limit would give up after five.
    machine.succeed(&["systemctl", "start", "--no-block", "moontide"]);
    wait_for("ten restarts", || {
        machine.property("NRestarts").parse::<u32>().unwrap() >= 10
    });
}

#[test]
fn a_reload_of_which_something_waits_for_a_restart_is_a_success() {
    let reload = "[Service]\nExecReload=\nExecReload=/bin/sh -c 'exit 3'";
    let Some(machine) = Machine::boot(&config(), reload) else {
        return;
    };
    machine.succeed(&["systemctl", "start", "moontide"]);
    machine.succeed(&["systemctl", "reload", "moontide"]);
    assert_eq!(machine.property("ActiveState"), "active");
}

#[test]
fn with_the_drop_in_a_reload_is_a_signal_that_is_answered() {
    let dropin = fs::read_to_string(format!("{UNITS}/notify-reload.conf")).unwrap();
    let Some(machine) = Machine::boot(&config(), &dropin) else {
        return;
    };
    let version = machine.succeed(&["systemctl", "--version"]);
    let version = version.split_whitespace().nth(1).unwrap();
    let version: u32 = version.split('.').next().unwrap().parse().unwrap();
    if version < 253 {
        skip(&format!(
            "Type=notify-reload takes systemd 253, this is {version}"
        ));
        return;
    }
    machine.succeed(&["systemctl", "start", "moontide"]);
    let process = machine.property("MainPID");
    machine.succeed(&["systemctl", "reload", "moontide"]);
    machine.write("/etc/moontide/config.toml", &bad_config());
    machine.succeed(&["systemctl", "reload", "moontide"]);
    wait_for("the reason in the journal", || {
        machine.log().contains("handlr")
    });
    assert_eq!(machine.property("MainPID"), process);
}

/// The units as `systemd-analyze` reads them, with the built binary in place of the installed one.
fn units_to_verify() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in ["moontide.service", "moontide@.service"] {
        let unit = fs::read_to_string(format!("{UNITS}/{name}")).unwrap();
        let unit = unit.replace("/usr/bin/moontide", env!("CARGO_BIN_EXE_moontide"));
        fs::write(directory.path().join(name), unit).unwrap();
    }
    directory
}

#[test]
fn the_units_are_read_without_a_complaint() {
    if !has("systemd-analyze") {
        return;
    }
    let units = units_to_verify();
    for name in ["moontide.service", "moontide@.service"] {
        let path = units.path().join(name);
        let output = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{name}: {said}");
    }
}

#[test]
fn the_units_are_exposed_to_little() {
    if !has("systemd-analyze") {
        return;
    }
    let units = units_to_verify();
    let arguments = ["security", "--offline=true", "--threshold=15", "--no-pager"];
    for name in ["moontide.service", "moontide@.service"] {
        let path = units.path().join(name);
        let output = Command::new("systemd-analyze")
            .args(arguments)
            .arg(path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        if error.contains("unrecognized option") {
            skip("this systemd-analyze cannot look at units offline");
            return;
        }
        assert!(output.status.success(), "{name}: {said}{error}");
    }
}

#[test]
fn the_template_differs_in_nothing_but_names_and_places() {
    let settings = |name: &str| -> Vec<String> {
        let text = fs::read_to_string(format!("{UNITS}/{name}")).unwrap();
        let settings = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        settings.map(ToOwned::to_owned).collect()
    };
    let unit = settings("moontide.service");
    let template = settings("moontide@.service");
    assert!(unit.len() > 50);
    let plain: Vec<String> = template
        .iter()
        .map(|line| {
            line.replace(" (%i)", "")
                .replace("/%i", "")
                .replace("-%i", "")
        })
        .collect();
    assert_eq!(plain, unit);
}
