//! The API key of the proxy: a variable, or a file that `init` writes.

use std::fs;
use std::io;
use std::path::PathBuf;

use actpass_core::Secret;

use crate::{Error, files};

/// The variable of the API key.
pub(crate) const VARIABLE: &str = "ACTPASS_API_KEY";

/// The file of the API key, which is used without the variable.
pub(crate) fn file() -> Result<PathBuf, Error> {
    Ok(files::settings_folder()?.join("api-key"))
}

/// The API key: `given`, else the file's; `None` without both. The variable, if not empty, is
/// `given`.
///
/// # Errors
///
/// The file is not readable, or other users may read it.
pub(crate) fn find(given: Option<String>) -> Result<Option<Secret>, Error> {
    if let Some(key) = given.filter(|key| !key.is_empty()) {
        return Ok(Some(Secret::new(key)));
    }
    let Ok(path) = file() else { return Ok(None) };
    let failed =
        |problem: &dyn std::fmt::Display| -> Error { format!("{}: {problem}", path.display()).into() };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    if files::is_open_to_others(&path) {
        return Err(failed(&"other users may read it; run chmod 600 on it"));
    }
    match text.trim() {
        "" => Err(failed(&"expected an API key, found an empty file")),
        key => Ok(Some(Secret::new(key))),
    }
}

/// The key of the variable, if the file has another one or is missing, and the file.
pub(crate) fn to_store() -> Result<Option<(PathBuf, Secret)>, Error> {
    let Some(key) = std::env::var(VARIABLE).ok().filter(|key| !key.is_empty()) else { return Ok(None) };
    let path = file()?;
    match fs::read_to_string(&path) {
        Ok(text) if text.trim() == key => Ok(None),
        Ok(_) | Err(_) => Ok(Some((path, Secret::new(key)))),
    }
}
