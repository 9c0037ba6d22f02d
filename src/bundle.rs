//! A bundle: one loaded, checked and numbered set of config and handlers.
//!
//! Start and reload take the same road through here. A bundle consists of bytes that were read once. A later step (a
//! second VM, a late `require`) never reads the disk again, so no call ever mixes two bundles.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::{self, Config, Errors, Sources, Written, is_library};
use crate::files::regular_file;

const FILES_MAX: usize = 10_000;
const FOLDERS_MAX: usize = 1_000;
const BYTES_MAX: u64 = 64 << 20;

#[derive(Clone, Debug)]
pub(crate) struct Bundle {
    pub(crate) number: u64,
    /// The hash of config and sources together; equal bytes are an equal bundle.
    pub(crate) hash: u64,
    /// Milliseconds since the epoch.
    pub(crate) loaded_at: i64,
    pub(crate) config: Arc<Config>,
    pub(crate) sources: Arc<Sources>,
}

/// The files on disk at one time, unchecked.
pub(crate) struct Snapshot<'t> {
    pub(crate) written: Written<'t>,
    /// The folder of handlers, absolute.
    pub(crate) handlers: PathBuf,
    pub(crate) sources: Arc<Sources>,
    /// The hash of text and sources together.
    pub(crate) hash: u64,
}

/// Reads and checks all that can be checked without running Lua.
///
/// # Errors
///
/// As [`text`], [`read`] and [`check`].
pub(crate) fn load(path: &Path, number: u64) -> Result<Bundle, Errors> {
    check(read(path, &text(path)?)?, number)
}

/// Reads the configuration.
///
/// # Errors
///
/// Where it cannot be read, or is not UTF-8.
pub(crate) fn text(path: &Path) -> Result<String, Errors> {
    let bytes = regular_file::read(path).map_err(|error| Errors::of(path, unreadable(&error)))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = String::from_utf8_lossy(valid).matches('\n').count() + 1;
        Errors::of(path, format!("is not UTF-8, in line {line}"))
    })
}

/// Reads every Lua file below the handlers folder of the configuration with this text. A file that nothing can load is
/// no error: most are made by other programs, and no handler needs them.
///
/// # Errors
///
/// Where the handlers folder or its init.lua cannot be read, or is too large.
pub(crate) fn read<'t>(path: &'t Path, text: &'t str) -> Result<Snapshot<'t>, Errors> {
    let mut written = Written::parse(path, text, &environment);
    let handlers = written.handlers();
    let sources = Reader::default()
        .all(&handlers)
        .map_err(|message| Errors::of(path, message))?;
    let mut hasher = DefaultHasher::new();
    // Without the files that cannot be loaded: they change nothing.
    (text, &sources.files).hash(&mut hasher);
    let hash = hasher.finish();
    Ok(Snapshot {
        written,
        handlers,
        sources: Arc::new(sources),
        hash,
    })
}

