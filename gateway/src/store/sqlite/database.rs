//! Access to the data file: validation, permissions, exclusive lock, and detection of replacement.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::store::error::OpenError;

/// Suffixes of SQLite's companion files.
const SIDECAR_SUFFIXES: [&str; 2] = ["-wal", "-shm"];

/// Maximum time that a statement waits for another program's lock.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Prepared statements cached per connection; more than there are.
const STATEMENT_CACHE: usize = 64;

/// Page cache of the writer in KiB, negative per SQLite's convention. Random idempotency keys touch
/// random index pages.
const CACHE_KIB: i64 = -16 * 1024;

/// An open data file.
#[derive(Debug)]
pub(super) struct DataFile {
    /// Path as in the settings.
    named: PathBuf,
    /// Path without links, as opened by SQLite.
    path: PathBuf,
    /// Files that must stay in place.
    watched: Vec<WatchedFile>,
    is_lost: AtomicBool,
}

/// A file that must stay in place.
#[derive(Debug)]
struct WatchedFile {
    path: PathBuf,
    identity: Identity,
    /// Minimum length; SQLite does not shrink these files while the gateway runs.
    length: AtomicU64,
}

impl WatchedFile {
    fn is_in_place(&self) -> bool {
        // Read before checking, because another thread may update it.
        let known = self.length.load(Ordering::Relaxed);
        let Ok(metadata) = fs::metadata(&self.path) else { return false };
        self.length.fetch_max(metadata.len(), Ordering::Relaxed);
        identity(&metadata) == self.identity && metadata.len() >= known
    }
}

/// Identity of a file, independent of its path.
#[cfg(unix)]
type Identity = (u64, u64);
#[cfg(not(unix))]
type Identity = ();

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;

    (metadata.dev(), metadata.ino())
}

/// An open file cannot be removed on this platform.
#[cfg(not(unix))]
fn identity(_: &Metadata) -> Identity {}

impl DataFile {
    /// Creates the file if missing, makes it and its companions private, and locks it exclusively.
    /// The returned handle must outlive all connections to the file, because closing any handle
    /// releases SQLite's locks of this process.
    pub(super) fn open(named: &Path) -> Result<(Self, Lock), OpenError> {
        let failed = |error| OpenError::Io(named.to_owned(), error);
        check_name(named)?;
        if check_kind(named)?.is_none() {
            match private_file().create_new(true).open(named) {
                Ok(_) => {}
                // Another process created it first, or a link points to a missing file.
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

    /// Opens an existing file, which a gateway may be using.
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

    /// Returns whether there is a non-empty write-ahead log. While a gateway uses the file, there
    /// always is. Read-only access to a file without one leaves an empty one.
    pub(super) fn has_wal(&self) -> bool {
        fs::metadata(sidecar(&self.path, "-wal")).is_ok_and(|metadata| metadata.len() > 0)
    }

    /// Registers the files that must stay in place. All must exist.
    pub(super) fn watch_files(&mut self) -> Result<(), OpenError> {
        let companions = SIDECAR_SUFFIXES.map(|suffix| sidecar(&self.path, suffix));
        for path in [self.named.clone(), self.path.clone()].into_iter().chain(companions) {
            let metadata = fs::metadata(&path).map_err(|error| OpenError::Io(path.clone(), error))?;
            let length = AtomicU64::new(metadata.len());
            self.watched.push(WatchedFile { identity: identity(&metadata), length, path });
        }
        Ok(())
    }

    /// Returns whether the open files are still at their paths. Logs once when they are not.
    pub(super) fn is_in_place(&self) -> bool {
        let gone = self.watched.iter().find(|part| !part.is_in_place());
        let was_lost = self.is_lost.swap(gone.is_some(), Ordering::Relaxed);
        match gone {
            Some(WatchedFile { path, .. }) if !was_lost => tracing::error!(
                file = %path.display(),
                "a data file was removed, replaced or truncated while in use: no decisions until it is \
                restored; restart the gateway to use the current files"
            ),
            None if was_lost => tracing::info!("the data files are back in place"),
            Some(_) | None => {}
        }
        gone.is_none()
    }
}

/// Returns the path without links of an existing data file.
pub(super) fn existing(named: &Path) -> Result<PathBuf, OpenError> {
    check_name(named)?;
    match check_kind(named)? {
        Some(_) => fs::canonicalize(named).map_err(|error| OpenError::Io(named.to_owned(), error)),
        None => Err(OpenError::Io(named.to_owned(), io::ErrorKind::NotFound.into())),
    }
}

/// Rejects names that SQLite interprets as something other than a file.
pub(super) fn check_name(named: &Path) -> Result<(), OpenError> {
    let text = named.to_string_lossy();
    let last = named.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    if last.is_empty() || last == ":memory:" || last.starts_with("file:") || text.starts_with("file:") {
        return Err(OpenError::Name(named.to_owned()));
    }
    Ok(())
}

/// Checks that the path has a regular file; `None` if there is nothing.
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
    if metadata.is_dir() { "a directory" } else { "not a regular file" }
}

/// Acquires the lock that excludes other gateways until dropped.
///
/// The lock is on the file itself, so it is found under any name of the file. On Linux it does not
/// conflict with SQLite's locks, which are of a different kind.
#[cfg(target_os = "linux")]
fn lock(named: &Path, path: &Path) -> Result<Lock, OpenError> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    take(named, file.map_err(|error| OpenError::Io(named.to_owned(), error))?)
}

/// Same, but with a separate lock file, because both kinds of locks would conflict on this
/// platform. Hard links to the data file are not detected.
#[cfg(not(target_os = "linux"))]
fn lock(named: &Path, path: &Path) -> Result<Lock, OpenError> {
    let existing_file = sidecar(path, ".lock");
    let file = private_file().create(true).truncate(false).open(&existing_file);
    take(named, file.map_err(|error| OpenError::Io(existing_file, error))?)
}

/// The lock that excludes other gateways until dropped.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a process being spawned may hold a copy of the handle.
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

/// Restricts permissions of the file and its companions. SQLite gives new companions the
/// permissions of the file.
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

/// Options to open a file accessible to its owner only.
pub(super) fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Reason why nothing was recorded.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("the data file at the path was replaced")]
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

/// Opens a write connection. The path is absolute and used literally.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // A missing write-ahead log must mean data loss: see `was_left_open`.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(connection)
}

/// Configures a write connection.
pub(super) fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    connection.pragma_update(None, "cache_size", CACHE_KIB)?;
    // Checkpoints must not delay commits: see `Checkpointer`.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    Ok(())
}
