//! The source files as a tree of modules: what each module defines, imports and names. Test code is left out.
//!
//! `paths` fills a module, `resolve` follows a path through modules and re-exports to the file of its definition.

use std::collections::{HashMap, HashSet};

use syn::parse::Parse as _;
use syn::punctuated::Punctuated;
use syn::{Attribute, Item, Meta, Token};

use super::paths;

/// A module by its path from the root of the crate; the root of the library is empty.
pub(super) type ModulePath = Vec<String>;

/// The program beside the library is a crate of its own; it names the library by this name.
pub(super) const PROGRAM: &str = "main";
pub(super) const LIBRARY: &str = "moontide";

pub(super) struct Tree<'a> {
    pub(super) files: Vec<File<'a>>,
    pub(super) modules: HashMap<ModulePath, Module>,
}

pub(super) struct File<'a> {
    pub(super) path: &'a str,
    pub(super) text: &'a str,
    pub(super) mentions: Vec<Mention>,
}

#[derive(Default)]
pub(super) struct Module {
    pub(super) file: usize,
    pub(super) names: HashMap<String, Vec<Definition>>,
    pub(super) globs: Vec<Vec<String>>,
}

pub(super) enum Definition {
    Module(ModulePath),
    Item,
    Import(Vec<String>),
}

/// A path as it stands in a file.
pub(super) struct Mention {
    pub(super) module: ModulePath,
    /// A first segment that is empty stands for a leading `::`.
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
    pub(super) kind: Kind,
}

#[derive(PartialEq, Eq)]
pub(super) enum Kind {
    /// A leaf of a `use`, with the name that it binds.
    Import(String),
    Glob,
    Path,
}

impl<'a> Tree<'a> {
    /// Every file is a path such as `src/config/file.rs` with its text.
    pub(super) fn read(sources: &[(&'a str, &'a str)]) -> Self {
        let parse = |&(path, text)| {
            let syntax = syn::parse_file(text)
                .unwrap_or_else(|error| panic!("{path}:{}: {error}", error.span().start().line));
            (path, text, syntax)
        };
        let parsed: Vec<_> = sources.iter().map(parse).collect();
        let mut tests = HashSet::new();
        for (path, _, syntax) in &parsed {
            find_tests(&syntax.items, &module_of(path), &mut tests);
        }
        let is_kept = |path: &str| {
            let module = module_of(path);
            !(1..=module.len()).any(|length| tests.contains(&module[..length]))
        };
        let mut tree = Self {
            files: Vec::new(),
            modules: HashMap::new(),
        };
        for (path, text, syntax) in parsed {
            if is_kept(path) {
                let file = tree.files.len();
                let mentions = paths::read(&syntax, file, module_of(path), &mut tree.modules);
                tree.files.push(File {
                    path,
                    text,
                    mentions,
                });
            }
        }
        tree
    }
}

/// Collects the modules that exist in tests only.
fn find_tests(items: &[Item], module: &ModulePath, tests: &mut HashSet<ModulePath>) {
    for item in items {
        if let Item::Mod(child) = item {
            let path = below(module, &child.ident.to_string());
            if is_test(&child.attrs) {
                tests.insert(path);
            } else if let Some((_, items)) = &child.content {
                find_tests(items, &path, tests);
            }
        }
    }
}

pub(super) fn below(module: &ModulePath, name: &str) -> ModulePath {
    let mut path = module.clone();
    path.push(name.to_owned());
    path
}

/// The module of a file: `src/config/file.rs` is `config::file`.
pub(super) fn module_of(path: &str) -> ModulePath {
    let below = path.strip_prefix("src/").unwrap_or(path);
    match below.strip_suffix(".rs").unwrap_or(below) {
        "lib" => Vec::new(),
        name => name.split('/').map(str::to_owned).collect(),
    }
}

/// The room of a file: the first component of its path below src.
pub(super) fn room(path: &str) -> &str {
    let below = path.strip_prefix("src/").unwrap_or(path);
    let first = below.split('/').next().unwrap_or(below);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// Whether these attributes leave an item out of every build but that of the tests.
pub(super) fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let path = attribute.path();
        path.is_ident("test")
            || (path.is_ident("cfg")
                && attribute
                    .parse_args_with(Meta::parse)
                    .is_ok_and(|meta| implies_test(&meta)))
    })
}

fn implies_test(meta: &Meta) -> bool {
    let Meta::List(list) = meta else {
        return meta.path().is_ident("test");
    };
    let parts = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated);
    let parts: Vec<Meta> = parts.into_iter().flatten().collect();
    if list.path.is_ident("all") {
        parts.iter().any(implies_test)
    } else {
        list.path.is_ident("any") && !parts.is_empty() && parts.iter().all(implies_test)
    }
}

pub(super) fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
