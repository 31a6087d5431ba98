//! Which data file, and how it is reached: that it is an ordinary, private file, that one gateway alone has it, and that it is still
//! the one at its path.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::store::error::OpenError;

/// The files that SQLite keeps beside a data file, by what is added to its name.
const SIDECAR_SUFFIXES: [&str; 2] = ["-wal", "-shm"];

/// How long a statement waits for another program that holds the file.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How many statements a connection keeps prepared; there are fewer.
const STATEMENT_CACHE: usize = 64;

/// How much of the file the writer keeps in memory: -1 is 1 KiB. Idempotency keys come in no order, so each is
/// looked for on another page of their index.
const CACHE_KIB: i64 = -16 * 1024;

/// A data file that is open.
#[derive(Debug)]
pub(super) struct DataFile {
    /// As the settings name it.
    named: PathBuf,
    /// Without links; what SQLite opens.
    path: PathBuf,
    /// The files that must stay in place, and which they are.
    watched: Vec<WatchedFile>,
    is_lost: AtomicBool,
}

/// A file that must stay in place.
#[derive(Debug)]
struct WatchedFile {
    path: PathBuf,
    identity: Identity,
    /// How long it is at least: while the gateway runs, SQLite makes none of them shorter.
    length: AtomicU64,
}

impl WatchedFile {
    fn is_in_place(&self) -> bool {
        // Before the look, which another thread may overtake.
        let known = self.length.load(Ordering::Relaxed);
        let Ok(metadata) = fs::metadata(&self.path) else { return false };
        self.length.fetch_max(metadata.len(), Ordering::Relaxed);
        identity(&metadata) == self.identity && metadata.len() >= known
    }
}

/// Which file is at a path, whatever it is called.
#[cfg(unix)]
type Identity = (u64, u64);
#[cfg(not(unix))]
type Identity = ();

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;

    (metadata.dev(), metadata.ino())
}

/// An open file cannot be removed there.
#[cfg(not(unix))]
fn identity(_: &Metadata) -> Identity {}

impl DataFile {
    /// Makes the file if it is not there, makes it and its companions private, and locks it for one gateway: until the
    /// handle is dropped, which must outlive every connection to the file. Closing any handle of a file gives up the
    /// locks that SQLite holds on it in this process.
    pub(super) fn open(named: &Path) -> Result<(Self, Lock), OpenError> {
        let failed = |error| OpenError::Io(named.to_owned(), error);
        check_name(named)?;
        if check_kind(named)?.is_none() {
            match private_file().create_new(true).open(named) {
                Ok(_) => {}
                // Another process was first, or a link leads to where there is no file yet.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    private_file().create(true).truncate(false).open(named).map(drop).map_err(failed)?;
                }
                Err(error) => return Err(failed(error)),
            }
            check_kind(named)?;
        }
        let path = fs::canonicalize(named).map_err(failed)?;
        let lock = lock(named, &path)?;
        make_private(&path).map_err(failed)?;
        Ok((Self::at(named, path), lock))
    }

    /// A file that is there, which a gateway may have.
    pub(super) fn existing_file(named: &Path) -> Result<Self, OpenError> {
        let path = existing(named)?;
        Ok(Self::at(named, path))
    }

    fn at(named: &Path, path: PathBuf) -> Self {
        Self { named: named.to_owned(), path, watched: Vec::new(), is_lost: AtomicBool::new(false) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is anything in a write-ahead log. While a gateway has the file there always is, and who only looks
    /// at a file without one leaves an empty one behind.
    pub(super) fn has_wal(&self) -> bool {
        fs::metadata(sidecar(&self.path, "-wal")).is_ok_and(|metadata| metadata.len() > 0)
    }

    /// Takes note of which files must stay in place. They must all be there.
    pub(super) fn watch_files(&mut self) -> Result<(), OpenError> {
        let companions = SIDECAR_SUFFIXES.map(|suffix| sidecar(&self.path, suffix));
        for path in [self.named.clone(), self.path.clone()].into_iter().chain(companions) {
            let metadata = fs::metadata(&path).map_err(|error| OpenError::Io(path.clone(), error))?;
            let length = AtomicU64::new(metadata.len());
            self.watched.push(WatchedFile { identity: identity(&metadata), length, path });
        }
        Ok(())
    }

    /// Whether what is written to the open file can be found at its path. Logs once when it no longer can.
    pub(super) fn is_in_place(&self) -> bool {
        let gone = self.watched.iter().find(|part| !part.is_in_place());
        let was_lost = self.is_lost.swap(gone.is_some(), Ordering::Relaxed);
        match gone {
            Some(WatchedFile { path, .. }) if !was_lost => tracing::error!(
                file = %path.display(),
                "a data file was removed, replaced or cut short while it is in use: nothing is decided until it is back; to start \
                 with what is there now, restart the gateway"
            ),
            None if was_lost => tracing::info!("the data files are back in place"),
            Some(_) | None => {}
        }
        gone.is_none()
    }
}

/// The path, without links, of a data file that is there.
pub(super) fn existing(named: &Path) -> Result<PathBuf, OpenError> {
    check_name(named)?;
    match check_kind(named)? {
        Some(_) => fs::canonicalize(named).map_err(|error| OpenError::Io(named.to_owned(), error)),
        None => Err(OpenError::Io(named.to_owned(), io::ErrorKind::NotFound.into())),
    }
}

/// Refuses names that SQLite reads as something else than a file of that name.
pub(super) fn check_name(named: &Path) -> Result<(), OpenError> {
    let text = named.to_string_lossy();
    let last = named.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    if last.is_empty() || last == ":memory:" || last.starts_with("file:") || text.starts_with("file:") {
        return Err(OpenError::Name(named.to_owned()));
    }
    Ok(())
}

/// That an ordinary file is at the path; `None` if nothing is.
fn check_kind(named: &Path) -> Result<Option<Metadata>, OpenError> {
    let metadata = match fs::metadata(named) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::Io(named.to_owned(), error)),
    };
    match metadata.is_file() {
        true => Ok(Some(metadata)),
        false => Err(OpenError::NotAFile(named.to_owned(), kind_of(&metadata))),
    }
}

