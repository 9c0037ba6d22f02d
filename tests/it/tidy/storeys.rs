//! The storeys of src/, lowest first: the table that ARCHITECTURE.md shows too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::imports;
use super::tree::room;

/// A name, and the rooms: the first components of paths below src.
pub(super) type Storey = (&'static str, &'static [&'static str]);

/// The top of src/ stays short enough to read as a map.
const ROOMS_MAX: usize = 29;

/// A storey may import itself and the storeys before it.
pub(super) const STOREYS: [Storey; 15] = [
    (
        "ground",
        &[
            "message",
            "topic_name",
            "rate_limit",
            "files",
            "clock",
            "duration",
            "failpoint",
            "allocator",
            "nearest",
            "log",
            "wait",
        ],
    ),
    ("threads", &["threads"]),
    ("kafka", &["kafka", "crash"]),
    ("config", &["config"]),
    ("bundle", &["bundle"]),
    ("rules", &["rules"]),
    ("state", &["state"]),
    ("lua and telemetry", &["lua", "telemetry"]),
    ("outgoing", &["outgoing"]),
    ("assignment", &["assignment"]),
    ("running", &["consumer", "worker"]),
    ("service", &["service"]),
    ("daemon", &["daemon"]),
    ("cli", &["cli"]),
    ("program", &["main", "lib"]),
];

/// The height and the name of the storey that has a room.
pub(super) fn find(storeys: &[Storey], room: &str) -> Option<(usize, &'static str)> {
    let mut heights = storeys.iter().enumerate();
    let (height, storey) = heights.find(|(_, (_, rooms))| rooms.contains(&room))?;
    Some((height, storey.0))
}

/// Every room stands in the table once, and the table has no other.
pub(super) fn rooms(paths: &[&str], storeys: &[Storey]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut first: BTreeMap<&str, &str> = BTreeMap::new();
    for path in paths {
        let shown = first.entry(room(path)).or_insert(path);
        if path.len() < shown.len() {
            *shown = path;
        }
    }
    let mut listed = BTreeSet::new();
    for (name, rooms) in storeys {
        for room in *rooms {
            if !listed.insert(*room) {
                broken.push(format!(
                    "src/{room}: rooms: storey `{name}` lists `{room}` again"
                ));
            } else if !first.contains_key(room) {
                broken.push(format!(
                    "src/{room}: rooms: storey `{name}` lists it, but src has no such room"
                ));
            }
        }
    }
    for (room, path) in &first {
        if !listed.contains(room) {
            broken.push(format!("{path}:1: rooms: `{room}` stands in no storey"));
        }
    }
    if first.len() > ROOMS_MAX {
        broken.push(format!(
            "src: rooms: {} stand at the top, the limit is {ROOMS_MAX}",
            first.len()
        ));
    }
    broken
}

/// The heading and the form of the table in ARCHITECTURE.md: a row a storey, lowest first, the rooms in backticks.
const HEADING: &str = "## Storeys";

/// Compares the table of the document with the storeys, row by row.
pub(super) fn shown(document: &str, storeys: &[Storey]) -> Vec<String> {
    let place = |index: usize| format!("ARCHITECTURE.md:{}: storeys:", index + 1);
    let mut lines = document.lines().enumerate();
    let Some((heading, _)) = lines.find(|(_, line)| *line == HEADING) else {
        return vec![format!(
            "ARCHITECTURE.md:1: storeys: no heading `{HEADING}`"
        )];
    };
    let section = lines.take_while(|(_, line)| !line.starts_with("## "));
    let rows: Vec<_> = section
        .filter(|(_, line)| line.starts_with('|'))
        .skip(2) // the head and the line below it
        .collect();
    let mut broken = Vec::new();
    for (row, (name, rooms)) in storeys.iter().enumerate() {
        let Some((index, line)) = rows.get(row) else {
            broken.push(format!("{} no row for `{name}`", place(heading)));
            continue;
        };
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let (title, cell) = (cells.next().unwrap_or(""), cells.next().unwrap_or(""));
        if title != *name {
            broken.push(format!(
                "{} `{title}` stands where the test has `{name}`",
                place(*index)
            ));
        }
        let there: BTreeSet<&str> = cell.split('`').skip(1).step_by(2).collect();
        let wanted: BTreeSet<&str> = rooms.iter().copied().collect();
        for room in wanted.difference(&there) {
            broken.push(format!("{} `{name}` lacks `{room}`", place(*index)));
        }
        for room in there.difference(&wanted) {
            broken.push(format!(
                "{} `{name}` has no `{room}` in the test",
                place(*index)
            ));
        }
    }
    for (index, line) in rows.iter().skip(storeys.len()) {
        broken.push(format!(
            "{} a row that the test lacks: {line}",
            place(*index)
        ));
    }
    broken
}

#[test]
fn the_document_shows_the_storeys() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let document = fs::read_to_string(path).unwrap();
    super::assert_kept(&shown(&document, &STOREYS));
}

#[test]
fn storeys_import_only_downward_and_there_is_no_circle() {
    let sources = super::sources();
    super::assert_kept(&imports::check(&super::borrowed(&sources), &STOREYS));
}

const HOUSE: [Storey; 2] = [("ground", &["message", "clock"]), ("top", &["main"])];

#[test]
fn the_table_of_the_document_is_compared_row_by_row() {
    let right = "# Map\n\n## Storeys\n\n| storey | rooms |\n| --- | --- |\n\
        | ground | `message` `clock` |\n| top | `main` |\n\n## Next\n| a | b |\n";
    assert_eq!(shown(right, &HOUSE), [""; 0]);
    let broken = shown(&right.replace("`clock`", "`hour`"), &HOUSE);
    assert_eq!(
        broken,
        [
            "ARCHITECTURE.md:7: storeys: `ground` lacks `clock`",
            "ARCHITECTURE.md:7: storeys: `ground` has no `hour` in the test",
        ]
    );
    let broken = shown(&right.replace("| top | `main` |\n", ""), &HOUSE);
    assert_eq!(broken, ["ARCHITECTURE.md:3: storeys: no row for `top`"]);
    let broken = shown("# Map\n", &HOUSE);
    assert_eq!(
        broken,
        ["ARCHITECTURE.md:1: storeys: no heading `## Storeys`"]
    );
}

#[test]
fn a_room_that_the_table_lacks_is_unknown_and_so_is_one_that_src_lacks() {
    let broken = rooms(&["src/clock.rs", "src/main.rs", "src/hour/a.rs"], &HOUSE);
    assert_eq!(
        broken,
        [
            "src/message: rooms: storey `ground` lists it, but src has no such room",
            "src/hour/a.rs:1: rooms: `hour` stands in no storey",
        ]
    );
    let twice = [HOUSE[0], ("top", ["main", "clock"].as_slice())];
    let broken = rooms(&["src/clock.rs", "src/main.rs", "src/message.rs"], &twice);
    assert_eq!(
        broken,
        ["src/clock: rooms: storey `top` lists `clock` again"]
    );
}

#[test]
fn the_number_of_rooms_has_a_limit() {
    let paths: Vec<String> = (0..=ROOMS_MAX).map(|n| format!("src/room{n}.rs")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let broken = rooms(&paths, &[]);
    let line = "src: rooms: 30 stand at the top, the limit is 29";
    assert!(broken.iter().any(|found| found == line), "{broken:?}");
}
