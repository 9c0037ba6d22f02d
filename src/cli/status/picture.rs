//! A status as text for people; pure, so that tests need no daemon.

mod outside;

use super::table::{self, ROWS_MAX};
use super::words::{count, duration, first_line, harmless};
use crate::telemetry::status::{
    Blocked, ConsumerStatus, ErrorStatus, PartitionStatus, Pause, PausedBy, ProducerStatus, Reason,
    ReloadReport, ReloadResult, Status, TransactionStatus,
};

/// The most reasons for a missing readiness that are shown without `--all`.
const REASONS_MAX: usize = 3;

/// The options of the output.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// Milliseconds since the epoch.
    pub(super) now: i64,
    /// Characters a line; longer lines are cut, but never those of a table.
    pub(super) width: Option<usize>,
    /// Shows every partition, and every line of an error.
    pub(super) all: bool,
    pub(super) colour: bool,
}

pub(super) fn picture(status: &Status, view: &View) -> String {
    let mut lines = head(status, view);
    for consumer in &status.consumers {
        lines.push(String::new());
        lines.extend(self::consumer(consumer, view));
    }
    if status.consumers.is_empty() {
        lines.extend([String::new(), "no consumers".to_owned()]);
    }
    let producers = status.producers.iter();
    let used: Vec<_> = producers.filter(|producer| producer.clients > 0).collect();
    if !used.is_empty() {
        lines.push(String::new());
    }
    for producer in used {
        lines.extend(self::producer(producer, view));
    }
    lines.extend(outside::lines(status, view));
    lines.push(String::new());
    lines.join("\n")
}

fn producer(producer: &ProducerStatus, view: &View) -> Vec<String> {
    let in_flight = count(producer.in_flight, "record");
    let mut text = format!("{in_flight} in flight ({} bytes)", producer.in_flight_bytes);
    if producer.queued > 0 {
        let queued = count(producer.queued, "send");
        text = format!("{text}, {queued} waiting for room");
    }
    let mut lines = vec![format!("producer  {}: {text}", harmless(&producer.name))];
    if let Some(error) = &producer.error {
        let since = producer
            .error_since
            .map_or_else(String::new, |since| format!("for {}: ", view.since(since)));
        lines.extend(view.text("          ", &format!("{since}{error}"), true));
    }
    lines
}

fn head(status: &Status, view: &View) -> Vec<String> {
    let Status {
        version,
        pid,
        bundle,
        ..
    } = status;
    let mut lines = vec![
        view.bold(&format!(
            "moontide {version}, pid {pid}, started {} ago",
            view.since(status.started_at)
        )),
        format!("config    {}", harmless(&status.config)),
        format!(
            "bundle    {} ({}), loaded {} ago",
            bundle.number,
            bundle.hash,
            view.since(bundle.loaded_at)
        ),
    ];
    lines.extend(readiness(status, view));
    if let Some(report) = &status.last_reload {
        lines.extend(view.text(
            "reload    ",
            &reload(report, view),
            report.result == ReloadResult::Rejected,
        ));
    }
    if let Some(watches) = status.watches {
        let text = if watches {
            "on: a saved file is reloaded"
        } else {
            "off: a reload needs SIGHUP or `moontide reload`"
        };
        lines.push(format!("watch     {text}"));
    }
    if let Some(stuck) = &status.stuck_load {
        let since = view.since(stuck.since);
        let text = format!(
            "does not end, for {since}, and no reload is possible: {}",
            stuck.why
        );
        lines.extend(view.text("load      ", &text, true));
    }
    if let Some(error) = &status.disk {
        lines.extend(view.text(
            "on disk   ",
            &format!("bad, a restart would fail: {error}"),
            true,
        ));
    }
    if !status.waiting_for_restart.is_empty() {
        let keys = status.waiting_for_restart.join("`, `");
        lines.extend(view.text("restart   ", &format!("needed for `{keys}`"), true));
    }
    for one in &status.paused {
        let reason = one.reason.as_ref().map(|reason| format!(": {reason}"));
        let text = format!(
            "listener `{}` for {} by {}{}",
            one.listener,
            view.since(one.since),
            one.by,
            reason.unwrap_or_default()
        );
        lines.extend(view.text("paused    ", &text, true));
    }
    lines
}

fn readiness(status: &Status, view: &View) -> Vec<String> {
    let Some(readiness) = &status.readiness else {
        return Vec::new();
    };
    if readiness.ready {
        return vec!["ready     yes".to_owned()];
    }
    let shown = if view.all { usize::MAX } else { REASONS_MAX };
    let reasons = readiness.reasons.iter().take(shown);
    let mut lines: Vec<_> = reasons
        .flat_map(|reason| {
            let Reason { what, why, since } = reason;
            let text = format!("no, {what}, for {}: {why}", view.since(*since));
            view.text("ready     ", &text, true)
        })
        .collect();
    let hidden = readiness.reasons.len().saturating_sub(shown);
    if hidden > 0 {
        let hidden = count(hidden, "other reason");
        lines.push(format!("          … and {hidden}; --all shows them"));
    }
    lines
}