/// Checks all of it that can be checked without running Lua.
///
/// # Errors
///
/// Everything that is wrong with the configuration, at once.
pub(crate) fn check(snapshot: Snapshot<'_>, number: u64) -> Result<Bundle, Errors> {
    let config = snapshot.written.config(&snapshot.sources)?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Ok(Bundle {
        number,
        hash: snapshot.hash,
        loaded_at: now.as_millis() as i64,
        config: Arc::new(config),
        sources: snapshot.sources,
    })
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Walks the handlers folder and follows symbolic links: mounted config maps consist of them.
#[derive(Default)]
struct Reader {
    sources: Sources,
    bytes: u64,
    /// Folders on the way down, by their real path, so that a link to one of them makes no endless loop.
    above: BTreeSet<PathBuf>,
    folders: usize,
}

impl Reader {
    fn all(mut self, folder: &Path) -> Result<Sources, String> {
        // A missing folder has no files: the config's own check names every missing one.
        if folder.exists() {
            self.folder(folder, "")?;
        }
        // No listener names it, and each bundle runs it.
        match self.sources.refusal("init.lua") {
            Some(reason) => Err(format!("{}: {reason}", folder.join("init.lua").display())),
            None => Ok(self.sources),
        }
    }

    /// `below` is the path below the handlers folder, with a slash at its end; it is empty for that folder itself.
    fn folder(&mut self, folder: &Path, below: &str) -> Result<(), String> {
        let entries = folder
            .canonicalize()
            .and_then(|real| Ok((real, fs::read_dir(folder)?)));
        let (real, entries) = match entries {
            Ok(found) => found,
            Err(error) if below.is_empty() => return Err(cannot_read(folder, &error)),
            Err(error) => {
                self.refuse(below.to_owned(), &error);
                return Ok(());
            }
        };
        self.folders += 1;
        if self.folders > FOLDERS_MAX {
            return Err(format!("handlers folder: more than {FOLDERS_MAX} folders"));
        }
        if !self.above.insert(real.clone()) {
            return Ok(());
        }
        for entry in entries {
            let entry = entry.map_err(|error| cannot_read(folder, &error))?;
            self.entry(&entry.path(), &entry.file_name(), below)?;
        }
        self.above.remove(&real);
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: &OsStr, below: &str) -> Result<(), String> {
        let Some(name) = name.to_str() else {
            let name = name.to_string_lossy();
            if is_lua(&name) {
                self.unusable(format!("{below}{name}"), "has a name that is not UTF-8");
            }
            return Ok(());
        };
        if name.starts_with('.') {
            return Ok(());
        }
        let key = format!("{below}{name}");
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() && is_lua(name) => {
                self.unusable(key, "is a folder, not a regular file");
            }
            Ok(meta) if meta.is_dir() => return self.folder(path, &format!("{key}/")),
            Ok(meta) if is_lua(name) => return self.file(path, key, &meta),
            Ok(_) => {}
            // An editor's file that is gone already, or a foreign link without a target.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if is_lua(name) && path.is_symlink() {
                    self.unusable(key, "is a link to a file that does not exist");
                }
            }
            Err(error) => self.refuse(if is_lua(name) { key } else { key + "/" }, &error),
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, key: String, meta: &Metadata) -> Result<(), String> {
        let module = key.strip_suffix(".lua").unwrap_or(&key);
        if module.contains('.') {
            let better = module.replace('.', "_");
            let reason = format!(
                "is never loaded, since the dot in its name or in that of its folder would be taken for the one before the \
                 function; rename it to `{better}.lua`, or move it away"
            );
            self.unusable(key, reason);
            return Ok(());
        }
        if is_library(module) {
            let reason = "is never loaded, since a library has this name; rename the file";
            self.unusable(key, reason);
            return Ok(());
        }
        if let Some(kind) = regular_file::kind(meta.file_type()) {
            self.unusable(key, format!("is {kind}, not a regular file"));
            return Ok(());
        }
        self.bytes += meta.len();
        if self.sources.files.len() >= FILES_MAX || self.bytes > BYTES_MAX {
            return Err(format!(
                "handlers folder: more than {FILES_MAX} files or {} MiB",
                BYTES_MAX >> 20
            ));
        }
        match regular_file::read(path) {
            Ok(content) => _ = self.sources.files.insert(key, content.into()),
            // It is gone already.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => self.refuse(key, &error),
        }
        Ok(())
    }

    fn refuse(&mut self, key: String, error: &io::Error) {
        self.unusable(key, format!("cannot be read: {}", config::words(error)));
    }

    fn unusable(&mut self, key: String, reason: impl Into<String>) {
        self.sources.unusable.insert(key, reason.into());
    }
}

fn is_lua(name: &str) -> bool {
    name.strip_suffix(".lua").is_some()
}

fn cannot_read(path: &Path, error: &io::Error) -> String {
    format!(
        "{}: cannot be read: {}",
        path.display(),
        config::words(error)
    )
}

