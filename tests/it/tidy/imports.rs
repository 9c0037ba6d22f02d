//! No circle of imports between files, and storeys import only downward.
//!
//! An edge goes from a file to the file that defines the item. A file and its ancestor (`a.rs` and `a/b.rs`) count as
//! no edge. Method calls are not resolved.

use std::collections::{BTreeMap, BTreeSet};

use super::circles::{self, Component, Graph};
use super::resolve::Target;
use super::storeys::{self, Storey};
use super::tree::{File, Kind, Mention, Tree, room};

mod tests;

/// Every broken rule, as `file:line: rule: what`. Without storeys, only circles are reported.
pub(super) fn check(sources: &[(&str, &str)], storeys: &[Storey]) -> Vec<String> {
    let is_kept = |(path, _): &(&str, &str)| room(path) != "micro";
    let kept: Vec<_> = sources.iter().copied().filter(is_kept).collect();
    let tree = Tree::read(&kept);
    let edges = edges(&tree);
    let mut broken = textual_macros(&tree);
    if !storeys.is_empty() {
        let paths: Vec<_> = tree.files.iter().map(|file| file.path).collect();
        broken.extend(storeys::rooms(&paths, storeys));
        broken.extend(upward(&tree, &edges, storeys));
    }
    broken.extend(circles_of_files(&tree, &edges));
    broken.extend(circles_of_rooms(&tree, &edges, storeys));
    broken
}

/// Pairs of files, each with the first line and the path that make the edge.
type Edges = BTreeMap<(usize, usize), (usize, String)>;

fn edges(tree: &Tree) -> Edges {
    let mut edges = Edges::new();
    for (from, file) in tree.files.iter().enumerate() {
        for mention in &file.mentions {
            for to in files_of(tree, file, mention) {
                if !are_kin(file.path, tree.files[to].path) {
                    let seen = (mention.line, mention.segments.join("::"));
                    let first = edges.entry((from, to)).or_insert_with(|| seen.clone());
                    if seen.0 < first.0 {
                        *first = seen;
                    }
                }
            }
        }
    }
    edges
}

/// The files that define what a path leads to.
pub(super) fn files_of(tree: &Tree, file: &File, mention: &Mention) -> BTreeSet<usize> {
    let segments = &mention.segments;
    if mention.kind == Kind::Path && segments.len() == 1 && !comes_by_glob(tree, mention) {
        // The import that binds the name has made the edge.
        return BTreeSet::new();
    }
    let targets = tree.resolve(&mention.module, segments);
    let files = targets.iter().filter_map(|target| match target {
        Target::Item(file) => Some(*file),
        // Paths below the module make the edges; without such a path, the import does.
        Target::Module(_) if is_prefix(tree, file, mention) => None,
        Target::Module(module) => tree.file_of(module),
        Target::Outside(_) => None,
    });
    files.collect()
}

fn comes_by_glob(tree: &Tree, mention: &Mention) -> bool {
    let module = tree.modules.get(&mention.module);
    module.is_some_and(|module| {
        !module.globs.is_empty() && !module.names.contains_key(&mention.segments[0])
    })
}

/// Whether another path of the file begins with the module that this import binds.
fn is_prefix(tree: &Tree, file: &File, import: &Mention) -> bool {
    file.mentions.iter().any(|mention| {
        let is_within = mention.module.starts_with(&import.module);
        let first = &mention.segments[0];
        is_within
            && match &import.kind {
                Kind::Import(binding) => mention.segments.len() > 1 && first == binding,
                Kind::Glob => {
                    comes_by_glob(tree, mention) && !tree.look_up(&mention.module, first).is_empty()
                }
                Kind::Path => false,
            }
    })
}

/// Whether one of the two files is above the other: the root of the library is above all.
fn are_kin(one: &str, other: &str) -> bool {
    let is_above = |upper: &str, lower: &str| {
        let folder = upper.strip_suffix(".rs").unwrap_or(upper);
        let below = lower.strip_prefix(folder);
        upper == "src/lib.rs" || below.is_some_and(|rest| rest.starts_with('/'))
    };
    one == other || is_above(one, other) || is_above(other, one)
}

