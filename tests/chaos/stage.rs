//! A run: the cluster, the load, the daemons and the oracle that watches while faults come and go.
//!
//! Two threads look all the time, one at what handlers record, one at what the group has committed; the test's own
//! thread brings the faults. Whatever breaks a promise ends the run with its seed and the faults so far.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::admin::TopicReplication;
use rdkafka::consumer::BaseConsumer;

use crate::cluster::{self, Cluster};
use crate::copies::{self, Copies};
use crate::dice::Dice;
use crate::driver::{Driver, Load};
use crate::echoes::{self, Echoes};
use crate::faults::Fault;
use crate::fleet::{Fleet, Protocol, copies_of, echoes_of};
use crate::letters;
use crate::oracle::{Oracle, Order};
use crate::report::{self, Happened, Report, Totals};

/// Without a fault, no partition may stand still before messages for so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// After a fault, everything that was there at its end is finished within this time.
const RECOVERY: Duration = Duration::from_secs(150);
const LOOK: Duration = Duration::from_millis(50);
const LETTER_PARTITIONS: i32 = 3;
const COMMITS: Duration = Duration::from_millis(300);

pub(crate) struct Setting {
    pub(crate) seed: u64,
    pub(crate) rate: u64,
    pub(crate) partitions: i32,
    pub(crate) members: usize,
    pub(crate) protocol: Protocol,
    pub(crate) order: Order,
    /// A round of the test command, not a soak.
    pub(crate) is_short: bool,
}

pub(crate) struct Stage {
    pub(crate) seed: u64,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) driver: Driver,
    pub(crate) fleet: Fleet,
    pub(crate) topic: String,
    pub(crate) report: Report,
    is_short: bool,
    watch: Arc<Watch>,
    watching: Vec<JoinHandle<()>>,
}

struct Watch {
    oracle: Mutex<Oracle>,
    copies: Mutex<Copies>,
    echoes: Mutex<Echoes>,
    load: Arc<Load>,
    stop: AtomicBool,
    /// `None` while there is a fault.
    calm_since: Mutex<Option<Instant>>,
    /// All brokers were killed, and not every replica has caught up: until the coordinator's high watermark is known
    /// again, it tells what was committed long ago.
    coordinator_is_new: AtomicBool,
}

