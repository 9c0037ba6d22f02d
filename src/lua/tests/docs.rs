//! What docs/lua.md shows is Lua, and names what there is.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::lua::tests::*;

const PAGE: &str = include_str!("../../../docs/lua.md");

#[test]
fn every_block_of_the_page_is_lua() {
    let blocks: Vec<&str> = PAGE
        .split("```lua\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(blocks.len() > 5, "the page has blocks");
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
            word.strip_prefix("tide.")
                .is_none_or(|rest| !FILES.contains(&rest))
        })
        .collect()
}

/// What a name as `tide.toml` would end in.
const FILES: [&str; 3] = ["lua", "md", "toml"];

#[test]
fn every_field_that_a_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = fs::read_dir(root.join("docs")).unwrap();
    let pages = pages.map(|entry| entry.unwrap().path());
    let pages = pages.filter(|path| path.extension().is_some_and(|end| end == "md"));
    for path in pages.chain([root.join("README.md")]) {
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
    assert!(fields_in(PAGE).len() > 20, "the page names fields");
}

#[test]
fn every_field_has_its_place_on_the_page() {
    let ctx = crate::lua::api::ctx::FIELDS.map(|field| format!("ctx.{field}"));
    let tide = crate::lua::api::tide::FIELDS.map(|field| format!("tide.{field}"));
    let named = fields_in(PAGE);
    for field in ctx.iter().chain(&tide) {
        // A table of functions is told by each of them.
        let is_told = named
            .iter()
            .any(|name| name == field || name.starts_with(&format!("{field}.")));
        assert!(is_told, "`{field}` is not in docs/lua.md");
        let kind = handler(&format!("error(type({field}), 0)")).build().run();
        if failure(kind).message == "function" {
            let heading = PAGE
                .lines()
                .filter(|line| line.starts_with("### "))
                .find(|line| line[4..].split(", ").any(|name| name == field));
            let heading = heading.unwrap_or_else(|| panic!("`{field}` has no section"));
            let section = PAGE.split(heading).nth(1).unwrap();
            let section = section.split("\n## ").next().unwrap();
            let section = section.split("\n### ").next().unwrap();
            assert!(section.contains("**syntax:**"), "`{field}` has no syntax");
        }
    }
}
