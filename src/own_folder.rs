//! The daemon's own folders: state and sockets, for its user alone.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

/// The folder beside the configuration, if neither the file nor systemd names another.
pub(crate) const BESIDE: &str = ".moontide";

/// Makes the folder if it is missing. The folder beside a configuration is in a project, so its version control is
/// told to ignore it.
pub(crate) fn make(directory: &Path) -> io::Result<()> {
    let is_new = !directory.exists();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    if is_new && directory.ends_with(BESIDE) {
        fs::write(directory.join(".gitignore"), "*\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_beside_a_configuration_is_no_part_of_the_project() {
        let project = tempfile::tempdir().unwrap();
        let folder = project.path().join(BESIDE);
        make(&folder).unwrap();
        let written = folder.join(".gitignore");
        assert_eq!(fs::read_to_string(&written).unwrap(), "*\n");

        // Who took it away meant it.
        fs::remove_file(&written).unwrap();
        make(&folder).unwrap();
        assert!(!written.exists());
    }

    #[test]
    fn any_other_folder_is_left_empty() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("run/moontide");
        make(&folder).unwrap();
        assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
    }
}
