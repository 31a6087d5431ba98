//! Why data cannot be opened, and why a store fails.

use std::io;
use std::path::PathBuf;

/// Why data could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file or its folder cannot be made or opened.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// SQLite would read its name as something else than a file's.
    #[error(
        "{0}: expected the name of a file; for one that is called so, or begins with `file:`, use another name"
    )]
    Name(PathBuf),
    /// It is no ordinary file.
    #[error("{0}: is {1}; expected a file, or a name that no file has yet")]
    NotAFile(PathBuf, &'static str),
    /// It may be read but not written.
    #[error("{0}: cannot be written; expected a file and a directory that the gateway may write to")]
    ReadOnly(PathBuf),
    /// It is a copy without its write-ahead log.
    #[error(
        "{0}: was in use when it was copied or left, and its write-ahead log ({0}-wal) is missing: decisions that were \
         answered may be lost. Put the log beside it, or use a copy that `actpass-gateway backup` made; if nothing is \
         missing because another program folded the log into the file, start once with --accept-missing-wal"
    )]
    MissingWal(PathBuf),
    /// Another gateway has it.
    #[error("{0}: in use by another gateway; two must not write one data file")]
    Locked(PathBuf),
    /// A newer version of the gateway made it: with this schema version, where this one knows those up to that.
    #[error("{0}: has schema version {1}; this gateway knows versions up to {2}, so use a newer one")]
    Newer(PathBuf, i64, i64),
    /// An older version of the gateway made it, and may still use it.
    #[error("{0}: was made by an older version of the gateway; start this version on it once")]
    Older(PathBuf),
    /// This process cannot do more than one thing at a time.
    #[error("no runtime could be started: {0}")]
    Runtime(#[source] io::Error),
    /// It is not a SQLite database, or is damaged.
    #[error("{0}: {1}")]
    Sqlite(PathBuf, #[source] rusqlite::Error),
}

/// Why a database cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DatabaseError {
    /// Its texts are not UTF-8.
    #[error("{0}: has the encoding {1}; expected UTF8")]
    Encoding(String, String),
    /// A newer version of the gateway made its tables: with this schema version, where this one knows those up to that.
    #[error("{0}: has schema version {1}; this gateway knows versions up to {2}, so use a newer one")]
    Newer(String, i32, i32),
    /// An older version of the gateway made its tables, or none did.
    #[error("{0}: was made by an older version of the gateway, or by none; start this version on it once")]
    Older(String),
    /// Its tables cannot be made.
    #[error("{0}: the tables cannot be made: {1}")]
    Schema(String, String),
    /// It cannot be reached, or does not let the gateway in.
    #[error("{0}: {1}")]
    Unreachable(String, String),
}

/// Why a store did not do what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is more to do than it can take; soon there may be less.
    #[error("the store is busy")]
    Busy,
    /// The event has no canonical form.
    #[error("the event has no canonical form")]
    NotCanonical,
    /// It failed or is closed. The log says why.
    #[error("the store does not work")]
    Unavailable,
}
