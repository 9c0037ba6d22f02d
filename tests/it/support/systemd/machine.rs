//! A real systemd in namespaces of its own, with the shipped unit in it.
//!
//! It takes root and a kernel that grants namespaces and a cgroup; where it does not, [`Machine::boot`] says so and
//! returns nothing. Nothing outside is touched, and dropping the machine ends every process in it.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

const SUPPORT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/systemd");
pub(crate) const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd");
/// The machine's own end, should the test be killed and never get to it.
const LIFE_SECONDS: &str = "300";
/// For anything that a busy machine may delay.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Says that a test did not run. Written past the test harness, which would swallow it.
pub(crate) fn skip(reason: &str) {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let written = writeln!(io::stderr(), "SKIPPED {name}: {reason}");
    assert!(written.is_ok(), "{reason}");
}

/// Whether a program is there. Under `CI=true` it has to be.
pub(crate) fn has(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", "command -v \"$0\"", program])
        .stdout(Stdio::null())
        .status();
    let has = found.is_ok_and(|status| status.success());
    if !has {
        let reason =
            format!("`{program}` is missing, install the packages systemd, systemd-sysv and dbus");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{reason}");
        skip(&reason);
    }
    has
}

#[track_caller]
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "after {PATIENCE:?}, still not: {what}"
        );
        thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) struct Machine {
    /// `timeout`, whose child is `unshare`, whose child is the machine's systemd.
    outer: Child,
    /// Process 1 of the machine, as seen from outside.
    init: u32,
    cgroup: Cgroup,
    _files: tempfile::TempDir,
}

/// A cgroup of its own, removed with all that is below it.
struct Cgroup(PathBuf);

impl Machine {
    /// Starts the machine; `moontide.service` is there, but not started. `dropin` goes into it.
    pub(crate) fn boot(config: &str, dropin: &str) -> Option<Self> {
        for program in [
            "/lib/systemd/systemd",
            "/lib/systemd/systemd-journald",
            "dbus-daemon",
            "unshare",
            "nsenter",
        ] {
            if !has(program) {
                return None;
            }
        }
        let cgroup = match Cgroup::new() {
            Ok(cgroup) => cgroup,
            Err(reason) => {
                skip(&reason);
                return None;
            }
        };
        let files = files(config, dropin);
        let mut outer = start(&cgroup, files.path());
        let output = files.path().join("output");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if outer.try_wait().unwrap().is_some() {
                let said = fs::read_to_string(&output).unwrap_or_default();
                skip(&format!(
                    "no namespaces of its own here (they take root): {}",
                    said.trim()
                ));
                return None;
            }
            if let Some(init) = child_of(outer.id()).and_then(child_of)
                && is_up(init)
            {
                return Some(Self {
                    outer,
                    init,
                    cgroup,
                    _files: files,
                });
            }
            assert!(
                Instant::now() < deadline,
                "systemd is not up: {}",
                fs::read_to_string(&output).unwrap()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs a command inside.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Output {
        inside(self.init).args(arguments).output().unwrap()
    }

    #[track_caller]
    pub(crate) fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{arguments:?}: {}\n{text}{error}\n{}",
            output.status,
            self.log()
        );
        text
    }

    /// A property of `moontide.service`.
    pub(crate) fn property(&self, name: &str) -> String {
        let text = self.succeed(&[
            "systemctl",
            "show",
            "--value",
            "--property",
            name,
            "moontide",
        ]);
        text.trim().to_owned()
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let mut child = inside(self.init)
            .args(["tee", path])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        assert!(child.wait().unwrap().success(), "cannot write {path}");
    }

