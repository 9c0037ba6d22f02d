//! Reads one file: the names that its modules define, and every path that stands in it.
//!
//! Macros are not expanded. A path in the tokens of a macro, of an attribute or of a `macro_rules!` body counts as
//! a path of the module around it.

use std::collections::HashMap;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Item, UseTree};

use super::tree::{Definition, Kind, Mention, Module, ModulePath, attributes, below, is_test};

pub(super) fn read(
    syntax: &syn::File,
    file: usize,
    module: ModulePath,
    modules: &mut HashMap<ModulePath, Module>,
) -> Vec<Mention> {
    let mut reader = Reader {
        file,
        module,
        modules,
        mentions: Vec::new(),
        line: None,
    };
    reader.items(&syntax.items);
    reader.mentions
}

struct Reader<'m> {
    file: usize,
    module: ModulePath,
    modules: &'m mut HashMap<ModulePath, Module>,
    mentions: Vec<Mention>,
    /// The line of an attribute's string: the tokens in it have no line of their own.
    line: Option<usize>,
}

impl Reader<'_> {
    fn items(&mut self, items: &[Item]) {
        self.here();
        for item in items {
            if !is_test(attributes(item)) {
                self.define(item);
                self.visit_item(item);
            }
        }
    }

    fn here(&mut self) -> &mut Module {
        let file = self.file;
        let empty = || Module {
            file,
            ..Module::default()
        };
        let module = self.modules.entry(self.module.clone());
        module.or_insert_with(empty)
    }

    fn define(&mut self, item: &Item) {
        let name = match item {
            Item::Const(item) => &item.ident,
            Item::Enum(item) => &item.ident,
            Item::Fn(item) => &item.sig.ident,
            Item::Mod(item) => {
                let name = item.ident.to_string();
                let path = below(&self.module, &name);
                return self.bind(name, Definition::Module(path));
            }
            Item::Static(item) => &item.ident,
            Item::Struct(item) => &item.ident,
            Item::Trait(item) => &item.ident,
            Item::Type(item) => &item.ident,
            Item::Union(item) => &item.ident,
            Item::Macro(item) => match &item.ident {
                Some(name) => name,
                None => return,
            },
            _ => return,
        };
        self.bind(name.to_string(), Definition::Item);
    }

    fn bind(&mut self, name: String, definition: Definition) {
        let definitions = self.here().names.entry(name).or_default();
        definitions.push(definition);
    }

    fn mention(&mut self, segments: Vec<String>, line: usize, kind: Kind) {
        self.mentions.push(Mention {
            module: self.module.clone(),
            segments,
            line: self.line.unwrap_or(line),
            kind,
        });
    }

    fn import(&mut self, prefix: &[String], tree: &UseTree) {
        let with = |name: &syn::Ident| {
            let is_itself = name == "self" && !prefix.is_empty();
            let last = (!is_itself).then(|| name.to_string());
            prefix.iter().cloned().chain(last).collect::<Vec<_>>()
        };
        match tree {
            UseTree::Path(path) => self.import(&with(&path.ident), &path.tree),
            UseTree::Name(name) => {
                let segments = with(&name.ident);
                let binding = segments.last().cloned().unwrap_or_default();
                self.bind_import(segments, binding, name.ident.span().start().line);
            }
            UseTree::Rename(name) => {
                let line = name.ident.span().start().line;
                self.bind_import(with(&name.ident), name.rename.to_string(), line);
            }
            UseTree::Glob(glob) => {
                let line = glob.star_token.spans[0].start().line;
                self.here().globs.push(prefix.to_vec());
                self.mention(prefix.to_vec(), line, Kind::Glob);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(prefix, tree);
                }
            }
        }
    }

    fn bind_import(&mut self, segments: Vec<String>, binding: String, line: usize) {
        self.bind(binding.clone(), Definition::Import(segments.clone()));
        self.mention(segments, line, Kind::Import(binding));
    }

    /// Every path in tokens, with `prefix` before those of a `{…}` that ends a path.
    fn tokens(&mut self, tokens: TokenStream, prefix: &[String]) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut index = 0;
        while index < tokens.len() {
            match &tokens[index] {
                TokenTree::Group(group) => {
                    self.tokens(group.stream(), &[]);
                    index += 1;
                }
                TokenTree::Ident(_) => index = self.path(&tokens, index, prefix),
                _ => index += 1,
            }
        }
    }

    /// Notes the path that begins at an identifier, and returns the index after it.
    fn path(&mut self, tokens: &[TokenTree], start: usize, prefix: &[String]) -> usize {
        let line = tokens[start].span().start().line;
        let name = tokens[start].to_string();
        let is_part = match start.checked_sub(1) {
            Some(before) if is_punct(tokens, before, '$') => name != "crate",
            Some(before) => {
                is_punct(tokens, before, '.')
                    || is_punct(tokens, before, '\'')
                    || (before > 0 && are_colons(tokens, before - 1))
            }
            None => false,
        };
        let mut segments = prefix.to_vec();
        segments.push(name);
        let mut end = start + 1;
        while are_colons(tokens, end) {
            match tokens.get(end + 2) {
                Some(TokenTree::Ident(name)) => segments.push(name.to_string()),
                Some(TokenTree::Punct(punct)) if punct.as_char() == '$' => {
                    segments.push("$".to_owned());
                }
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    if !is_part {
                        self.tokens(group.stream(), &segments);
                    }
                    return end + 3;
                }
                _ => break,
            }
            end += 3;
        }
        if !is_part {
            self.mention(segments, line, Kind::Path);
        }
        end
    }

    /// Paths in the strings of a serde or schemars attribute.
    fn strings(&mut self, tokens: TokenStream) {
        for token in tokens {
            let text = token.to_string();
            let path = text.strip_prefix('"').and_then(|end| end.strip_suffix('"'));
            if let Some(path) = path.filter(|path| path.contains("::"))
                && let Ok(path) = path.parse()
            {
                self.line = Some(token.span().start().line);
                self.tokens(path, &[]);
                self.line = None;
            }
        }
    }
}

