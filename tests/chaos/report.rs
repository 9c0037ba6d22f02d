//! What a run has seen, as a page that can be kept.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::fleet::{Fleet, Sample};
use crate::oracle::Oracle;
use crate::stage::Setting;

/// The faults of which each has a fail point after the other.
const AT_FAIL_POINTS: [&str; 2] = ["killed at fail points", "a worker panics"];

/// A number of a sample.
type Column = fn(&Sample) -> f64;

#[derive(Clone)]
pub(crate) struct Report {
    seed: u64,
    rate: u64,
    setting: String,
    started: Instant,
    faults: Vec<Happened>,
    fail_points: BTreeMap<String, u32>,
    begun: Option<(&'static str, Duration)>,
    end: String,
    summary: String,
}

/// What a run comes to, in numbers.
pub(crate) struct Totals {
    /// Acknowledged by the brokers.
    pub(crate) produced: i64,
    /// Those that have their outcome.
    pub(crate) handled: i64,
    /// Records that a consumer with `exactlyOnce` has committed.
    pub(crate) copied: u64,
    /// Records that the others have emitted, and those of them that stood there already.
    pub(crate) echoed: u64,
    pub(crate) echoes_repeated: u64,
    pub(crate) restarts: u64,
    pub(crate) violations: usize,
}

/// A fault and what followed.
#[derive(Clone, Copy)]
pub(crate) struct Happened {
    pub(crate) name: &'static str,
    /// From its beginning to its end.
    pub(crate) lasted: Duration,
    /// From its end until nothing of what stood there then was unfinished.
    pub(crate) recovery: Duration,
    pub(crate) duplicates: u64,
}

impl Report {
    pub(crate) fn new(setting: &Setting) -> Self {
        Self {
            seed: setting.seed,
            rate: setting.rate,
            setting: format!(
                "{} partitions, {} members, order by {:?}, group protocol at the start: {:?}",
                setting.partitions, setting.members, setting.order, setting.protocol
            ),
            started: Instant::now(),
            faults: Vec::new(),
            fail_points: BTreeMap::new(),
            begun: None,
            end: String::new(),
            summary: String::new(),
        }
    }

    pub(crate) fn begin(&mut self, name: &'static str) {
        self.begun = Some((name, self.started.elapsed()));
    }

    pub(crate) fn end(&mut self, happened: Happened, finished: i64) {
        self.begun = None;
        self.faults.push(happened);
        say(&format!(
            "{:>6.1} s  {:<28} lasted {:>5.1} s, recovered in {:>5.1} s, {} duplicates, {finished} finished",
            self.started.elapsed().as_secs_f64(),
            happened.name,
            happened.lasted.as_secs_f64(),
            happened.recovery.as_secs_f64(),
            happened.duplicates
        ));
    }

    /// A daemon was killed there, or a worker has panicked.
    pub(crate) fn reached(&mut self, fail_point: &str) {
        *self.fail_points.entry(fail_point.to_owned()).or_default() += 1;
    }

    /// What a fault at fail points brings is many faults, one after the other.
    fn count(&self) -> usize {
        let others = |one: &&Happened| !AT_FAIL_POINTS.contains(&one.name);
        let ends: u32 = self.fail_points.values().sum();
        self.faults.iter().filter(others).count() + ends as usize
    }

    /// A few lines that stand for themselves.
    pub(crate) fn summarize(&self, totals: &Totals) -> String {
        let mut kinds: BTreeMap<&str, u32> = BTreeMap::new();
        for fault in &self.faults {
            *kinds.entry(fault.name).or_default() += 1;
        }
        if let Some((name, _)) = self.begun {
            *kinds.entry(name).or_default() += 1;
        }
        let kinds: Vec<String> = kinds
            .iter()
            .map(|(name, times)| format!("{name} {times}"))
            .collect();
        let lines = [
            (
                "minutes",
                format!("{:.1}", self.started.elapsed().as_secs_f64() / 60.0),
            ),
            ("seed", self.seed.to_string()),
            ("faults", self.count().to_string()),
            ("by kind", kinds.join(", ")),
            ("messages produced", totals.produced.to_string()),
            ("messages handled", totals.handled.to_string()),
            ("records emitted exactly once", totals.copied.to_string()),
            ("records emitted at least once", totals.echoed.to_string()),
            ("restarts of daemons", totals.restarts.to_string()),
            ("violations", totals.violations.to_string()),
        ];
        lines.iter().fold(String::new(), |mut text, (name, value)| {
            writeln!(text, "{name}: {value}").unwrap();
            text
        })
    }

    /// The faults so far, in their order.
    pub(crate) fn story(&self) -> String {
        let mut story: Vec<String> = self
            .faults
            .iter()
            .map(|one| {
                format!(
                    "  {} ({:?}, recovered in {:?})",
                    one.name, one.lasted, one.recovery
                )
            })
            .collect();
        if let Some((name, at)) = self.begun {
            story.push(format!("  {name}, begun at {at:?} and not recovered from"));
        }
        story.join("\n")
    }

