//! The roads of ARCHITECTURE.md and docs/internals lead to files and definitions that exist.

use std::fs;
use std::path::{Path, PathBuf};

/// The spans of inline code in a document, with the number of their line.
fn spans(document: &str) -> impl Iterator<Item = (usize, &str)> {
    document.lines().enumerate().flat_map(|(index, line)| {
        line.split('`')
            .skip(1)
            .step_by(2)
            .map(move |span| (index + 1, span))
    })
}

/// `daemon/reload.rs:reload` → the file below src/, and the name.
fn place(span: &str) -> Option<(&str, Option<&str>)> {
    let (file, name) = match span.split_once(".rs:") {
        Some((file, name)) => (&span[..file.len() + 3], Some(name)),
        None => (span, None),
    };
    let is_path = file.ends_with(".rs") && !file.contains([' ', '*']);
    is_path.then_some((file, name))
}

/// Whether the source defines it: a function, a type, or a variant as `Type::Variant`.
fn defines(source: &str, name: &str) -> bool {
    let parts: Vec<&str> = name.split("::").collect();
    let defined = |part: &str| {
        ["fn", "struct", "enum", "trait", "const", "type"]
            .iter()
            .any(|kind| {
                source
                    .split(&format!("{kind} {part}"))
                    .skip(1)
                    .any(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
            })
    };
    let (first, rest) = parts.split_first().expect("a name has a part");
    defined(first) && rest.iter().all(|part| source.contains(part))
}

/// What leads nowhere in a document; and how many places it names.
fn broken(document: &str, read: impl Fn(&str) -> Option<String>) -> (Vec<String>, usize) {
    let mut broken = Vec::new();
    let mut count = 0;
    for (line, span) in spans(document) {
        let Some((file, name)) = place(span) else {
            continue;
        };
        count += 1;
        match (read(file), name) {
            (None, _) => broken.push(format!("{line}: `{span}`: the file does not exist")),
            (Some(source), Some(name)) if !defines(&source, name) => {
                broken.push(format!("{line}: `{span}`: the file defines no `{name}`"));
            }
            _ => {}
        }
    }
    (broken, count)
}

#[test]
fn every_place_of_the_roads_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let internals = fs::read_dir(root.join("docs/internals")).unwrap();
    let pages = internals.map(|entry| entry.unwrap().path());
    let pages: Vec<PathBuf> = pages.chain([root.join("ARCHITECTURE.md")]).collect();
    let mut all = Vec::new();
    let mut places = 0;
    for page in pages
        .iter()
        .filter(|page| page.extension().is_some_and(|end| end == "md"))
    {
        let document = fs::read_to_string(page).unwrap();
        let read = |file: &str| {
            let below_src = fs::read_to_string(root.join("src").join(file)).ok();
            below_src.or_else(|| fs::read_to_string(root.join(file)).ok())
        };
        let (broken, count) = broken(&document, read);
        places += count;
        all.extend(broken.iter().map(|one| format!("{}:{one}", page.display())));
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
    assert!(places > 20, "{places} places were found");
}

#[test]
fn a_road_that_leads_nowhere_is_found() {
    let document = "`a.rs:run` and `a.rs:Letter::Stop`\n`b.rs`, `a.rs:runs`, `a.rs` and `no path`";
    let read = |file: &str| {
        (file == "a.rs").then(|| "fn run() {}\nenum Letter { Stop }\nfn running() {}".to_owned())
    };
    let (broken, count) = broken(document, read);
    assert_eq!(count, 5);
    assert_eq!(
        broken,
        [
            "2: `b.rs`: the file does not exist",
            "2: `a.rs:runs`: the file defines no `runs`"
        ]
    );
}