impl Watch {
    fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn copies(&self) -> MutexGuard<'_, Copies> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn echoes(&self) -> MutexGuard<'_, Echoes> {
        self.echoes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stage {
    pub(crate) fn set(setting: &Setting) -> Option<Self> {
        let cluster = Arc::new(Cluster::start()?);
        let topic = "numbers".to_owned();
        // Longer than anything here lags behind, and short enough for the disk.
        let settings = [("min.insync.replicas", "2"), ("retention.ms", "1200000")];
        cluster.create_topic(&topic, setting.partitions, &settings);
        let copies = copies_of(&topic);
        cluster.create_topic(&copies, copies::PARTITIONS, &settings);
        let echoes = echoes_of(&topic);
        cluster.create_topic(&echoes, echoes::PARTITIONS, &settings);
        let driver = Driver::start(&cluster, &topic, setting.partitions, setting.rate);
        // On two of the brokers, and both are needed: that is how it comes to refuse.
        cluster.create_topic_on(
            &format!("{topic}.dead"),
            LETTER_PARTITIONS,
            TopicReplication::Variable(&[&[1, 2], &[2, 1], &[1, 2]]),
            &[("min.insync.replicas", "2")],
        );
        let mut fleet = Fleet::new(cluster.behind_proxies(), &topic, setting.protocol);
        fleet.order = setting.order;
        let watch = Arc::new(Watch {
            oracle: Mutex::new(Oracle::new(&fleet.record, setting.order)),
            copies: Mutex::new(Copies::new(setting.order)),
            echoes: Mutex::new(Echoes::new()),
            load: driver.load.clone(),
            stop: AtomicBool::new(false),
            calm_since: Mutex::new(Some(Instant::now())),
            coordinator_is_new: AtomicBool::new(false),
        });
        let reader = cluster.reader(&fleet.group);
        let letter_reader = cluster.reader_of(&format!("{topic}.dead"), LETTER_PARTITIONS);
        let copy_reader = cluster.reader_of(&copies, copies::PARTITIONS);
        let echo_reader = cluster.reader_of(&echoes, echoes::PARTITIONS);
        let (commits, record) = (watch.clone(), watch.clone());
        let (letters, copies, echoes) = (watch.clone(), watch.clone(), watch.clone());
        let of = topic.clone();
        let watching = vec![
            std::thread::spawn(move || look_at_commits(&commits, &reader, &of)),
            std::thread::spawn(move || look_at_record(&record)),
            std::thread::spawn(move || look_at_letters(&letters, &letter_reader)),
            std::thread::spawn(move || look_at_copies(&copies, &copy_reader)),
            std::thread::spawn(move || look_at_echoes(&echoes, &echo_reader)),
        ];
        for _ in 0..setting.members {
            fleet.join();
        }
        let mut stage = Self {
            seed: setting.seed,
            cluster,
            driver,
            fleet,
            topic,
            report: Report::new(setting),
            is_short: setting.is_short,
            watch,
            watching,
        };
        stage.wait("the first messages are finished", RECOVERY, |stage| {
            stage.oracle().finished() > 1000
        });
        Some(stage)
    }

    pub(crate) fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.watch.oracle()
    }

    pub(crate) fn load(&self) -> &Load {
        &self.driver.load
    }

    /// All brokers are about to be killed, or all of it has caught up again.
    pub(crate) fn coordinator_is_new(&self, is_new: bool) {
        self.watch
            .coordinator_is_new
            .store(is_new, Ordering::SeqCst);
    }

    /// Brings a fault, and waits until everything that stood there at its end is finished.
    pub(crate) fn suffer(&mut self, name: &'static str, fault: Fault, dice: &mut Dice) {
        self.report.begin(name);
        let before = (self.oracle().duplicates, Instant::now());
        *self.watch.calm_since.lock().unwrap() = None;
        fault(self, dice);
        let healed = Instant::now();
        *self.watch.calm_since.lock().unwrap() = Some(healed);
        let goals: Vec<i64> = (0..crate::driver::PARTITIONS_MAX)
            .map(|partition| self.load().acked(partition))
            .collect();
        self.wait(&format!("recovery from {name}"), RECOVERY, |stage| {
            let floors = stage.floors();
            floors
                .iter()
                .flatten()
                .zip(goals.iter().cycle())
                .all(|(floor, goal)| floor >= goal)
        });
        let happened = Happened {
            name,
            lasted: healed - before.1,
            recovery: healed.elapsed(),
            duplicates: self.oracle().duplicates - before.0,
        };
        let finished = self.oracle().finished();
        self.report.end(happened, finished);
    }

    /// Below, messages have their outcome, their copies, their echoes, by partition.
    fn floors(&self) -> [Vec<i64>; 3] {
        let (copied, echoed) = (self.watch.copies().floors(), self.watch.echoes().floors());
        [self.oracle().floors(), copied, echoed]
    }

    /// A round has little time, a soak has much.
    pub(crate) fn short<T>(&self, short: T, long: T) -> T {
        if self.is_short { short } else { long }
    }

    /// Lets time pass, and looks.
    pub(crate) fn pass(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.check();
            std::thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
        }
    }

