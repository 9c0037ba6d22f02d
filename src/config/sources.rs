//! The Lua files below the handlers folder, as they were on disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    /// By the path below the folder: `billing/orders.lua`.
    pub(crate) files: BTreeMap<String, Arc<[u8]>>,
    /// Files that nothing can load, and folders that cannot be read, which end with a slash. Each has its reason,
    /// which follows the path in a sentence.
    pub(crate) unusable: BTreeMap<String, String>,
}

impl Sources {
    pub(crate) fn contains(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    /// Why this file cannot be loaded, if it is on disk at all.
    pub(crate) fn refusal(&self, path: &str) -> Option<&str> {
        let folders = path.match_indices('/').map(|(slash, _)| &path[..=slash]);
        let mut names = folders.chain([path]);
        names.find_map(|name| self.unusable.get(name).map(String::as_str))
    }

    /// A sentence for each file that nothing can load. It does no harm as long as nothing needs it.
    pub(crate) fn warnings(&self, folder: &Path) -> impl Iterator<Item = String> {
        let unusable = self.unusable.iter();
        unusable.map(move |(name, reason)| format!("{}: {reason}", folder.join(name).display()))
    }
}

#[cfg(test)]
impl FromIterator<(String, Arc<[u8]>)> for Sources {
    fn from_iter<T: IntoIterator<Item = (String, Arc<[u8]>)>>(files: T) -> Self {
        Self {
            files: files.into_iter().collect(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_a_folder_that_cannot_be_read_has_its_reason() {
        let unusable = [("a/", "one"), ("b/x.lua", "two")];
        let unusable = unusable.map(|(name, reason)| (name.to_owned(), reason.to_owned()));
        let sources = Sources {
            unusable: unusable.into(),
            ..Sources::default()
        };
        assert_eq!(sources.refusal("a/b/x.lua"), Some("one"));
        assert_eq!(sources.refusal("b/x.lua"), Some("two"));
        assert_eq!(sources.refusal("b/y.lua"), None);
    }
}
