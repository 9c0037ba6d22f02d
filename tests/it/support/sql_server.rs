//! What servers of databases have in common, for tests: how they run, and what a test asks of any of them.
//!
//! The lib's tests have this file, too, so it uses nothing of the other support.

#![allow(dead_code, reason = "the two suites use different parts")]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) const PASSWORD: &str = "a secret/with:signs";
const SOON: Duration = Duration::from_secs(45);

/// Runs the server, tells its process id, and ends it with its data once the pipe is closed.
const GUARD: &str = r#"
exec 3>&1 >&2
trap '' INT HUP
"$@" </dev/null >>"$LOG" 2>&1 3>&- &
server=$!
echo $server >&3
exec 3>&-
read -r _ || true
kill -9 $server 2>/dev/null
wait $server 2>/dev/null
[ -z "$REMOVE" ] || rm -rf "$REMOVE"
"#;

/// A server, with what a test asks of it.
pub(crate) trait SqlServer: Sync {
    fn port(&self) -> u16;

    /// A new database, by a name that no other test has.
    fn database(&self) -> String;

    fn url(&self, database: &str) -> String;

    fn try_sql(&self, database: &str, text: &str) -> Result<String, String>;

    /// The connections of the daemon to a database, by their state, with how many there are.
    fn activity(&self, database: &str) -> String;

    /// Starts on the same port and data as before.
    fn start(&self);

    /// Ends the server at once, as in a power cut.
    fn kill(&self);

    /// The rows that a statement gives, over a connection of its own.
    #[track_caller]
    fn sql(&self, database: &str, text: &str) -> String {
        let result = self.try_sql(database, text);
        result.unwrap_or_else(|error| panic!("{text}: {error}"))
    }
}

pub(crate) fn wait_for_activity(
    server: &dyn SqlServer,
    database: &str,
    is_it: &dyn Fn(&str) -> bool,
) {
    let until = Instant::now() + SOON;
    loop {
        let seen = server.activity(database);
        if is_it(&seen) {
            return;
        }
        assert!(Instant::now() < until, "in vain: {seen}");
        thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn url(scheme: &str, user: &str, port: u16, database: &str) -> String {
    let password = PASSWORD.bytes().fold(String::new(), |mut text, byte| {
        write!(text, "%{byte:02X}").unwrap();
        text
    });
    format!("{scheme}://{user}:{password}@127.0.0.1:{port}/{database}")
}

/// A process that ends with the test.
pub(crate) struct Running {
    pub(crate) pid: i32,
    guard: Child,
    pipe: Option<ChildStdin>,
}

impl Running {
    /// `remove` is removed at the end, unless it is empty.
    pub(crate) fn start(words: &[String], log: &Path, remove: &Path) -> Self {
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "server-guard"])
            .args(words)
            .env("LOG", log)
            .env("REMOVE", remove)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("there is a shell");
        let pipe = guard.stdin.take();
        let mut pid = String::new();
        let told = guard.stdout.take().expect("it is piped");
        BufReader::new(told).read_line(&mut pid).unwrap();
        Self {
            pid: pid.trim().parse().expect("the guard tells the process id"),
            guard,
            pipe,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.pipe.take());
        drop(self.guard.wait());
    }
}

pub(crate) fn said_if_absent<T>(what: &str, server: Option<T>) -> Option<T> {
    if server.is_none() {
        let test = thread::current().name().unwrap_or("a test").to_owned();
        let sentence = format!("SKIPPED {test}: {what} is needed to run it\n");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{sentence}");
        // Past the test runner, which swallows what a passing test prints.
        std::io::stderr().write_all(sentence.as_bytes()).unwrap();
    }
    server
}

/// The command line that runs a program as this user, or as `nobody`, since servers refuse root.
pub(crate) fn as_user(user: &str, program: &Path) -> Vec<String> {
    let mut words = Vec::new();
    if is_root() {
        let user = known(user);
        words.extend(
            [
                "setpriv",
                "--reuid",
                user,
                "--regid",
                &group(user),
                "--clear-groups",
            ]
            .map(str::to_owned),
        );
    }
    words.push(program.display().to_string());
    words
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|id| id.stdout == b"0\n")
}

fn known(user: &str) -> &str {
    let is_known = Command::new("id")
        .arg(user)
        .output()
        .is_ok_and(|id| id.status.success());
    if is_known { user } else { "nobody" }
}

fn group(user: &str) -> String {
    let id = Command::new("id").args(["-g", user]).output().unwrap();
    String::from_utf8(id.stdout).unwrap().trim().to_owned()
}

/// Gives a folder to the user of the server.
pub(crate) fn own(user: &str, folder: &Path) {
    if is_root() {
        let owned = Command::new("chown")
            .args(["-R", known(user)])
            .arg(folder)
            .status();
        assert!(owned.unwrap().success());
    }
}

/// Gives a key to the user of the server, who alone may read it.
pub(crate) fn own_key(user: &str, path: &str) -> bool {
    own(user, Path::new(path));
    let status = Command::new("chmod").args(["600", path]).status();
    status.is_ok_and(|status| status.success())
}

pub(crate) fn signal(pid: i32, name: &str) {
    let status = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .stderr(Stdio::null())
        .status();
    // A process of the server may have ended meanwhile.
    assert!(status.is_ok());
}

pub(crate) fn is_alive(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    status.is_ok_and(|status| !status.contains(") Z"))
}
