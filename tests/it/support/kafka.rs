//! A real Apache Kafka: one node, started by the tests themselves and gone with their process.
//!
//! One broker is shared by all tests, which keep apart by topic and group names; whoever stops or restarts a broker
//! starts an own one. Without Java or Maven the tests that need a broker are skipped, loudly; under `CI=true` they
//! fail. No broker outlives the test process, not even one that was killed: a shell holds the read end of a pipe and
//! ends the JVM when the other end is gone.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::wait::{DEADLINE, wait_for, wait_some};

const POM: &str = include_str!("kafka/pom.xml");

/// The newest version, on which a short list of tests runs too.
#[allow(dead_code, reason = "of the binaries that share this, one uses it")]
pub(crate) const NEWEST: &str = "4.4.0";
/// The environment variable that chooses the version of a run.
pub(crate) const VERSION: &str = "MOONTIDE_TEST_KAFKA";

/// The version of this run: of the environment, else of the pom.
pub(crate) fn version() -> String {
    std::env::var(VERSION).unwrap_or_else(|_| {
        let (_, rest) = POM.split_once("<kafka.version>").expect("the pom has it");
        rest.split('<').next().unwrap_or_default().to_owned()
    })
}

/// Runs the broker, tells its process id, and ends it (and its data, if told to) once the pipe is closed.
pub(super) const GUARD: &str = r#"
trap '' INT HUP
"$@" </dev/null >>"$LOG" 2>&1 3>&- &
broker=$!
echo $broker >&3
exec 3>&-
read -r _ || true
kill -9 $broker 2>/dev/null
wait $broker 2>/dev/null
[ -z "$REMOVE" ] || rm -rf "$REMOVE"
"#;

pub(crate) struct Kafka {
    ports: (u16, u16),
    directory: PathBuf,
    /// Removes the data of an own broker; that of the shared one goes with its guard.
    _data: Option<TempDir>,
    running: Mutex<Option<Running>>,
}

struct Running {
    pid: i32,
    guard: Child,
    pipe: Option<ChildStdin>,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.pipe.take());
        drop(self.guard.wait());
    }
}

/// The broker of all tests that leave it alone; `None` where there can be none, which is then said.
pub(crate) fn shared() -> Option<&'static Kafka> {
    static SHARED: OnceLock<Option<Kafka>> = OnceLock::new();
    let shared =
        SHARED.get_or_init(|| available().then(|| start_on_free_ports(true, &Extras::default())));
    said_if_absent(shared.as_ref())
}

/// What a broker has besides what all have: lines of server.properties, and arguments of the format.
#[derive(Default)]
pub(crate) struct Extras {
    pub(crate) properties: String,
    pub(crate) format: Vec<String>,
}

impl Kafka {
    /// A broker that its test may stop, kill and start again.
    pub(crate) fn start_own() -> Option<Self> {
        Self::start_own_with("")
    }

    /// With further lines of its configuration.
    pub(crate) fn start_own_with(properties: &str) -> Option<Self> {
        let extras = Extras {
            properties: properties.to_owned(),
            ..Extras::default()
        };
        let kafka = available().then(|| start_on_free_ports(false, &extras));
        said_if_absent(kafka.as_ref())?;
        kafka
    }

    /// One for several tests, which leave it alone: it and its data go with the test process.
    pub(crate) fn start_for_all(extras: impl FnOnce() -> Extras) -> Option<Self> {
        let kafka = available().then(|| start_on_free_ports(true, &extras()));
        said_if_absent(kafka.as_ref())?;
        kafka
    }

    /// One of several that make a cluster: formatted, with ports that the caller knows, and not started.
    #[allow(dead_code, reason = "of the binaries that share this, one uses it")]
    pub(crate) fn prepare(ports: (u16, u16), extras: &Extras) -> Self {
        let data = tempfile::Builder::new()
            .prefix("moontide-kafka-")
            .tempdir()
            .unwrap();
        let kafka = Self {
            ports,
            directory: data.path().to_path_buf(),
            _data: Some(data),
            running: Mutex::new(None),
        };
        write_configuration(&kafka, extras);
        kafka
    }

    #[allow(dead_code, reason = "of the binaries that share this, one uses it")]
    pub(crate) fn is_running(&self) -> bool {
        self.running.lock().unwrap().is_some()
    }