fn upward(tree: &Tree, edges: &Edges, storeys: &[Storey]) -> Vec<String> {
    let mut broken = Vec::new();
    for (&(from, to), (line, path)) in edges {
        let (from, to) = (tree.files[from].path, tree.files[to].path);
        let lower = storeys::find(storeys, room(from));
        let upper = storeys::find(storeys, room(to));
        if let (Some((low, lower)), Some((high, upper))) = (lower, upper)
            && low < high
        {
            broken.push(format!(
                "{from}:{line}: upward import: storey `{lower}` imports `{path}` of {to}, storey `{upper}`"
            ));
        }
    }
    broken
}

fn circles_of_files(tree: &Tree, edges: &Edges) -> Vec<String> {
    let mut graph = Graph::new();
    for &(from, to) in edges.keys() {
        graph.entry(from).or_default().insert(to);
    }
    let path = |file: usize| tree.files[file].path;
    let report = |component: &Component| {
        let mut steps = Vec::new();
        for (from, to) in component.steps() {
            steps.push(format!("{}:{}", path(from), edges[&(from, to)].0));
        }
        let place = steps[0].clone();
        steps.push(path(component.circle[0]).to_owned());
        let way = steps.join(" → ");
        format!(
            "{place}: circle of imports: {way}{}",
            component_names(component, path)
        )
    };
    circles::find(&graph).iter().map(report).collect()
}

/// Rooms of one storey may import each other through different files: that is a circle too. Between storeys, one of the
/// imports is upward, and reported as such.
fn circles_of_rooms(tree: &Tree, edges: &Edges, storeys: &[Storey]) -> Vec<String> {
    let rooms: BTreeSet<&str> = tree.files.iter().map(|file| room(file.path)).collect();
    let rooms: Vec<&str> = rooms.into_iter().collect();
    let number = |file: usize| rooms.binary_search(&room(tree.files[file].path)).unwrap();
    let height = |room: usize| Some(storeys::find(storeys, rooms[room])?.0);
    let mut graph = Graph::new();
    let mut first: BTreeMap<(usize, usize), String> = BTreeMap::new();
    for (&(from, to), (line, _)) in edges {
        let edge = (number(from), number(to));
        if edge.0 != edge.1 && height(edge.0) == height(edge.1) {
            graph.entry(edge.0).or_default().insert(edge.1);
            let place = format!("{}:{line}", tree.files[from].path);
            first.entry(edge).or_insert(place);
        }
    }
    let report = |component: &Component| {
        let steps = component.steps();
        let place = &first[&steps[0]];
        let shown = |step: &(usize, usize)| format!("{} ({})", rooms[step.0], first[step]);
        let mut way: Vec<_> = steps.iter().map(shown).collect();
        way.push(rooms[component.circle[0]].to_owned());
        let way = way.join(" → ");
        format!(
            "{place}: circle of rooms: {way}{}",
            component_names(component, |room| rooms[room])
        )
    };
    circles::find(&graph).iter().map(report).collect()
}

/// The names of the whole component, if the circle is only a part of it.
fn component_names<'a>(component: &Component, name: impl Fn(usize) -> &'a str) -> String {
    let count = component.nodes.len();
    if count == component.circle.len() {
        return String::new();
    }
    let names: Vec<_> = component.nodes.iter().map(|&node| name(node)).collect();
    format!(" (of {count} that lead to each other: {})", names.join(" "))
}

/// A macro without a path (`#[macro_use]`, `#[macro_export]`) cannot be resolved.
fn textual_macros(tree: &Tree) -> Vec<String> {
    let mut broken = Vec::new();
    for file in &tree.files {
        for (index, line) in file.text.lines().enumerate() {
            let line = line.trim();
            if line.starts_with("#[macro_use") || line.starts_with("#[macro_export") {
                broken.push(format!(
                    "{}:{}: macro by text: `{line}`; a `pub(crate) use` gives a macro its path",
                    file.path,
                    index + 1
                ));
            }
        }
    }
    broken
}
