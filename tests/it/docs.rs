//! Every block of TOML and Lua in the documents is what the program takes.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::dev::{run, text};

/// A fenced block, and where its first line stands.
struct Block {
    place: String,
    language: String,
    text: String,
}

fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs"))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|end| end == "md"));
    [root.join("README.md")].into_iter().chain(docs).collect()
}

fn blocks(language: &str) -> Vec<Block> {
    let all: Vec<_> = documents()
        .iter()
        .flat_map(|path| blocks_of(path))
        .collect();
    let found: Vec<_> = all
        .into_iter()
        .filter(|block| block.language == language)
        .collect();
    assert!(!found.is_empty(), "no block of {language} was found");
    found
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
    for block in blocks("toml") {
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
    assert!(whole > 0, "no block is a whole config");
}

#[test]
fn every_block_of_lua_is_lua() {
    let lua = mlua::Lua::new();
    for block in blocks("lua") {
        let chunk = lua.load(&block.text).set_name(format!("@{}", block.place));
        chunk
            .into_function()
            .unwrap_or_else(|error| panic!("{}: {error}", block.place));
    }
}

#[test]
fn every_link_within_the_documents_leads_to_a_file() {
    let mut count = 0;
    for path in documents() {
        let document = fs::read_to_string(&path).unwrap();
        for link in document
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = link.split('#').next().unwrap();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            count += 1;
            let target = path.parent().unwrap().join(file);
            assert!(
                target.exists(),
                "{}: `{link}` leads nowhere",
                path.display()
            );
        }
    }
    assert!(count > 0, "no link was found");
}

/// The anchors of a document's headings, as forges make them.
fn anchors(document: &str) -> Vec<String> {
    let mut is_code = false;
    let mut anchors = Vec::new();
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
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
    for path in documents() {
        let document = fs::read_to_string(&path).unwrap();
        for link in document
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let Some((file, anchor)) = link.split_once('#') else {
                continue;
            };
            if file.contains("://") {
                continue;
            }
            count += 1;
            let target = if file.is_empty() {
                path.clone()
            } else {
                path.parent().unwrap().join(file)
            };
            let found = anchors(&fs::read_to_string(&target).unwrap());
            assert!(
                found.iter().any(|there| there == anchor),
                "{}: `{link}` leads to no heading; there are {found:?}",
                path.display()
            );
        }
    }
    assert!(count > 20, "{count} links were found");
}

/// The texts in quotes of a source that begin with one of these.
fn quoted(source: &str, begins: &[&str]) -> Vec<String> {
    let quoted = source.split('"').skip(1).step_by(2);
    let wanted = quoted.filter(|text| begins.iter().any(|begin| text.starts_with(begin)));
    wanted.map(str::to_owned).collect()
}

#[test]
fn the_page_on_reliability_has_every_header_of_a_dead_letter_and_every_fault() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/reliability.md")).unwrap();
    let letters = fs::read_to_string(root.join("src/outgoing/dead_letter.rs")).unwrap();
    let mut wanted = quoted(&letters, &["moontide-", "kafka_dlt-", "__connect."]);
    assert!(wanted.len() > 20, "{wanted:?}");
    let faults = fs::read_to_string(root.join("tests/chaos/faults.rs")).unwrap();
    let names = quoted(&faults, &[""]);
    assert!(names.len() > 20, "{names:?}");
    wanted.extend(names);
    let missing: Vec<_> = wanted.iter().filter(|one| !page.contains(*one)).collect();
    assert!(missing.is_empty(), "docs/reliability.md lacks {missing:?}");
}
