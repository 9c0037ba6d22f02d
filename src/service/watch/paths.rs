//! The places where a change of config or handlers is visible: the directories to watch, the relevant names in them,
//! and the files to compare.
//!
//! A file's own watch is not enough, because a save by rename leaves it on the old file. So the watch is on the
//! directory of the file, and on the directory of each symbolic link on the way: a `ConfigMap` swaps only `..data`,
//! `ln -sfn` only `current`. All directories are real paths, so none is watched under two names.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind};

use crate::files::regular_file;

/// The limit of Linux itself.
const SYMLINKS_MAX: usize = 40;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Paths {
    directories: BTreeMap<PathBuf, Interest>,
    /// The config's real file, which is watched as well. When it alone is mounted into a container, the directory
    /// there gets no event of a save outside.
    config: Option<PathBuf>,
    /// The config and every Lua file, under the names that a loader uses.
    files: BTreeSet<PathBuf>,
}

/// The names that matter in one directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interest {
    names: BTreeSet<OsString>,
    /// A part of the handlers folder: every Lua file matters, and so does every name that appears or goes, for it may
    /// be a folder.
    handlers: bool,
    /// Without a watch here, ordinary saves would be missed.
    essential: bool,
}

/// How closely files are compared.
#[derive(Clone, Copy, Debug)]
pub(super) enum Compare {
    /// Cheap enough for every check.
    Stat,
    /// For file systems whose events and times are not reliable: network and overlay file systems.
    Contents,
}

impl Paths {
    pub(super) fn of(config: &Path, handlers: &Path) -> Self {
        let mut places = Self::default();
        places.files.insert(config.to_owned());
        places.config = places.follow(config);
        if let Some(real) = places.config.clone() {
            places.add_name(&real, true);
        }
        places.add_handlers(handlers);
        places
    }

    /// The directories to watch, parents first, and whether each is essential.
    pub(super) fn targets(&self) -> impl Iterator<Item = (&PathBuf, bool)> {
        let directories = self
            .directories
            .iter()
            .map(|(path, interest)| (path, interest.essential));
        directories.chain(self.config.iter().map(|path| (path, false)))
    }

    /// Whether `event` may have changed a file that a loader reads.
    pub(super) fn concern(&self, event: &Event) -> bool {
        if event.need_rescan() {
            return true;
        }
        let appears_or_goes = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) => false,
            // Reads, including those of Moontide.
            EventKind::Access(_) => return false,
            _ => true,
        };
        event.paths.iter().any(|path| {
            let interest = path
                .parent()
                .and_then(|parent| self.directories.get(parent));
            let named = interest
                .zip(path.file_name())
                .is_some_and(|(interest, name)| {
                    let in_handlers = interest.handlers && (appears_or_goes || is_lua(path));
                    in_handlers || interest.names.contains(name)
                });
            named || self.directories.contains_key(path)
        })
    }

    /// Equal for equal files.
    pub(super) fn fingerprint(&self, compare: Compare) -> u64 {
        let mut hasher = DefaultHasher::new();
        for path in &self.files {
            path.hash(&mut hasher);
            // Anything but a plain file (a pipe) would block a reader.
            let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file);
            match compare {
                Compare::Stat => metadata
                    .map(|m| (m.dev(), m.ino(), m.size(), times(&m)))
                    .hash(&mut hasher),
                Compare::Contents => metadata
                    .and_then(|_| regular_file::read(path).ok())
                    .hash(&mut hasher),
            }
        }
        hasher.finish()
    }

    fn add_handlers(&mut self, handlers: &Path) {
        let Some(root) = self.follow(handlers) else {
            return;
        };
        self.add_name(&root, false);
        let mut seen = HashSet::new();
        // A folder's real path, and its path as a loader sees it.
        let mut folders = vec![(root, handlers.to_owned())];
        while let Some((real, path)) = folders.pop() {
            let Ok(metadata) = fs::metadata(&real) else {
                continue;
            };
            // A link to a folder above would make an endless loop.
            if !metadata.is_dir() || !seen.insert((metadata.dev(), metadata.ino())) {
                continue;
            }
            let interest = self.directories.entry(real.clone()).or_default();
            interest.handlers = true;
            interest.essential = true;
            for entry in fs::read_dir(&real).into_iter().flatten().flatten() {
                let path = path.join(entry.file_name());
                let Some(found) = self.follow(&entry.path()) else {
                    continue;
                };
                if found.is_dir() {
                    // `.git`; also the inside of a `ConfigMap`, whose files are reached by their links.
                    if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                        folders.push((found, path));
                    }
                } else if is_lua(&path) {
                    self.add_name(&found, true);
                    self.files.insert(path);
                }
            }
        }
    }

    /// The real path of `path`, with an interest in every symbolic link on the way. `None` if a part is missing: then
    /// there is an interest in its appearance.
    fn follow(&mut self, path: &Path) -> Option<PathBuf> {
        let path = std::path::absolute(path).ok()?;
        let mut real = PathBuf::from("/");
        let mut rest: VecDeque<OsString> = path
            .components()
            .map(|c| c.as_os_str().to_owned())
            .collect();
        let mut links = 0;
        while let Some(part) = rest.pop_front() {
            match Path::new(&part).components().next() {
                Some(Component::RootDir) => real = PathBuf::from("/"),
                Some(Component::ParentDir) => _ = real.pop(),
                Some(Component::Normal(name)) => {
                    let next = real.join(name);
                    let Ok(metadata) = fs::symlink_metadata(&next) else {
                        self.add_name(&next, true);
                        return None;
                    };
                    if !metadata.is_symlink() {
                        real = next;
                        continue;
                    }
                    self.add_name(&next, true);
                    links += 1;
                    let target = fs::read_link(&next)
                        .ok()
                        .filter(|_| links <= SYMLINKS_MAX)?;
                    for part in target.components().rev() {
                        rest.push_front(part.as_os_str().to_owned());
                    }
                }
                Some(Component::CurDir | Component::Prefix(_)) | None => {}
            }
        }
        Some(real)
    }

    /// Watches for `path` in its directory, and for that directory in its parent: the directory may be replaced as a
    /// whole.
    fn add_name(&mut self, path: &Path, essential: bool) {
        let Some((directory, name)) = path.parent().zip(path.file_name()) else {
            return;
        };
        let interest = self.directories.entry(directory.to_owned()).or_default();
        interest.names.insert(name.to_owned());
        interest.essential |= essential;
        if let Some((above, name)) = directory.parent().zip(directory.file_name()) {
            self.directories
                .entry(above.to_owned())
                .or_default()
                .names
                .insert(name.to_owned());
        }
    }
}