fn reload(report: &ReloadReport, view: &View) -> String {
    let ago = view.since(report.at);
    match report.result {
        ReloadResult::Applied => format!("applied {ago} ago: {}", report.message),
        ReloadResult::Unchanged => format!("unchanged {ago} ago"),
        ReloadResult::Rejected => format!("rejected {ago} ago: {}", report.message),
    }
}

fn consumer(consumer: &ConsumerStatus, view: &View) -> Vec<String> {
    let (name, group) = (harmless(&consumer.name), harmless(&consumer.group_id));
    let state = harmless(&consumer.state);
    let state = if state == "assigned" {
        state
    } else {
        view.paint("33", &state)
    };
    let mut lines = vec![format!(
        "{}, group {group}: {state}",
        view.bold(&format!("consumer {name}"))
    )];
    let errors = consumer.errors.iter();
    lines.extend(errors.flat_map(|error| view.error("  error   ", error)));
    let subscription = if consumer.subscription.is_empty() {
        "none yet".to_owned()
    } else {
        consumer.subscription.join(", ")
    };
    lines.extend(view.text("  topics  ", &subscription, false));
    for one in &consumer.topic_errors {
        let text = format!(
            "{} is unknown, for {}: {}",
            one.topic,
            view.since(one.since),
            one.error
        );
        lines.extend(view.text("  topic   ", &text, true));
    }
    if let Some(transactions) = &consumer.transactions {
        lines.extend(view.text("  commits ", &self::transactions(transactions), false));
    }
    lines.push(format!("  {}", table::summary(&consumer.partitions)));
    lines.extend(waiting(&consumer.partitions));
    let chosen = table::chosen(&consumer.partitions, view.all);
    if !chosen.is_empty() {
        lines.push(String::new());
        lines.extend(table::rows(&chosen).iter().map(|row| format!("  {row}")));
    }
    let hidden = consumer.partitions.len() - chosen.len();
    if hidden > 0 {
        let hidden = count(hidden, "other partition");
        lines.push(format!("  … and {hidden} without lag; --all shows them"));
    }
    lines.extend(paused(&consumer.partitions, view));
    lines.extend(deferred(&consumer.partitions, view));
    lines.extend(failing(&consumer.partitions, view));
    lines.extend(blocked(&consumer.partitions, view));
    lines
}

fn transactions(of: &TransactionStatus) -> String {
    let committed = count(of.committed as usize, "transaction");
    let waiting = count(of.waiting, "message");
    let mut text = format!(
        "{committed}, {waiting} waiting ({} bytes)",
        of.waiting_bytes
    );
    for (number, what) in [
        (of.aborted, "aborted"),
        (of.unknown, "of unknown end"),
        (of.refused, "messages refused"),
        (of.replaced, "producers replaced"),
        (of.left as u64, "producers left in a call"),
    ] {
        if number > 0 {
            text = format!("{text}, {number} {what}");
        }
    }
    text
}

/// How many partitions wait without a fault.
fn waiting(partitions: &[PartitionStatus]) -> Vec<String> {
    let line = |pause: Pause, what: &str| {
        let waiting = partitions.iter().filter(|one| one.paused == Some(pause));
        let number = waiting.count();
        let waits = if number == 1 { "waits" } else { "wait" };
        (number > 0).then(|| format!("  {} {waits} {what}", count(number, "partition")))
    };
    let lines = [
        line(Pause::RateLimit, "for the rate limit of a listener"),
        line(Pause::NotDue, "until the next message is due"),
    ];
    lines.into_iter().flatten().collect()
}

/// The partitions that code has paused, by the call that did so.
fn paused(partitions: &[PartitionStatus], view: &View) -> Vec<String> {
    let mut calls: Vec<(&PausedBy, Vec<String>)> = Vec::new();
    for partition in partitions {
        let Some(by) = &partition.paused_by else {
            continue;
        };
        let name = format!("{}[{}]", partition.topic, partition.partition);
        match calls.iter_mut().find(|(other, _)| *other == by) {
            Some((_, names)) => names.push(name),
            None => calls.push((by, vec![name])),
        }
    }
    if calls.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![String::new()];
    for (by, names) in calls {
        let since = view.since(by.since);
        let text = format!("{} for {since} by {}", names.join(", "), by.who);
        lines.extend(view.text("  paused  ", &text, true));
    }
    lines
}

