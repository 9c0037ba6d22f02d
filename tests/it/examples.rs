//! Every example and every shipped handler: it passes the check, and `dev` prints the lines that its README promises.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::dev::{Dev, run, text};
use crate::support::postgres;
use crate::support::redis;
use crate::support::web::Web;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Each folder below examples/, copied, as a run leaves files beside its config.
fn examples() -> Vec<(String, tempfile::TempDir)> {
    let mut names: Vec<_> = children(&root().join("examples"))
        .into_iter()
        .filter(|path| path.is_dir())
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no example was found");
    let copy = |path: &PathBuf| {
        let directory = tempfile::tempdir().unwrap();
        copy_tree(path, directory.path());
        (
            path.file_name().unwrap().to_string_lossy().into_owned(),
            directory,
        )
    };
    names.iter().map(copy).collect()
}

/// Without `.moontide`, which a `moontide dev` in the working copy leaves there.
fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries
        .filter(|entry| entry.file_name() != ".moontide")
        .map(|entry| entry.path())
        .collect()
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in children(from) {
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_tree(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// The lines of the README's first block of text.
fn promised(readme: &str) -> Vec<&str> {
    let (_, block) = blocks(readme)
        .into_iter()
        .find(|(language, _)| *language == "text")
        .expect("the README has a block of text");
    block.lines().collect()
}

/// The README's blocks, each with its language, in their order.
fn blocks(readme: &str) -> Vec<(&str, &str)> {
    let fenced = readme.split("```").skip(1).step_by(2);
    fenced
        .map(|block| {
            block
                .split_once('\n')
                .expect("a block begins by its language")
        })
        .collect()
}

/// Puts `line` in place of the line that begins alike, up to the equals sign.
fn mend(path: &Path, line: &str) {
    let (begin, _) = line.split_once('=').expect("the line is an assignment");
    let text = fs::read_to_string(path).unwrap();
    let broken: Vec<_> = text
        .lines()
        .filter(|other| other.starts_with(begin))
        .collect();
    assert_eq!(broken.len(), 1, "`{begin}` in {}", path.display());
    fs::write(path, text.replace(broken[0], line)).unwrap();
}

#[test]
fn every_example_passes_the_check() {
    for (name, directory) in examples() {
        let output = run(directory.path(), &["check"]);
        assert!(output.status.success(), "{name}: {}", text(&output));
    }
}

#[test]
fn every_example_does_what_its_readme_says() {
    // The services that examples request.
    let web = Web::start();
    let (api, hook) = (web.url(""), web.url("/hooks"));
    let redis = redis::shared().map(redis::Redis::url);
    let postgres = postgres::shared().map(|one| one.url(&one.database()));
    let environment = [
        ("API_URL", api.as_str()),
        ("HOOK_URL", hook.as_str()),
        ("REDIS_URL", redis.as_deref().unwrap_or_default()),
        ("POSTGRES_URL", postgres.as_deref().unwrap_or_default()),
    ];
    for (name, directory) in examples() {
        let needs_postgres = matches!(&*name, "batch-insert" | "exactly-once-sql" | "upsert");
        if name == "dedupe" && redis.is_none() || needs_postgres && postgres.is_none() {
            continue;
        }
        let readme = fs::read_to_string(directory.path().join("README.md")).unwrap();
        // One with edits between its blocks is a story.
        let lines_max = if blocks(&readme).len() > 1 { 40 } else { 20 };
        assert!(
            readme.lines().count() <= lines_max,
            "{name}: the README is longer than a glance"
        );
        assert!(
            readme.contains(&format!(
                "moontide dev --config examples/{name}/config.toml"
            )),
            "{name}"
        );
        let promised = promised(&readme);
        assert!(!promised.is_empty(), "{name}");
        let mut dev = Dev::start_with(directory.path(), &environment);
        for line in promised {
            dev.wait_any_line(line);
        }
        match name.as_str() {
            "two-handlers" => assert_eq!(
                dev.seen("stored order one"),
                1,
                "a retry runs only the listener that failed"
            ),
            "webhook" => {
                let keys = web.seen_at("/hooks").into_iter();
                let keys = keys.map(|seen| seen.header("idempotency-key").unwrap().to_owned());
                let keys: Vec<_> = keys.collect();
                let different: BTreeSet<_> = keys.iter().collect();
                assert_eq!((keys.len(), different.len()), (4, 2), "{keys:?}");
            }
            "saga" => assert_saga(&web),
            "enrich" => assert_eq!(web.seen_at("/customers/ada").len(), 1, "an answer is kept"),
            "tick-tock" => assert_eq!(
                dev.seen("heartbeat 2"),
                1,
                "two workers share a timer of the process"
            ),
            "delayed" => {
                let line = dev.wait_any_line("ada still has a kite in the cart");
                let (_, age) = line.split_once("age_ms").expect("the line has an age");
                let age: String = age.chars().filter(char::is_ascii_digit).collect();
                let age: u64 = age.parse().unwrap();
                assert!(age >= 3_000, "no reminder runs before its time: {line}");
            }
            _ => {}
        }
    }
}

/// An attempt repeats the steps by their keys, and an order that is refused is undone in reverse order.
#[track_caller]
fn assert_saga(web: &Web) {
    let of = |order: &str| -> Vec<String> {
        let seen = web.seen().into_iter();
        seen.filter_map(|seen| {
            let key = seen.header("idempotency-key")?;
            let is_its = key.starts_with(&format!("{order}/"));
            is_its.then(|| format!("{} {} {key}", seen.method, seen.path))
        })
        .collect()
    };
    let take = |order: &str| {
        ["stock", "payments", "shipments"].map(|step| format!("POST /{step} {order}/{step}"))
    };
    assert_eq!(of("o1"), [take("o1"), take("o1")].concat());
    let undo = ["payments", "stock"].map(|step| format!("DELETE /{step}/o2 o2/{step}/undo"));
    assert_eq!(of("o2"), [&take("o2")[..], &undo[..]].concat());
}

/// Fails, is dead-lettered, is mended and saved, comes again: each step as it stands in the README.
#[test]
fn a_dead_letter_is_handled_again_as_its_readme_says() {
    let (_, directory) = examples()
        .into_iter()
        .find(|(name, _)| name == "dead-letters")
        .unwrap();
    let directory = directory.path();
    let readme = fs::read_to_string(directory.join("README.md")).unwrap();
    let [
        ("text", before),
        ("lua", mended),
        ("toml", listener),
        ("text", after),
    ] = blocks(&readme)[..]
    else {
        panic!("other blocks than its test knows: {readme}");
    };
    let mut dev = Dev::start(directory, &[]);
    dev.wait_line("dead letters go to orders.dead");
    for line in before.lines() {
        dev.wait_line(line);
    }

    mend(
        &directory.join("handlers/orders.lua"),
        mended.trim_end_matches('\n'),
    );
    dev.wait_line("reloaded");
    let config = directory.join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\n{listener}")).unwrap();

    for line in after.lines() {
        dev.wait_line(line);
    }
    assert_eq!(dev.seen("ada pays 24"), 1, "what was done stays done");
    assert_eq!(dev.interrupt(), Some(0));
}

#[test]
fn the_page_of_examples_has_every_example() {
    let page = fs::read_to_string(root().join("docs/start/examples.md")).unwrap();
    for (name, _) in examples() {
        assert!(page.contains(&format!("| [{name}](")), "{name}");
    }
}

#[test]
fn every_shipped_handler_is_loaded_by_the_shipped_config() {
    let output = run(root(), &["check", "--config", "config.toml"]);
    assert!(output.status.success(), "{}", text(&output));
    let config = fs::read_to_string(root().join("config.toml")).unwrap();
    let handlers = children(&root().join("handlers"));
    let files: Vec<_> = handlers
        .iter()
        .filter(|path| path.extension().is_some_and(|end| end == "lua"))
        .collect();
    assert!(!files.is_empty(), "no handler was found");
    for file in files {
        let stem = file.file_stem().unwrap().to_string_lossy();
        let named =
            config.contains(&format!("\"{stem}.")) || config.contains(&format!("\"{stem}\""));
        assert!(
            named || stem == "init",
            "no listener of config.toml names {}",
            file.display()
        );
    }
}
