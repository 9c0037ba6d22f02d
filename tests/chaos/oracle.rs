//! The oracle: what became of every message, and whether any promise was broken, while the run goes on.
//!
//! It keeps for each partition the offset below which everything has its outcome, and what has one above it: so its
//! memory does not grow with the run. A promise that is broken is kept as a sentence, and the run ends with it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::driver::{Load, PARTITIONS_MAX};
use crate::fate::{KEYS, is_hopeless, key_number};
use crate::floor::Floor;
use crate::letters::Letter;
use crate::support::daemon::Jobs;

/// A run of a message that was committed longer ago than this is no race any more.
const LATE: Duration = Duration::from_secs(5);
/// A dead letter is read from its topic within this time, outside of faults.
const LETTER: Duration = Duration::from_secs(60);

pub(crate) struct Oracle {
    record: File,
    unread: Vec<u8>,
    ledgers: Vec<Ledger>,
    order: Order,
    pub(crate) runs: u64,
    pub(crate) duplicates: u64,
    /// Runs of messages that had been committed for a while, which only a member that was frozen may do.
    pub(crate) late_duplicates: u64,
    pub(crate) dead_letters: u64,
    pub(crate) repeated_letters: u64,
    /// Letters of messages that the process seemed to die of.
    pub(crate) suspects: u64,
    pub(crate) looks: u64,
    /// Waits outside of daemons that stopped in order, and those of them that were given up.
    pub(crate) jobs_begun: u64,
    pub(crate) jobs_told: u64,
    /// By instance of a daemon: the newest version of the handler that it ran, and how many messages it has run.
    instances: BTreeMap<String, (u64, u64)>,
    pub(crate) violations: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Partition,
    Key,
}

struct Ledger {
    /// What has its outcome.
    ended: Floor,
    /// How far a message stood behind its number, at most.
    copies: i64,
    /// The last first success of each lane.
    lanes: Vec<i64>,
    committed: i64,
    /// What was committed at least `LATE` ago.
    settled: i64,
    recent: Vec<(Instant, i64)>,
    /// Committed, hopeless, and not yet seen among the dead letters.
    owed: BTreeMap<i64, Instant>,
    moved_at: Instant,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            ended: Floor::default(),
            copies: 0,
            lanes: vec![-1; KEYS],
            committed: 0,
            settled: 0,
            recent: Vec::new(),
            owed: BTreeMap::new(),
            moved_at: Instant::now(),
        }
    }
}

impl Oracle {
    pub(crate) fn new(record: &Path, order: Order) -> Self {
        let file = File::options()
            .create(true)
            .append(true)
            .read(true)
            .open(record);
        Self {
            record: file.unwrap(),
            unread: Vec::new(),
            ledgers: (0..PARTITIONS_MAX).map(|_| Ledger::default()).collect(),
            order,
            runs: 0,
            duplicates: 0,
            late_duplicates: 0,
            dead_letters: 0,
            repeated_letters: 0,
            suspects: 0,
            looks: 0,
            jobs_begun: 0,
            jobs_told: 0,
            instances: BTreeMap::new(),
            violations: Vec::new(),
        }
    }

    /// Takes in what handlers have recorded since the last time.
    pub(crate) fn update(&mut self) {
        let mut new = std::mem::take(&mut self.unread);
        self.record.read_to_end(&mut new).unwrap();
        let whole = new
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        self.unread = new.split_off(whole);
        for line in String::from_utf8_lossy(&new).lines() {
            self.line(line);
        }
    }

    fn line(&mut self, line: &str) {
        let fields: Vec<&str> = line.split(' ').collect();
        let [partition, offset, number, _attempt, instance, version] = fields[..] else {
            self.violate(format!("a message is not what was produced: `{line}`"));
            return;
        };
        let (Ok(partition), Ok(offset), Ok(number), Ok(version)) = (
            partition.parse(),
            offset.parse(),
            number.parse(),
            version.parse::<u64>(),
        ) else {
            self.violate(format!("not a line of the handler: `{line}`"));
            return;
        };
        self.runs += 1;
        // Calls that wait may end in the bundle that they began in, after others of the next one.
        let (newest, runs) = self.instances.entry(instance.to_owned()).or_default();
        *newest = version.max(*newest);
        *runs += 1;
        self.success(partition, offset, number);
    }

