//! The real binary, started as systemd would start it, and what it says: log, status, exit code.
//!
//! It ends with its test, also when the test panics (then the end of its log is printed) or the test process is killed.

#![expect(
    unsafe_code,
    reason = "a child must be told, between fork and exec, to die with its parent; prlimit(2) fills its disk"
)]

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::kafka::{send_signal, unique};
use super::project::Project;
use super::wait::{DEADLINE, wait_some};

pub(crate) struct Daemon {
    child: Child,
    config: PathBuf,
    log: PathBuf,
    exit: Option<ExitStatus>,
}

/// One line of the log.
#[derive(Clone, Debug)]
pub(crate) struct Line(Value);

impl Line {
    /// A field as text, wherever the formatter puts it.
    pub(crate) fn field(&self, name: &str) -> String {
        let value = [&self.0, &self.0["fields"]]
            .into_iter()
            .find_map(|place| place.get(name));
        match value {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        }
    }

    pub(crate) fn is(&self, message: &str) -> bool {
        self.field("message") == message
    }

    pub(crate) fn is_error(&self) -> bool {
        self.field("level") == "ERROR"
    }

    /// Anywhere in the line, whatever the field.
    pub(crate) fn mentions(&self, text: &str) -> bool {
        self.0.to_string().contains(text)
    }
}

/// The counts of the line that a daemon writes when its jobs outside have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Jobs {
    pub(crate) begun: u64,
    pub(crate) answered: u64,
    pub(crate) told: u64,
    pub(crate) dropped: u64,
    pub(crate) lost: u64,
    pub(crate) open: u64,
}

impl Jobs {
    /// Each job was answered, or told and ended by itself.
    pub(crate) fn ended_in_order(&self) -> bool {
        self.begun == self.answered + self.told && (self.dropped, self.lost, self.open) == (0, 0, 0)
    }
}

impl Daemon {
    /// Starts it and waits for nothing.
    pub(crate) fn spawn(project: &Project) -> Self {
        Self::spawn_with(project, &[])
    }

