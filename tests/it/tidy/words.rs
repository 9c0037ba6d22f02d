//! One word, one meaning: names of files, modules, types and functions avoid words that had several meanings.

use syn::visit::{self, Visit};
use syn::{Ident, Item};

use super::tree::{Tree, attributes, is_test};

struct Word {
    text: &'static str,
    /// Whether the word is forbidden as the name of a module only.
    only_modules: bool,
    /// Beginnings of paths, or phrases (`dead letter`), in which the word keeps its one meaning.
    allowed: &'static [&'static str],
    instead: &'static str,
}

const fn word(word: &'static str, allowed: &'static [&'static str], instead: &'static str) -> Word {
    Word {
        text: word,
        only_modules: false,
        allowed,
        instead,
    }
}

const fn module(word: &'static str, instead: &'static str) -> Word {
    Word {
        text: word,
        only_modules: true,
        allowed: &[],
        instead,
    }
}

const WORDS: [Word; 27] = [
    word(
        "letter",
        &["dead letter"],
        "dead_letter, message or forwarding",
    ),
    word(
        "letters",
        &["dead letters"],
        "dead_letters, messages or forwarding",
    ),
    word("asked", &[], "requested, commit_requests"),
    word("asks", &[], "commit_requests"),
    word("asker", &[], "lookups"),
    word(
        "gate",
        &["src/worker/", "src/breaker", "src/rules/breaker"],
        "exclusive; a gate is a breaker's",
    ),
    word(
        "gates",
        &["src/worker/", "src/breaker", "src/rules/breaker"],
        "exclusive; a gate is a breaker's",
    ),
    word("nap", &[], "not_due"),
    word("naps", &[], "not_due"),
    word("jump", &[], "lost_offsets"),
    word("jumps", &[], "lost_offsets"),
    word("ages", &[], "standstill"),
    word("gap", &[], "commit_metadata"),
    word("gaps", &[], "commit_metadata"),
    word("overtaken", &[], "superseded"),
    word("hands", &[], "operator_commands"),
    word("solo", &[], "exclusive"),
    word("engine", &[], "vms"),
    word("needed", &[], "required_topics"),
    word("facts", &[], "failed_message, or the noun itself"),
    word(
        "page",
        &[
            "src/crash/",
            "src/journal",
            "src/telemetry/http",
            "src/http",
        ],
        "exposition or response",
    ),
    word(
        "pages",
        &[
            "src/crash/",
            "src/journal",
            "src/telemetry/http",
            "src/http",
        ],
        "exposition or response",
    ),
    word("place", &["in place"], "position, path or slot"),
    word("places", &[], "positions, paths or slots"),
    module("running", "suspects"),
    module("folder", "own_folder"),
    module("difference", "config_changes"),
];

fn check(sources: &[(&str, &str)]) -> Vec<String> {
    let tree = Tree::read(sources);
    let mut broken = Vec::new();
    for file in &tree.files {
        let below = file.path.strip_prefix("src/").unwrap_or(file.path);
        let stem = below.trim_end_matches(".rs");
        if let Some(name) = stem.rsplit('/').next() {
            broken.extend(judge(file.path, 1, "mod", name));
        }
        let mut names = Names::default();
        let syntax = syn::parse_file(file.text).unwrap();
        names.visit_file(&syntax);
        for (line, kind, name) in names.found {
            broken.extend(judge(file.path, line, kind, &name));
        }
    }
    broken
}

/// The forbidden words of one name.
fn judge(path: &str, line: usize, kind: &str, name: &str) -> Vec<String> {
    let parts = parts(name);
    let mut broken = Vec::new();
    for entry in &WORDS {
        let is_whole = parts.len() == 1 && kind == "mod";
        let is_meant = parts.iter().any(|part| part == entry.text);
        if !is_meant || (entry.only_modules && !is_whole) {
            continue;
        }
        let is_allowed = entry
            .allowed
            .iter()
            .any(|allowed| path.starts_with(allowed) || contains(&parts, allowed));
        if !is_allowed {
            let (word, instead) = (entry.text, entry.instead);
            broken.push(format!(
                "{path}:{line}: words: `{kind} {name}` has `{word}`, say {instead}"
            ));
        }
    }
    broken
}

fn contains(parts: &[String], phrase: &str) -> bool {
    let phrase: Vec<&str> = phrase.split(' ').collect();
    parts.windows(phrase.len()).any(|window| window == phrase)
}

/// The words of `a_name` and of `AName`.
fn parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut was_lower = false;
    for letter in name.chars() {
        if letter == '_' || (letter.is_uppercase() && was_lower) {
            parts.push(String::new());
        }
        was_lower = letter.is_lowercase() || letter.is_numeric();
        if let Some(last) = parts.last_mut().filter(|_| letter != '_') {
            last.extend(letter.to_lowercase());
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

#[derive(Default)]
struct Names {
    found: Vec<(usize, &'static str, String)>,
}

impl Names {
    fn note(&mut self, kind: &'static str, name: &Ident) {
        let line = name.span().start().line;
        self.found.push((line, kind, name.to_string()));
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item(&mut self, item: &'ast Item) {
        if is_test(attributes(item)) {
            return;
        }
        match item {
            Item::Struct(item) => self.note("struct", &item.ident),
            Item::Enum(item) => self.note("enum", &item.ident),
            Item::Fn(item) => self.note("fn", &item.sig.ident),
            Item::Trait(item) => self.note("trait", &item.ident),
            Item::Type(item) => self.note("type", &item.ident),
            // A module with a file is reported with the file.
            Item::Mod(item) if item.content.is_some() => self.note("mod", &item.ident),
            _ => {}
        }
        visit::visit_item(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test(&item.attrs) {
            self.note("fn", &item.sig.ident);
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.note("fn", &item.sig.ident);
        visit::visit_trait_item_fn(self, item);
    }
}

#[test]
fn one_word_has_one_meaning() {
    super::assert_kept(&check(&super::borrowed(&super::sources())));
}

#[test]
fn a_name_with_a_word_of_several_meanings_is_found() {
    let tree = [
        (
            "src/asker.rs",
            "struct Asker;\nimpl Asker { fn take_asked() {} }",
        ),
        (
            "src/a.rs",
            "fn dead_letter_topic() {}\nstruct DeadLetters;\nenum Letter {}\nmod naps {}\nfn replace_in_place() {}",
        ),
        (
            "src/running.rs",
            "fn running() {}\nfn tells_the_difference() {}",
        ),
        ("src/worker/gates.rs", "struct Gate;"),
        (
            "src/crash/gate.rs",
            "#[cfg(test)] mod tests { fn gate() {} }\nfn told() { fn gate() {} }",
        ),
    ];
    let found: Vec<String> = check(&tree)
        .iter()
        .map(|line| line.split(", say").next().unwrap().to_owned())
        .collect();
    assert_eq!(
        found,
        [
            "src/asker.rs:1: words: `mod asker` has `asker`",
            "src/asker.rs:1: words: `struct Asker` has `asker`",
            "src/asker.rs:2: words: `fn take_asked` has `asked`",
            "src/a.rs:3: words: `enum Letter` has `letter`",
            "src/a.rs:4: words: `mod naps` has `naps`",
            "src/running.rs:1: words: `mod running` has `running`",
            "src/crash/gate.rs:1: words: `mod gate` has `gate`",
            "src/crash/gate.rs:2: words: `fn gate` has `gate`",
        ]
    );
}