    fn success(&mut self, partition: usize, offset: i64, number: i64) {
        let order = self.order;
        let ledger = &mut self.ledgers[partition];
        ledger.copies = ledger.copies.max(offset - number);
        if number > offset || number < 0 {
            self.violate(format!(
                "partition {partition}: {offset} is not what was produced, but {number}"
            ));
            return;
        }
        let owed = ledger.owed.contains_key(&offset);
        if ledger.ended.has(offset) {
            self.duplicates += 1;
            if offset < ledger.settled {
                self.late_duplicates += 1;
            }
            return;
        }
        let lane = match order {
            Order::Partition => 0,
            Order::Key => key_number(number),
        };
        let last = std::mem::replace(&mut ledger.lanes[lane], offset);
        if last > offset {
            ledger.lanes[lane] = last;
            self.violate(format!(
                "order: partition {partition}: {offset} succeeded after {last} of the same lane"
            ));
        }
        if owed || is_hopeless(offset) {
            self.violate(format!(
                "partition {partition}: hopeless {offset} succeeded"
            ));
        }
        self.ledgers[partition].outcome(offset);
    }

    /// A message was found in the dead-letter topic.
    pub(crate) fn dead_letter(&mut self, letter: &Letter) {
        let (partition, offset) = (letter.partition, letter.offset);
        self.dead_letters += 1;
        self.suspects += u64::from(letter.is_suspect);
        if !is_hopeless(offset) && !letter.is_suspect {
            self.violate(format!(
                "partition {partition}: {offset} is a dead letter, and had only to be tried again"
            ));
        }
        let ledger = &mut self.ledgers[partition];
        ledger.owed.remove(&offset);
        if ledger.ended.has(offset) {
            self.repeated_letters += 1;
        } else {
            ledger.outcome(offset);
        }
    }

    /// Committed, and not among the dead letters yet.
    pub(crate) fn owed(&self) -> Vec<(usize, i64)> {
        let ledgers = self.ledgers.iter().enumerate();
        ledgers
            .flat_map(|(partition, ledger)| {
                ledger.owed.keys().map(move |offset| (partition, *offset))
            })
            .collect()
    }

    /// What the group had committed before the record was read the last time; from a coordinator that may be telling
    /// old news, `is_old`, it says nothing about going back.
    pub(crate) fn committed(&mut self, offsets: &BTreeMap<i32, i64>, is_old: bool) {
        self.looks += 1;
        let now = Instant::now();
        let mut broken = Vec::new();
        for (&partition, &offset) in offsets {
            let ledger = &mut self.ledgers[partition as usize];
            if offset < ledger.committed && is_old {
                continue;
            }
            if offset < ledger.committed {
                broken.push(format!(
                    "partition {partition}: the commit went back from {} to {offset}",
                    ledger.committed
                ));
            }
            ledger.commit(offset, now);
            let missing: Vec<i64> = ledger.ended.missing_below(offset).take(10).collect();
            let (hopeless, early): (Vec<i64>, Vec<i64>) =
                missing.into_iter().partition(|one| is_hopeless(*one));
            for one in hopeless {
                ledger.owed.entry(one).or_insert(now);
            }
            if !early.is_empty() {
                broken.push(format!(
                    "partition {partition}: {offset} is committed, and without an outcome are {early:?}"
                ));
            }
        }
        for sentence in broken {
            self.violate(sentence);
        }
    }

    /// The last words of a daemon that stopped in order: no job is left, dropped or lost.
    pub(crate) fn jobs(&mut self, instance: &str, jobs: Jobs) {
        self.jobs_begun += jobs.begun;
        self.jobs_told += jobs.told;
        if !jobs.ended_in_order() {
            self.violate(format!("the jobs of {instance} did not all end: {jobs:?}"));
        }
    }

    /// While nothing is wrong outside: no partition stands still before messages, no dead letter is missing.
    pub(crate) fn check_progress(&mut self, load: &Load, calm_since: Instant, patience: Duration) {
        let mut broken = Vec::new();
        for (partition, ledger) in self.ledgers.iter().enumerate() {
            let stuck = ledger.moved_at.max(calm_since).elapsed();
            if ledger.ended.next() < load.acked(partition) && stuck > patience {
                broken.push(format!(
                    "partition {partition} stands still for {stuck:?} at {} of {}",
                    ledger.ended.next(),
                    load.acked(partition)
                ));
            }
            let late = ledger
                .owed
                .iter()
                .find(|(_, since)| since.max(&&calm_since).elapsed() > LETTER);
            if let Some((offset, _)) = late {
                broken.push(format!(
                    "partition {partition}: {offset} is committed, and no dead letter"
                ));
            }
        }
        for sentence in broken {
            self.violate(sentence);
        }
    }

    /// At the end, when the driver knows of every copy: nobody has seen a message further behind its number.
    pub(crate) fn check_copies(&mut self, load: &Load) {
        for partition in 0..PARTITIONS_MAX {
            let (seen, known) = (self.ledgers[partition].copies, load.copies(partition));
            if seen > known {
                self.violate(format!(
                    "partition {partition}: a message stood {seen} behind its number, and there are {known} copies"
                ));
            }
        }
    }

