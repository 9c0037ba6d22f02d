//! The documents: every block of TOML and Lua is what the program takes, every link leads somewhere, and SUMMARY.md is
//! the book.

mod from_kafkajs; // the pages for users of kafkajs have a row for each key and each name

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::dev::{run, text};

/// What the documents had when this was written; fewer means that a walk no longer sees them.
const PAGES_MIN: usize = 39;
const TOML_MIN: usize = 5;
const CONFIGS_MIN: usize = 2;
const LUA_MIN: usize = 17;
const LINKS_MIN: usize = 160;
const ANCHORS_MIN: usize = 10;

/// A link to a file of the repository, as pages of the book have it for what lies outside of docs/.
const REPOSITORY: &str = "https://github.com/moontide/moontide/";

/// A fenced block, and where its first line stands.
struct Block {
    place: String,
    language: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Markdown files below `folder`, sorted.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The book, and what lies beside it at the top of the repository.
fn documents() -> Vec<PathBuf> {
    let beside = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let beside = beside.filter(|path| path.extension().is_some_and(|end| end == "md"));
    let found: Vec<_> = beside.chain(pages(&root().join("docs"))).collect();
    assert!(
        found.len() >= PAGES_MIN,
        "only {} documents were found",
        found.len()
    );
    found
}

fn blocks(language: &str) -> Vec<Block> {
    let all: Vec<_> = documents()
        .iter()
        .flat_map(|path| blocks_of(path))
        .collect();
    all.into_iter()
        .filter(|block| block.language == language)
        .collect()
}

fn blocks_of(path: &Path) -> Vec<Block> {
    let document = fs::read_to_string(path).unwrap();
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for (index, line) in document.lines().enumerate() {
        match line.trim_start().strip_prefix("```") {
            Some(_) if open => open = false,
            Some(language) => {
                open = true;
                let place = format!("{}:{}", path.display(), index + 2);
                blocks.push(Block {
                    place,
                    language: language.trim().to_owned(),
                    text: String::new(),
                });
            }
            None if open => writeln!(blocks.last_mut().unwrap().text, "{line}").unwrap(),
            None => {}
        }
    }
    assert!(!open, "{}: a block is not closed", path.display());
    blocks
}

/// Every handler that a config names, with the functions that are wanted of it.
fn write_handlers(config: &toml::Table, directory: &Path) {
    let mut functions = std::collections::BTreeMap::<String, Vec<String>>::new();
    let listeners = config.get("listeners").and_then(toml::Value::as_array);
    for listener in listeners.into_iter().flatten() {
        let handler = listener
            .get("handler")
            .and_then(toml::Value::as_str)
            .unwrap();
        let name = handler.rfind('/').map_or(0, |slash| slash + 1);
        let (file, function) = match handler[name..].split_once('.') {
            Some((file, function)) => (
                format!("{}{file}", &handler[..name]),
                Some(function.to_owned()),
            ),
            None => (handler.to_owned(), None),
        };
        functions.entry(file).or_default().extend(function);
    }
    let folder = config
        .get("lua")
        .and_then(|lua| lua.get("handlers"))
        .and_then(toml::Value::as_str);
    let folder = directory.join(folder.unwrap_or("handlers"));
    fs::create_dir_all(&folder).unwrap();
    for (file, functions) in functions {
        let returned = match functions.as_slice() {
            [] => "function() end".to_owned(),
            names => format!(
                "{{ {} = function() end }}",
                names.join(" = function() end, ")
            ),
        };
        let path = folder.join(file + ".lua");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("return {returned}\n")).unwrap();
    }
}

#[test]
fn every_block_of_toml_is_toml_and_every_whole_config_passes_the_check() {
    let mut whole = 0;
    let blocks = blocks("toml");
    assert!(blocks.len() >= TOML_MIN, "{} blocks of TOML", blocks.len());
    for block in blocks {
        let config: toml::Table = block
            .text
            .parse()
            .unwrap_or_else(|error| panic!("{}: {error}", block.place));
        if !config.contains_key("listeners") || !config.contains_key("consumerConfig") {
            continue;
        }
        whole += 1;
        let directory = tempfile::tempdir().unwrap();
        write_handlers(&config, directory.path());
        fs::write(directory.path().join("config.toml"), &block.text).unwrap();
        let output = run(directory.path(), &["check"]);
        assert!(
            output.status.success(),
            "{}: {}",
            block.place,
            text(&output)
        );
    }
    assert!(whole >= CONFIGS_MIN, "{whole} blocks are whole configs");
}

#[test]
fn every_block_of_lua_is_lua() {
    let lua = mlua::Lua::new();
    let blocks = blocks("lua");
    assert!(blocks.len() >= LUA_MIN, "{} blocks of Lua", blocks.len());
    for block in blocks {
        let chunk = lua.load(&block.text).set_name(format!("@{}", block.place));
        chunk
            .into_function()
            .unwrap_or_else(|error| panic!("{}: {error}", block.place));
    }
}

/// The targets of a page's links, those in fenced blocks left out.
fn links(page: &Path) -> Vec<String> {
    let document = fs::read_to_string(page).unwrap();
    let prose = document.split("\n```").step_by(2);
    let links = prose.flat_map(|part| part.split("](").skip(1));
    links
        .filter_map(|rest| rest.split(')').next().map(str::to_owned))
        .collect()
}

/// `path` without its `..`, none of which may leave the root.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(normal.pop(), "{}", path.display()),
            part => normal.push(part),
        }
    }
    normal
}

