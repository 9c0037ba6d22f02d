//! How often the file of a secret is opened: once a load, and by no command that does not load.
//!
//! The file is a FIFO, which gives its content once: whoever opened it a second time would wait for ever.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use tempfile::TempDir;

use crate::support::daemon::Daemon;
use crate::support::project::{Project, RECORDING, listener};
use crate::support::wait::{DEADLINE, wait_some};

/// A secret that can be read once for each time that it is fed.
struct Fifo {
    folder: TempDir,
}

impl Fifo {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let made = Command::new("mkfifo")
            .arg(folder.path().join("secret"))
            .status()
            .unwrap();
        assert!(made.success());
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("secret")
    }

    /// The other end, where a reader has it open or waits for it.
    fn reader(&self) -> Option<File> {
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(libc::O_NONBLOCK);
        options.open(self.path()).ok()
    }

    /// Waits for a reader and gives it the secret.
    #[track_caller]
    fn feed(&self, secret: &str) {
        let mut reader = wait_some("the secret is opened", DEADLINE, || self.reader());
        reader.write_all(secret.as_bytes()).unwrap();
    }
}

/// A project whose listener joins with a password from the FIFO; nothing listens at its broker's address.
fn project(fifo: &Fifo) -> Project {
    let project = Project::at("127.0.0.1:1".into());
    project.handler("orders.lua", RECORDING);
    let sasl = format!(
        "[kafkaConfig]\nsasl = {{ mechanism = \"plain\", username = \"ada\", password = \"${{file:{}}}\" }}\n",
        fifo.path().display()
    );
    let text = project.config_text(&listener("orders", "orders", "orders.handle"));
    project.write("config.toml", &text.replace("[kafkaConfig]\n", &sasl));
    project
}

/// A command that is ended with its test.
struct Running(Child);

impl Running {
    fn start(arguments: &[&str], config: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moontide"));
        command.args(arguments).arg("--config").arg(config);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    #[track_caller]
    fn exit_code(mut self) -> Option<i32> {
        wait_some("the command ends", DEADLINE, || self.0.try_wait().unwrap()).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_check_opens_a_secret_once() {
    let fifo = Fifo::new();
    let project = project(&fifo);
    let check = Running::start(&["check"], &project.path("config.toml"));

    fifo.feed("hunter2\n");

    assert_eq!(check.exit_code(), Some(0));
}

/// The place of the handlers and of the socket stands in the file too.
#[test]
fn a_start_and_a_reload_open_a_secret_once_each_and_a_status_does_not() {
    let fifo = Fifo::new();
    let project = project(&fifo);
    let mut daemon = Daemon::spawn(&project);
    fifo.feed("hunter2\n");
    daemon.wait_line("ready", |line| line.is("ready"));
    assert!(daemon.try_status().is_some());
    assert!(fifo.reader().is_none(), "nobody waits for it");

    let (code, printed) = thread::scope(|scope| {
        let reload = scope.spawn(|| daemon.reload());
        fifo.feed("hunter2\n");
        reload.join().unwrap()
    });
    assert_eq!(code, 0, "{printed}");

    // By the watch.
    project.handler("orders.lua", &RECORDING.replace("done", "again"));
    fifo.feed("hunter2\n");
    daemon.wait_for("the new bundle is in force", |daemon| {
        daemon.count(|line| line.is("reloaded")) == 2
    });
    assert!(fifo.reader().is_none(), "nobody waits for it");
    assert!(!daemon.log_text().contains("hunter2"));
    daemon.stop();
}

/// Files whose bytes are what runs are loaded no further.
#[test]
fn files_that_are_the_same_again_open_no_secret() {
    let fifo = Fifo::new();
    let project = project(&fifo);
    let mut daemon = Daemon::spawn(&project);
    fifo.feed("hunter2\n");
    daemon.wait_line("ready", |line| line.is("ready"));
    let text = fs::read_to_string(project.path("config.toml")).unwrap();

    project.write("config.toml", "this is not TOML");
    daemon.wait_line("the bad file is refused", |line| line.mentions("not TOML"));
    project.write("config.toml", &text);
    daemon.wait_line("the files are as before", |line| {
        line.is("the files match the running bundle again")
    });

    assert!(fifo.reader().is_none(), "nobody waits for it");
    daemon.stop();
}