    /// Everything below has its outcome, by partition.
    pub(crate) fn floors(&self) -> Vec<i64> {
        self.ledgers
            .iter()
            .map(|ledger| ledger.ended.next())
            .collect()
    }

    pub(crate) fn committed_at(&self, partition: usize) -> i64 {
        self.ledgers[partition].committed
    }

    pub(crate) fn finished(&self) -> i64 {
        self.ledgers.iter().map(|ledger| ledger.ended.count()).sum()
    }

    pub(crate) fn newest_version(&self, instance: &str) -> u64 {
        self.instances
            .get(instance)
            .map_or(0, |(version, _)| *version)
    }

    pub(crate) fn runs_of(&self, instance: &str) -> u64 {
        self.instances.get(instance).map_or(0, |(_, runs)| *runs)
    }

    pub(crate) fn violate(&mut self, sentence: String) {
        // The first ones tell what happened.
        if self.violations.len() < 20 {
            self.violations.push(sentence);
        }
    }
}

impl Ledger {
    fn outcome(&mut self, offset: i64) {
        let next = self.ended.next();
        self.ended.insert(offset);
        if self.ended.next() > next {
            self.moved_at = Instant::now();
        }
    }

    fn commit(&mut self, offset: i64, now: Instant) {
        self.committed = self.committed.max(offset);
        self.recent.push((now, self.committed));
        while let Some((at, offset)) = self.recent.first().copied() {
            if now - at < LATE {
                break;
            }
            self.settled = offset;
            self.recent.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oracle() -> Oracle {
        Oracle::new(
            tempfile::NamedTempFile::new().unwrap().path(),
            Order::Partition,
        )
    }

    #[test]
    fn what_overtakes_is_seen() {
        let mut oracle = oracle();
        oracle.line("0 0 0 1 a 1");
        oracle.line("0 2 2 1 a 1");
        assert!(oracle.violations.is_empty());
        oracle.line("0 1 1 1 a 1");
        assert!(oracle.violations[0].starts_with("order: partition 0: 1 succeeded after 2"));
    }

    #[test]
    fn a_repeated_run_is_a_duplicate_and_no_more() {
        let mut oracle = oracle();
        for line in [
            "0 0 0 1 a 1",
            "0 1 1 1 a 1",
            "0 0 0 1 b 1",
            "0 1 1 1 b 1",
            "0 2 2 1 b 1",
        ] {
            oracle.line(line);
        }
        assert!(oracle.violations.is_empty());
        assert_eq!((oracle.duplicates, oracle.finished()), (2, 3));
    }

    #[test]
    fn a_commit_that_runs_ahead_is_seen() {
        let mut oracle = oracle();
        oracle.line("0 0 0 1 a 1");
        oracle.committed(&BTreeMap::from([(0, 1)]), false);
        assert!(oracle.violations.is_empty());
        oracle.committed(&BTreeMap::from([(0, 2)]), false);
        assert!(oracle.violations[0].contains("2 is committed, and without an outcome are [1]"));
    }

    #[test]
    fn a_commit_that_goes_back_is_seen() {
        let mut oracle = oracle();
        oracle.line("0 0 0 1 a 1");
        oracle.committed(&BTreeMap::from([(0, 1)]), false);
        oracle.committed(&BTreeMap::from([(0, 0)]), false);
        assert!(oracle.violations[0].contains("went back from 1 to 0"));
    }

    #[test]
    fn a_job_that_is_left_is_seen() {
        let mut oracle = oracle();
        let jobs = Jobs {
            begun: 3,
            answered: 2,
            told: 1,
            dropped: 0,
            lost: 0,
            open: 0,
        };
        oracle.jobs("a", jobs);
        assert!(oracle.violations.is_empty());
        oracle.jobs(
            "a",
            Jobs {
                told: 0,
                open: 1,
                ..jobs
            },
        );
        assert!(oracle.violations[0].starts_with("the jobs of a did not all end"));
        assert_eq!((oracle.jobs_begun, oracle.jobs_told), (6, 1));
    }

    #[test]
    fn a_coordinator_that_tells_old_news_is_no_member_that_goes_back() {
        let mut oracle = oracle();
        oracle.line("0 0 0 1 a 1");
        oracle.committed(&BTreeMap::from([(0, 1)]), false);
        oracle.committed(&BTreeMap::from([(0, 0)]), true);
        assert!(oracle.violations.is_empty());
        oracle.committed(&BTreeMap::from([(0, 2)]), true);
        assert!(oracle.violations[0].contains("2 is committed"));
    }
}
