//! The daemon's own folders: state and sockets, for its user alone.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::files::regular_file;

/// The folder beside the configuration, if neither the file nor systemd names another.
pub(crate) const BESIDE: &str = ".moontide";

/// The bits by which others than the owner may write: they could put anything in the place of the daemon's files.
const WRITABLE: u32 = 0o022;

/// Makes the folder if it is missing, and refuses one in which another user may write. The folder beside a
/// configuration is in a project, so its version control is told to ignore it.
pub(crate) fn make(directory: &Path) -> io::Result<()> {
    let is_new = !directory.exists();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    if is_new && directory.ends_with(BESIDE) {
        fs::write(directory.join(".gitignore"), "*\n")?;
    }
    // A link to the folder is in order: systemd makes one for a user of its own.
    check(directory, &fs::metadata(directory)?, own_user()?)
}

/// The user of this process.
fn own_user() -> io::Result<u32> {
    Ok(fs::metadata("/proc/self")?.uid())
}

fn check(directory: &Path, found: &Metadata, own: u32) -> io::Result<()> {
    let (mode, owner, path) = (found.mode() & 0o7777, found.uid(), directory.display());
    if owner != own {
        return Err(io::Error::other(format!(
            "`{path}` belongs to user {owner}, and this process runs as user {own}: run as that user, or \
             `chown {own} {path}`"
        )));
    }
    if mode & WRITABLE != 0 {
        return Err(io::Error::other(format!(
            "`{path}` has mode {mode:04o}, and only its owner may write in it, as with 0700: `chmod 700 {path}`"
        )));
    }
    Ok(())
}

/// Opens a file in a folder of the daemon's own: never by a link, and without a wait for the other end of a named pipe.
pub(crate) fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let refuse = |what: &str| {
        let path = path.display();
        io::Error::other(format!("it is {what}, not a file: `rm {path}`"))
    };
    let file = options.custom_flags(flags).open(path).map_err(|error| {
        match (error.raw_os_error(), fs::symlink_metadata(path)) {
            (Some(libc::ELOOP), _) => refuse("a link"),
            // A FIFO without a reader, a socket.
            (_, Ok(found)) if !found.is_file() => refuse(kind(&found)),
            _ => error,
        }
    })?;
    let found = file.metadata()?;
    if found.is_file() {
        Ok(file)
    } else {
        Err(refuse(kind(&found)))
    }
}

/// A lock, on a file that stays: after a removal two processes could lock two files of one name.
///
/// Its drop gives the lock back by a call. The close alone would leave it for a moment to a child process that another
/// thread has just forked: the child has the open file, too, until it runs its program.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// Takes the lock, or tells that another process has it.
    pub(crate) fn take(path: &Path) -> Result<Self, TryLockError> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).mode(0o600);
        let file = open(path, options).map_err(TryLockError::Error)?;
        file.try_lock()?;
        Ok(Self(file))
    }

    pub(crate) fn file(&self) -> &File {
        &self.0
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The close gives it back, too.
        let _ = self.0.unlock();
    }
}

/// Makes a file anew: whatever lies there is of a process that has ended, or of somebody else.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    options.open(path)
}

fn kind(found: &Metadata) -> &'static str {
    regular_file::kind(found.file_type()).unwrap_or("a folder")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

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

    #[track_caller]
    fn mode(folder: &Path, mode: u32) {
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_folder_in_which_others_may_write_is_refused_with_the_command() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path();
        for open in [0o777, 0o1777, 0o770, 0o702] {
            mode(path, open);
            let error = make(path).unwrap_err().to_string();
            let expected = format!(
                "`{0}` has mode {open:04o}, and only its owner may write in it, as with 0700: `chmod 700 {0}`",
                path.display()
            );
            assert_eq!(error, expected);
        }
        for closed in [0o700, 0o755] {
            mode(path, closed);
            make(path).unwrap();
        }
    }

    #[test]
    fn a_folder_of_another_user_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let found = fs::metadata(place.path()).unwrap();
        let other = found.uid() + 1;
        let error = check(place.path(), &found, other).unwrap_err().to_string();
        assert!(error.contains("belongs to user"), "{error}");
        assert!(error.contains(&format!("`chown {other} ")), "{error}");
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::write(at("file"), "text").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(at("fifo"))
            .status();
        assert!(made.unwrap().success());
        fs::create_dir(at("folder")).unwrap();
        for (name, kind) in [
            ("link", "a link"),
            ("fifo", "a named pipe"),
            ("folder", "a folder"),
        ] {
            for write in [false, true] {
                let error =
                    open(&at(name), OpenOptions::new().read(true).write(write)).unwrap_err();
                let expected = format!("it is {kind}, not a file: `rm {}`", at(name).display());
                assert_eq!(error.to_string(), expected);
            }
        }
        open(&at("file"), OpenOptions::new().read(true)).unwrap();
        let missing = open(&at("missing"), OpenOptions::new().read(true)).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_lock_ends_with_its_owner_although_a_child_has_the_file() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("lock");
        let lock = Lock::take(&path).unwrap();
        let taken = || matches!(Lock::take(&path), Err(TryLockError::WouldBlock));
        assert!(taken());
        let childs = lock.file().try_clone().unwrap();
        drop(lock);
        assert!(!taken());
        drop(childs);
    }

    #[test]
    fn any_other_folder_is_left_empty() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("run/moontide");
        make(&folder).unwrap();
        assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
    }
}