#[test]
fn every_link_of_the_documents_leads_to_a_file() {
    let docs = root().join("docs");
    let mut count = 0;
    for page in documents() {
        for link in links(&page) {
            let place = format!("{}: `{link}`", page.display());
            let file = link.split('#').next().unwrap();
            let inside = file.strip_prefix(REPOSITORY);
            let target = match inside.and_then(|rest| rest.split_once("/main/")) {
                Some(("blob" | "tree", path)) => root().join(path),
                _ if inside
                    .is_some_and(|rest| rest.starts_with("blob") || rest.starts_with("tree")) =>
                {
                    panic!("{place} is not of the branch main")
                }
                _ if file.is_empty() || file.contains("://") => continue,
                _ => {
                    let target = normal(&page.parent().unwrap().join(file));
                    let leaves = page.starts_with(&docs) && !target.starts_with(&docs);
                    assert!(
                        !leaves,
                        "{place} leaves the book; write {REPOSITORY}blob/main/…"
                    );
                    target
                }
            };
            count += 1;
            assert!(target.exists(), "{place} leads nowhere");
        }
    }
    assert!(count >= LINKS_MIN, "{count} links were found");
}

#[test]
fn the_summary_lists_every_page_once() {
    let docs = root().join("docs");
    let summary = docs.join("SUMMARY.md");
    let listed = links(&summary);
    let mut once = BTreeSet::new();
    for page in listed {
        let page = docs.join(page);
        assert!(
            page.is_file(),
            "SUMMARY.md lists {}, which is not there",
            page.display()
        );
        assert!(
            once.insert(page.clone()),
            "SUMMARY.md lists {} twice",
            page.display()
        );
    }
    let pages: BTreeSet<_> = pages(&docs)
        .into_iter()
        .filter(|page| *page != summary)
        .collect();
    let missing: Vec<_> = pages.difference(&once).collect();
    assert!(missing.is_empty(), "SUMMARY.md lacks {missing:?}");
}

/// The anchors of a document's headings, as forges make them, and those that it sets itself: `<a id="start"></a>`.
fn anchors(document: &str) -> Vec<String> {
    let mut is_code = false;
    let mut anchors = Vec::new();
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        if let Some((id, _)) = line
            .strip_prefix("<a id=\"")
            .and_then(|rest| rest.split_once('"'))
        {
            anchors.push(id.to_owned());
        }
        let heading = line.trim_start_matches('#');
        if is_code || heading == line || !heading.starts_with(' ') {
            continue;
        }
        let kept = heading.trim().to_lowercase();
        let kept = kept
            .chars()
            .filter(|&c| c.is_alphanumeric() || " -_".contains(c));
        anchors.push(kept.collect::<String>().replace(' ', "-"));
    }
    anchors
}

#[test]
fn every_link_to_a_heading_finds_it() {
    let mut count = 0;
    for page in documents() {
        for link in links(&page) {
            let Some((file, anchor)) = link.split_once('#') else {
                continue;
            };
            if file.contains("://") {
                continue;
            }
            count += 1;
            let target = if file.is_empty() {
                page.clone()
            } else {
                page.parent().unwrap().join(file)
            };
            let found = anchors(&fs::read_to_string(&target).unwrap());
            assert!(
                found.iter().any(|there| there == anchor),
                "{}: `{link}` leads to no heading; there are {found:?}",
                page.display()
            );
        }
    }
    assert!(count >= ANCHORS_MIN, "{count} links to headings were found");
}

/// The texts in quotes of a source that begin with one of these.
fn quoted(source: &str, begins: &[&str]) -> Vec<String> {
    let quoted = source.split('"').skip(1).step_by(2);
    let wanted = quoted.filter(|text| begins.iter().any(|begin| text.starts_with(begin)));
    wanted.map(str::to_owned).collect()
}

#[track_caller]
fn page_has(page: &str, source: &str, begins: &[&str]) {
    let text = fs::read_to_string(root().join(page)).unwrap();
    let wanted = quoted(&fs::read_to_string(root().join(source)).unwrap(), begins);
    assert!(wanted.len() > 20, "{wanted:?}");
    let missing: Vec<_> = wanted.iter().filter(|one| !text.contains(*one)).collect();
    assert!(missing.is_empty(), "{page} lacks {missing:?}");
}

#[test]
fn the_page_on_dead_letters_has_every_header() {
    let headers = ["moontide-", "kafka_dlt-", "__connect.", "__dlq."];
    page_has(
        "docs/guide/dead-letters.md",
        "src/outgoing/dead_letter.rs",
        &headers,
    );
}

#[test]
fn the_page_on_tests_has_every_fault() {
    page_has("docs/internals/testing.md", "tests/chaos/faults.rs", &[""]);
}

#[test]
fn the_page_on_the_command_line_has_every_command() {
    let page = fs::read_to_string(root().join("docs/reference/commands.md")).unwrap();
    let help = text(&run(root(), &["--help"]));
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert!(commands.len() > 8, "{help}");
    let table = page.lines().filter(|line| line.starts_with("| `"));
    let named: Vec<&str> = table
        .filter_map(|line| line.split('|').nth(1))
        .flat_map(|cell| cell.split(|c: char| !c.is_ascii_lowercase()))
        .collect();
    let missing: Vec<_> = commands.iter().filter(|one| !named.contains(one)).collect();
    assert!(
        missing.is_empty(),
        "docs/reference/commands.md lacks {missing:?}"
    );
}