/// The partitions with deferred messages; the one with the oldest comes first.
fn deferred(partitions: &[PartitionStatus], view: &View) -> Vec<String> {
    let mut all: Vec<_> = partitions
        .iter()
        .filter_map(|one| Some((one, one.deferred.as_ref()?)))
        .collect();
    if all.is_empty() {
        return Vec::new();
    }
    all.sort_by_key(|(_, deferred)| deferred.since);
    let shown = if view.all { all.len() } else { ROWS_MAX };
    let mut lines = vec![String::new()];
    for (partition, deferred) in all.iter().take(shown) {
        let holds = if deferred.holds_position {
            ", and the position waits for it"
        } else {
            ""
        };
        let text = format!(
            "{} of {}[{}]; the first, at offset {}, for {} in listener {} at {}{holds}",
            count(deferred.messages, "message"),
            partition.topic,
            partition.partition,
            deferred.offset,
            view.since(deferred.since),
            deferred.listener,
            deferred.at
        );
        lines.extend(view.text("  deferred ", &text, false));
    }
    let hidden = all.len().saturating_sub(shown);
    if hidden > 0 {
        let hidden = count(hidden, "other partition");
        lines.push(format!("  … and messages of {hidden}; --all shows them"));
    }
    lines
}

/// The partitions from which nothing is received.
fn failing(partitions: &[PartitionStatus], view: &View) -> Vec<String> {
    let failing: Vec<_> = partitions.iter().filter_map(|p| p.error.as_ref()).collect();
    if failing.is_empty() {
        return Vec::new();
    }
    let shown = if view.all { failing.len() } else { ROWS_MAX };
    let mut lines = vec![String::new()];
    let first = failing.iter().take(shown);
    lines.extend(first.flat_map(|error| view.error("  nothing received from ", error)));
    let hidden = failing.len().saturating_sub(shown);
    if hidden > 0 {
        let hidden = count(hidden, "other partition");
        lines.push(format!("  … nor from {hidden}; --all shows them"));
    }
    lines
}

fn blocked(partitions: &[PartitionStatus], view: &View) -> Vec<String> {
    let mut blocked: Vec<_> = partitions
        .iter()
        .filter_map(|p| Some((p, p.blocked.as_ref()?)))
        .collect();
    if blocked.is_empty() {
        return Vec::new();
    }
    // The message with the longest wait comes first: an operator begins there.
    blocked
        .sort_by_key(|(partition, blocked)| (blocked.since, &partition.topic, partition.partition));
    let shown = if view.all {
        blocked.len()
    } else {
        blocked.len().min(ROWS_MAX)
    };
    let mut lines = vec![String::new()];
    for (partition, blocked) in &blocked[..shown] {
        lines.extend(block(partition, blocked, view));
    }
    if shown < blocked.len() {
        let hidden = count(blocked.len() - shown, "other partition");
        lines.push(format!("  … and {hidden} blocked; --all shows them"));
    }
    lines
}

fn block(partition: &PartitionStatus, blocked: &Blocked, view: &View) -> Vec<String> {
    let Blocked {
        offset, attempt, ..
    } = blocked;
    let wait = match blocked.next_attempt_at - view.now {
        ..=0 => "next attempt due".to_owned(),
        wait => format!("next attempt in {}", duration(wait)),
    };
    let place = format!(
        "{}[{}]@{offset}",
        harmless(&partition.topic),
        partition.partition
    );
    let (since, listener) = (view.since(blocked.since), harmless(&blocked.listener));
    let runs = count(*attempt as usize, "attempt");
    let mut lines = vec![format!(
        "  {} for {since}: listener {listener}, {runs}, {wait}",
        view.paint("31", &format!("blocked {place}"))
    )];
    lines.extend(view.text("    ", &blocked.error, true));
    lines
}

impl View {
    fn error(&self, label: &str, error: &ErrorStatus) -> Vec<String> {
        let since = self.since(error.since);
        let text = format!("{}, for {since}: {}", error.place, error.error);
        self.text(label, &text, true)
    }

    fn since(&self, at: i64) -> String {
        duration(self.now - at)
    }

    /// A line with a label. If all is shown, further lines of the text stand below its first.
    fn text(&self, label: &str, text: &str, bad: bool) -> Vec<String> {
        let indent = label.chars().count();
        let lines = if self.all {
            text.trim().lines().map(harmless).collect()
        } else {
            vec![first_line(
                text,
                self.width.map(|width| width.saturating_sub(indent)),
            )]
        };
        let paint = |line: &String| {
            if bad {
                self.paint("31", line)
            } else {
                line.clone()
            }
        };
        let label = |index| {
            if index == 0 {
                label.to_owned()
            } else {
                " ".repeat(indent)
            }
        };
        lines
            .iter()
            .enumerate()
            .map(|(index, line)| label(index) + &paint(line))
            .collect()
    }

    fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests;
