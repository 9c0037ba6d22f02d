//! A real PostgreSQL server, started by the tests themselves and gone with their process.
//!
//! One server is shared by all tests, each with a database of its own; whoever stops or fills a server starts an own one.
//! PostgreSQL refuses to run as root, so root runs it as the user `postgres` or `nobody`. Without PostgreSQL the tests that
//! need it are skipped, loudly; under `CI=true` they fail.
//!
//! The lib's tests have this file, too, so it uses nothing of the other support.

#![allow(dead_code, reason = "the two suites use different parts")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::sql_server::{self, Running, SqlServer, is_alive, own, said_if_absent, signal};

const USER: &str = "postgres";
pub(crate) const PASSWORD: &str = sql_server::PASSWORD;
const SOON: Duration = Duration::from_secs(45);

pub(crate) struct Postgres {
    pub(crate) port: u16,
    /// Removed by its guard, if it is that of a shared server.
    directory: TempDir,
    is_shared: bool,
    programs: PathBuf,
    running: Mutex<Option<Running>>,
}

/// The server of all tests that leave it alone; `None` where there can be none, which is then said.
pub(crate) fn shared() -> Option<&'static Postgres> {
    static SHARED: OnceLock<Option<Postgres>> = OnceLock::new();
    let shared =
        SHARED.get_or_init(|| programs().map(|programs| Postgres::new(programs, true, "")));
    said_if_absent("PostgreSQL", shared.as_ref())
}

/// Where the programs of the newest version are.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|one| {
            let one = one.ok()?;
            let version = one.file_name().to_str()?.parse().ok()?;
            let programs = one.path().join("bin");
            programs
                .join("postgres")
                .exists()
                .then_some((version, programs))
        })
        .collect();
    found.sort();
    found.pop().map(|(_, programs)| programs)
}

/// The command line that runs a program as a user that PostgreSQL accepts.
fn as_user(program: &Path) -> Vec<String> {
    sql_server::as_user(USER, program)
}

/// Gives a key to the user of the server, who alone may read it. Returns whether there is a server.
pub(crate) fn own_key(path: &str) -> bool {
    said_if_absent("PostgreSQL", programs()).is_some() && sql_server::own_key(USER, path)
}

impl Postgres {
    /// A server that its test may stop and fill, with further settings, each a line.
    pub(crate) fn start_own(settings: &str) -> Option<Self> {
        let started = programs().map(|programs| Self::new(programs, false, settings));
        said_if_absent("PostgreSQL", started)
    }

