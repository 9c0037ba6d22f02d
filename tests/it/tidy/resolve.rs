//! Follows a path through modules, imports and re-exports to the file that defines its item.

use std::collections::HashSet;

use super::tree::{Definition, Kind, LIBRARY, Mention, ModulePath, PROGRAM, Tree, below};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// A module, when the path ends there.
    Module(ModulePath),
    /// An item of this file. A name that only a macro call can define belongs to the file of its module.
    Item(usize),
    /// A path of another crate, from its root.
    Outside(Vec<String>),
}

/// Names that are being resolved: imports may form a circle.
type Seen = HashSet<(ModulePath, String)>;

impl Tree<'_> {
    /// One name may stand for a module and for a function: an item counts before a module of the same name.
    pub(super) fn resolve(&self, module: &ModulePath, segments: &[String]) -> Vec<Target> {
        let mut targets = self.follow(module, segments, &mut Seen::new());
        targets.sort();
        targets.dedup();
        let is_item = |target: &Target| matches!(target, Target::Item(_));
        if targets.iter().any(is_item) {
            targets.retain(is_item);
        }
        targets
    }

    /// The paths of other crates that a path leads to.
    pub(super) fn outside(&self, mention: &Mention) -> Vec<Vec<String>> {
        let mut targets = self.resolve(&mention.module, &mention.segments);
        let is_glob = mention.kind == Kind::Glob;
        let paths = targets.drain(..).filter_map(|target| match target {
            Target::Outside(path) if is_glob => Some(below(&path, "*")),
            Target::Outside(path) if path.is_empty() => None,
            Target::Outside(path) => Some(path),
            _ => None,
        });
        paths.collect()
    }

    /// Every path of another crate, with its file and line.
    pub(super) fn outside_paths(&self) -> Vec<(&str, usize, Vec<String>)> {
        let mut found = Vec::new();
        for file in &self.files {
            for mention in &file.mentions {
                let paths = self.outside(mention).into_iter();
                found.extend(paths.map(|path| (file.path, mention.line, path)));
            }
        }
        found.dedup();
        found
    }

    /// The file of a module, if the tree has it.
    pub(super) fn file_of(&self, module: &ModulePath) -> Option<usize> {
        Some(self.modules.get(module)?.file)
    }

    /// The definitions of a name in a module.
    pub(super) fn look_up(&self, module: &ModulePath, name: &str) -> Vec<Target> {
        self.find(module, name, &mut Seen::new())
    }

    fn follow(&self, module: &ModulePath, segments: &[String], seen: &mut Seen) -> Vec<Target> {
        let Some((first, rest)) = segments.split_first() else {
            return Vec::new();
        };
        let in_program = module.first().is_some_and(|first| first == PROGRAM);
        let mut targets = match first.as_str() {
            "" => vec![Target::Outside(Vec::new())],
            "crate" if in_program => vec![Target::Module(vec![PROGRAM.to_owned()])],
            "crate" => vec![Target::Module(Vec::new())],
            LIBRARY if in_program => vec![Target::Module(Vec::new())],
            "self" => vec![Target::Module(module.clone())],
            "super" => vec![Target::Module(above(module))],
            name => match self.find(module, name, seen) {
                found if found.is_empty() => vec![Target::Outside(vec![name.to_owned()])],
                found => found,
            },
        };
        for segment in rest {
            targets = self.step(targets, segment, seen);
        }
        targets
    }

    fn step(&self, targets: Vec<Target>, segment: &str, seen: &mut Seen) -> Vec<Target> {
        let is_module = |target: &Target| matches!(target, Target::Module(_));
        let has_module = targets.iter().any(is_module);
        let mut next = Vec::new();
        for target in targets {
            match target {
                Target::Module(module) => match segment {
                    "self" => next.push(Target::Module(module)),
                    "super" => next.push(Target::Module(above(&module))),
                    _ => {
                        let found = self.find(&module, segment, seen);
                        if found.is_empty() {
                            next.extend(self.file_of(&module).map(Target::Item));
                        }
                        next.extend(found);
                    }
                },
                // A function of the same name as a module has nothing below it.
                _ if has_module => {}
                Target::Item(file) => next.push(Target::Item(file)),
                Target::Outside(path) => next.push(Target::Outside(below(&path, segment))),
            }
        }
        next
    }

    fn find(&self, module: &ModulePath, name: &str, seen: &mut Seen) -> Vec<Target> {
        let Some(here) = self.modules.get(module) else {
            return Vec::new();
        };
        if !seen.insert((module.clone(), name.to_owned())) {
            return Vec::new();
        }
        let mut found = Vec::new();
        for definition in here.names.get(name).into_iter().flatten() {
            match definition {
                Definition::Module(path) => found.push(Target::Module(path.clone())),
                Definition::Item => found.push(Target::Item(here.file)),
                Definition::Import(path) => found.extend(self.follow(module, path, seen)),
            }
        }
        if !here.names.contains_key(name) {
            for glob in &here.globs {
                for target in self.follow(module, glob, seen) {
                    if let Target::Module(path) = target {
                        found.extend(self.find(&path, name, seen));
                    }
                }
            }
        }
        seen.remove(&(module.clone(), name.to_owned()));
        found
    }
}

fn above(module: &ModulePath) -> ModulePath {
    let mut path = module.clone();
    path.pop();
    path
}