    pub(crate) fn spawn_with(project: &Project, environment: &[(&str, &str)]) -> Self {
        let log = project.path(&unique("log"));
        let config = project.path("config.toml");
        let mut command = Command::new(env!("CARGO_BIN_EXE_moontide"));
        command
            .arg("run")
            .arg("--config")
            .arg(&config)
            .current_dir(project.path("."));
        command
            .env_remove("RUST_LOG")
            .env_remove("NOTIFY_SOCKET")
            .env_remove("JOURNAL_STREAM");
        command.envs(environment.iter().copied());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap());
        // SAFETY: prctl is async-signal-safe and touches nothing of ours.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let child = command.spawn().expect("the binary was built");
        Self {
            child,
            config,
            log,
            exit: None,
        }
    }

    /// Starts it and waits until config and handlers are loaded.
    #[track_caller]
    pub(crate) fn start(project: &Project) -> Self {
        let mut daemon = Self::spawn(project);
        daemon.wait_line("ready", |line| line.is("ready"));
        daemon
    }

    /// Starts it and waits until it has its partitions.
    #[track_caller]
    pub(crate) fn join(project: &Project) -> Self {
        let mut daemon = Self::start(project);
        daemon.wait_line("assigned", |line| line.is("assigned"));
        daemon
    }

    pub(crate) fn lines(&self) -> Vec<Line> {
        let text = fs::read_to_string(&self.log).unwrap();
        let line =
            |line: &str| serde_json::from_str(line).unwrap_or_else(|_| Value::String(line.into()));
        text.lines().map(|text| Line(line(text))).collect()
    }

    /// All that it has logged.
    pub(crate) fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// The processor time that it has used.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().unwrap())
            .sum();
        // A hundred a second, whatever the kernel's own clock.
        Duration::from_millis(ticks * 10)
    }

    /// What it holds now, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.memory_of("VmRSS:")
    }

    pub(crate) fn count(&self, condition: impl Fn(&Line) -> bool) -> usize {
        self.lines().iter().filter(|line| condition(line)).count()
    }

    #[track_caller]
    pub(crate) fn wait_line(&mut self, what: &str, condition: impl Fn(&Line) -> bool) -> Line {
        self.wait_some(&format!("a log line: {what}"), |daemon| {
            daemon.lines().into_iter().find(|line| condition(line))
        })
    }

    /// As `wait_line`, for one that comes after the first `seen` lines.
    #[track_caller]
    pub(crate) fn wait_line_after(
        &mut self,
        seen: usize,
        what: &str,
        condition: impl Fn(&Line) -> bool,
    ) -> Line {
        self.wait_some(&format!("a log line: {what}"), |daemon| {
            daemon
                .lines()
                .into_iter()
                .skip(seen)
                .find(|line| condition(line))
        })
    }

    /// Waits as long as the daemon lives: its end is the end of the wait.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        self.wait_some(what, |daemon| condition(daemon).then_some(()));
    }

    #[track_caller]
    pub(crate) fn wait_some<T>(
        &mut self,
        what: &str,
        mut ask: impl FnMut(&Self) -> Option<T>,
    ) -> T {
        wait_some(what, DEADLINE, || {
            let ended = self.ended();
            let answer = ask(self);
            assert!(
                answer.is_some() || !ended,
                "the daemon ended ({:?}) before: {what}",
                self.exit
            );
            answer
        })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub(crate) fn term(&self) {
        send_signal(self.pid(), libc::SIGTERM);
    }

    pub(crate) fn hup(&self) {
        send_signal(self.pid(), libc::SIGHUP);
    }

    /// Files that it writes end at that length, as on a full disk; `None`: nowhere.
    #[track_caller]
    pub(crate) fn limit_files(&self, bytes: Option<u64>) {
        let limit = libc::rlimit {
            rlim_cur: bytes.unwrap_or(libc::RLIM_INFINITY),
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: the limit is ours; nothing is written to the null pointer.
        let result = unsafe {
            libc::prlimit(
                self.pid(),
                libc::RLIMIT_FSIZE,
                &raw const limit,
                std::ptr::null_mut(),
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    /// SIGKILL, and its effect.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.exit = Some(self.child.wait().unwrap());
    }

    pub(crate) fn ended(&mut self) -> bool {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().unwrap();
        }
        self.exit.is_some()
    }

    /// Waits for its end; a signal counts as 128 and more, as in a shell.
    #[track_caller]
    pub(crate) fn exit_code(&mut self, deadline: Duration) -> i32 {
        let exit = wait_some("the daemon ends", deadline, || {
            self.ended().then_some(self.exit).flatten()
        });
        exit.code()
            .unwrap_or_else(|| 128 + exit.signal().unwrap_or_default())
    }

    /// SIGTERM, and what an orderly end looks like.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.term();
        assert_eq!(self.exit_code(DEADLINE), 0, "SIGTERM ends in success");
    }

    /// The counts of its jobs outside, from its log; none where no job began.
    pub(crate) fn jobs(&self) -> Option<Jobs> {
        let lines = self.lines();
        let line = lines
            .iter()
            .rev()
            .find(|line| line.is("jobs outside have ended"))?;
        let count = |name: &str| line.field(name).parse().unwrap();
        Some(Jobs {
            begun: count("begun"),
            answered: count("answered"),
            told: count("told"),
            dropped: count("dropped"),
            lost: count("lost"),
            open: count("open"),
        })
    }

    /// SIGTERM, an orderly end, and the counts of its jobs outside.
    #[track_caller]
    pub(crate) fn stop_counted(mut self) -> Jobs {
        self.term();
        assert_eq!(self.exit_code(DEADLINE), 0, "SIGTERM ends in success");
        self.jobs().expect("the daemon counts its jobs outside")
    }

    pub(crate) fn status(&self) -> Value {
        self.try_status().expect("the daemon tells its status")
    }

    pub(crate) fn try_status(&self) -> Option<Value> {
        let output = moontide(&["status", "--json", "--config"], &self.config);
        serde_json::from_slice(&output.stdout).ok()
    }

    /// `moontide reload`: exit code, and what it printed.
    pub(crate) fn reload(&self) -> (i32, String) {
        let output = moontide(&["reload", "--config"], &self.config);
        let printed = [output.stdout, output.stderr].concat();
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&printed).into_owned(),
        )
    }

    /// The most memory that it has had, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.memory_of("VmHWM:")
    }

    fn memory_of(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with(field))
            .expect("the kernel tells it");
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
            * 1024
    }
}

impl Drop for Daemon {
    #[expect(
        clippy::print_stderr,
        reason = "the test runner shows it with the failed test"
    )]
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(60)..];
            eprintln!(
                "--- the daemon's log ({:?}), last {} lines\n{}",
                self.exit,
                tail.len(),
                tail.join("\n")
            );
        }
    }
}

/// Another command of the binary, with the config as the last argument.
pub(crate) fn moontide(arguments: &[&str], config: &Path) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_moontide"))
        .args(arguments)
        .arg(config)
        .env_remove("RUST_LOG")
        .output()
        .expect("the binary was built")
}