    pub(crate) fn close(&mut self, oracle: &Oracle, totals: &Totals, copies: i64, fleet: &Fleet) {
        self.summary = self.summarize(totals);
        let mut text = String::new();
        let (acked, count) = (totals.produced, self.count());
        writeln!(text, "| | |\n| --- | --- |").unwrap();
        let lines = [
            (
                "time",
                format!("{:.1} minutes", self.started.elapsed().as_secs_f64() / 60.0),
            ),
            ("faults, each end at a fail point as one", count.to_string()),
            (
                "seconds from one to the next, on average",
                format!("{:.1}", self.started.elapsed().as_secs_f64() / count as f64),
            ),
            ("messages acknowledged by the brokers", acked.to_string()),
            (
                "… written twice by the producer when all brokers were gone",
                copies.to_string(),
            ),
            (
                "a second, on average",
                format!("{:.0}", acked as f64 / self.started.elapsed().as_secs_f64()),
            ),
            ("runs that succeeded", oracle.runs.to_string()),
            ("duplicates", oracle.duplicates.to_string()),
            (
                "… of messages committed for 5 s and more",
                oracle.late_duplicates.to_string(),
            ),
            ("dead letters", oracle.dead_letters.to_string()),
            ("… sent more than once", oracle.repeated_letters.to_string()),
            (
                "… of messages that were running in kill after kill",
                oracle.suspects.to_string(),
            ),
            (
                "records of the consumer with `exactlyOnce`: each message's, once, in order",
                totals.copied.to_string(),
            ),
            (
                "records of the others: each message's, or its dead letter",
                totals.echoed.to_string(),
            ),
            ("… written again", totals.echoes_repeated.to_string()),
            ("looks at the commits", oracle.looks.to_string()),
            (
                "jobs outside, of daemons that stopped in order",
                oracle.jobs_begun.to_string(),
            ),
            ("… given up, and told so", oracle.jobs_told.to_string()),
            ("restarts of daemons", totals.restarts.to_string()),
            ("**lost**", (acked - totals.handled).to_string()),
            (
                "**out of order, committed too early, stalled, gone back**",
                totals.violations.to_string(),
            ),
        ];
        for (name, value) in lines {
            writeln!(text, "| {name} | {value} |").unwrap();
        }
        veteran(&mut text, fleet);
        self.end = text;
    }

    pub(crate) fn markdown(&self, command: &str) -> String {
        let mut text = String::from("# A run of the chaos suite\n\n");
        writeln!(text, "    {command}\n").unwrap();
        writeln!(
            text,
            "moontide {}, Apache Kafka {} (three brokers, replication 3, min.insync.replicas 2), librdkafka {}; \
             seed {}, {} messages a second asked for; {}.\n",
            env!("CARGO_PKG_VERSION"),
            crate::support::kafka::version(),
            rdkafka::util::get_rdkafka_version().1,
            self.seed,
            self.rate,
            self.setting
        )
        .unwrap();
        text.push_str(&self.end);
        writeln!(
            text,
            "\n| fault | times | lasted, s | recovery p50, s | p99, s | duplicates |"
        )
        .unwrap();
        writeln!(text, "| --- | --- | --- | --- | --- | --- |").unwrap();
        let mut names: Vec<&str> = self.faults.iter().map(|one| one.name).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let these: Vec<&Happened> = self.faults.iter().filter(|one| one.name == name).collect();
            let mut recoveries: Vec<f64> =
                these.iter().map(|one| one.recovery.as_secs_f64()).collect();
            recoveries.sort_by(f64::total_cmp);
            let quantile =
                |share: f64| recoveries[((recoveries.len() - 1) as f64 * share).round() as usize];
            let lasted: f64 = these.iter().map(|one| one.lasted.as_secs_f64()).sum();
            writeln!(
                text,
                "| {name} | {} | {:.1} | {:.1} | {:.1} | {} |",
                these.len(),
                lasted / these.len() as f64,
                quantile(0.5),
                quantile(0.99),
                these.iter().map(|one| one.duplicates).sum::<u64>()
            )
            .unwrap();
        }
        if !self.fail_points.is_empty() {
            let points = self
                .fail_points
                .iter()
                .map(|(name, times)| format!("{name} {times}"));
            let points: Vec<String> = points.collect();
            writeln!(text, "\nEnds at fail points: {}.", points.join(", ")).unwrap();
        }
        writeln!(text, "\n## Summary\n\n{}", indented(&self.summary)).unwrap();
        text
    }
}

/// As a block of code of a page.
fn indented(lines: &str) -> String {
    lines
        .lines()
        .fold(String::new(), |text, line| text + "    " + line + "\n")
}

/// What the member that was never killed has held.
fn veteran(text: &mut String, fleet: &Fleet) {
    if let Some((first, last)) = fleet.members[0].ends() {
        writeln!(
            text,
            "\nOf the member that lived from the beginning to the end:\n"
        )
        .unwrap();
        writeln!(text, "| | begin | end | most |\n| --- | --- | --- | --- |").unwrap();
        let samples = &fleet.members[0].samples;
        let most = |of: fn(&Sample) -> f64| samples.iter().map(of).fold(0.0, f64::max);
        let columns: [(&str, Column); 3] = [
            ("memory, MiB", |one| one.memory as f64 / f64::from(1 << 20)),
            ("descriptors", |one| one.descriptors as f64),
            ("threads", |one| one.threads() as f64),
        ];
        for (name, of) in columns {
            writeln!(
                text,
                "| {name} | {:.0} | {:.0} | {:.0} |",
                of(&first),
                of(&last),
                most(of)
            )
            .unwrap();
        }
    }
}

/// Where the run stands, for whoever watches it.
#[expect(clippy::print_stderr, reason = "a long run is watched")]
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}
