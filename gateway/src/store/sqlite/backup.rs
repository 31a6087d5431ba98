//! Backup of a data file in use: a consistent copy that is verified before it gets its final name.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::archive;
use super::database::{check_name, connect, existing, private_file};
use super::reader::read_page;
use crate::ledger::{Head, Verifier};
use crate::store::error::OpenError;

/// Content of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupSummary {
    /// Number of chains.
    pub chains: u64,
    /// Number of events.
    pub events: u64,
}

/// Error of a backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A chain in the data file is broken.
    #[error(
        "chain {chain_id:?} of tenant {tenant_id:?} is broken at event {first_broken}; no backup was written"
    )]
    Broken {
        /// The tenant.
        tenant_id: String,
        /// The chain.
        chain_id: String,
        /// The first broken or missing event.
        first_broken: u64,
    },
    /// The copy is damaged.
    #[error("the copy is damaged; no backup was written: {0}")]
    Damaged(String),
    /// The target exists.
    #[error("{0}: already exists; expected a new file name")]
    Exists(PathBuf),
    /// The copy cannot be written.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// The data file cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Copies the data file `data` to the new file `to`, accessible to its owner only, also while a
/// gateway runs. The copy is a consistent snapshot, verified event by event, and synced to disk
/// before it gets its name.
///
/// # Errors
///
/// Returns an error if `to` exists, the data cannot be read, the copy cannot be written, or a chain
/// is broken. Then nothing is left at `to`.
pub fn backup(data: &Path, to: &Path) -> Result<BackupSummary, BackupError> {
    check_name(to)?;
    let source = existing(data)?;
    let failed = |error| BackupError::Io(to.to_owned(), error);
    if fs::symlink_metadata(to).is_ok() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let folder = match to.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    let folder = fs::canonicalize(folder).map_err(failed)?;
    let name = to.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    let (partial, whole) = (folder.join(partial_name(name)), folder.join(name));
    // Removed on drop in any case.
    let made = Partial(partial);
    private_file().create_new(true).open(&made.0).map_err(failed)?;
    let copied = copy(&source, &made.0)?;
    File::open(&made.0).and_then(|file| file.sync_all()).map_err(failed)?;
    // Unlike a rename, a link fails if the target exists.
    fs::hard_link(&made.0, &whole).map_err(|error| match error.kind() == io::ErrorKind::AlreadyExists {
        true => BackupError::Exists(to.to_owned()),
        false => failed(error),
    })?;
    drop(made);
    #[cfg(unix)]
    File::open(&folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    Ok(copied)
}

/// A file that is removed on drop.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        for suffix in ["", "-journal"] {
            let mut path = self.0.as_os_str().to_owned();
            path.push(suffix);
            let _ = fs::remove_file(path);
        }
    }
}

fn partial_name(name: &std::ffi::OsStr) -> std::ffi::OsString {
    let mut partial = std::ffi::OsString::from(".");
    partial.push(name);
    partial.push(format!(".{}.partial", uuid::Uuid::now_v7().simple()));
    partial
}

fn copy(source: &Path, to: &Path) -> Result<BackupSummary, BackupError> {
    let failed = |error| OpenError::Sqlite(source.to_owned(), error);
    let text =
        to.to_str().ok_or_else(|| BackupError::Io(to.to_owned(), io::ErrorKind::InvalidInput.into()))?;
    let connection = connect(source).map_err(failed)?;
    connection.execute("VACUUM INTO ?1", [text]).map_err(failed)?;
    drop(connection);
    let failed = |error| BackupError::Damaged(format!("{error}"));
    let copy = Connection::open(to).map_err(failed)?;
    let found: String = copy.query_one("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if found != "ok" {
        return Err(BackupError::Damaged(found));
    }
    let copied = verify(&copy)?;
    // The copy is not in use and has no write-ahead log.
    copy.query_one("PRAGMA journal_mode = DELETE", [], |_| Ok(())).map_err(failed)?;
    copy.execute("UPDATE state SET is_open = 0", []).map_err(failed)?;
    Ok(copied)
}

/// Verifies all events of all chains.
fn verify(copy: &Connection) -> Result<BackupSummary, BackupError> {
    let failed = |error: rusqlite::Error| BackupError::Damaged(error.to_string());
    let mut statement =
        copy.prepare("SELECT tenant_id, chain_id, length, head FROM chains ORDER BY id").map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    let mut copied = BackupSummary { chains: 0, events: 0 };
    while let Some(row) = rows.next().map_err(failed)? {
        let tenant_id: String = row.get(0).map_err(failed)?;
        let chain_id: String = row.get(1).map_err(failed)?;
        let length: i64 = row.get(2).map_err(failed)?;
        let head = Head { length: u64::try_from(length).unwrap_or(0), hash: row.get(3).map_err(failed)? };
        let archived = archive::find(copy, &tenant_id, &chain_id).map_err(failed)?.unwrap_or_default();
        let mut verifier = Verifier::after(archived.head);
        loop {
            let after = verifier.head().length;
            let page = read_page(copy, &tenant_id, &chain_id, after, u64::MAX).map_err(failed)?;
            if page.is_empty() || !page.iter().all(|event| verifier.push(&event.text)) {
                break;
            }
        }
        copied.chains += 1;
        copied.events += head.length;
        if let Some(first_broken) = verifier.finish(head).first_broken {
            return Err(BackupError::Broken { tenant_id, chain_id, first_broken });
        }
    }
    Ok(copied)
}