fn kind_of(metadata: &Metadata) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;

        let kind = metadata.file_type();
        for (is_so, name) in [
            (kind.is_fifo(), "a named pipe"),
            (kind.is_socket(), "a socket"),
            (kind.is_block_device() || kind.is_char_device(), "a device"),
        ] {
            if is_so {
                return name;
            }
        }
    }
    if metadata.is_dir() { "a directory" } else { "no ordinary file" }
}

/// Holds the lock that keeps a second gateway away, until it is dropped.
///
/// It is on the file itself, so by whatever name a second gateway finds the file, it finds the lock. Here it does not
/// touch the locks that SQLite takes, which are of another kind.
#[cfg(target_os = "linux")]
fn lock(named: &Path, path: &Path) -> Result<Lock, OpenError> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    take(named, file.map_err(|error| OpenError::Io(named.to_owned(), error))?)
}

/// As on Linux, but on a file beside the data file: where both kinds of locks are one, SQLite could not lock its own.
/// Another hard link to the data file is not seen.
#[cfg(not(target_os = "linux"))]
fn lock(named: &Path, path: &Path) -> Result<Lock, OpenError> {
    let existing_file = sidecar(path, ".lock");
    let file = private_file().create(true).truncate(false).open(&existing_file);
    take(named, file.map_err(|error| OpenError::Io(existing_file, error))?)
}

/// The lock that keeps a second gateway away, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // To close the file alone is not enough: a process that is just being started holds a copy of the handle.
        let _ = self.0.unlock();
    }
}

fn take(named: &Path, file: File) -> Result<Lock, OpenError> {
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(fs::TryLockError::WouldBlock) => Err(OpenError::Locked(named.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(OpenError::Io(named.to_owned(), error)),
    }
}

/// Corrects the permissions of the file and of what is beside it already. SQLite gives new companions the file's.
pub(super) fn make_private(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    for file in [path.to_owned()].into_iter().chain(SIDECAR_SUFFIXES.map(|suffix| sidecar(path, suffix))) {
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        match fs::set_permissions(&file, private) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn sidecar(path: &Path, suffix: &str) -> PathBuf {
    let mut existing_file = path.as_os_str().to_owned();
    existing_file.push(suffix);
    existing_file.into()
}

/// How a file is opened that its owner alone may read.
pub(super) fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Why nothing was recorded.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("the data file is no longer the one at its path")]
    NotInPlace,
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

pub(super) fn connect_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    Ok(connection)
}

/// A connection that writes. The path is absolute, and so is taken as it is.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // A write-ahead log that is gone means that something was lost: see `was_left_open`.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(connection)
}

/// What every connection that writes is told.
pub(super) fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    connection.pragma_update(None, "cache_size", CACHE_KIB)?;
    // A commit must not wait for it: see `Checkpointer`.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    Ok(())
}