    pub(crate) fn wait(
        &mut self,
        what: &str,
        deadline: Duration,
        mut condition: impl FnMut(&mut Self) -> bool,
    ) {
        let started = Instant::now();
        while !condition(self) {
            self.check();
            if started.elapsed() > deadline {
                self.fail(&format!("waited {deadline:?} in vain: {what}"));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Ends the run where a promise is broken.
    pub(crate) fn check(&mut self) {
        self.fleet.sample();
        if let Some(broken) = self.load().broken() {
            self.fail(&broken);
        }
        if let Some(ended) = self.fleet.ended_unasked() {
            self.fail(&ended);
        }
        let mut violations = self.oracle().violations.clone();
        violations.extend_from_slice(&self.watch.copies().violations);
        violations.extend_from_slice(&self.watch.echoes().violations);
        let violations = violations.join("\n");
        if !violations.is_empty() {
            self.fail(&violations);
        }
    }

    pub(crate) fn fail(&mut self, sentence: &str) -> ! {
        let [floors, copied, echoed] = self.floors();
        let acked = (0..floors.len()).map(|partition| self.load().acked(partition));
        let acked: Vec<i64> = acked.collect();
        let story = self.report.story();
        report::say(&self.report.summarize(&self.totals(1)));
        let evidence = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{}", self.seed));
        self.fleet.keep_evidence(&evidence);
        panic!(
            "seed {}: {sentence}\nfaults so far:\n{story}\nfinished below {floors:?}\ncopied below {copied:?}\nechoed below {echoed:?}\nacknowledged below {acked:?}\nevidence in {}",
            self.seed,
            evidence.display()
        );
    }

    fn totals(&self, violations: usize) -> Totals {
        // One lock after the other: the threads that look take two of them in another order.
        let (echoed, echoes_repeated) = {
            let echoes = self.watch.echoes();
            (echoes.read, echoes.repeated)
        };
        let copied = self.watch.copies().read;
        let oracle = self.oracle();
        Totals {
            produced: self.load().acked_in_all(),
            handled: oracle.finished(),
            copied,
            echoed,
            echoes_repeated,
            restarts: self.fleet.restarts(),
            violations: violations.max(oracle.violations.len()),
        }
    }

    /// A member stops in order, and none of its jobs outside is left.
    pub(crate) fn stop(&mut self, index: usize) {
        let (code, jobs) = self.fleet.members[index].stop();
        if code != 0 {
            self.fail(&format!("SIGTERM ended a daemon with exit code {code}"));
        }
        if let Some(jobs) = jobs {
            let instance = self.fleet.members[index].instance.clone();
            self.oracle().jobs(&instance, jobs);
        }
        self.check();
    }

    /// The end: everything that was acknowledged has its outcome and is committed, and the daemons stop in order.
    pub(crate) fn finish(mut self) -> Report {
        self.driver.stop();
        self.check();
        self.wait("every message has its outcome", RECOVERY, |stage| {
            stage.oracle().finished() == stage.load().acked_in_all()
        });
        self.wait("everything is committed", RECOVERY, |stage| {
            let oracle = stage.oracle();
            (0..crate::driver::PARTITIONS_MAX)
                .all(|partition| oracle.committed_at(partition) == stage.load().acked(partition))
        });
        self.wait("every message has its copy", RECOVERY, |stage| {
            stage.watch.copies().are_whole(stage.load())
        });
        self.wait("every message has its echo", RECOVERY, |stage| {
            stage.watch.echoes().are_whole(stage.load())
        });
        self.fleet.members[0].sample();
        for index in 0..self.fleet.members.len() {
            if self.fleet.members[index].is_running() {
                self.stop(index);
            }
        }
        self.watch.stop.store(true, Ordering::SeqCst);
        for thread in self.watching.drain(..) {
            drop(thread.join());
        }
        self.watch.oracle().check_copies(&self.driver.load);
        self.check();
        if let Some(sentence) = self.fleet.grown() {
            self.fail(&sentence);
        }
        let totals = self.totals(0);
        let copies = self.load().copies_in_all();
        let oracle = self.watch.oracle();
        self.report.close(&oracle, &totals, copies, &self.fleet);
        self.report.clone()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.watch.stop.store(true, Ordering::SeqCst);
        for thread in self.watching.drain(..) {
            drop(thread.join());
        }
    }
}

fn look_at_commits(watch: &Watch, reader: &BaseConsumer, topic: &str) {
    while !watch.stop.load(Ordering::SeqCst) {
        let partitions = watch.load.partitions.load(Ordering::SeqCst);
        let was_new = watch.coordinator_is_new.load(Ordering::SeqCst);
        // First the commits, then the record: what ends in between is not held against the commit.
        if let Ok(offsets) = cluster::committed(reader, topic, partitions) {
            let mut oracle = watch.oracle();
            oracle.update();
            let is_new = was_new || watch.coordinator_is_new.load(Ordering::SeqCst);
            oracle.committed(&offsets, is_new);
        }
        std::thread::sleep(COMMITS);
    }
}

fn look_at_record(watch: &Watch) {
    while !watch.stop.load(Ordering::SeqCst) {
        let calm_since = *watch
            .calm_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut oracle = watch.oracle();
        oracle.update();
        if let Some(since) = calm_since {
            oracle.check_progress(&watch.load, since, PATIENCE);
        }
        drop(oracle);
        std::thread::sleep(LOOK);
    }
}

fn look_at_letters(watch: &Watch, reader: &BaseConsumer) {
    while !watch.stop.load(Ordering::SeqCst) {
        let letters = cluster::read(reader, LOOK, letters::letter);
        let mut oracle = watch.oracle();
        for letter in letters {
            match letter {
                Ok(letter) => {
                    oracle.dead_letter(&letter);
                    let mut echoes = watch.echoes();
                    echoes.dead_letter(letter.partition, letter.offset);
                }
                Err(sentence) => oracle.violate(sentence),
            }
        }
    }
}

fn look_at_copies(watch: &Watch, reader: &BaseConsumer) {
    while !watch.stop.load(Ordering::SeqCst) {
        let copies = cluster::read(reader, LOOK, copies::copy);
        let mut ledgers = watch.copies();
        for copy in copies {
            ledgers.take(copy);
        }
    }
}

fn look_at_echoes(watch: &Watch, reader: &BaseConsumer) {
    while !watch.stop.load(Ordering::SeqCst) {
        let read = cluster::read(reader, LOOK, echoes::echo);
        let mut echoes = watch.echoes();
        for echo in read {
            echoes.take(echo);
        }
    }
}
