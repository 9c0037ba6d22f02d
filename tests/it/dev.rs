//! The first five minutes: init, dev, send, and what a newcomer sees while editing.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// A limit for a machine that is busy, not an expectation.
const DEADLINE: Duration = Duration::from_secs(60);

/// A command of the real binary, away from the settings of whoever runs the tests.
pub(crate) fn moontide(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moontide"));
    command.current_dir(directory).stdin(Stdio::null());
    for name in [
        "RUST_LOG",
        "MOONTIDE_LOG",
        "MOONTIDE_CONFIG",
        "KAFKA_URL",
        "NOTIFY_SOCKET",
        "JOURNAL_STREAM",
    ] {
        command.env_remove(name);
    }
    command
}

pub(crate) fn run(directory: &Path, arguments: &[&str]) -> Output {
    moontide(directory).args(arguments).output().unwrap()
}

/// Everything that it printed.
pub(crate) fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// A running `moontide dev`; ends with its test.
pub(crate) struct Dev {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Dev {
    pub(crate) fn start(directory: &Path, arguments: &[&str]) -> Self {
        let mut command = moontide(directory);
        command.arg("dev");
        Self::spawn(command, arguments)
    }

    /// With these variables.
    pub(crate) fn start_with(directory: &Path, environment: &[(&str, &str)]) -> Self {
        let mut command = moontide(directory);
        command.arg("dev").envs(environment.iter().copied());
        Self::spawn(command, &[])
    }

    fn spawn(mut command: Command, arguments: &[&str]) -> Self {
        command
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        forward(child.stdout.take().unwrap(), sender.clone());
        forward(child.stderr.take().unwrap(), sender);
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// The first line from here on that holds this text.
    #[track_caller]
    pub(crate) fn wait_line(&mut self, text: &str) -> String {
        let from = self.seen.len();
        self.wait_line_after(from, text)
    }

    /// As `wait_line`, from the start on.
    #[track_caller]
    pub(crate) fn wait_any_line(&mut self, text: &str) -> String {
        self.wait_line_after(0, text)
    }

    #[track_caller]
    fn wait_line_after(&mut self, from: usize, text: &str) -> String {
        let until = Instant::now() + DEADLINE;
        let mut next = from;
        loop {
            if let Some(line) = self.seen[next..].iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            next = self.seen.len();
            match self
                .lines
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("no line `{text}` in\n{}", self.seen.join("\n"))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("ended without `{text}`\n{}", self.seen.join("\n"))
                }
            }
        }
    }

    pub(crate) fn seen(&self, text: &str) -> usize {
        self.seen.iter().filter(|line| line.contains(text)).count()
    }

    /// Ctrl-C, and its exit code.
    pub(crate) fn interrupt(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-INT", &pid])
                .status()
                .unwrap()
                .success()
        );
        self.child.wait().unwrap().code()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn forward(output: impl Read + Send + 'static, sender: Sender<String>) {
    thread::spawn(move || {
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        lines
            .map_while(|line| sender.send(line).ok())
            .for_each(drop);
    });
}

/// A directory with what `moontide init` writes.
fn new_project() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let output = run(directory.path(), &["init"]);
    assert!(output.status.success(), "{}", text(&output));
    directory
}

fn handler(directory: &Path) -> PathBuf {
    directory.join("handlers/orders.lua")
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "`{from}` is not in {}", path.display());
    fs::write(path, text.replace(from, to)).unwrap();
}

/// The line of a file on which `text` stands.
fn line_of(path: &Path, text: &str) -> usize {
    let content = fs::read_to_string(path).unwrap();
    1 + content
        .lines()
        .position(|line| line.contains(text))
        .unwrap()
}

#[test]
fn what_init_writes_passes_the_check_and_is_never_overwritten() {
    let project = new_project();
    let output = run(project.path(), &["check"]);
    assert!(output.status.success(), "{}", text(&output));
    let output = run(project.path(), &["init"]);
    assert_eq!(output.status.code(), Some(1));
    let expected = "`./config.toml`, `./handlers/orders.lua`, `./messages.jsonl` already exist";
    assert!(text(&output).contains(expected), "{}", text(&output));
}

