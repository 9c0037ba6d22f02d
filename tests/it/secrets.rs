//! How often the file of a secret is opened: once a load, and by no command that does not load.
#![expect(unsafe_code, reason = "inotify(7) tells each open of a file")]

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::support::daemon::Daemon;
use crate::support::project::{Project, RECORDING, listener};

const SECRET: &str = "hunter2";

/// The file of a secret, and the events of its opens.
struct Secret {
    folder: TempDir,
    events: File,
}

impl Secret {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, format!("{SECRET}\n")).unwrap();
        // SAFETY: a new descriptor, which `File` owns from here on.
        let events = unsafe {
            let descriptor = libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC);
            assert!(descriptor >= 0);
            File::from_raw_fd(descriptor)
        };
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // The kernel merges equal events in a row; with those of closing there are none.
        let mask = libc::IN_OPEN | libc::IN_CLOSE;
        // SAFETY: the descriptor and the string are alive.
        let watch = unsafe { libc::inotify_add_watch(events.as_raw_fd(), path.as_ptr(), mask) };
        assert!(watch >= 0);
        Self { folder, events }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("secret")
    }

    /// The opens since the last call.
    fn opens(&self) -> usize {
        const EVENT: usize = size_of::<libc::inotify_event>();
        let mut opens = 0;
        let mut buffer = [0; 64 * EVENT];
        while let Ok(size) = (&self.events).read(&mut buffer) {
            // Events of a file have no name, so that all have one size. The mask is their second field.
            let masks = buffer[..size]
                .chunks_exact(EVENT)
                .map(|event| u32::from_ne_bytes(event[4..8].try_into().unwrap()));
            opens += masks.filter(|mask| mask & libc::IN_OPEN != 0).count();
        }
        opens
    }
}

/// A project whose listener joins with this password; nothing listens at its broker's address.
fn project(secret: &Secret) -> Project {
    let project = Project::at("127.0.0.1:1".into());
    project.handler("orders.lua", RECORDING);
    let sasl = format!(
        "[kafkaConfig]\nsasl = {{ mechanism = \"plain\", username = \"ada\", password = \"${{file:{}}}\" }}\n",
        secret.path().display()
    );
    let text = project.config_text(&listener("orders", "orders", "orders.handle"));
    project.write("config.toml", &text.replace("[kafkaConfig]\n", &sasl));
    project
}

#[test]
fn a_check_opens_a_secret_once() {
    let secret = Secret::new();
    let project = project(&secret);

    let mut check = Command::new(env!("CARGO_BIN_EXE_moontide"));
    check
        .arg("check")
        .arg("--config")
        .arg(project.path("config.toml"));
    let output = check.output().unwrap();

    assert_eq!(output.status.code(), Some(0));
    assert!(!String::from_utf8_lossy(&output.stdout).contains(SECRET));
    assert_eq!(secret.opens(), 1);
}

/// The place of the handlers and of the socket stands in the file too.
#[test]
fn a_start_and_a_reload_open_a_secret_once_each_and_a_status_does_not() {
    let secret = Secret::new();
    let project = project(&secret);
    let mut daemon = Daemon::spawn(&project);
    daemon.wait_line("ready", |line| line.is("ready"));
    assert_eq!(secret.opens(), 1);
    assert!(daemon.try_status().is_some());
    assert_eq!(secret.opens(), 0);

    let (code, printed) = daemon.reload();
    assert_eq!(code, 0, "{printed}");
    assert_eq!(secret.opens(), 1);

    // By the watch.
    project.handler("orders.lua", &RECORDING.replace("done", "again"));
    daemon.wait_for("the new bundle is in force", |daemon| {
        daemon.count(|line| line.is("reloaded")) == 2
    });
    assert_eq!(secret.opens(), 1);
    assert!(!daemon.log_text().contains(SECRET));
    daemon.stop();
}

/// Files whose bytes are what runs are loaded no further.
#[test]
fn files_that_are_the_same_again_open_no_secret() {
    let secret = Secret::new();
    let project = project(&secret);
    let mut daemon = Daemon::spawn(&project);
    daemon.wait_line("ready", |line| line.is("ready"));
    let text = fs::read_to_string(project.path("config.toml")).unwrap();
    assert_eq!(secret.opens(), 1);

    project.write("config.toml", "this is not TOML");
    daemon.wait_line("the bad file is refused", |line| line.mentions("not TOML"));
    project.write("config.toml", &text);
    daemon.wait_line("the files are as before", |line| {
        line.is("the files match the running bundle again")
    });

    assert_eq!(secret.opens(), 0);
    daemon.stop();
}