    fn new(programs: PathBuf, is_shared: bool, settings: &str) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("moontide-postgres-")
            .tempdir()
            .unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let postgres = Self {
            port,
            directory,
            is_shared,
            programs,
            running: Mutex::new(None),
        };
        let folder = postgres.directory.path();
        std::fs::write(folder.join("password"), PASSWORD).unwrap();
        own(USER, folder);
        let initdb = as_user(&postgres.programs.join("initdb"));
        let made = Command::new(&initdb[0])
            .args(&initdb[1..])
            .args([
                "--no-sync",
                "--encoding=UTF8",
                "--no-locale",
                "--auth=scram-sha-256",
                "--username",
                USER,
            ])
            .arg(format!("--pwfile={}", folder.join("password").display()))
            .arg("--pgdata")
            .arg(folder.join("data"))
            .current_dir("/")
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\nfsync = off\n\
             max_connections = 200\nlc_messages = 'C'\ntimezone = 'Asia/Shanghai'\n{settings}\n"
        );
        let file = folder.join("data/postgresql.conf");
        let text = std::fs::read_to_string(&file).unwrap() + &settings;
        std::fs::write(&file, text).unwrap();
        postgres.start();
        postgres
    }

    /// Starts on the same port and data as before.
    pub(crate) fn start(&self) {
        let mut running = self.running.lock().unwrap();
        assert!(running.is_none(), "the server runs already");
        let folder = self.directory.path();
        let remove = if self.is_shared {
            folder
        } else {
            Path::new("")
        };
        let mut words = as_user(&self.programs.join("postgres"));
        words.extend(["-D".to_owned(), folder.join("data").display().to_string()]);
        *running = Some(Running::start(&words, &folder.join("server.log"), remove));
        drop(running);
        self.until("the server answers", || {
            self.try_sql(USER, "SELECT 1").is_ok()
        });
    }

    #[track_caller]
    fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let until = Instant::now() + SOON;
        while !is_so() {
            let log = self.directory.path().join("server.log");
            let log = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(Instant::now() < until, "waited in vain: {what}\n{}", log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the server at once, as in a power cut.
    pub(crate) fn kill(&self) {
        let running = self
            .running
            .lock()
            .unwrap()
            .take()
            .expect("the server runs");
        signal(running.pid, "QUIT");
        let data = self.directory.path().join("data/postmaster.pid");
        self.until("the server has ended", || {
            !data.exists() || !is_alive(running.pid)
        });
        // A server that was killed leaves its file, in which the next one finds no process.
        drop(running);
    }

    /// The process stands still, with all its connections: as behind a network that swallows everything.
    pub(crate) fn freeze(&self) {
        self.to_all("STOP");
    }

    pub(crate) fn thaw(&self) {
        self.to_all("CONT");
    }

    fn to_all(&self, name: &str) {
        let running = self.running.lock().unwrap();
        let pid = running.as_ref().expect("the server runs").pid;
        let children = Command::new("pgrep")
            .args(["-P", &pid.to_string()])
            .output()
            .unwrap();
        signal(pid, name);
        for child in String::from_utf8_lossy(&children.stdout).lines() {
            signal(child.parse().unwrap(), name);
        }
    }

    /// A new database, by a name that no other test has.
    pub(crate) fn database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{number}", std::process::id());
        self.sql(USER, &format!("CREATE DATABASE {name}"));
        name
    }

    pub(crate) fn url(&self, database: &str) -> String {
        sql_server::url("postgres", USER, self.port, database)
    }

    pub(crate) fn try_sql(&self, database: &str, text: &str) -> Result<String, String> {
        let output = Command::new(self.programs.join("psql"))
            .args([
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-h",
                "127.0.0.1",
                "-U",
                USER,
            ])
            .args(["-p", &self.port.to_string(), "-d", database, "-c", text])
            .env("PGPASSWORD", PASSWORD)
            .env("PGAPPNAME", "the test")
            .env("PGCONNECT_TIMEOUT", "20")
            .output()
            .unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout)
                .unwrap()
                .trim_end()
                .to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// The rows that a statement gives, over a connection of its own.
    #[track_caller]
    pub(crate) fn sql(&self, database: &str, text: &str) -> String {
        let result = self.try_sql(database, text);
        result.unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// The connections of the daemon to a database, by their state, with how many there are.
    pub(crate) fn activity(&self, database: &str) -> String {
        let text = format!(
            "SELECT coalesce(string_agg(state || ' ' || n, ', ' ORDER BY state), '') FROM (SELECT state, count(*) AS n \
             FROM pg_stat_activity WHERE datname = '{database}' AND application_name LIKE 'moontide:%' GROUP BY state) s"
        );
        self.sql(USER, &text)
    }

    pub(crate) fn wait_for_activity(&self, database: &str, is_it: impl Fn(&str) -> bool) {
        sql_server::wait_for_activity(self, database, &is_it);
    }
}

impl SqlServer for Postgres {
    fn port(&self) -> u16 {
        self.port
    }

    fn database(&self) -> String {
        self.database()
    }

    fn url(&self, database: &str) -> String {
        self.url(database)
    }

    fn try_sql(&self, database: &str, text: &str) -> Result<String, String> {
        self.try_sql(database, text)
    }

    fn activity(&self, database: &str) -> String {
        self.activity(database)
    }

    fn start(&self) {
        self.start();
    }

    fn kill(&self) {
        self.kill();
    }
}
