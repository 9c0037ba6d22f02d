//! Files that another process may have replaced: opened without waiting, and without following a link.

pub(crate) mod own_folder;
pub(crate) mod regular_file;
