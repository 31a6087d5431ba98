//! Files of the user: their folders, and atomic writes.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::Error;

/// The mode of a file that only its owner may read.
pub(crate) const PRIVATE: u32 = 0o600;

/// The mode of a file that other users may read.
pub(crate) const SHARED: u32 = 0o644;

/// The user's home folder.
///
/// # Errors
///
/// `HOME` is not set.
pub(crate) fn home() -> Result<PathBuf, Error> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    Ok(home.map(PathBuf::from).ok_or("HOME is not set; it is the user's folder")?)
}

/// The folder for the user's settings of ActPass.
pub(crate) fn settings_folder() -> Result<PathBuf, Error> {
    Ok(xdg("XDG_CONFIG_HOME", ".config")?.join("actpass"))
}

/// The folder for what ActPass keeps for the user.
pub(crate) fn state_folder() -> Result<PathBuf, Error> {
    Ok(xdg("XDG_STATE_HOME", ".local/state")?.join("actpass"))
}

/// A folder of the XDG base directories, which must be absolute.
pub(crate) fn xdg(variable: &str, below_home: &str) -> Result<PathBuf, Error> {
    match std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute()) {
        Some(path) => Ok(path),
        None => Ok(home()?.join(below_home)),
    }
}

/// Writes `bytes` to `path` in one step: a reader sees the old or the new content. An existing file
/// keeps its permissions and its owner; a new one gets `mode`, and missing folders are created.
///
/// # Errors
///
/// The file cannot be written. Then it is unchanged.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    replaced(path, bytes, mode).map_err(|error| format!("{}: {error}", path.display()).into())
}

fn replaced(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // A link stays a link, and its target is replaced.
    let path = match fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    fs::create_dir_all(folder)?;
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    match fs::metadata(&path) {
        Ok(before) => {
            own_as(&file, &before)?;
            file.as_file().set_permissions(before.permissions())?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            file.as_file().set_permissions(of_mode(mode))?;
        }
        Err(error) => return Err(error),
    }
    file.as_file().sync_all()?;
    file.persist(&path)?;
    Ok(())
}

#[cfg(unix)]
fn own_as(file: &NamedTempFile, before: &fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let now = file.as_file().metadata()?;
    match (now.uid(), now.gid()) == (before.uid(), before.gid()) {
        true => Ok(()),
        false => std::os::unix::fs::fchown(file.as_file(), Some(before.uid()), Some(before.gid())),
    }
}

#[cfg(not(unix))]
fn own_as(_: &NamedTempFile, _: &fs::Metadata) -> io::Result<()> {
    Ok(())
}

/// Whether other users may access the file.
#[cfg(unix)]
pub(crate) fn is_open_to_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
pub(crate) fn is_open_to_others(_: &Path) -> bool {
    false
}

#[cfg(unix)]
fn of_mode(mode: u32) -> Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}
