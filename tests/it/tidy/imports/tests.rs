//! Small trees that break the rules of imports, each in its own way.

use super::check;
use crate::tidy::storeys::Storey;

const STOREYS: [Storey; 3] = [
    ("low", &["low", "side"]),
    ("high", &["high"]),
    ("top", &["lib"]),
];

/// The tree with the files that make it a crate of three rooms.
#[track_caller]
fn broken(files: &[(&str, &str)], wanted: &[&str]) {
    let mut tree = vec![
        ("src/lib.rs", "mod low; mod side; mod high;"),
        ("src/low.rs", "pub(crate) struct Low;"),
        ("src/side.rs", "pub(crate) struct Side;"),
        ("src/high.rs", "pub(crate) struct High;"),
    ];
    for file in files {
        tree.retain(|(path, _)| *path != file.0);
        tree.push(*file);
    }
    assert_eq!(check(&tree, &STOREYS), wanted);
}

#[test]
fn an_import_of_a_lower_storey_breaks_nothing() {
    broken(&[("src/high.rs", "use crate::low::Low;")], &[]);
}

#[test]
fn an_import_of_a_higher_storey_is_reported() {
    broken(
        &[("src/low.rs", "//! Low.\n\nuse crate::high::High;")],
        &[
            "src/low.rs:3: upward import: storey `low` imports `crate::high::High` of src/high.rs, storey `high`",
        ],
    );
}

#[test]
fn two_files_that_import_each_other_are_a_circle() {
    broken(
        &[
            ("src/low.rs", "mod a;\nmod b;"),
            ("src/low/a.rs", "use super::b::B;\npub struct A;"),
            ("src/low/b.rs", "\nuse crate::low::a::A;\npub struct B;"),
        ],
        &["src/low/a.rs:1: circle of imports: src/low/a.rs:1 → src/low/b.rs:2 → src/low/a.rs"],
    );
}

#[test]
fn a_circle_over_three_files_is_shown_whole() {
    broken(
        &[
            ("src/low.rs", "mod a; mod b; mod c;"),
            ("src/low/a.rs", "use super::b::B; pub struct A;"),
            ("src/low/b.rs", "use super::c::C; pub struct B;"),
            ("src/low/c.rs", "\n\nuse super::a::A; pub struct C;"),
        ],
        &[
            "src/low/a.rs:1: circle of imports: src/low/a.rs:1 → src/low/b.rs:1 → src/low/c.rs:3 → src/low/a.rs",
        ],
    );
}

#[test]
fn the_shortest_circle_is_shown_and_all_files_of_its_component() {
    broken(
        &[
            ("src/low.rs", "mod a; mod b; mod c;"),
            ("src/low/a.rs", "use super::b::B; pub struct A;"),
            ("src/low/b.rs", "use super::c::C; pub struct B;"),
            (
                "src/low/c.rs",
                "use super::a::A;\nuse super::b::B; pub struct C;",
            ),
        ],
        &[
            "src/low/b.rs:1: circle of imports: src/low/b.rs:1 → src/low/c.rs:2 → src/low/b.rs \
           (of 3 that lead to each other: src/low/a.rs src/low/b.rs src/low/c.rs)",
        ],
    );
}

#[test]
fn rooms_of_one_storey_form_no_circle_through_different_files() {
    broken(
        &[
            ("src/low.rs", "mod a; mod b;"),
            ("src/low/a.rs", "use crate::side::Side;"),
            ("src/low/b.rs", "pub struct B;"),
            ("src/side.rs", "mod c; pub struct Side;"),
            ("src/side/c.rs", "\nuse crate::low::b::B;"),
        ],
        &["src/low/a.rs:1: circle of rooms: low (src/low/a.rs:1) → side (src/side/c.rs:2) → low"],
    );
}

#[test]
fn a_re_export_leads_to_the_file_that_defines_the_item() {
    // Both rooms re-export the item of a file below them: the edges are between these files.
    broken(
        &[
            ("src/low.rs", "mod a; pub(crate) use a::A as Renamed;"),
            ("src/low/a.rs", "use crate::side::B;\npub struct A;"),
            ("src/side.rs", "mod b; pub(crate) use b::*;"),
            ("src/side/b.rs", "use crate::low::Renamed;\npub struct B;"),
        ],
        &[
            "src/low/a.rs:1: circle of imports: src/low/a.rs:1 → src/side/b.rs:1 → src/low/a.rs",
            "src/low/a.rs:1: circle of rooms: low (src/low/a.rs:1) → side (src/side/b.rs:1) → low",
        ],
    );
    broken(
        &[
            (
                "src/low.rs",
                "pub(crate) use crate::side::Side;\npub(crate) struct Low;",
            ),
            ("src/high.rs", "pub(crate) use crate::low::Side;"),
        ],
        &[],
    );
}

/// A file of the lower storey with this text imports the higher one in its first line.
#[track_caller]
fn is_upward(text: &str) {
    let tree = [("src/lib.rs", "mod low; mod high;"), ("src/low.rs", text)];
    let high = "pub struct High; pub mod deep { pub fn dive() {} } pub mod macros { macro_rules! make { () => {} } \
        pub(crate) use make; }";
    let tree = [tree[0], tree[1], ("src/high.rs", high)];
    let storeys = [("low", ["low"].as_slice()), ("high", &["high", "lib"])];
    let found = check(&tree, &storeys);
    let is_found = found.len() == 1 && found[0].starts_with("src/low.rs:1: upward import: ");
    assert!(is_found, "{text}: {found:?}");
}

