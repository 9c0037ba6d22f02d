//! `[kv.NAME]`: the stores of handlers, `tide.kv`.

use std::path::{Path, PathBuf};

use super::file::{self, File, OneOrMany};
use super::names::is_word;
use super::scene::Scene;
use super::tree;
use super::unit::Size;
use crate::nearest::suggestion;

const ENTRIES_MAX: u64 = 1_000_000_000;
const BYTES_MAX: Size = Size(1 << 40);
const PREFIX_MAX: usize = 256;
/// Names of files have an end.
const NAME_MAX: usize = 100;

/// A store of handlers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kv {
    pub(crate) name: String,
    pub(crate) backend: KvBackend,
    /// Of the backends in memory and in a file.
    pub(crate) max_entries: u64,
    pub(crate) max_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KvBackend {
    Memory,
    File,
    Redis {
        /// The name of a table `[redis.NAME]`.
        redis: String,
        /// Each key begins with it.
        prefix: String,
        /// Its keys lie on several servers, so none lists them all.
        is_cluster: bool,
    },
}

impl KvBackend {
    /// As the configuration has it.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::File => "file",
            Self::Redis { .. } => "redis",
        }
    }
}

impl Kv {
    /// The file of its entries, for the backend `file`.
    pub(crate) fn path(&self, state_directory: &Path) -> PathBuf {
        state_directory.join(format!("kv-{}.redb", self.name))
    }
}

#[cfg(test)]
impl Kv {
    /// One in memory, with the defaults.
    pub(crate) fn named(name: &str) -> Self {
        let kv = file::Kv::default();
        Self {
            name: name.to_owned(),
            backend: KvBackend::Memory,
            max_entries: kv.max_entries,
            max_bytes: kv.max_bytes.0,
        }
    }
}

pub(super) fn resolve(file: &File, scene: &mut Scene<'_, '_>) -> Vec<Kv> {
    let named = file.kv.iter();
    named.map(|(name, kv)| one(name, kv, file, scene)).collect()
}

fn one(name: &str, kv: &file::Kv, file: &File, scene: &mut Scene<'_, '_>) -> Kv {
    if !is_word(name) || name.len() > NAME_MAX {
        let message = format!(
            "kv `{name}`: a name has letters, digits, `_` and `-` only, at most {NAME_MAX} of them"
        );
        error(name, &[], message, scene);
    }
    if kv.max_entries == 0 || kv.max_entries > ENTRIES_MAX {
        let found = kv.max_entries;
        let message = format!("`maxEntries` is {found}, not from 1 to {ENTRIES_MAX}");
        error(name, &["maxEntries"], message, scene);
    }
    if kv.max_bytes.0 == 0 || kv.max_bytes > BYTES_MAX {
        let found = kv.max_bytes;
        let message = format!("`maxBytes` is {found}, not from 1 B to 1 TiB");
        error(name, &["maxBytes"], message, scene);
    }
    Kv {
        name: name.to_owned(),
        backend: backend(name, kv, file, scene),
        max_entries: kv.max_entries,
        max_bytes: kv.max_bytes.0,
    }
}

fn backend(name: &str, kv: &file::Kv, file: &File, scene: &mut Scene<'_, '_>) -> KvBackend {
    if kv.backend != file::KvBackend::Redis {
        for key in ["redis", "prefix"] {
            if is_written(name, key, scene) {
                let message = format!("`{key}` is for `backend = \"redis\"` alone; remove it");
                error(name, &[key], message, scene);
            }
        }
        return match kv.backend {
            file::KvBackend::File => KvBackend::File,
            _ => KvBackend::Memory,
        };
    }
    for key in ["maxEntries", "maxBytes"] {
        if is_written(name, key, scene) {
            let message =
                format!("`{key}` does not bound Redis, whose `maxmemory` does; remove it");
            error(name, &[key], message, scene);
        }
    }
    let names: Vec<&str> = file.redis.keys().map(String::as_str).collect();
    let redis = kv.redis.clone().unwrap_or_default();
    if redis.is_empty() {
        let message = "`redis` is missing: the name of the table `[redis.NAME]` with the server";
        error(name, &[], message.to_owned(), scene);
    } else if !names.contains(&redis.as_str()) {
        let nearest = suggestion(&redis, &names);
        let message = format!("there is no table `[redis.{redis}]`, {nearest}");
        error(name, &["redis"], message, scene);
    }
    let prefix = kv.prefix.clone();
    let prefix = prefix.unwrap_or_else(|| format!("moontide:{name}:"));
    if prefix.is_empty() || prefix.len() > PREFIX_MAX {
        let message = format!(
            "`prefix` has {} bytes, not from 1 to {PREFIX_MAX}",
            prefix.len()
        );
        error(name, &["prefix"], message, scene);
    }
    let is_cluster = file.redis.get(&redis).is_some_and(|one| {
        one.cluster || matches!(&one.url, Some(OneOrMany::Many(list)) if list.len() > 1)
    });
    KvBackend::Redis {
        redis,
        prefix,
        is_cluster,
    }
}

fn is_written(name: &str, key: &str, scene: &Scene<'_, '_>) -> bool {
    tree::table(scene.tree, &["kv", name]).is_some_and(|table| table.contains_key(key))
}

fn error(name: &str, keys: &[&str], message: String, scene: &mut Scene<'_, '_>) {
    let at = scene.at_keys(&["kv", name], keys);
    scene.report.error(at, message);
}