    /// The process stands still until it is told to go on: as behind a network that swallows everything.
    pub(crate) fn freeze(&self) {
        let pid = self.signal(libc::SIGSTOP);
        // The signal returns before every thread of the broker has stopped.
        wait_for("the broker stands still", DEADLINE, || {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            threads.flatten().all(|thread| {
                let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
                let state = stat
                    .rsplit_once(") ")
                    .map(|(_, rest)| rest.starts_with('T'));
                state.unwrap_or(true)
            })
        });
    }

    pub(crate) fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Returns the process to which it was sent.
    fn signal(&self, signal: i32) -> i32 {
        let running = self.running.lock().unwrap();
        let pid = running.as_ref().expect("the broker runs").pid;
        send_signal(pid, signal);
        pid
    }

    pub(crate) fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.ports.0)
    }

    /// Where the controllers speak to each other, which is no port for clients.
    #[allow(dead_code, reason = "of the binaries that share this, one uses it")]
    pub(crate) fn controller(&self) -> String {
        format!("127.0.0.1:{}", self.ports.1)
    }

    /// Starts on the same ports and data as before.
    pub(crate) fn start(&self) {
        let mut running = self.running.lock().unwrap();
        assert!(running.is_none(), "the broker runs already");
        *running = Some(self.launch(None));
        drop(running);
        assert!(
            self.is_listening(Duration::from_secs(120)),
            "the broker does not listen:\n{}",
            self.log()
        );
    }

    /// SIGTERM: as in an orderly restart.
    pub(crate) fn stop(&self) {
        self.end(libc::SIGTERM);
    }

    /// SIGKILL: as in a power cut.
    pub(crate) fn kill(&self) {
        self.end(libc::SIGKILL);
    }

    fn end(&self, signal: i32) {
        let running = self
            .running
            .lock()
            .unwrap()
            .take()
            .expect("the broker runs");
        send_signal(running.pid, signal);
        wait_for("the broker has ended", DEADLINE, || !is_alive(running.pid));
    }

    fn launch(&self, remove: Option<&Path>) -> Running {
        let java = java();
        let mut guard = Command::new("sh")
            .args(["-c", &format!("exec 3>&1 >&2\n{GUARD}"), "broker-guard"])
            .arg(java.get_program())
            .args(["-Xms64m", "-Xmx512m", "-XX:+UseSerialGC"])
            .args(java.get_args())
            .arg(format!(
                "-Dlog4j2.configurationFile={}",
                self.directory.join("log4j2.properties").display()
            ))
            .arg("kafka.Kafka")
            .arg(self.directory.join("server.properties"))
            .env("LOG", self.directory.join("broker.log"))
            .env("REMOVE", remove.unwrap_or(Path::new("")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("there is a shell");
        let pipe = guard.stdin.take();
        let mut pid = String::new();
        guard
            .stdout
            .take()
            .expect("it is piped")
            .read_to_string(&mut pid)
            .unwrap();
        Running {
            pid: pid.trim().parse().expect("the guard tells the process id"),
            guard,
            pipe,
        }
    }

    fn is_listening(&self, deadline: Duration) -> bool {
        let started = Instant::now();
        let pid = self
            .running
            .lock()
            .unwrap()
            .as_ref()
            .map(|running| running.pid);
        while started.elapsed() < deadline && pid.is_some_and(is_alive) {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports.0)).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("broker.log")).unwrap_or_default()
    }
}

/// Another process may take a port between our look and the broker's: then with others.
fn start_on_free_ports(shared: bool, extras: &Extras) -> Kafka {
    let mut log = String::new();
    for _ in 0..3 {
        let data = tempfile::Builder::new()
            .prefix("moontide-kafka-")
            .tempdir()
            .unwrap();
        let directory = data.path().to_path_buf();
        let data = if shared {
            drop(data.keep());
            None
        } else {
            Some(data)
        };
        let kafka = Kafka {
            ports: (free_port(), free_port()),
            directory,
            _data: data,
            running: Mutex::new(None),
        };
        write_configuration(&kafka, extras);
        let remove = shared.then_some(kafka.directory.as_path());
        *kafka.running.lock().unwrap() = Some(kafka.launch(remove));
        if kafka.is_listening(Duration::from_secs(90)) {
            return kafka;
        }
        log = kafka.log();
    }
    panic!("no broker could be started:\n{log}");
}

