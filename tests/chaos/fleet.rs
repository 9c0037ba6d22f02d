//! The daemons of a run: members of one group, each with its own directory, all recording into one file.
//!
//! The first one is the veteran: it is never killed, so that what it holds after an hour can be compared with what it
//! held in the beginning.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::fate::{COPIES, HANDLER, SIDE, TIMEOUT};
use crate::oracle::Order;
use crate::support::daemon::{Daemon, Jobs, Line, moontide};
use crate::support::kafka::unique;
use crate::support::project::{Project, from_beginning};

/// How the group shares its partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Cooperative,
    Range,
    Consumer,
}

pub(crate) const PROTOCOLS: [Protocol; 3] =
    [Protocol::Cooperative, Protocol::Range, Protocol::Consumer];

/// A member that was frozen for longer than this is no member any more.
pub(crate) const SESSION: Duration = Duration::from_secs(6);

/// A worker that panics leaves another one that has to drain.
const SECTIONS: &str =
    "[http]\nlisten = \"127.0.0.1:0\"\n[lua]\nworkers = 2\n[daemon]\ndrainDeadline = \"5s\"";

impl Protocol {
    fn lines(self) -> &'static str {
        match self {
            Self::Cooperative => {
                "sessionTimeout = \"6s\"\nheartbeatInterval = \"500ms\"\nmetadataMaxAge = \"5s\""
            }
            Self::Range => {
                "partitionAssigners = [\"range\"]\nsessionTimeout = \"6s\"\nheartbeatInterval = \"500ms\"\nmetadataMaxAge = \"5s\""
            }
            // The session is the broker's: as long as SESSION.
            Self::Consumer => "groupProtocol = \"consumer\"\nmetadataMaxAge = \"5s\"",
        }
    }
}

pub(crate) struct Fleet {
    bootstrap: String,
    pub(crate) topic: String,
    /// A further topic with a listener of its own, which the oracle does not look at.
    pub(crate) side_topic: Option<String>,
    /// The policies of its listener, as in config.toml.
    pub(crate) side_policy: String,
    /// A key that a reload takes by joining anew.
    pub(crate) max_wait_ms: u32,
    pub(crate) protocol: Protocol,
    pub(crate) group: String,
    pub(crate) record: PathBuf,
    pub(crate) version: u64,
    pub(crate) order: Order,
    pub(crate) members: Vec<Member>,
    /// Removes the record at the end.
    _home: tempfile::TempDir,
}

pub(crate) struct Member {
    pub(crate) instance: String,
    /// Before its directory: its log is read when the test panics.
    daemon: Option<Daemon>,
    place: Project,
    /// It is to end at a fail point.
    armed: bool,
    starts: u64,
    pub(crate) samples: Vec<Sample>,
    last_sample: Instant,
}

/// What a daemon holds at a moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) memory: u64,
    pub(crate) descriptors: usize,
    /// How many have a name.
    threads: BTreeMap<String, usize>,
}

impl Sample {
    pub(crate) fn threads(&self) -> usize {
        self.threads.values().sum()
    }
}

impl Fleet {
    pub(crate) fn new(bootstrap: String, topic: &str, protocol: Protocol) -> Self {
        let home = tempfile::Builder::new()
            .prefix("moontide-chaos-")
            .tempdir()
            .unwrap();
        Self {
            bootstrap,
            topic: topic.to_owned(),
            side_topic: None,
            side_policy: String::new(),
            max_wait_ms: 500,
            protocol,
            group: unique("chaos"),
            record: home.path().join("record"),
            version: 1,
            order: Order::Partition,
            members: Vec::new(),
            _home: home,
        }
    }

    /// One more member, which starts at once. Returns its index.
    pub(crate) fn join(&mut self) -> usize {
        let mut place = Project::at(self.bootstrap.clone())
            .consumer("@CONSUMER@")
            .sections(SECTIONS);
        place.group.clone_from(&self.group);
        let instance = format!("m{}", unique("").rsplit('-').next().unwrap_or_default());
        self.members.push(Member {
            instance,
            daemon: None,
            place,
            armed: false,
            starts: 0,
            samples: Vec::new(),
            last_sample: Instant::now(),
        });
        let index = self.members.len() - 1;
        self.write(index);
        self.members[index].start(&[]);
        index
    }

    /// Config and handlers as they are to be now.
    pub(crate) fn write(&mut self, index: usize) {
        let handler = self.handler(&self.members[index].instance);
        let config = self.config(index);
        let place = &self.members[index].place;
        place.replace_handler("numbers.lua", &handler);
        place.replace_handler(
            "side.lua",
            &SIDE.replace("@RECORD@", self.side_record().to_str().unwrap()),
        );
        let copies = COPIES.replace("@COPIES@", &copies_of(&self.topic));
        place.replace_handler("copies.lua", &copies);
        place.write("config.toml~", &config);
        fs::rename(place.path("config.toml~"), place.path("config.toml")).unwrap();
    }

