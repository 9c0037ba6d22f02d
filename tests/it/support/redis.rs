//! A real Redis server, started by the tests themselves and gone with their process; and a cluster of three.
//!
//! One server is shared by all tests, which keep apart by the names of keys and of connections; whoever stops, fills or
//! slows a server starts an own one. Without redis-server the tests that need it are skipped, loudly; under `CI=true`
//! they fail.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use tempfile::TempDir;

use super::kafka::{GUARD, free_port, send_signal};
use super::wait::{DEADLINE, wait_for, wait_some};

pub(crate) struct Redis {
    pub(crate) port: u16,
    /// Removed by its guard, if it is that of a shared server.
    directory: TempDir,
    arguments: Vec<String>,
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

/// The server of all tests that leave it alone; `None` where there can be none, which is then said.
pub(crate) fn shared() -> Option<&'static Redis> {
    static SHARED: OnceLock<Option<Redis>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| available().then(|| Redis::start_with(&[])));
    said_if_absent(shared.as_ref())
}

fn available() -> bool {
    let command = Command::new("redis-server")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    command.is_ok_and(|status| status.success())
}

fn said_if_absent<T>(redis: Option<T>) -> Option<T> {
    if redis.is_none() {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let sentence = format!("SKIPPED {test}: redis-server is needed to run it\n");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{sentence}");
        // Past the test runner, which swallows what a passing test prints.
        std::io::stderr().write_all(sentence.as_bytes()).unwrap();
    }
    redis
}

/// The reply to a command.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    Nil,
    Integer(i64),
    Text(String),
    Error(String),
    List(Vec<Self>),
}

impl Reply {
    #[track_caller]
    pub(crate) fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            other => panic!("no text: {other:?}"),
        }
    }
}

impl Redis {
    /// A server that its test may stop, fill and slow, with further arguments.
    pub(crate) fn start_own(arguments: &[&str]) -> Option<Self> {
        said_if_absent(available().then(|| Self::start_with(arguments)))
    }

    fn start_with(arguments: &[&str]) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("moontide-redis-")
            .tempdir()
            .unwrap();
        let redis = Self {
            port: free_port(),
            directory,
            arguments: arguments.iter().map(|one| (*one).to_owned()).collect(),
            running: Mutex::new(None),
        };
        redis.start(&[]);
        redis
    }

    /// Starts on the same port and data as before, with further arguments.
    pub(crate) fn start(&self, further: &[&str]) {
        let mut running = self.running.lock().unwrap();
        assert!(running.is_none(), "the server runs already");
        let folder = self.directory.path();
        let port = self.port.to_string();
        let mut guard = Command::new("sh")
            .args(["-c", &format!("exec 3>&1 >&2\n{GUARD}"), "redis-guard"])
            .args(["redis-server", "--port", &port, "--bind", "127.0.0.1"])
            .args(["--save", "", "--enable-debug-command", "local", "--dir"])
            .arg(folder)
            .args(&self.arguments)
            .args(further)
            .env("LOG", folder.join("server.log"))
            .env("REMOVE", "")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("there is a shell");
        let pipe = guard.stdin.take();
        let mut pid = String::new();
        let told = guard.stdout.take().expect("it is piped");
        BufReader::new(told).read_line(&mut pid).unwrap();
        *running = Some(Running {
            pid: pid.trim().parse().expect("the guard tells the process id"),
            guard,
            pipe,
        });
        drop(running);
        // A server that loads listens, too, and one with a password answers.
        let port = self.listening();
        wait_for("the Redis server listens", DEADLINE, || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
    }

    /// The port with TLS, where that is the only one.
    fn listening(&self) -> u16 {
        let mut arguments = self.arguments.iter();
        match arguments.find(|one| *one == "--tls-port") {
            Some(_) => arguments.next().unwrap().parse().unwrap(),
            None => self.port,
        }
    }

    /// SIGKILL: as in a power cut.
    pub(crate) fn kill(&self) {
        let running = self.running.lock().unwrap().take();
        let running = running.expect("the server runs");
        send_signal(running.pid, libc::SIGKILL);
    }

    /// The process stands still: as behind a network that swallows everything.
    pub(crate) fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: i32) {
        let running = self.running.lock().unwrap();
        send_signal(running.as_ref().expect("the server runs").pid, signal);
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// The reply to one command, over a connection of its own.
    pub(crate) fn command(&self, words: &[&str]) -> Reply {
        Client::connect(self.port).command(words)
    }

    #[track_caller]
    pub(crate) fn ok(&self, words: &[&str]) {
        assert_eq!(
            self.command(words),
            Reply::Text("OK".to_owned()),
            "{words:?}"
        );
    }

    /// The connections of the daemon's table of this name.
    pub(crate) fn connections(&self, name: &str) -> usize {
        let list = self.command(&["CLIENT", "LIST"]).text();
        let name = format!(" name=moontide:{name} ");
        list.lines().filter(|line| line.contains(&name)).count()
    }
}