/// The error of the configuration itself.
fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "does not exist".to_owned(),
        _ => format!("cannot be read: {}", config::words(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "[kafkaConfig]\nbrokers = ['localhost:9092']\n[consumerConfig]\ngroupId = 'g'\n\
                          [[listeners]]\ntopic = 't'\nhandler = 'orders.f'\n";

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in [("config.toml", CONFIG)].iter().chain(files) {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    #[test]
    fn a_bundle_holds_every_lua_file_but_hidden_ones() {
        let folder = folder(&[
            ("handlers/orders.lua", "a"),
            ("handlers/billing/x.lua", "b"),
            ("handlers/..data/y.lua", "c"),
            ("handlers/readme.md", "d"),
        ]);
        let path = folder.path().join("config.toml");
        let bundle = load(&path, 7).unwrap();
        assert_eq!(
            bundle.sources.files.keys().collect::<Vec<_>>(),
            ["billing/x.lua", "orders.lua"]
        );
        let hash = read(&path, CONFIG).unwrap().hash;
        assert_eq!((bundle.number, bundle.hash), (7, hash));
    }

    #[test]
    fn equal_bytes_have_an_equal_hash() {
        let folder = folder(&[("handlers/orders.lua", "a")]);
        let path = folder.path().join("config.toml");
        let first = read(&path, CONFIG).unwrap().hash;
        assert_eq!(read(&path, CONFIG).unwrap().hash, first);
        fs::write(folder.path().join("handlers/orders.lua"), "b").unwrap();
        assert_ne!(read(&path, CONFIG).unwrap().hash, first);
    }

    #[test]
    fn links_are_followed_but_not_in_a_circle() {
        let folder = folder(&[("elsewhere/orders.lua", "a"), ("handlers/x.lua", "b")]);
        let at = |name: &str| folder.path().join(name);
        std::os::unix::fs::symlink(at("elsewhere/orders.lua"), at("handlers/orders.lua")).unwrap();
        std::os::unix::fs::symlink(at("handlers"), at("handlers/again")).unwrap();
        let path = at("config.toml");
        let snapshot = read(&path, CONFIG).unwrap();
        assert_eq!(
            snapshot.sources.files.keys().collect::<Vec<_>>(),
            ["orders.lua", "x.lua"]
        );
    }

    /// What other programs leave in the folder.
    #[test]
    fn a_file_that_nothing_can_load_is_a_warning() {
        let folder = folder(&[
            ("handlers/orders.lua", "a"),
            ("handlers/orders.sync-conflict.lua", "b"),
            ("handlers/x.test.lua", "c"),
            ("handlers/old.d/x.lua", "d"),
            ("handlers/table.lua", "e"),
            ("handlers/folder.lua/x.lua", "f"),
        ]);
        let at = |name: &str| folder.path().join(name);
        let path = at("config.toml");
        let hash = read(&path, CONFIG).unwrap().hash;
        std::os::unix::fs::symlink("/no/such/file", at("handlers/gone.lua")).unwrap();
        std::os::unix::fs::symlink("round.lua", at("handlers/round.lua")).unwrap();
        make_pipe(&at("handlers/pipe.lua"));
        std::os::unix::fs::symlink("/no/such/file", at("handlers/foreign")).unwrap();
        let snapshot = read(&path, CONFIG).unwrap();
        assert_eq!(snapshot.hash, hash, "nothing that runs has changed");
        let config = check(snapshot, 1).unwrap().config;
        let beginnings = [
            "folder.lua: is a folder, not a regular file",
            "gone.lua: is a link to a file that does not exist",
            "old.d/x.lua: is never loaded, since the dot",
            "orders.sync-conflict.lua: is never loaded, since the dot",
            "pipe.lua: is a named pipe, not a regular file",
            "round.lua: cannot be read: ",
            "table.lua: is never loaded, since a library has this name",
            "x.test.lua: is never loaded, since the dot",
        ];
        assert_eq!(config.warnings.len(), beginnings.len(), "{config:?}");
        for (warning, beginning) in config.warnings.iter().zip(beginnings) {
            let expected = at("handlers").join(beginning).display().to_string();
            assert!(warning.starts_with(&expected), "{warning}");
        }
        assert!(config.warnings[3].contains("rename it to `orders_sync-conflict.lua`"));
    }

    #[test]
    fn a_file_that_is_needed_and_cannot_be_loaded_is_an_error() {
        let folder = folder(&[("handlers/other.lua", "a")]);
        let at = |name: &str| folder.path().join(name);
        let refusal = || load(&at("config.toml"), 1).unwrap_err().to_string();
        make_pipe(&at("handlers/orders.lua"));
        let expected = "handler `handlers/orders.lua` is a named pipe, not a regular file";
        assert!(refusal().contains(expected), "{}", refusal());
        fs::remove_file(at("handlers/orders.lua")).unwrap();
        std::os::unix::fs::symlink("/no/such/file", at("handlers/orders.lua")).unwrap();
        let expected = "handler `handlers/orders.lua` is a link to a file that does not exist";
        assert!(refusal().contains(expected), "{}", refusal());
        std::os::unix::fs::symlink("/no/such/file", at("handlers/init.lua")).unwrap();
        let expected = "handlers/init.lua: is a link to a file that does not exist";
        assert!(refusal().contains(expected), "{}", refusal());
    }

    fn make_pipe(path: &Path) {
        let made = std::process::Command::new("mkfifo").arg(path).status();
        assert!(made.unwrap().success());
    }
}