    pub(crate) fn handler(&self, instance: &str) -> String {
        HANDLER
            .replace("@RECORD@", self.record.to_str().unwrap())
            .replace("@ECHOES@", &echoes_of(&self.topic))
            .replace("@INSTANCE@", instance)
            .replace("@VERSION@", &self.version.to_string())
    }

    /// The group of the consumer with `exactlyOnce`.
    pub(crate) fn copying_group(&self) -> String {
        format!("{}-copies", self.group)
    }

    fn config(&self, index: usize) -> String {
        let ordering = match self.order {
            Order::Partition => "partition",
            Order::Key => "key",
        };
        let listener = from_beginning("numbers", &self.topic, "numbers")
            + &format!("ordering = \"{ordering}\"\n")
            + "runConfig = { autoCommitInterval = \"500ms\" }\n"
            + &format!("limits = {{ timeout = \"{TIMEOUT}\", blocking = \"{TIMEOUT}\" }}\n")
            + "retry = { attempts = 5, initialDelay = 20, maxDelay = \"200ms\" }\n"
            + "deadLetter = { topic = \"{topic}.dead\", maxPerMinute = 60000 }\n";
        let side = self
            .side_topic
            .iter()
            .map(|topic| from_beginning("side", topic, "side") + &self.side_policy);
        let consumer = format!(
            "{}\nmaxWaitTimeInMs = {}",
            self.protocol.lines(),
            self.max_wait_ms
        );
        let place = &self.members[index].place;
        place
            .config_text(&(listener + &side.collect::<String>() + &self.copying(ordering)))
            .replace("@CONSUMER@", &consumer)
    }

    /// A consumer with `exactlyOnce`, and its listener.
    fn copying(&self, ordering: &str) -> String {
        let group = self.copying_group();
        from_beginning("copies", &self.topic, "copies")
            + &format!("consumer = \"copies\"\nordering = \"{ordering}\"\n")
            + "retry = { initialDelay = 20, maxDelay = \"200ms\" }\n"
            + &format!("[consumers.copies]\ngroupId = \"{group}\"\nexactlyOnce = true\n")
            + "transaction = { interval = \"1s\", timeout = \"10s\" }\n"
    }

    pub(crate) fn write_all(&mut self) {
        for index in 0..self.members.len() {
            self.write(index);
        }
    }

    fn side_record(&self) -> PathBuf {
        self.record.with_extension("side")
    }

    /// The values that the side listener has got from a topic, in the order of the calls; long ones by their length.
    pub(crate) fn side_values(&self, topic: &str) -> Vec<String> {
        let text = fs::read_to_string(self.side_record()).unwrap_or_default();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let lines = text[..whole]
            .lines()
            .filter_map(|line| line.split_once(' '));
        lines
            .filter(|(of, _)| *of == topic)
            .map(|(_, value)| value.to_owned())
            .collect()
    }

    pub(crate) fn members_alive(&self) -> impl Iterator<Item = usize> {
        (0..self.members.len()).filter(|index| self.members[*index].is_running())
    }

    /// Those that may be killed.
    pub(crate) fn recruits(&self) -> Vec<usize> {
        self.members_alive().filter(|index| *index != 0).collect()
    }

    /// Daemons end when they are told to, and never else.
    pub(crate) fn ended_unasked(&mut self) -> Option<String> {
        let mut members = self.members.iter_mut().filter(|member| !member.armed);
        members.find_map(|member| {
            let daemon = member.daemon.as_mut()?;
            daemon.ended().then(|| {
                let log = daemon.log_text();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(20)..].join("\n");
                format!(
                    "{} ended unasked; its log ends so:\n{tail}",
                    member.instance
                )
            })
        })
    }

    /// Logs, config and record, for whoever has to find out what happened.
    pub(crate) fn keep_evidence(&self, directory: &Path) {
        drop(fs::remove_dir_all(directory));
        fs::create_dir_all(directory).unwrap();
        let places = self
            .members
            .iter()
            .map(|member| (&*member.instance, member.place.path(".")));
        let home = self
            .record
            .parent()
            .expect("it lies in a directory")
            .to_path_buf();
        for (name, place) in places.chain([("record", home)]) {
            let copied = Command::new("cp")
                .arg("-r")
                .arg(place)
                .arg(directory.join(name))
                .output();
            drop(copied.unwrap());
        }
    }

    /// Starts of daemons after the first of each member.
    pub(crate) fn restarts(&self) -> u64 {
        self.members.iter().map(|member| member.starts - 1).sum()
    }

    /// What the veteran holds in the end, next to what it held once it had warmed up: whether that has grown.
    pub(crate) fn grown(&self) -> Option<String> {
        let (first, last) = self.members[0].ends()?;
        let is_flat = last.memory < 2 * first.memory + (64 << 20)
            && last.descriptors < first.descriptors + 40
            && last.threads() < first.threads() + 16;
        (!is_flat).then(|| format!("a daemon has grown from {first:?} to {last:?}"))
    }

    pub(crate) fn sample(&mut self) {
        for member in &mut self.members {
            if member.last_sample.elapsed() >= Duration::from_secs(5) {
                member.sample();
            }
        }
    }
}