#[test]
fn in_an_empty_folder_dev_names_the_command_that_writes_a_project() {
    let directory = tempfile::tempdir().unwrap();
    let output = run(directory.path(), &["dev"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(
        text(&output).contains("config.toml does not exist; `"),
        "{}",
        text(&output)
    );
    assert!(
        text(&output).contains(" init .` writes a small project"),
        "{}",
        text(&output)
    );
}

#[test]
fn a_newcomer_sees_a_handler_run_edits_it_breaks_it_and_mends_it() {
    let project = new_project();
    let directory = project.path();
    let mut dev = Dev::start(directory, &[]);
    dev.wait_line("ada ordered a tail for the kite");

    replace(&handler(directory), " ordered ", " wants ");
    dev.wait_line("reloaded");
    let output = run(directory, &["send", "orders", "a flute", "--key", "cyd"]);
    assert!(
        text(&output).contains("sent to orders[0]@3"),
        "{}",
        text(&output)
    );
    dev.wait_any_line("cyd wants a flute");

    replace(&handler(directory), "info(who", "info(nobody.name .. who");
    dev.wait_line("reloaded");
    let output = run(directory, &["send", "orders", "a harp"]);
    assert!(output.status.success(), "{}", text(&output));
    let line = line_of(&handler(directory), "nobody.name");
    dev.wait_any_line(&format!("handlers/orders.lua:{line}:"));

    replace(&handler(directory), "(message, ctx)", "(message, ctx");
    let line = 1 + line_of(&handler(directory), "(message, ctx");
    dev.wait_line(&format!("orders.lua:{line}: ')' expected near 'local'"));

    replace(&handler(directory), "(message, ctx", "(message, ctx)");
    replace(&handler(directory), "nobody.name .. ", "");
    dev.wait_line("somebody wants a harp");
    assert_eq!(
        dev.seen("cyd wants a flute"),
        1,
        "a message that was handled is not handled again"
    );
}

/// The sample file is as an editor of Windows saves it.
#[test]
fn the_project_of_init_takes_a_tombstone() {
    let project = new_project();
    let samples = project.path().join("messages.jsonl");
    let line = r#"{"topic": "orders", "key": "dan", "value": null}"#;
    std::fs::write(&samples, format!("\u{feff}{line}\r\n")).unwrap();
    let mut dev = Dev::start(project.path(), &[]);
    dev.wait_line("dan ordered nothing any more");
}

#[test]
fn ctrl_c_ends_dev_in_success_and_send_then_says_that_nobody_is_there() {
    let project = new_project();
    let mut dev = Dev::start(project.path(), &[]);
    dev.wait_line("ada ordered a tail for the kite");
    assert!(project.path().join(".moontide/dev.json").exists());
    assert_eq!(dev.interrupt(), Some(0));
    assert!(!project.path().join(".moontide/dev.json").exists());
    let output = run(project.path(), &["send", "orders", "x"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("no `moontide dev` runs with config.toml"),
        "{}",
        text(&output)
    );
}

/// The embedded broker forgets its topics, and so does the state: a second start takes none for one created again.
#[test]
fn each_start_begins_anew_without_a_warning() {
    let project = new_project();
    for _ in 0..2 {
        let mut dev = Dev::start(project.path(), &[]);
        dev.wait_line("ada ordered a tail for the kite");
        dev.wait_any_line("assigned");
        for level in ["WARN", "ERROR"] {
            assert_eq!(dev.seen(level), 0, "{}", dev.seen.join("\n"));
        }
        assert_eq!(dev.interrupt(), Some(0));
    }
    let state = project.path().join(".moontide");
    assert!(!state.join("topics-default.json").exists());
}

#[test]
fn a_second_dev_of_one_project_is_refused() {
    let project = new_project();
    let mut dev = Dev::start(project.path(), &[]);
    dev.wait_line("ada ordered a tail for the kite");
    let output = run(project.path(), &["dev"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("config.toml: `moontide dev` already runs here"),
        "{}",
        text(&output)
    );
}

#[test]
fn a_typo_in_a_topic_makes_no_topic() {
    let project = new_project();
    let mut dev = Dev::start(project.path(), &[]);
    dev.wait_line("ada ordered a tail for the kite");
    let output = run(project.path(), &["send", "ordres", "x"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("`ordres` does not exist, did you mean `orders`?"),
        "{}",
        text(&output)
    );
}

#[test]
fn a_config_with_tls_and_sasl_meets_the_embedded_broker_alone() {
    let project = new_project();
    let secured = "[kafkaConfig]\nssl = true\nsasl = { mechanism = \"plain\", username = \"u\", password = \"p\" }";
    replace(
        &project.path().join("config.toml"),
        "[kafkaConfig]",
        secured,
    );
    Dev::start(project.path(), &[]).wait_line("ada ordered a tail for the kite");
}

#[test]
fn a_bad_line_of_messages_is_named_before_anything_starts() {
    let project = new_project();
    fs::write(
        project.path().join("messages.jsonl"),
        "{\"topic\": \"orders\", \"value\": 1}\n{\"topic\": 5}\n",
    )
    .unwrap();
    let output = run(project.path(), &["dev"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("messages.jsonl:2:11: invalid type"),
        "{}",
        text(&output)
    );
}

#[test]
fn a_pattern_meets_the_topics_that_are_asked_for_and_those_that_are_sent_to_later() {
    let project = new_project();
    replace(
        &project.path().join("config.toml"),
        "topic = \"orders\"",
        "topic = \"^shop\\\\..+\"",
    );
    fs::write(project.path().join("messages.jsonl"), "").unwrap();
    let mut dev = Dev::start(project.path(), &["--topic", "shop.one"]);
    dev.wait_line("shop");
    for topic in ["shop.one", "shop.two"] {
        let output = run(
            project.path(),
            &["send", "--create", topic, &format!("a kite of {topic}")],
        );
        assert!(output.status.success(), "{}", text(&output));
        dev.wait_line(&format!("somebody ordered a kite of {topic}"));
    }
}
