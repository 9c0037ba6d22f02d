//! Which changes of the disk begin a reload: none with `[daemon] watch = false`, and none of files that nothing loads.

use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use crate::support::daemon::{Daemon, moontide};
use crate::support::project::{Project, RECORDING, from_beginning};
use crate::support::wait::stays;

use super::version;

const NOWHERE: &str = "127.0.0.1:1";

fn project(daemon: &str) -> Project {
    let sections = format!("[log]\nformat = \"json\"\n[daemon]\n{daemon}");
    let project = Project::at(NOWHERE.to_owned()).sections(&sections);
    project.handler("orders.lua", RECORDING);
    project.config(&from_beginning("orders", "orders", "orders.handle"));
    project
}

fn shown(project: &Project) -> String {
    let output = moontide(&["status", "--config"], &project.path("config.toml"));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn without_a_watch_only_requests_reload() {
    let project = project("watch = false");
    let mut daemon = Daemon::start(&project);
    assert_eq!(daemon.status()["watches"], false);
    assert!(
        shown(&project).contains("watch     off"),
        "{}",
        shown(&project)
    );

    project.handler("orders.lua", &version("new"));
    stays("nothing is reloaded", Duration::from_secs(2), || {
        daemon.count(|line| line.is("reloaded")) == 0
    });
    let (code, printed) = daemon.reload();
    assert_eq!(code, 0, "{printed}");
    assert_eq!(daemon.count(|line| line.is("reloaded")), 1);

    project.handler("orders.lua", &version("newer"));
    daemon.hup();
    daemon.wait_for("it is reloaded", |daemon| {
        daemon.count(|line| line.is("reloaded")) == 2
    });
    let changed = project
        .config_text("")
        .replace("watch = false", "watch = true");
    project.write("config.toml", &changed);
    let (code, printed) = daemon.reload();
    assert!(code == 3 && printed.contains("daemon.watch"), "{printed}");
    daemon.stop();
}

/// A file of a synchronizer, a link without its target, a named pipe: each is a WARN.
#[test]
fn files_that_nothing_loads_refuse_no_reload() {
    let project = project("");
    let mut daemon = Daemon::start(&project);
    assert_eq!(daemon.status()["watches"], true);
    assert!(
        shown(&project).contains("watch     on"),
        "{}",
        shown(&project)
    );
    let at = |name: &str| project.path("handlers").join(name);
    project.handler("orders.sync-conflict.lua", "return {\n");
    project.handler("x.test.lua", "error('a test')\n");
    symlink("/no/such/file", at("gone.lua")).unwrap();
    let pipe = Command::new("mkfifo").arg(at("pipe.lua")).status();
    assert!(pipe.unwrap().success());
    for name in [
        "orders.sync-conflict.lua",
        "x.test.lua",
        "gone.lua",
        "pipe.lua",
    ] {
        let line = daemon.wait_line(name, |line| {
            line.field("message")
                .contains(&format!("handlers/{name}: "))
        });
        assert_eq!(line.field("level"), "WARN", "{line:?}");
    }

    project.handler("orders.lua", &version("new"));
    daemon.wait_line("reloaded", |line| line.is("reloaded"));
    assert_eq!(
        daemon.count(|line| line.field("message").starts_with("reload rejected")),
        0
    );
    let warned = daemon.count(|line| line.mentions("handlers/gone.lua"));
    assert_eq!(warned, 1, "once");

    let seen = daemon.lines().len();
    project.handler("orders.lua", "require \"gone\"\n");
    let line = daemon.wait_line_after(seen, "rejected", |line| {
        line.field("message").starts_with("reload rejected")
    });
    assert!(
        line.mentions("is a link to a file that does not exist"),
        "{line:?}"
    );
    daemon.stop();
}

/// A start logs the warnings of the configuration, and a reload those that are new.
#[test]
fn a_reload_logs_its_new_warnings() {
    let project = project("");
    let mut daemon = Daemon::start(&project);
    let listener = from_beginning("orders", "orders", "orders.handle");
    project.config(&(listener + "[http]\n"));
    let line = daemon.wait_line("the warning", |line| {
        line.mentions("`[http]` has no `listen`")
    });
    assert_eq!(line.field("level"), "WARN", "{line:?}");
    let (code, printed) = daemon.reload();
    assert_eq!(code, 0, "{printed}");
    let warned = daemon.count(|line| line.mentions("`[http]` has no `listen`"));
    assert_eq!(warned, 1, "once");
    daemon.stop();
}
