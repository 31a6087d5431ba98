//! Errors of opening and using stores.

use std::io;
use std::path::PathBuf;

/// Error of opening the data.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file or its directory cannot be created or opened.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// The database is unusable.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// SQLite would interpret the name as something other than a file.
    #[error("{0}: expected a file name; SQLite interprets this name, so rename the file")]
    Name(PathBuf),
    /// It is not a regular file.
    #[error("{0}: is {1}; expected a regular file or a new name")]
    NotAFile(PathBuf, &'static str),
    /// It is not writable.
    #[error("{0}: not writable; the gateway needs write access to the file and its directory")]
    ReadOnly(PathBuf),
    /// The write-ahead log is missing.
    #[error(
        "{0}: was copied or left while in use, and its write-ahead log ({0}-wal) is missing: recorded \
        decisions may be lost. Restore the log next to it, or use a copy made by `actpass-gateway backup`; \
        if another program has checkpointed the log into the file, start once with --accept-missing-wal"
    )]
    MissingWal(PathBuf),
    /// Another gateway uses it.
    #[error("{0}: in use by another gateway; only one gateway can use a data file")]
    Locked(PathBuf),
    /// A newer version created it: found schema version, supported schema version.
    #[error("{0}: schema version {1} is newer than {2}; use a newer gateway")]
    Newer(PathBuf, i64, i64),
    /// An older version created it and may still use it.
    #[error("{0}: created by an older gateway; start this version once to migrate it")]
    Older(PathBuf),
    /// The async runtime cannot be started.
    #[error("the async runtime cannot be started: {0}")]
    Runtime(#[source] io::Error),
    /// It is not a SQLite database, or is damaged.
    #[error("{0}: {1}")]
    Sqlite(PathBuf, #[source] rusqlite::Error),
}

/// Error of opening a database.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DatabaseError {
    /// Its encoding is not UTF-8.
    #[error("{0}: the encoding is {1}; expected UTF8")]
    Encoding(String, String),
    /// A newer version created its tables: found schema version, supported schema version.
    #[error("{0}: schema version {1} is newer than {2}; use a newer gateway")]
    Newer(String, i32, i32),
    /// An older version created its tables, or they do not exist.
    #[error("{0}: not initialized or created by an older gateway; start this version once to migrate it")]
    Older(String),
    /// Its tables cannot be created.
    #[error("{0}: the tables cannot be created: {1}")]
    Schema(String, String),
    /// It is unreachable or denies access.
    #[error("{0}: {1}")]
    Unreachable(String, String),
}

/// Error of a store operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The write queue is full; retry later.
    #[error("the write queue is full")]
    Busy,
    /// A halt started or was lifted in the meantime. Nothing was recorded.
    #[error("the halts have changed")]
    HaltsChanged,
    /// The event has no canonical form.
    #[error("the event has no canonical form")]
    NotCanonical,
    /// The store failed or is closed. The log has details.
    #[error("the store is unavailable")]
    Unavailable,
}
