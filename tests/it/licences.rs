//! Every dependency has a licence of the list in deny.toml, and C libraries are linked once.

use std::path::Path;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn allowed() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    let table: toml::Table = text.parse().unwrap();
    let list = table["licenses"]["allow"].as_array().unwrap();
    let list = list.iter().map(|one| one.as_str().unwrap().to_owned());
    list.collect()
}

/// Whether an SPDX expression can be met by these licences. `/` is an old form of `OR`.
fn is_met(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ")
        .replace(" WITH ", "\u{1}");
    let mut words = spaced.split_whitespace().peekable();
    let is_met = any(&mut words, allowed);
    assert_eq!(words.next(), None, "{expression}");
    is_met
}

type Words<'w> = std::iter::Peekable<std::str::SplitWhitespace<'w>>;

fn any(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut is_met = all(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        is_met |= all(words, allowed);
    }
    is_met
}

fn all(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut is_met = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        is_met &= one(words, allowed);
    }
    is_met
}

fn one(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let word = words.next().expect("a licence");
    if word != "(" {
        return allowed.iter().any(|one| one == word);
    }
    let is_met = any(words, allowed);
    assert_eq!(words.next(), Some(")"));
    is_met
}

/// The platform of this machine, as cargo calls it.
fn host() -> String {
    let output = Command::new("rustc").arg("-vV").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.expect("rustc tells its host").to_owned()
}

/// Those of this platform: a build has fetched no others.
fn packages() -> Vec<serde_json::Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version", "1"])
        .args(["--filter-platform", &host()])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

#[test]
fn every_dependency_has_a_licence_that_is_allowed() {
    let allowed = allowed();
    let packages = packages();
    assert!(packages.len() > 100);
    let refused: Vec<_> = packages
        .iter()
        .filter(|one| {
            !one["license"]
                .as_str()
                .is_some_and(|text| is_met(text, &allowed))
        })
        .map(|one| format!("{}: {}", one["name"], one["license"]))
        .collect();
    assert!(refused.is_empty(), "not in deny.toml: {refused:#?}");
}

/// Two copies of a C library in one process would share its symbols.
#[test]
fn a_c_library_is_linked_once() {
    let packages = packages();
    for name in ["openssl-sys", "libz-sys", "rdkafka-sys", "zstd-sys"] {
        let copies = packages.iter().filter(|one| one["name"] == name);
        assert_eq!(copies.count(), 1, "{name}");
    }
}

#[test]
fn expressions_are_read() {
    let allowed = ["MIT", "ISC"].map(str::to_owned);
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0-only", false),
        ("GPL-3.0-only OR MIT", true),
        ("GPL-3.0-only/MIT", true),
        ("GPL-3.0-only AND MIT", false),
        ("(MIT OR Apache-2.0) AND ISC", true),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", false),
        ("Apache-2.0 WITH LLVM-exception OR MIT", true),
        ("Apache-2.0 WITH LLVM-exception", false),
    ] {
        assert_eq!(is_met(expression, &allowed), expected, "{expression}");
    }
}