    /// What the journal has of the unit: the daemon's own lines and systemd's on it, as objects.
    pub(crate) fn journal(&self) -> Vec<serde_json::Value> {
        let output = self.run(&[
            "journalctl",
            "--no-pager",
            "--output=json",
            "--unit=moontide",
        ]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The same for a person: what an assertion that fails prints.
    pub(crate) fn log(&self) -> String {
        let output = self.run(&["journalctl", "--no-pager", "--unit=moontide"]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SIGTERM would make systemd start anew. With process 1, all others of its namespace go.
        let killed = Command::new("kill")
            .args(["-KILL", &self.init.to_string()])
            .status();
        let waited = self.outer.wait();
        let removed = self.cgroup.remove();
        if !thread::panicking() {
            assert!(
                killed.is_ok() && waited.is_ok() && removed,
                "the machine did not end"
            );
        }
    }
}

impl Cgroup {
    fn new() -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
        let mut fields = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>());
        let root = fields
            .find(|fields| fields.get(2) == Some(&"cgroup2"))
            .ok_or("no cgroup v2 is mounted")?[1]
            .to_owned();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(&root).join(format!("moontide-test-{}-{number}", std::process::id()));
        fs::create_dir(&path)
            .map_err(|error| format!("cannot make a cgroup in {root}: {error}"))?;
        Ok(Self(path))
    }

    /// Waits for the last processes to be gone, then removes the folders from the bottom up.
    fn remove(&self) -> bool {
        fn below(path: &Path) -> bool {
            let Ok(entries) = fs::read_dir(path) else {
                return !path.exists();
            };
            for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
                below(&entry.path());
            }
            fs::remove_dir(path).is_ok()
        }
        let deadline = Instant::now() + PATIENCE;
        while !below(&self.0) {
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Units, config and handlers, as `up.sh` takes them.
fn files(config: &str, dropin: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let units = directory.path().join("units");
    let etc = directory.path().join("etc");
    fs::create_dir_all(etc.join("handlers")).unwrap();
    fs::write(etc.join("config.toml"), config).unwrap();
    fs::write(
        etc.join("handlers/orders.lua"),
        "return function(message, ctx) end\n",
    )
    .unwrap();
    fs::create_dir(&units).unwrap();
    fs::copy(format!("{SUPPORT}/mt.target"), units.join("mt.target")).unwrap();
    fs::copy(
        format!("{UNITS}/moontide.service"),
        units.join("moontide.service"),
    )
    .unwrap();
    for unit in [
        "dbus.service",
        "dbus.socket",
        "systemd-journald.service",
        "systemd-journald.socket",
    ] {
        fs::copy(format!("/lib/systemd/system/{unit}"), units.join(unit)).unwrap();
        write_dropin(&units, unit, "");
    }
    write_dropin(&units, "moontide.service", dropin);
    directory
}

/// Without the default dependencies on units that the machine does not have.
fn write_dropin(units: &Path, unit: &str, more: &str) {
    let directory = units.join(format!("{unit}.d"));
    fs::create_dir(&directory).unwrap();
    fs::write(
        directory.join("test.conf"),
        format!("[Unit]\nDefaultDependencies=no\n{more}\n"),
    )
    .unwrap();
}

fn start(cgroup: &Cgroup, files: &Path) -> Child {
    let output = fs::File::create(files.join("output")).unwrap();
    let script = "echo $$ > \"$0/cgroup.procs\" && exec timeout -k 2 \"$@\"";
    let unshare = [
        "unshare",
        "--fork",
        "--kill-child",
        "--pid",
        "--mount",
        "--uts",
        "--ipc",
        "--cgroup",
        "--mount-proc",
    ];
    Command::new("sh")
        .args(["-c", script])
        .arg(&cgroup.0)
        .arg(LIFE_SECONDS)
        .args(unshare)
        .args(["sh", &format!("{SUPPORT}/up.sh")])
        .arg(files)
        .env("MOONTIDE", env!("CARGO_BIN_EXE_moontide"))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap()
}

fn child_of(process: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

fn inside(init: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.args([
        "-t",
        &init.to_string(),
        "-m",
        "-p",
        "-u",
        "-i",
        "-C",
        "-r",
        "-w",
    ]);
    command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
    command
}

fn is_up(init: u32) -> bool {
    // Before systemd runs, process 1 is the script, in which systemctl would be that of the outside.
    let name = fs::read_to_string(format!("/proc/{init}/comm")).unwrap_or_default();
    name.trim() == "systemd"
        && inside(init)
            .args(["systemctl", "is-system-running"])
            .output()
            .is_ok_and(|output| {
                let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                state == "running" || state == "degraded"
            })
}
