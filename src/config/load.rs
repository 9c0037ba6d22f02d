//! The road from the text of a file to a [`Config`].
//!
//! Parse → mask → interpolate → check names and types → inherit → deserialize → check the rules. Errors are collected
//! on the whole way; only a file that is not TOML ends it early.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::error::Report;
use super::file::File;
use super::scene::Scene;
use super::tree::{self, Tree};
use super::{
    Config, Errors, admin, agree, consumers, exactly_once, http_client, interpolate, kv, listeners,
    made, process, producers, redis, shape, sql,
};
use crate::config::Sources;

/// A configuration as it is written, parsed once.
///
/// References are replaced table by table, each once and not before it counts. So a load opens the file of a secret
/// once, and what needs no secret opens none.
pub(crate) struct Written<'t> {
    path: &'t Path,
    text: &'t str,
    /// The folder of the file, absolute.
    folder: PathBuf,
    environment: &'t dyn Fn(&str) -> Option<String>,
    tree: Tree<'t>,
    /// Top-level keys below which references are replaced.
    interpolated: BTreeSet<String>,
    /// The environment variables that references name.
    referred: RefCell<BTreeSet<String>>,
    is_toml: bool,
    report: Report<'t>,
}

impl<'t> Written<'t> {
    /// Parses the text as far as it is TOML.
    pub(crate) fn parse(
        path: &'t Path,
        text: &'t str,
        environment: &'t dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let mut report = Report::new(text);
        let tree = tree::parse(text, &mut report).into_inner();
        shape::mask(&tree, &mut report);
        Self {
            path,
            text,
            folder: folder(path),
            environment,
            tree,
            interpolated: BTreeSet::new(),
            referred: RefCell::default(),
            is_toml: report.is_empty(),
            report,
        }
    }

    /// The folder of handlers, as far as a file that may be wrong elsewhere tells it.
    pub(crate) fn handlers(&mut self) -> PathBuf {
        self.folder_at("lua", "handlers")
            .unwrap_or_else(|| self.folder.join("handlers"))
    }

    /// `daemon.runtimeDirectory`, as far as a file that may be wrong elsewhere tells it.
    pub(crate) fn runtime_directory(&mut self) -> Option<PathBuf> {
        self.folder_at("daemon", "runtimeDirectory")
    }

    fn folder_at(&mut self, table: &'static str, key: &str) -> Option<PathBuf> {
        self.interpolate(table);
        let written = tree::table(&self.tree, &[table])?;
        let written = written.get(key)?.get_ref().as_str()?;
        (!written.is_empty()).then(|| self.folder.join(written))
    }

    fn interpolate(&mut self, key: &str) {
        if !self.interpolated.insert(key.to_owned()) {
            return;
        }
        let environment = |name: &str| {
            self.referred.borrow_mut().insert(name.to_owned());
            (self.environment)(name)
        };
        let lookup = interpolate::Lookup {
            environment: &environment,
            folder: &self.folder,
        };
        // Of a file that is not TOML nothing else is reported.
        let mut ignored = Report::new(self.text);
        let report = if self.is_toml {
            &mut self.report
        } else {
            &mut ignored
        };
        interpolate::entry(&mut self.tree, key, &lookup, report);
    }

    /// Checks all of it against the Lua files that there are.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, at once.
    pub(crate) fn config(mut self, sources: &Sources) -> Result<Config, Errors> {
        if !self.is_toml {
            self.report.broken();
            return Err(self.report.finish(self.path));
        }
        let keys = self.tree.keys().map(|key| key.get_ref().to_string());
        for key in keys.collect::<Vec<_>>() {
            self.interpolate(&key);
        }
        let Self {
            path,
            text,
            folder,
            environment,
            mut tree,
            referred,
            mut report,
            ..
        } = self;
        shape::check(&mut tree, &mut report);
        tree::inherit(&mut tree);
        let deserializer = toml::Deserializer::from(Spanned::new(0..text.len(), tree.clone()));
        let file = match File::deserialize(deserializer) {
            Ok(file) => file,
            Err(error) => {
                report.error(error.span(), error.message());
                return Err(report.finish(path));
            }
        };
        let mut scene = Scene {
            tree: &tree,
            text,
            folder: &folder,
            report,
        };
        let config = resolve(
            path,
            &file,
            sources,
            environment,
            referred.into_inner(),
            &mut scene,
        );
        if scene.report.is_empty() {
            Ok(config)
        } else {
            Err(scene.report.finish(path))
        }
    }
}

fn resolve(
    path: &Path,
    file: &File,
    sources: &Sources,
    environment: &dyn Fn(&str) -> Option<String>,
    referred: BTreeSet<String>,
    scene: &mut Scene<'_, '_>,
) -> Config {
    let consumers = consumers::resolve(file, &listeners::used_consumers(file), scene);
    let producers = producers::resolve(file, scene);
    let admin = admin::admin(file, scene);
    let listeners = listeners::resolve(file, sources, scene);
    let made = made::of(listeners.iter().map(|(_, listener)| listener), &consumers);
    agree::check(&listeners, &made, &exactly_once::names(&consumers), scene);
    exactly_once::check(&consumers, &producers, &listeners, scene);
    made::check_rounds(&listeners, &consumers, &made, scene);
    let lua = process::lua(file, referred, scene);
    let log = process::log(file, scene, environment);
    let daemon = process::daemon(file, scene, environment);
    let http = process::http(file, scene);
    let http_client = http_client::resolve(file, scene);
    let redis = redis::resolve(file, scene);
    let kv = kv::resolve(file, scene);
    let sql = sql::resolve(file, scene);
    let connection = admin::connection(file, scene);
    Config {
        path: path.to_owned(),
        consumers,
        producers,
        admin,
        connection,
        listeners: listeners
            .into_iter()
            .map(|(_, listener)| listener)
            .collect(),
        lua,
        log,
        daemon,
        http,
        http_client,
        redis,
        kv,
        sql,
        warnings: std::mem::take(&mut scene.report.warnings),
    }
}

fn folder(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.parent().map(Path::to_owned).unwrap_or_default()
}
