//! What docs/lua.md shows is Lua, and names what there is.

use super::*;

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

#[test]
fn every_field_that_the_page_names_is_there() {
    let words = PAGE.split(|c: char| !c.is_ascii_alphanumeric() && c != '.');
    let words = words.map(|word| word.trim_end_matches('.'));
    let mut names: Vec<&str> = words
        .filter(|word| word.starts_with("ctx.") || word.starts_with("tide."))
        .collect();
    names.sort_unstable();
    names.dedup();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        passes(&format!("assert({name} ~= nil)"));
    }
}
