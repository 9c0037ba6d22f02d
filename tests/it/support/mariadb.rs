//! A real MariaDB server, started by the tests themselves and gone with their process.
//!
//! One server is shared by all tests, each with a database of its own; whoever stops or fills a server starts an own one.
//! Root runs it as the user `mysql` or `nobody`. Without MariaDB the tests that need it are skipped, loudly; under
//! `CI=true` they fail.
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

use super::sql_server::{
    self, PASSWORD, Running, SqlServer, is_alive, own, said_if_absent, signal,
};

/// The user of the operating system, if there is one.
const OWNER: &str = "mysql";
/// The user of handlers.
pub(crate) const USER: &str = "moontide";
/// The user of the tests themselves.
const TESTER: &str = "tester";
const SOON: Duration = Duration::from_secs(45);

pub(crate) struct MariaDb {
    pub(crate) port: u16,
    /// Removed by its guard, if it is that of a shared server.
    directory: TempDir,
    is_shared: bool,
    server: PathBuf,
    /// Further options.
    options: Vec<String>,
    running: Mutex<Option<Running>>,
}

/// The server of all tests that leave it alone; `None` where there can be none, which is then said.
pub(crate) fn shared() -> Option<&'static MariaDb> {
    static SHARED: OnceLock<Option<MariaDb>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| program().map(|server| MariaDb::new(server, true, &[])));
    said_if_absent("MariaDB", shared.as_ref())
}

fn program() -> Option<PathBuf> {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/bin", "/usr/libexec"];
    let mut found = folders
        .iter()
        .map(|folder| Path::new(folder).join("mariadbd"));
    found.find(|program| program.exists())
}

/// Gives a key to the user of the server, who alone may read it. Returns whether there is a server.
pub(crate) fn own_key(path: &str) -> bool {
    said_if_absent("MariaDB", program()).is_some() && sql_server::own_key(OWNER, path)
}

impl MariaDb {
    /// A server that its test may stop and fill, with further options.
    pub(crate) fn start_own(options: &[&str]) -> Option<Self> {
        let started = program().map(|server| Self::new(server, false, options));
        said_if_absent("MariaDB", started)
    }

    fn new(server: PathBuf, is_shared: bool, options: &[&str]) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("moontide-mariadb-")
            .tempdir()
            .unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mariadb = Self {
            port,
            directory,
            is_shared,
            server,
            options: options.iter().map(|one| (*one).to_owned()).collect(),
            running: Mutex::new(None),
        };
        let folder = mariadb.directory.path();
        let users: String = [USER, TESTER]
            .map(|user| {
                format!(
                    "CREATE USER IF NOT EXISTS '{user}'@'%' IDENTIFIED BY '{PASSWORD}';\n\
                     GRANT ALL ON *.* TO '{user}'@'%' WITH GRANT OPTION;\n"
                )
            })
            .concat();
        std::fs::write(folder.join("users.sql"), users).unwrap();
        own(OWNER, folder);
        let install = sql_server::as_user(OWNER, Path::new("mariadb-install-db"));
        let made = Command::new(&install[0])
            .args(&install[1..])
            .args([
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--innodb-log-file-size=8M",
                "--innodb-buffer-pool-size=32M",
            ])
            .arg(format!("--datadir={}", folder.join("data").display()))
            // A server removes the temporary tables that it finds at its start, also those of another one.
            .env("TMPDIR", folder)
            .current_dir("/")
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        mariadb.start();
        mariadb
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
        let path = |name: &str| folder.join(name).display().to_string();
        let mut words = sql_server::as_user(OWNER, &self.server);
        words.extend(
            [
                "--no-defaults",
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                "--skip-log-bin",
                "--performance-schema=OFF",
                "--character-set-server=utf8mb4",
                "--default-time-zone=+08:00",
                "--max-connections=200",
                "--max-allowed-packet=32M",
                "--innodb-buffer-pool-size=32M",
                "--innodb-log-file-size=8M",
                // A commit outlives the server, though not the machine.
                "--innodb-flush-log-at-trx-commit=2",
            ]
            .map(str::to_owned),
        );
        words.extend([
            format!("--port={}", self.port),
            format!("--datadir={}", path("data")),
            format!("--tmpdir={}", folder.display()),
            format!("--socket={}", path("socket")),
            format!("--pid-file={}", path("pid")),
            format!("--init-file={}", path("users.sql")),
        ]);
        words.extend(self.options.iter().cloned());
        *running = Some(Running::start(&words, &folder.join("server.log"), remove));
        drop(running);
        self.until("the server answers", || {
            self.try_sql("mysql", "SELECT 1").is_ok()
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
        let running = self.running.lock().unwrap().take();
        let running = running.expect("the server runs");
        signal(running.pid, "KILL");
        self.until("the server has ended", || !is_alive(running.pid));
    }

    /// A new database, by a name that no other test has.
    pub(crate) fn database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{number}", std::process::id());
        self.sql("mysql", &format!("CREATE DATABASE {name}"));
        name
    }

    pub(crate) fn url(&self, database: &str) -> String {
        sql_server::url("mysql", USER, self.port, database)
    }

    pub(crate) fn try_sql(&self, database: &str, text: &str) -> Result<String, String> {
        let output = Command::new("mariadb")
            .args(["--no-defaults", "-h", "127.0.0.1", "-u", TESTER, "-N", "-B"])
            .args(["--connect-timeout=20", "--ssl=0", "-P"])
            .args([&self.port.to_string(), "-D", database, "-e", text])
            .env("MYSQL_PWD", PASSWORD)
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
        SqlServer::sql(self, database, text)
    }

    /// The connections of the daemon to a database, by their state, with how many there are.
    pub(crate) fn activity(&self, database: &str) -> String {
        let text = format!(
            "SELECT IFNULL(GROUP_CONCAT(CONCAT(state, ' ', n) ORDER BY state SEPARATOR ', '), '') FROM (SELECT CASE \
             WHEN p.command <> 'Sleep' THEN 'active' WHEN t.trx_id IS NOT NULL THEN 'idle in transaction' ELSE 'idle' \
             END AS state, COUNT(*) AS n FROM information_schema.processlist p LEFT JOIN \
             information_schema.innodb_trx t ON t.trx_mysql_thread_id = p.id WHERE p.db = '{database}' AND p.user <> \
             '{TESTER}' GROUP BY 1) s"
        );
        self.sql("mysql", &text)
    }

    pub(crate) fn wait_for_activity(&self, database: &str, is_it: impl Fn(&str) -> bool) {
        sql_server::wait_for_activity(self, database, &is_it);
    }
}

impl SqlServer for MariaDb {
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
