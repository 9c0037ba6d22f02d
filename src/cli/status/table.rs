//! The table of a consumer's partitions: the choice of partitions, and their columns.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::words::{count, harmless};
use crate::telemetry::status::PartitionStatus;

/// The most partitions that are shown without `--all`.
pub(super) const ROWS_MAX: usize = 20;

/// The partitions to show, by topic and number; above the limit, the most troubled ones.
pub(super) fn chosen(partitions: &[PartitionStatus], all: bool) -> Vec<&PartitionStatus> {
    let mut chosen: Vec<_> = partitions.iter().collect();
    if !all && chosen.len() > ROWS_MAX {
        chosen.sort_by_key(|p| {
            (
                p.error.is_none() && p.blocked.is_none(),
                p.lag.is_some(),
                -p.lag.unwrap_or(0),
                std::cmp::Reverse(p.in_flight),
            )
        });
        chosen.truncate(ROWS_MAX);
    }
    chosen.sort_by_key(|partition| (&partition.topic, partition.partition));
    chosen
}

/// The rows, the heading first; numbers are right-aligned, missing values are a dash. A lag that is not known may be a
/// great one, so that it is no dash.
pub(super) fn rows(partitions: &[&PartitionStatus]) -> Vec<String> {
    let heading = [
        "topic",
        "partition",
        "position",
        "committed",
        "lag",
        "in flight",
    ]
    .map(str::to_owned);
    let number =
        |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let cells: Vec<[String; 6]> = std::iter::once(heading)
        .chain(partitions.iter().map(|p| {
            let numbers = [
                number(p.position),
                number(p.committed),
                p.lag
                    .map_or_else(|| "unknown".to_owned(), |lag| lag.to_string()),
                p.in_flight.to_string(),
            ];
            let [position, committed, lag, in_flight] = numbers;
            [
                harmless(&p.topic),
                p.partition.to_string(),
                position,
                committed,
                lag,
                in_flight,
            ]
        }))
        .collect();
    let width = |column: usize| {
        cells
            .iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    let line = |row: &[String; 6]| {
        let mut line = format!("{:<width$}", row[0], width = widths[0]);
        for (cell, width) in row.iter().zip(widths).skip(1) {
            // Writing to a string cannot fail.
            let _ = write!(line, "  {cell:>width$}");
        }
        line
    };
    cells.iter().map(line).collect()
}

/// One line that sums up all partitions.
pub(super) fn summary(partitions: &[PartitionStatus]) -> String {
    if partitions.is_empty() {
        return "no partitions assigned".to_owned();
    }
    let topics: BTreeSet<_> = partitions
        .iter()
        .map(|partition| &partition.topic)
        .collect();
    let known: Vec<i64> = partitions.iter().filter_map(|one| one.lag).collect();
    let lag = match (known.len(), partitions.len() - known.len()) {
        (0, _) => "lag unknown".to_owned(),
        (_, 0) => format!("lag {}", known.iter().sum::<i64>()),
        (_, unknown) => format!("lag {} and unknown in {unknown}", known.iter().sum::<i64>()),
    };
    let in_flight: usize = partitions.iter().map(|partition| partition.in_flight).sum();
    let partitions = count(partitions.len(), "partition");
    format!(
        "{partitions} of {}, {lag}, {in_flight} in flight",
        count(topics.len(), "topic")
    )
}