/// A client of the tests' own.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    pub(crate) fn connect(port: u16) -> Self {
        let stream = wait_some("a connection to Redis", DEADLINE, || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) fn send(&mut self, words: &[&str]) {
        let mut text = format!("*{}\r\n", words.len());
        for word in words {
            write!(text, "${}\r\n{word}\r\n", word.len()).unwrap();
        }
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn command(&mut self, words: &[&str]) -> Reply {
        self.send(words);
        self.reply()
    }

    pub(crate) fn reply(&mut self) -> Reply {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let line = line.trim_end();
        let (kind, rest) = line.split_at(1);
        match kind {
            "+" => Reply::Text(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Integer(rest.parse().unwrap()),
            "$" | "*" if rest == "-1" => Reply::Nil,
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>().unwrap() + 2];
                self.0.read_exact(&mut bytes).unwrap();
                bytes.truncate(bytes.len() - 2);
                Reply::Text(String::from_utf8_lossy(&bytes).into_owned())
            }
            "*" => Reply::List((0..rest.parse().unwrap()).map(|_| self.reply()).collect()),
            _ => panic!("no reply: {line}"),
        }
    }
}

/// Three masters, each with a third of the slots.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Redis>,
}

const SLOTS: usize = 16_384;

impl Cluster {
    pub(crate) fn start() -> Option<Self> {
        let arguments = [
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "2000",
            "--cluster-require-full-coverage",
            "no",
        ];
        let mut nodes = Vec::new();
        for _ in 0..3 {
            // Ports above 55,535 have no second one for the bus.
            let bus = free_port().to_string();
            let arguments = [&arguments[..], &["--cluster-port", &bus]].concat();
            nodes.push(Redis::start_own(&arguments)?);
        }
        let cluster = Self { nodes };
        for (at, node) in cluster.nodes.iter().enumerate() {
            let (first, last) = (at * SLOTS / 3, (at + 1) * SLOTS / 3 - 1);
            node.ok(&[
                "CLUSTER",
                "ADDSLOTSRANGE",
                &first.to_string(),
                &last.to_string(),
            ]);
            node.ok(&["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]);
        }
        for node in &cluster.nodes {
            let bus = node.argument("--cluster-port");
            let port = node.port.to_string();
            for other in &cluster.nodes {
                if other.port != node.port {
                    other.ok(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
                }
            }
        }
        cluster.settle();
        Some(cluster)
    }

    /// Waits until every member knows the slots of all.
    pub(crate) fn settle(&self) {
        wait_for("the cluster is whole", DEADLINE, || {
            self.nodes.iter().all(|node| {
                let info = node.command(&["CLUSTER", "INFO"]).text();
                info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
            })
        });
    }

    /// The addresses as they stand in the configuration.
    pub(crate) fn urls(&self) -> String {
        let urls: Vec<_> = self
            .nodes
            .iter()
            .map(|one| format!("\"{}\"", one.url()))
            .collect();
        format!("[{}]", urls.join(", "))
    }

    /// The member that has a slot, by its own word.
    pub(crate) fn owner(&self, key: &str) -> usize {
        let found = self
            .nodes
            .iter()
            .position(|node| !matches!(node.command(&["TTL", key]), Reply::Error(_)));
        found.expect("a member has the slot")
    }

    pub(crate) fn slot(&self, key: &str) -> String {
        match self.nodes[0].command(&["CLUSTER", "KEYSLOT", key]) {
            Reply::Integer(slot) => slot.to_string(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn id(&self, node: usize) -> String {
        self.nodes[node].command(&["CLUSTER", "MYID"]).text()
    }

    /// From now on the slot is on its way: keys that are not there any more are asked for at `to`.
    pub(crate) fn begin_move(&self, slot: &str, from: usize, to: usize) {
        self.nodes[to].ok(&["CLUSTER", "SETSLOT", slot, "IMPORTING", &self.id(from)]);
        self.nodes[from].ok(&["CLUSTER", "SETSLOT", slot, "MIGRATING", &self.id(to)]);
    }

    pub(crate) fn move_key(&self, key: &str, from: usize, to: usize) {
        let port = self.nodes[to].port.to_string();
        let moved = ["MIGRATE", "127.0.0.1", &port, key, "0", "5000"];
        let reply = self.nodes[from].command(&moved);
        // One that has moved already is not there.
        let words = ["OK", "NOKEY"].map(|word| Reply::Text(word.to_owned()));
        assert!(words.contains(&reply), "{key}: {reply:?}");
    }

    pub(crate) fn end_move(&self, slot: &str, to: usize) {
        let id = self.id(to);
        // The new owner first, so that the slot is never without one.
        self.nodes[to].ok(&["CLUSTER", "SETSLOT", slot, "NODE", &id]);
        for node in &self.nodes {
            node.ok(&["CLUSTER", "SETSLOT", slot, "NODE", &id]);
        }
    }
}

impl Redis {
    fn argument(&self, name: &str) -> String {
        let mut arguments = self.arguments.iter();
        arguments
            .find(|one| *one == name)
            .expect("it has this argument");
        arguments.next().cloned().unwrap_or_default()
    }
}
