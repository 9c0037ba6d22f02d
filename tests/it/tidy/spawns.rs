//! Threads are spawned in one folder, which names, supervises and joins them.

use super::tree::Tree;

/// The only folder that spawns threads.
const PLACE: &str = "src/threads/";

/// `exceptions` may spawn as well, with the reason of each. An exception without a spawn is reported.
fn check(sources: &[(&str, &str)], exceptions: &[(&str, &str)]) -> Vec<String> {
    let tree = Tree::read(sources);
    let mut spawns = tree.outside_paths();
    spawns.retain(|(_, _, path)| {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        matches!(
            path[..],
            ["std", "thread", "spawn" | "Builder" | "scope" | "*", ..]
        )
    });
    let mut broken = Vec::new();
    for (file, line, path) in &spawns {
        if !file.starts_with(PLACE) && !exceptions.iter().any(|(known, _)| known == file) {
            let path = path.join("::");
            broken.push(format!(
                "{file}:{line}: threads: `{path}` outside of {PLACE}"
            ));
        }
    }
    for (file, _) in exceptions {
        if !spawns.iter().any(|(found, _, _)| found == file) {
            broken.push(format!(
                "{file}:1: threads: the exception is not needed any more"
            ));
        }
    }
    broken
}

#[test]
fn threads_are_spawned_in_one_place() {
    super::assert_kept(&check(&super::borrowed(&super::sources()), &[]));
}

#[test]
fn a_spawn_elsewhere_is_found_through_renames_and_macros() {
    let tree = [
        ("src/a.rs", "use std::thread;\nfn f() { thread::spawn(f); }"),
        ("src/b.rs", "use std::thread::Builder as B;\nfn f() {}"),
        ("src/c.rs", "fn f() { wrap!(std::thread::scope(f)); }"),
        (
            "src/d.rs",
            "fn f() { std::thread::sleep(x); }\n#[cfg(test)] mod tests { fn f() { std::thread::spawn(f); } }",
        ),
        ("src/e.rs", "fn f() { std::thread::spawn(f); }"),
        (
            "src/threads/supervisor.rs",
            "fn f() { std::thread::spawn(f); }",
        ),
    ];
    let broken = check(&tree, &[("src/e.rs", "why"), ("src/gone.rs", "why")]);
    assert_eq!(
        broken,
        [
            "src/a.rs:2: threads: `std::thread::spawn` outside of src/threads/",
            "src/b.rs:1: threads: `std::thread::Builder` outside of src/threads/",
            "src/c.rs:1: threads: `std::thread::scope` outside of src/threads/",
            "src/gone.rs:1: threads: the exception is not needed any more",
        ]
    );
}