fn write_configuration(kafka: &Kafka, extras: &Extras) {
    let (broker, controller) = kafka.ports;
    let data = kafka.directory.join("data");
    let properties = kafka.directory.join("server.properties");
    let text = include_str!("kafka/server.properties")
        .replace("@BROKER@", &broker.to_string())
        .replace("@CONTROLLER@", &controller.to_string())
        .replace("@DATA@", data.to_str().unwrap())
        // Of a property that stands there twice the last one counts.
        + &extras.properties.replace("@BROKER@", &broker.to_string()).replace("@CONTROLLER@", &controller.to_string());
    fs::write(&properties, text).unwrap();
    fs::write(
        kafka.directory.join("log4j2.properties"),
        include_str!("kafka/log4j2.properties"),
    )
    .unwrap();
    let format = java()
        .args([
            "kafka.tools.StorageTool",
            "format",
            "-t",
            "bW9vbnRpZGUtdGVzdHMtMQ",
            "-c",
        ])
        .arg(&properties)
        .args(&extras.format)
        .output()
        .expect("java was found before");
    assert!(
        format.status.success(),
        "{}",
        String::from_utf8_lossy(&format.stderr)
    );
}

/// Below the range from which the system takes the ports of outgoing connections: a stopped broker's port stays free.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + (std::process::id() as u16 % 100) * 100;
    wait_some("a free port", DEADLINE, || {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .is_ok()
            .then_some(port)
    })
}

pub(crate) fn java() -> Command {
    let mut command = Command::new("java");
    command
        .args(["-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-cp"])
        .arg(libraries().join("*"));
    command
}

/// The jars, fetched once a checkout: the folder appears by a rename, so it is whole whenever it is there.
fn libraries() -> &'static Path {
    static LIBRARIES: OnceLock<PathBuf> = OnceLock::new();
    LIBRARIES.get_or_init(|| {
        let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let sum = POM.bytes().fold(0_u32, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(byte.into())
        });
        let version = version();
        let libraries = temporary.join(format!("../kafka-libs-{version}-{sum:08x}"));
        if libraries.is_dir() {
            return libraries;
        }
        let fetched = tempfile::tempdir_in(temporary).unwrap();
        let pom = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/kafka/pom.xml");
        let maven = Command::new("mvn")
            .args(["-q", "-B", "-f"])
            .arg(pom)
            .arg("dependency:copy-dependencies")
            .arg(format!("-Dkafka.version={version}"))
            .arg(format!(
                "-DoutputDirectory={}",
                fetched.path().join("libs").display()
            ))
            .output()
            .expect("mvn was found before");
        assert!(
            maven.status.success(),
            "maven: {}",
            String::from_utf8_lossy(&maven.stdout)
        );
        // Another test process may have been faster.
        drop(fs::rename(fetched.path().join("libs"), &libraries));
        libraries
    })
}

pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    let runs = |program: &str| {
        let command = Command::new(program)
            .arg("-version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        command.is_ok_and(|status| status.success())
    };
    *AVAILABLE.get_or_init(|| runs("java") && runs("mvn"))
}

pub(crate) fn said_if_absent<T>(kafka: Option<T>) -> Option<T> {
    if kafka.is_none() {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let sentence =
            format!("SKIPPED {test}: java and mvn are needed to run it against Apache Kafka\n");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{sentence}");
        // Past the test runner, which swallows what a passing test prints.
        std::io::stderr().write_all(sentence.as_bytes()).unwrap();
    }
    kafka
}

/// A name that no other test of this or another run has.
pub(crate) fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{name}-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

pub(crate) fn is_alive(pid: i32) -> bool {
    // A zombie has ended, whether or not its parent has looked.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .trim_start()
            .starts_with('Z')
    })
}

pub(crate) fn send_signal(pid: i32, signal: i32) {
    let sent = Command::new("kill")
        .args([format!("-{signal}"), pid.to_string()])
        .status()
        .unwrap();
    assert!(sent.success(), "signal {signal} to {pid}");
}