/// Where the copies of a topic's messages stand.
pub(crate) fn copies_of(topic: &str) -> String {
    format!("{topic}.copies")
}

/// Where their echoes stand.
pub(crate) fn echoes_of(topic: &str) -> String {
    format!("{topic}.echoes")
}

impl Member {
    pub(crate) fn start(&mut self, environment: &[(&str, &str)]) {
        assert!(self.daemon.is_none(), "{} runs already", self.instance);
        self.daemon = Some(Daemon::spawn_with(&self.place, environment));
        self.armed = !environment.is_empty();
        self.starts += 1;
        self.last_sample = Instant::now();
    }

    pub(crate) fn is_running(&self) -> bool {
        self.daemon.is_some()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.daemon.as_ref().expect("the daemon runs").pid()
    }

    pub(crate) fn place(&self) -> &Project {
        &self.place
    }

    /// A command of an operator. It may have nothing to do here.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        let arguments = [arguments, &["--config"]].concat();
        moontide(&arguments, &self.place.path("config.toml"))
    }

    /// Where the HTTP server listens, once it does.
    pub(crate) fn http_address(&self) -> Option<String> {
        let lines = self.daemon.as_ref()?.lines();
        let line = lines.iter().find(|line| line.is("http listens"))?;
        Some(line.field("address"))
    }

    pub(crate) fn kill(&mut self) {
        let mut daemon = self.daemon.take().expect("the daemon runs");
        daemon.kill();
    }

    /// Whether it was killed, as one at a fail point is.
    pub(crate) fn was_killed(&mut self) -> bool {
        let Some(mut daemon) = self.take_ended() else {
            return false;
        };
        let code = daemon.exit_code(Duration::ZERO);
        assert_eq!(code, 128 + libc::SIGKILL, "it was killed");
        true
    }

    /// Whether a worker has panicked. The other threads may still drain.
    pub(crate) fn has_panicked(&mut self) -> bool {
        let daemon = self.daemon.as_mut().expect("the daemon runs");
        daemon.count(is_panic_of_worker) == 1
    }

    /// Whether it has ended by that panic: with 1, after the other threads have drained.
    pub(crate) fn has_ended_by_panic(&mut self) -> bool {
        let Some(mut daemon) = self.take_ended() else {
            return false;
        };
        assert_eq!(daemon.count(is_panic_of_worker), 1, "a worker has panicked");
        assert_eq!(daemon.exit_code(Duration::ZERO), 1, "a panic is a failure");
        let in_order = daemon.count(|line| line.is("stopped"));
        assert_eq!(in_order, 1, "every other thread has ended");
        true
    }

    fn take_ended(&mut self) -> Option<Daemon> {
        self.daemon.take_if(Daemon::ended)
    }

    /// In order, within the usual deadline. Returns the exit code and the counts of its jobs outside.
    pub(crate) fn stop(&mut self) -> (i32, Option<Jobs>) {
        let mut daemon = self.daemon.take().expect("the daemon runs");
        daemon.term();
        let code = daemon.exit_code(Duration::from_secs(60));
        // One that was told before it had begun to listen for signals just ends.
        let had_begun = code != 128 + libc::SIGTERM || !daemon.log_text().is_empty();
        (if had_begun { code } else { 0 }, daemon.jobs())
    }

    /// The first sample counts once the member has warmed up: after a minute each of its clients was of use.
    pub(crate) fn ends(&self) -> Option<(Sample, Sample)> {
        let first = self.samples.get(12).or(self.samples.first())?;
        Some((first.clone(), self.samples.last()?.clone()))
    }

    /// What it holds at the end counts, whenever it was looked at last.
    pub(crate) fn sample(&mut self) {
        if self.daemon.is_some() {
            self.last_sample = Instant::now();
            let sample = self.look();
            self.samples.extend(sample);
        }
    }

    pub(crate) fn look(&self) -> Option<Sample> {
        let pid = self.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let number = |field: &str| -> Option<u64> {
            let line = status.lines().find(|line| line.starts_with(field))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        Some(Sample {
            memory: number("VmRSS:")? * 1024,
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count(),
            threads: names_of_threads(pid)?,
        })
    }
}

fn names_of_threads(pid: i32) -> Option<BTreeMap<String, usize>> {
    let mut names = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        // It may have ended meanwhile.
        if let Ok(name) = fs::read_to_string(task.path().join("comm")) {
            *names.entry(name.trim_end().to_owned()).or_default() += 1;
        }
    }
    Some(names)
}

fn is_panic_of_worker(line: &Line) -> bool {
    line.is("panicked") && line.field("thread").starts_with("worker-")
}