#[test]
fn a_path_outside_a_use_is_an_edge() {
    is_upward("fn f() { crate::high::deep::dive(); }");
    is_upward("fn f(_: super::high::High) {}");
    is_upward("fn f<T: self::super::high::High>() {}");
    is_upward("impl Trait for crate::high::High {}");
    is_upward("fn f(x: u8) { match x { crate::high::High => {} } }");
    is_upward("fn f() { if true { use crate::high::deep; deep::dive() } }");
    is_upward("#[serde(with = \"crate::high\")] struct S;");
}

#[test]
fn a_path_in_a_macro_is_an_edge() {
    is_upward("fn f() { println!(\"{}\", crate::high::deep::dive()); }");
    is_upward("macro_rules! m { ($a:expr) => { $crate::high::deep::dive($a) } }");
    is_upward("wrap! { use crate::high::{deep::dive, High}; }");
    is_upward("fn f() { crate::high::macros::make!(); }");
    is_upward("use crate::high::macros::make;");
}

#[test]
fn an_import_of_a_module_is_an_edge_to_what_is_used_of_it() {
    let tree = |high, low| {
        [
            ("src/lib.rs", "mod low; mod high;"),
            ("src/low.rs", low),
            ("src/high.rs", high),
            ("src/high/a.rs", "\nuse crate::low::Low;\npub fn a() {}"),
        ]
    };
    let high = "mod a; pub(crate) use a::a; pub(crate) fn own() {}";
    let storeys = [("low", ["low"].as_slice()), ("high", &["high", "lib"])];
    let found = check(
        &tree(high, "use crate::high;\nfn f() { high::a() } struct Low;"),
        &storeys,
    );
    assert_eq!(
        found,
        [
            "src/low.rs:2: upward import: storey `low` imports `high::a` of src/high/a.rs, storey `high`",
            "src/low.rs:2: circle of imports: src/low.rs:2 → src/high/a.rs:2 → src/low.rs",
        ]
    );
    let found = check(
        &tree(high, "use crate::high;\nfn f() { high::own() } struct Low;"),
        &storeys,
    );
    assert_eq!(
        found,
        [
            "src/low.rs:2: upward import: storey `low` imports `high::own` of src/high.rs, storey `high`"
        ]
    );
    is_upward("use crate::high;");
    is_upward("use crate::high::*; fn f(_: High) {}");
}

#[test]
fn a_file_and_its_ancestor_are_no_edge() {
    broken(
        &[
            ("src/low.rs", "mod a; use a::b::B; pub(crate) struct Low;"),
            ("src/low/a.rs", "pub(super) mod b; use b::B;"),
            (
                "src/low/a/b.rs",
                "use crate::low::Low; use super::super::Low as L; use crate::anything; pub struct B;",
            ),
        ],
        &[],
    );
}

#[test]
fn test_code_is_left_out() {
    broken(
        &[
            (
                "src/low.rs",
                "#[cfg(test)] mod tests; #[cfg(all(test, unix))] use crate::high::High;",
            ),
            ("src/low/tests.rs", "mod deep; use crate::high::High;"),
            ("src/low/tests/deep.rs", "use crate::high::High;"),
            (
                "src/side.rs",
                "#[cfg(test)] mod tests { use crate::high::High; } impl S { #[cfg(test)] fn f(_: crate::high::High) {} }",
            ),
        ],
        &[],
    );
    is_upward("#[cfg(not(test))] use crate::high::High;");
    is_upward("#[cfg(any(test, unix))] use crate::high::High;");
}

#[test]
fn the_parts_for_benchmarks_are_left_out() {
    broken(
        &[
            ("src/micro.rs", "mod lanes; use crate::high::High;"),
            ("src/micro/lanes.rs", "use crate::high::High;"),
        ],
        &[],
    );
}

#[test]
fn a_room_that_stands_in_no_storey_is_reported() {
    broken(
        &[("src/attic.rs", "")],
        &["src/attic.rs:1: rooms: `attic` stands in no storey"],
    );
}

#[test]
fn the_program_reaches_the_library_by_its_name() {
    let tree = [
        ("src/lib.rs", "pub mod high;"),
        ("src/high.rs", "pub fn main() {}"),
        ("src/main.rs", "fn main() { moontide::high::main() }"),
    ];
    let storeys = [("program", ["main"].as_slice()), ("high", &["high", "lib"])];
    let wanted = "src/main.rs:1: upward import: storey `program` imports `moontide::high::main` of src/high.rs, storey `high`";
    assert_eq!(check(&tree, &storeys), [wanted]);
}

#[test]
fn a_macro_that_has_no_path_is_reported() {
    broken(
        &[(
            "src/low.rs",
            "#[macro_export]\nmacro_rules! low { () => {} }",
        )],
        &[
            "src/low.rs:1: macro by text: `#[macro_export]`; a `pub(crate) use` gives a macro its path",
        ],
    );
}
