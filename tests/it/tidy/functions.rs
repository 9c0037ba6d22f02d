//! No function is longer than 70 lines; test functions count as well.

use syn::visit::{self, Visit};

const LINES_MAX: usize = 70;

fn check(sources: &[(&str, &str)]) -> Vec<String> {
    let mut broken = Vec::new();
    for (path, text) in sources {
        let syntax = syn::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}"));
        let lines = text.lines().map(str::trim).collect();
        let mut reader = Reader {
            path,
            lines,
            broken: &mut broken,
        };
        reader.visit_file(&syntax);
    }
    broken
}

struct Reader<'a> {
    path: &'a str,
    lines: Vec<&'a str>,
    broken: &'a mut Vec<String>,
}

impl Reader<'_> {
    /// Comments and empty lines are not counted.
    fn measure(&mut self, name: &syn::Ident, body: &syn::Block) {
        let first = body.brace_token.span.open().start().line;
        let last = body.brace_token.span.close().start().line;
        let inner = self.lines.iter().take(last - 1).skip(first);
        let count = inner
            .filter(|line| !line.is_empty() && !line.starts_with("//"))
            .count();
        if count > LINES_MAX {
            let (path, line) = (self.path, name.span().start().line);
            self.broken.push(format!(
                "{path}:{line}: functions: `{name}` has {count} lines, the limit is {LINES_MAX}"
            ));
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.measure(&item.sig.ident, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.measure(&item.sig.ident, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.measure(&item.sig.ident, body);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

#[test]
fn a_function_fits_on_a_screen() {
    super::assert_kept(&check(&super::borrowed(&super::sources())));
}

#[test]
fn a_function_of_one_line_too_many_is_found() {
    let body = |count| {
        format!(
            "impl S {{\n    fn f() {{\n{}    }}\n}}\n",
            "x();\n// y\n\n".repeat(count)
        )
    };
    assert_eq!(check(&[("src/a.rs", &body(LINES_MAX))]), [""; 0]);
    assert_eq!(
        check(&[("src/a.rs", &body(LINES_MAX + 1))]),
        ["src/a.rs:2: functions: `f` has 71 lines, the limit is 70"]
    );
}
