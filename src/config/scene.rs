//! The scene of the rules: the written configuration, where each key stands in it, and the report for errors.

use std::ops::Range;
use std::path::Path;

use super::error::Report;
use super::tree::{self, Step, Tree};
use crate::kafka::property;

/// The written configuration, as every rule sees it, and the report for its errors.
pub(super) struct Scene<'s, 't> {
    pub(super) tree: &'s Tree<'t>,
    pub(super) text: &'s str,
    /// The folder of the file, absolute.
    pub(super) folder: &'s Path,
    pub(super) report: Report<'s>,
}

impl Scene<'_, '_> {
    pub(super) fn at(&self, path: &[Step<'_>]) -> Option<Range<usize>> {
        tree::locate(self.tree, path)
    }

    pub(super) fn at_keys(&self, table: &[&str], keys: &[&str]) -> Option<Range<usize>> {
        let path: Vec<Step<'_>> = table.iter().chain(keys).copied().map(Step::Key).collect();
        self.at(&path)
    }

    /// The first of `keys` that is written, or the table.
    pub(super) fn at_written(&self, table: &[&str], keys: &[&str]) -> Option<Range<usize>> {
        let written = tree::table(self.tree, table);
        let key = keys
            .iter()
            .find(|key| written.is_some_and(|table| table.contains_key(**key)));
        self.at_keys(table, key.map_or(&[], std::slice::from_ref))
    }

    /// Whether the table itself has these keys, and does not inherit them from `[kafkaConfig]`.
    pub(super) fn is_own(&self, table: &[&str], keys: &[&str]) -> bool {
        let (inner, last) = match keys {
            [way @ .., last] => ([table, way].concat(), last),
            [] => return false,
        };
        let is_there =
            tree::table(self.tree, &inner).is_some_and(|table| table.contains_key(*last));
        let at = self.at_keys(table, keys);
        is_there && at != self.at_keys(&["kafkaConfig"], keys)
    }

    /// The line on which something stands, from 1.
    pub(super) fn line(&self, path: &[Step<'_>]) -> Option<usize> {
        if self.report.is_full() {
            // Nobody sees it, and to count takes its time.
            return None;
        }
        self.at(path)
            .map(|range| self.text[..range.start].matches('\n').count() + 1)
    }

    pub(super) fn is_secret(&self, property: &str, value: &str) -> bool {
        property::is_sensitive(property) || self.report.is_secret(value)
    }
}
