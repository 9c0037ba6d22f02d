//! Log lines are written by the program's own macro, which knows the targets; the macros of `tracing` stay in its file.

use super::tree::Tree;

/// The file that defines the macro.
const LOG: &str = "src/log.rs";

const MACROS: [&str; 8] = ["error", "warn", "info", "debug", "trace", "event", "*", "$"];

fn check(sources: &[(&str, &str)]) -> Vec<String> {
    let tree = Tree::read(sources);
    let paths = tree.outside_paths();
    let lines = paths.iter().filter(|(file, _, path)| {
        let name = path.get(1).map_or("", String::as_str);
        *file != LOG && path[0] == "tracing" && MACROS.contains(&name)
    });
    let report = |(file, line, path): &(&str, usize, Vec<String>)| {
        let path = path.join("::");
        format!("{file}:{line}: log: `{path}` outside of {LOG}")
    };
    lines.map(report).collect()
}

#[test]
fn log_lines_are_written_by_one_macro() {
    super::assert_kept(&check(&super::borrowed(&super::sources())));
}

#[test]
fn a_bare_macro_of_tracing_is_found() {
    let tree = [
        ("src/a.rs", "fn f() { tracing::warn!(x, \"y\"); }"),
        ("src/b.rs", "use tracing::{Level, info};\nuse tracing::*;"),
        (
            "src/c.rs",
            "macro_rules! m { ($level:ident) => { tracing::$level!() } }",
        ),
        (
            "src/d.rs",
            "fn f() { tracing::subscriber::set(); }\n#[cfg(test)] mod t { fn f() { tracing::info!(); } }",
        ),
        (LOG, "fn f() { tracing::info!(); }"),
    ];
    assert_eq!(
        check(&tree),
        [
            "src/a.rs:1: log: `tracing::warn` outside of src/log.rs",
            "src/b.rs:1: log: `tracing::info` outside of src/log.rs",
            "src/b.rs:2: log: `tracing::*` outside of src/log.rs",
            "src/c.rs:1: log: `tracing::$` outside of src/log.rs",
        ]
    );
}
