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
    let named = fields_in(&pages);
    for field in &ctx {
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

/// Modules that binaries of tests alone have.
fn is_for_tests(path: &str) -> bool {
    path.starts_with("tide.echo")
}

/// The names between the parentheses after `path`, without the marks of optional ones.
fn written_parameters(syntax: &str, path: &str) -> Option<Vec<String>> {
    let (_, rest) = syntax.split_once(&format!("{path}("))?;
    let (inside, _) = rest.split_once(')')?;
    let names = inside
        .split(',')
        .map(|name| name.trim().trim_end_matches('?'));
    Some(
        names
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
    )
}

#[test]
fn every_entry_of_a_module_has_its_section_with_its_parameters() {
    let pages = reference();
    let mut functions = 0;
    for module in crate::lua::api::tide::MODULES {
        for entry in module
            .entries
            .iter()
            .filter(|entry| !is_for_tests(entry.path))
        {
            let path = entry.path;
            assert!(path.starts_with(module.path) && path.ends_with(entry.name));
            let section = pages
                .split("\n## ")
                .filter_map(|section| section.split_once('\n'))
                .find(|(heading, _)| heading.split(", ").any(|name| name == path));
            let kind = handler(&format!("error(type({path}), 0)")).build().run();
            if failure(kind).message != "function" {
                assert!(fields_in(&pages).contains(path), "`{path}` is on no page");
                continue;
            }
            functions += 1;
            let (_, section) = section.unwrap_or_else(|| panic!("`{path}` has no section"));
            let syntax = section.lines().find(|line| line.starts_with("**syntax:**"));
            let written = syntax.and_then(|syntax| written_parameters(syntax, path));
            let written = written.unwrap_or_else(|| panic!("`{path}` has no syntax"));
            assert_eq!(written, entry.parameters(), "`{path}`");
        }
    }
    assert!(functions >= 6, "{functions} functions");
}

#[test]
fn the_type_definitions_are_lua_and_have_every_entry() {
    let definitions = crate::lua::definitions();
    let record = OwnedRecord {
        value: Some(definitions.as_bytes().into()),
        ..OwnedRecord::default()
    };
    let body = "local lib = assert(load(message.value))()\nassert(lib.sleep and lib.json.encode)";
    match handler(body).build().call(&record) {
        Step::Done => {}
        step => panic!("{step:?}\n{definitions}"),
    }
    for field in crate::lua::api::ctx::FIELDS {
        assert!(
            definitions.contains(&format!("---@field {field} ")),
            "{field}"
        );
    }
    assert!(!definitions.contains("tide.echo"));
}