fn is_lua(path: &Path) -> bool {
    path.extension() == Some(OsStr::new("lua"))
}

/// A user cannot set the change time, so that a copy which keeps its date is detected, too.
fn times(metadata: &fs::Metadata) -> [i64; 4] {
    [
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ]
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use notify::event::{CreateKind, DataChange, Flag, RenameMode};
    use tempfile::TempDir;

    use super::*;

    fn tree() -> (TempDir, PathBuf) {
        let temp = TempDir::new().unwrap();
        let root = temp.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("handlers/billing")).unwrap();
        fs::create_dir_all(root.join("handlers/.git")).unwrap();
        fs::write(root.join("config.toml"), "a").unwrap();
        fs::write(root.join("handlers/orders.lua"), "a").unwrap();
        fs::write(root.join("handlers/billing/orders.lua"), "a").unwrap();
        (temp, root)
    }

    fn of(root: &Path) -> Paths {
        Paths::of(&root.join("config.toml"), &root.join("handlers"))
    }

    /// Whether an event of `kind` for `path` below `root` concerns.
    fn concern(root: &Path, kind: EventKind, path: &str) -> bool {
        of(root).concern(&Event::new(kind).add_path(root.join(path)))
    }

    #[test]
    fn only_what_a_loader_reads_concerns() {
        let (_temp, root) = tree();
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let renamed = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        let created = EventKind::Create(CreateKind::Folder);
        let read = EventKind::Access(AccessKind::Open(AccessMode::Any));
        let cases = [
            (written, "config.toml", true),
            (renamed, "config.toml", true),
            (read, "config.toml", false),
            (written, "moontide.log", false),
            (created, ".moontide", false),
            (written, "handlers/orders.lua", true),
            (written, "handlers/billing/orders.lua", true),
            (written, "handlers/notes.txt", false),
            (created, "handlers/new", true),
            (renamed, "handlers/billing", true),
            (created, "handlers/.git/index", false),
            (created, "handlers", true),
        ];
        for (kind, path, expected) in cases {
            assert_eq!(concern(&root, kind, path), expected, "{kind:?} {path}");
        }
        let rescan = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert!(of(&root).concern(&rescan), "lost events may have been any");
    }

    #[test]
    fn every_symbolic_link_on_the_way_is_watched_where_it_lies() {
        let (_temp, root) = tree();
        fs::create_dir_all(root.join("releases/1")).unwrap();
        fs::rename(root.join("handlers"), root.join("releases/1/handlers")).unwrap();
        symlink("releases/1", root.join("current")).unwrap();
        symlink(root.join("current/handlers"), root.join("handlers")).unwrap();
        let places = of(&root);
        let names = |directory: &str| places.directories[&root.join(directory)].names.clone();
        assert!(names("").is_superset(&["current".into(), "handlers".into()].into()));
        assert!(places.directories[&root.join("releases/1/handlers/billing")].handlers);
        assert!(
            places
                .files
                .contains(&root.join("handlers/billing/orders.lua"))
        );
    }

    #[test]
    fn a_missing_file_is_awaited_in_the_nearest_directory_that_exists() {
        let (_temp, root) = tree();
        let places = Paths::of(&root.join("a/b/config.toml"), &root.join("handlers"));
        assert!(places.directories[&root].names.contains(OsStr::new("a")));
    }

    #[test]
    fn links_that_go_round_end() {
        let (_temp, root) = tree();
        symlink("..", root.join("handlers/up")).unwrap();
        symlink("loop.lua", root.join("handlers/loop.lua")).unwrap();
        assert!(of(&root).directories.contains_key(&root.join("handlers")));
    }

    #[test]
    fn a_fingerprint_follows_the_files() {
        let (_temp, root) = tree();
        let fingerprint = |compare| of(&root).fingerprint(compare);
        let (stat, contents) = (fingerprint(Compare::Stat), fingerprint(Compare::Contents));
        assert_eq!(fingerprint(Compare::Stat), stat);
        fs::write(root.join("handlers/notes.txt"), "b").unwrap();
        assert_eq!(
            (fingerprint(Compare::Stat), fingerprint(Compare::Contents)),
            (stat, contents)
        );

        fs::write(root.join("new"), "a").unwrap();
        fs::rename(root.join("new"), root.join("handlers/orders.lua")).unwrap();
        assert_ne!(fingerprint(Compare::Stat), stat, "another file");
        assert_eq!(
            fingerprint(Compare::Contents),
            contents,
            "of the same contents"
        );

        fs::write(root.join("handlers/orders.lua"), "b").unwrap();
        assert_ne!(fingerprint(Compare::Contents), contents);
        fs::remove_file(root.join("handlers/orders.lua")).unwrap();
        fs::write(root.join("handlers/new.lua"), "a").unwrap();
        assert_ne!(fingerprint(Compare::Contents), contents, "the name counts");
    }
}
