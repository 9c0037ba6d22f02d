//! What the pages under docs/reference/lua show is Lua, and they name what there is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::lua::tests::*;

/// The Markdown files below a folder of the repository.
fn pages(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
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
    found
}

/// All pages on the Lua API, one after the other.
fn reference() -> String {
    let pages = pages("docs/reference/lua");
    assert!(
        pages.len() > 8,
        "the pages are not where they are looked for"
    );
    let pages = pages.iter().map(|page| fs::read_to_string(page).unwrap());
    pages.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_block_of_the_pages_is_lua() {
    let pages = reference();
    let blocks: Vec<&str> = pages
        .split("```lua\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(blocks.len() >= 15, "the pages have {} blocks", blocks.len());
    for block in blocks {
        let record = OwnedRecord {
            value: Some(block.as_bytes().into()),
            ..OwnedRecord::default()
        };
        match handler("assert(load(message.value))").build().call(&record) {
            Step::Done => {}
            step => panic!("{block}\n{step:?}"),
        }
    }
}

/// The fields of `ctx` and `tide` that `text` names, in code or in prose.
fn fields_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && !"._".contains(c));
    let words = words.map(|word| word.trim_end_matches('.'));
    words
        .filter(|word| word.starts_with("ctx.") || word.starts_with("tide."))
        .filter(|word| {
            word.rsplit_once('.')
                .is_none_or(|(_, end)| !FILES.contains(&end))
        })
        .collect()
}

/// What a name as `tide.json.md` ends in.
const FILES: [&str; 3] = ["lua", "md", "toml"];

#[test]
fn every_field_that_a_page_names_is_there() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    for path in pages("docs").into_iter().chain([readme]) {
        let page = fs::read_to_string(&path).unwrap();
        for name in fields_in(&page) {
            let step = handler(&format!("assert({name} ~= nil)")).build().run();
            assert!(
                matches!(step, Step::Done),
                "{}: `{name}`: {step:?}",
                path.display()
            );
        }
    }
    let count = fields_in(&reference()).len();
    assert!(count > 25, "the pages name {count} fields");
}

#[test]
fn every_field_has_its_section() {
    let pages = reference();
    let ctx = crate::lua::api::ctx::FIELDS.map(|field| format!("ctx.{field}"));
    let tide = crate::lua::api::tide::FIELDS.map(|field| format!("tide.{field}"));
    let named = fields_in(&pages);
    for field in ctx.iter().chain(&tide) {
        // A table of functions is told by each of them.
        let is_told = named
            .iter()
            .any(|name| name == field || name.starts_with(&format!("{field}.")));
        assert!(is_told, "`{field}` is not under docs/reference/lua");
        let kind = handler(&format!("error(type({field}), 0)")).build().run();
        if failure(kind).message == "function" {
            let (_, section) = pages
                .split("\n## ")
                .filter_map(|section| section.split_once('\n'))
                .find(|(heading, _)| heading.split(", ").any(|name| name == field))
                .unwrap_or_else(|| panic!("`{field}` has no section"));
            assert!(section.contains("**syntax:**"), "`{field}` has no syntax");
        }
    }
}
