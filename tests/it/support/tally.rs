//! The oracle: what was finished, in which order, and whether a commit ever ran ahead of it.
//!
//! It reads what handlers recorded as `end`, from one or several daemons. Offsets begin at 0 and have no gaps.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::client::Committed;
use super::kafka::Kafka;
use super::project::{Project, entry};

pub(crate) struct Tally {
    path: PathBuf,
    read: u64,
    partitions: BTreeMap<i32, Finished>,
    /// Calls in all, the repeated ones too.
    pub(crate) calls: u64,
}

#[derive(Default)]
struct Finished {
    /// Everything below it is finished.
    next: i64,
    above: BTreeSet<i64>,
    /// First ends that came before that of a lower offset.
    overtaken: Vec<i64>,
}

impl Tally {
    pub(crate) fn new(project: &Project) -> Self {
        Self {
            path: project.record_path(),
            read: 0,
            partitions: BTreeMap::new(),
            calls: 0,
        }
    }

    /// Takes in what was recorded since the last time.
    pub(crate) fn update(&mut self) {
        let Ok(mut file) = File::open(&self.path) else {
            return;
        };
        let mut new = Vec::new();
        file.seek(SeekFrom::Start(self.read)).unwrap();
        file.read_to_end(&mut new).unwrap();
        new.truncate(
            new.iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |end| end + 1),
        );
        self.read += new.len() as u64;
        for line in String::from_utf8(new).unwrap().lines() {
            let entry = entry(line);
            if entry.event == "end" {
                self.calls += 1;
                self.partitions
                    .entry(entry.partition)
                    .or_default()
                    .finish(entry.offset);
            }
        }
    }

    /// How many different messages are finished.
    pub(crate) fn finished(&self) -> u64 {
        self.partitions
            .values()
            .map(|finished| finished.next as u64 + finished.above.len() as u64)
            .sum()
    }

    /// Everything below is finished.
    pub(crate) fn next(&self, partition: i32) -> i64 {
        self.partitions
            .get(&partition)
            .map_or(0, |finished| finished.next)
    }

    /// No message ended for the first time before one that stands before it in its partition.
    #[track_caller]
    pub(crate) fn assert_order(&self) {
        for (partition, finished) in &self.partitions {
            assert!(
                finished.overtaken.is_empty(),
                "partition {partition}: {:?} came too early",
                finished.overtaken
            );
        }
    }
}

impl Finished {
    fn finish(&mut self, offset: i64) {
        if offset < self.next || self.above.contains(&offset) {
            return;
        }
        if offset > self.next {
            self.overtaken.push(offset);
        }
        self.above.insert(offset);
        while self.above.remove(&self.next) {
            self.next += 1;
        }
    }
}

/// Until `stop`: whatever is committed at a moment is finished at that moment. Returns how many looks there were.
pub(crate) fn watch_commits(
    kafka: &Kafka,
    project: &Project,
    topic: &str,
    partitions: i32,
    stop: &AtomicBool,
) -> u64 {
    let committed = Committed::new(kafka, &project.group);
    let mut tally = Tally::new(project);
    let mut looks = 0;
    loop {
        let last = stop.load(Ordering::SeqCst);
        // First the commits, then the record: what ends in between is not held against the commit.
        if let Ok(offsets) = committed.try_all(topic, partitions) {
            tally.update();
            for (partition, offset) in offsets {
                let finished = tally.next(partition);
                assert!(
                    offset <= finished,
                    "partition {partition}: committed {offset}, finished below {finished}"
                );
            }
            looks += 1;
        }
        if last {
            return looks;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
