//! A file that calls itself pure in its head knows no clock, no thread, no Kafka client and no VM.
//!
//! A file is reported once for each kind, at the first use.

use std::collections::BTreeSet;

use super::imports;
use super::tree::{File, Mention, Tree, room};

/// Every file of these rooms is pure, whatever its head says.
const ROOMS: [&str; 1] = ["rules"];

fn check(sources: &[(&str, &str)]) -> Vec<String> {
    let tree = Tree::read(sources);
    let mut broken = Vec::new();
    let is_pure = |file: &&File| ROOMS.contains(&room(file.path)) || calls_itself_pure(file.text);
    for file in tree.files.iter().filter(is_pure) {
        let mut told = BTreeSet::new();
        for mention in &file.mentions {
            if let Some((kind, path)) = impure(&tree, file, mention)
                && told.insert(kind)
            {
                broken.push(format!(
                    "{}:{}: purity: a pure file uses {kind}: `{path}`",
                    file.path, mention.line
                ));
            }
        }
    }
    broken
}

fn calls_itself_pure(text: &str) -> bool {
    let head = text.lines().take_while(|line| line.starts_with("//!"));
    let mut words = head.flat_map(|line| line.split(|letter: char| !letter.is_alphanumeric()));
    words.any(|word| word == "pure" || word == "Pure")
}

/// The kind of impure thing that a path leads to, and the path.
fn impure(tree: &Tree, file: &File, mention: &Mention) -> Option<(&'static str, String)> {
    let shown = mention.segments.join("::");
    if mention.segments.len() > 1 && shown.ends_with("::now_ms") {
        return Some(("the clock", shown));
    }
    for path in tree.outside(mention) {
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        let kind = match names[..] {
            ["std", "time", "Instant" | "SystemTime", "now", ..] => "the clock",
            ["std", "thread", ..] => "threads",
            _ => continue,
        };
        return Some((kind, path.join("::")));
    }
    let files = imports::files_of(tree, file, mention);
    let mut paths = files.into_iter().map(|file| tree.files[file].path);
    let kind = paths.find_map(|path| match room(path) {
        "kafka" if room(file.path) != "kafka" && path != "src/kafka/property.rs" => Some("Kafka"),
        "lua" if room(file.path) != "lua" => Some("Lua"),
        _ if path.ends_with("/mailbox.rs") => Some("mailboxes"),
        _ => None,
    })?;
    Some((kind, shown))
}

#[test]
fn what_calls_itself_pure_is() {
    super::assert_kept(&check(&super::borrowed(&super::sources())));
}

#[test]
fn each_way_out_of_a_pure_file_is_found() {
    let pure = "//! A thing.\n//!\n//! Pure: data in, data out.\n";
    let file = |text: &str| format!("{pure}{text}");
    let broken = |text: &str| {
        let text = file(text);
        let tree = [
            ("src/a.rs", text.as_str()),
            (
                "src/lib.rs",
                "mod a; mod clock; mod kafka; mod lua; mod threads;",
            ),
            ("src/clock.rs", "pub(crate) fn now_ms() {}"),
            (
                "src/kafka.rs",
                "pub(crate) mod property; pub(crate) struct Client;",
            ),
            ("src/kafka/property.rs", "pub(crate) struct Value;"),
            (
                "src/lua.rs",
                "pub(crate) struct Vm; pub(crate) use crate::kafka::Client as C;",
            ),
            ("src/threads/mailbox.rs", "pub(crate) struct Mailbox;"),
            ("src/threads.rs", "pub(crate) mod mailbox;"),
        ];
        check(&tree)
    };
    for (text, what) in [
        (
            "use std::time::Instant; fn f() { Instant::now(); }",
            "the clock: `std::time::Instant::now`",
        ),
        (
            "fn f() { std::time::SystemTime::now(); }",
            "the clock: `std::time::SystemTime::now`",
        ),
        (
            "use crate::clock::now_ms;",
            "the clock: `crate::clock::now_ms`",
        ),
        (
            "use std::thread::JoinHandle;",
            "threads: `std::thread::JoinHandle`",
        ),
        ("use crate::kafka::Client;", "Kafka: `crate::kafka::Client`"),
        ("use crate::lua::C;", "Kafka: `crate::lua::C`"),
        ("fn f(_: crate::lua::Vm) {}", "Lua: `crate::lua::Vm`"),
        (
            "use crate::threads::mailbox::Mailbox;",
            "mailboxes: `crate::threads::mailbox::Mailbox`",
        ),
    ] {
        assert_eq!(
            broken(text),
            [format!("src/a.rs:4: purity: a pure file uses {what}")]
        );
    }
    assert_eq!(
        broken("use crate::kafka::property::Value; use std::time::Instant;"),
        [""; 0]
    );
    assert_eq!(
        broken("#[cfg(test)] mod tests { use crate::lua::Vm; }"),
        [""; 0]
    );
    let impure = [("src/a.rs", "//! Impure.\nuse std::thread;")];
    assert_eq!(check(&impure), [""; 0]);
    let room = [("src/rules/a.rs", "//! A rule.\nuse std::thread;")];
    assert_eq!(
        check(&room),
        ["src/rules/a.rs:2: purity: a pure file uses threads: `std::thread`"]
    );
}
