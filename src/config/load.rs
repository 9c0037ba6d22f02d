//! The road from the text of a file to a [`Config`].
//!
//! Parse → mask → interpolate → check names and types → inherit → deserialize → check the rules. Errors are collected
//! on the whole way; only a file that is not TOML ends it early.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::error::Report;
use super::file::File;
use super::scene::Scene;
use super::tree;
use super::{Config, Errors, agree, consumers, interpolate, listeners, made, process, shape};
use crate::config::Sources;

/// Reads and checks a configuration.
///
/// # Errors
///
/// Everything that is wrong with it, at once.
pub(crate) fn load(
    path: &Path,
    text: &str,
    sources: &Sources,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, Errors> {
    let folder = folder(path);
    let mut report = Report::new(text);
    let mut tree = tree::parse(text, &mut report).into_inner();
    shape::mask(&tree, &mut report);
    if !report.is_empty() {
        report.broken();
        return Err(report.finish(path));
    }
    interpolate::tree(
        &mut tree,
        &interpolate::Sources {
            environment,
            folder: &folder,
        },
        &mut report,
    );
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
    let config = resolve(path, &file, sources, environment, &mut scene);
    if scene.report.is_empty() {
        Ok(config)
    } else {
        Err(scene.report.finish(path))
    }
}

fn resolve(
    path: &Path,
    file: &File,
    sources: &Sources,
    environment: &dyn Fn(&str) -> Option<String>,
    scene: &mut Scene<'_, '_>,
) -> Config {
    let consumers = consumers::resolve(file, &listeners::used_consumers(file), scene);
    let listeners = listeners::resolve(file, sources, scene);
    let made = made::of(listeners.iter().map(|(_, listener)| listener), &consumers);
    agree::check(&listeners, &made, scene);
    made::check_rounds(&listeners, &consumers, &made, scene);
    let lua = process::lua(file, scene);
    let log = process::log(file, scene, environment);
    let daemon = process::daemon(file, scene, environment);
    let http = process::http(file, scene);
    Config {
        path: path.to_owned(),
        consumers,
        listeners: listeners
            .into_iter()
            .map(|(_, listener)| listener)
            .collect(),
        lua,
        log,
        daemon,
        http,
        warnings: std::mem::take(&mut scene.report.warnings),
    }
}

/// The folder of handlers, as far as a file that may be wrong elsewhere tells it.
pub(crate) fn handlers_folder(
    path: &Path,
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> PathBuf {
    written_folder(path, text, ["lua", "handlers"], environment)
        .unwrap_or_else(|| folder(path).join("handlers"))
}

/// `daemon.runtimeDirectory`, as far as a file that may be wrong elsewhere tells it.
pub(crate) fn runtime_directory(
    path: &Path,
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Option<PathBuf> {
    written_folder(path, text, ["daemon", "runtimeDirectory"], environment)
}

fn written_folder(
    path: &Path,
    text: &str,
    [table, key]: [&str; 2],
    environment: &dyn Fn(&str) -> Option<String>,
) -> Option<PathBuf> {
    let folder = folder(path);
    let mut report = Report::new(text);
    let mut tree = tree::parse(text, &mut report).into_inner();
    interpolate::tree(
        &mut tree,
        &interpolate::Sources {
            environment,
            folder: &folder,
        },
        &mut report,
    );
    let written = tree::table(&tree, &[table])?.get(key)?.get_ref().as_str()?;
    (!written.is_empty()).then(|| folder.join(written))
}

fn folder(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.parent().map(Path::to_owned).unwrap_or_default()
}
