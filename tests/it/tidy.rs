//! Rules of ARCHITECTURE.md that a look at the files can hold.

use std::fs;
use std::path::{Path, PathBuf};

mod circles; // circles in a graph
mod documents; // documents have short lines and sentences
mod functions; // no function is longer than a screen
mod imports; // no circle of imports, and storeys import only downward
mod log_macros; // log lines are written by one macro
mod paths; // the paths that stand in a file
mod purity; // what calls itself pure is
mod resolve; // from a path to the file that defines its item
mod roads; // the places that ARCHITECTURE.md names exist
mod spawns; // threads are spawned in one place
mod storeys; // the storeys of src/, and their table in ARCHITECTURE.md
mod tree; // the files as modules
mod words; // one word, one meaning

/// Every Rust file under src, by its path from the root, with its text.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(
        found.len() > 50,
        "the sources are not where they are looked for"
    );
    found.sort();
    found
}

fn borrowed(sources: &[(String, String)]) -> Vec<(&str, &str)> {
    let pairs = sources.iter();
    pairs
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect()
}

/// Shows every broken rule at once, one a line: `file:line: rule: what`.
#[track_caller]
fn assert_kept(broken: &[String]) {
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

/// The lines of code: no comments, no empty lines.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
}

#[track_caller]
fn check(rule: &str, breaks: impl Fn(&str, &str) -> Option<String>) {
    let broken: Vec<String> = sources()
        .iter()
        .filter_map(|(name, text)| Some(format!("{name}: {}", breaks(name, text)?)))
        .collect();
    assert!(broken.is_empty(), "{rule}:\n{}", broken.join("\n"));
}

fn first(text: &str, needle: impl Fn(&str) -> bool) -> Option<String> {
    code(text).find(|line| needle(line)).map(str::to_owned)
}

#[test]
fn rdkafka_stops_at_kafka() {
    check("only src/kafka names rdkafka", |name, text| {
        let is_below = name == "src/kafka.rs" || name.starts_with("src/kafka/");
        let names = |line: &str| {
            line.replace("librdkafka", "").contains("rdkafka::") || line.contains("rdkafka_sys")
        };
        if is_below { None } else { first(text, names) }
    });
}

#[test]
fn mlua_stops_at_lua() {
    check("only src/lua names mlua", |name, text| {
        let is_below = name == "src/lua.rs" || name.starts_with("src/lua/");
        if is_below {
            None
        } else {
            first(text, |line| line.contains("mlua::"))
        }
    });
}

#[test]
fn kafka_and_lua_do_not_know_each_other() {
    check(
        "kafka knows nothing of lua, lua nothing of kafka",
        |name, text| {
            let other = if name.starts_with("src/kafka") {
                "crate::lua"
            } else if name.starts_with("src/lua") {
                "crate::kafka"
            } else {
                return None;
            };
            first(text, |line| line.contains(other))
        },
    );
}

#[test]
fn nothing_is_static_but_what_signal_handlers_read() {
    check("no state of the process", |name, text| {
        let may = name == "src/lua/vm/beat.rs"
            || name == "src/crash/journal/shortened.rs"
            || name == "src/failpoint.rs"
            || name == "src/main.rs"
            || name.contains("/tests");
        // A byte that nobody writes is an address to know a thing by, not state.
        let is_state = |line: &str| {
            let line = line
                .trim_start_matches("pub(crate) ")
                .trim_start_matches("pub(super) ");
            line.starts_with("static ") && !line.ends_with(": u8 = 0;")
        };
        if may { None } else { first(text, is_state) }
    });
}

#[test]
fn a_file_can_be_read_in_one_sitting() {
    check("no file of more than 500 lines", |_, text| {
        let lines = text.lines().count();
        (lines > 500).then(|| format!("{lines} lines"))
    });
}

#[test]
fn every_file_says_what_it_is_for() {
    check("a file opens with its purpose", |_, text| {
        (!text.starts_with("//!") && !text.starts_with("#!["))
            .then(|| text.lines().next().unwrap_or_default().to_owned())
    });
}
