//! The service manager's side, played by the test: no root and no systemd needed.

use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

const PATIENCE: Duration = Duration::from_secs(60);

/// The daemon with a manager that listens.
struct Service {
    daemon: Child,
    manager: UnixDatagram,
    files: tempfile::TempDir,
}

const CONFIG: &str = r#"
[kafkaConfig]
brokers = ["127.0.0.1:1"]
[consumerConfig]
groupId = "notify-test"
[[listeners]]
topic = "orders"
handler = "orders"
"#;

impl Service {
    fn start() -> Self {
        let files = tempfile::tempdir().unwrap();
        let path = files.path();
        fs::create_dir(path.join("handlers")).unwrap();
        fs::write(
            path.join("handlers/orders.lua"),
            "return function(message, ctx) end\n",
        )
        .unwrap();
        fs::write(path.join("config.toml"), CONFIG).unwrap();
        let socket = path.join("notify");
        let manager = UnixDatagram::bind(&socket).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let daemon = Command::new(env!("CARGO_BIN_EXE_moontide"))
            .args(["run", "--config"])
            .arg(path.join("config.toml"))
            .env("NOTIFY_SOCKET", &socket)
            .env("WATCHDOG_USEC", "10000000")
            .env("RUNTIME_DIRECTORY", path)
            .env("STATE_DIRECTORY", path)
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(path.join("log")).unwrap())
            .spawn()
            .unwrap();
        Self {
            daemon,
            manager,
            files,
        }
    }

    /// Reads datagrams until one has the assignment, and returns that one.
    #[track_caller]
    fn hears(&self, assignment: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            let read = self.manager.recv(&mut buffer).unwrap_or_else(|error| {
                panic!("no `{assignment}` ({error}); the log:\n{}", self.log());
            });
            let datagram = String::from_utf8_lossy(&buffer[..read]).into_owned();
            if datagram.lines().any(|line| line.starts_with(assignment)) {
                return datagram;
            }
        }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([name, &self.daemon.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.files.path().join("log")).unwrap_or_default()
    }

    fn end(&mut self) -> ExitStatus {
        self.daemon.wait().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Both fail when it has ended already, as it should.
        drop(self.daemon.kill());
        drop(self.daemon.wait());
    }
}

#[test]
fn a_life_is_told_as_it_happens() {
    let mut service = Service::start();
    service.hears("READY=1");
    let status = service.hears("STATUS=");
    assert!(status.contains("bundle 1"), "{status}");
    service.hears("WATCHDOG=1");
    service.signal("-TERM");
    service.hears("STOPPING=1");
    // The drain may take 20 s, and leaving the groups comes on top.
    let extended = service.hears("EXTEND_TIMEOUT_USEC=");
    let time = extended.trim().strip_prefix("EXTEND_TIMEOUT_USEC=");
    let time: u64 = time.unwrap().parse().unwrap();
    assert!((20_000_000..120_000_000).contains(&time), "{extended}");
    assert_eq!(service.end().code(), Some(0), "{}", service.log());
}

#[test]
fn a_reload_tells_when_it_began_in_the_same_datagram_and_ends_ready() {
    let service = Service::start();
    service.hears("READY=1");
    service.signal("-HUP");
    let began = service.hears("RELOADING=1");
    let time = began
        .lines()
        .find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(
        time.is_some_and(|time| time.parse::<u64>().is_ok_and(|time| time > 0)),
        "{began}"
    );
    service.hears("READY=1");
}

#[test]
fn a_rejected_reload_ends_ready_too() {
    let mut service = Service::start();
    service.hears("READY=1");
    let bad = CONFIG.replace("handler", "handlr");
    fs::write(service.files.path().join("config.toml"), bad).unwrap();
    service.signal("-HUP");
    service.hears("RELOADING=1");
    service.hears("READY=1");
    let deadline = Instant::now() + PATIENCE;
    while !service.log().contains("handlr") {
        assert!(Instant::now() < deadline, "{}", service.log());
        thread::sleep(Duration::from_millis(50));
    }
    assert!(service.daemon.try_wait().unwrap().is_none(), "it lives on");
}

#[test]
fn a_manager_that_goes_away_changes_nothing() {
    let mut service = Service::start();
    service.hears("READY=1");
    fs::remove_file(service.files.path().join("notify")).unwrap();
    service.signal("-TERM");
    assert_eq!(service.end().code(), Some(0), "{}", service.log());
}
