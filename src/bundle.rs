//! A bundle: one loaded, checked and numbered set of config and handlers.
//!
//! Start and reload take the same road through here. A bundle consists of bytes that were read once. A later step (a
//! second VM, a late `require`) never reads the disk again, so no call ever mixes two bundles.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::{self, Config, Errors, Sources, Written};

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
    let bytes = fs::read(path).map_err(|error| Errors::of(path, unreadable(&error)))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = String::from_utf8_lossy(valid).matches('\n').count() + 1;
        Errors::of(path, format!("is not UTF-8, in line {line}"))
    })
}

/// Reads every Lua file below the handlers folder of the configuration with this text.
///
/// # Errors
///
/// What cannot be read, or must not lie in the handlers folder.
pub(crate) fn read<'t>(path: &'t Path, text: &'t str) -> Result<Snapshot<'t>, Errors> {
    let mut written = Written::parse(path, text, &environment);
    let handlers = written.handlers();
    let sources = Reader::default()
        .all(&handlers)
        .map_err(|message| Errors::of(path, message))?;
    let mut hasher = DefaultHasher::new();
    (text, &sources).hash(&mut hasher);
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
        Ok(self.sources)
    }

    fn folder(&mut self, folder: &Path, below: &str) -> Result<(), String> {
        let real = folder.canonicalize().map_err(cannot_read(folder))?;
        self.folders += 1;
        if self.folders > FOLDERS_MAX {
            return Err(format!("handlers folder: more than {FOLDERS_MAX} folders"));
        }
        if !self.above.insert(real.clone()) {
            return Ok(());
        }
        for entry in fs::read_dir(folder).map_err(cannot_read(folder))? {
            let entry = entry.map_err(cannot_read(folder))?;
            let (path, name) = (entry.path(), entry.file_name());
            let Some(name) = name.to_str() else {
                return Err(format!("{}: a file's name is not UTF-8", path.display()));
            };
            if name.starts_with('.') {
                continue;
            }
            let meta = match fs::metadata(&path) {
                Ok(meta) => meta,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    if is_lua(name) && path.is_symlink() {
                        return Err(format!(
                            "{}: is a link to a file that does not exist",
                            path.display()
                        ));
                    }
                    // An editor's file that is gone already, or a foreign link without a target.
                    continue;
                }
                Err(error) => return Err(cannot_read(&path)(error)),
            };
            if meta.is_dir() {
                self.folder(&path, &format!("{below}{name}/"))?;
            } else if is_lua(name) {
                self.file(&path, format!("{below}{name}"), meta.len(), meta.is_file())?;
            }
        }
        self.above.remove(&real);
        Ok(())
    }

    fn file(&mut self, path: &Path, key: String, bytes: u64, regular: bool) -> Result<(), String> {
        if !regular {
            return Err(format!("{}: is not a regular file", path.display()));
        }
        let module = key.strip_suffix(".lua").unwrap_or(&key);
        if module.contains('.') {
            let better = module.replace('.', "_");
            return Err(format!(
                "{}: a dot in the name of a handler file or its folder would be taken for the one before the function; rename \
                 it to `{better}.lua`",
                path.display()
            ));
        }
        self.bytes += bytes;
        if self.sources.len() >= FILES_MAX || self.bytes > BYTES_MAX {
            return Err(format!(
                "handlers folder: more than {FILES_MAX} files or {} MiB",
                BYTES_MAX >> 20
            ));
        }
        let content = fs::read(path).map_err(cannot_read(path))?;
        self.sources.insert(key, content.into());
        Ok(())
    }
}

fn is_lua(name: &str) -> bool {
    name.strip_suffix(".lua").is_some()
}

fn cannot_read(path: &Path) -> impl FnOnce(io::Error) -> String {
    let path = path.display().to_string();
    move |error| format!("{path}: cannot be read: {}", config::words(&error))
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
            bundle.sources.keys().collect::<Vec<_>>(),
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
            snapshot.sources.keys().collect::<Vec<_>>(),
            ["orders.lua", "x.lua"]
        );
    }

    #[test]
    fn a_file_name_with_a_dot_of_its_own_is_refused() {
        let folder = folder(&[("handlers/a.b.lua", "a")]);
        let error = load(&folder.path().join("config.toml"), 1)
            .unwrap_err()
            .to_string();
        assert!(error.contains("rename it to `a_b.lua`"), "{error}");
    }
}