fn is_punct(tokens: &[TokenTree], index: usize, wanted: char) -> bool {
    matches!(tokens.get(index), Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

fn are_colons(tokens: &[TokenTree], index: usize) -> bool {
    is_punct(tokens, index, ':') && is_punct(tokens, index + 1, ':')
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if let Some((_, items)) = &item.content {
            self.module.push(item.ident.to_string());
            self.items(items);
            self.module.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let outside = item.leading_colon.map(|_| String::new());
        self.import(outside.as_slice(), &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let outside = path.leading_colon.map(|_| String::new());
        let names = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string());
        let segments = outside.into_iter().chain(names).collect();
        if let Some(first) = path.segments.first() {
            self.mention(segments, first.ident.span().start().line, Kind::Path);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        self.tokens(call.tokens.clone(), &[]);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone(), &[]);
            if list.path.is_ident("serde") || list.path.is_ident("schemars") {
                self.strings(list.tokens.clone());
            }
        }
    }

    /// `pub(super)` names a module and uses nothing of it.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if !is_test(&field.attrs) {
            visit::visit_field(self, field);
        }
    }

    fn visit_field_value(&mut self, field: &'ast syn::FieldValue) {
        if !is_test(&field.attrs) {
            visit::visit_field_value(self, field);
        }
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        if !is_test(&variant.attrs) {
            visit::visit_variant(self, variant);
        }
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        if !is_test(&arm.attrs) {
            visit::visit_arm(self, arm);
        }
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        if !is_test(&local.attrs) {
            visit::visit_local(self, local);
        }
    }

    fn visit_expr_block(&mut self, block: &'ast syn::ExprBlock) {
        if !is_test(&block.attrs) {
            visit::visit_expr_block(self, block);
        }
    }
}
