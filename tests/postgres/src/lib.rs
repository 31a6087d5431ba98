//! A PostgreSQL server for tests: one per test program, from the installed binaries, with temporary
//! data. It listens on a free port of 127.0.0.1 with TLS and passwords, and uses the default
//! durability settings.
#![cfg(unix)]

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The password of the user `postgres`. It must not appear in test output.
pub const PASSWORD: &str = "pg_password_secret";

/// The maximum startup time of the server.
const START: Duration = Duration::from_secs(60);

/// Stops the server and removes its data when the test program ends in any way, because its end of
/// the pipe closes.
const WATCH: &str = r#"
trap '' INT TERM HUP
"$1/postgres" -D "$2/data" >"$2/log" 2>&1 &
read -r _
kill -INT $!
wait $!
rm -rf "$2"
"#;

type Failure = Box<dyn Error + Send + Sync>;

/// A running server.
#[derive(Debug)]
pub struct Server {
    programs: PathBuf,
    authority: String,
    port: u16,
    databases: AtomicUsize,
    _watch: (Child, ChildStdin),
}

/// Returns the test program's server, started by the first call. `None`, with a message, if
/// PostgreSQL is not installed; an error if `CI` is set.
///
/// # Errors
///
/// If the server does not start.
pub fn server() -> Result<Option<&'static Server>, &'static str> {
    static SERVER: OnceLock<Result<Option<Server>, String>> = OnceLock::new();
    let server = SERVER.get_or_init(|| match programs() {
        Some(programs) => Server::start(programs).map(Some).map_err(|error| error.to_string()),
        None if std::env::var_os("CI").is_some() => {
            Err("PostgreSQL is not installed (Debian: apt-get install postgresql)".to_owned())
        }
        None => {
            // Not `eprintln!`, which the test runner captures.
            let _ = writeln!(
                io::stderr(),
                "SKIPPED: PostgreSQL tests: PostgreSQL is not installed (Debian: apt-get install postgresql)"
            );
            Ok(None)
        }
    });
    match server {
        Ok(server) => Ok(server.as_ref()),
        Err(error) => Err(error),
    }
}

impl Server {
    fn start(programs: PathBuf) -> Result<Self, Failure> {
        let owner = owner()?;
        let folder = TempDir::new()?;
        let own = |path: &Path| owner.map_or(Ok(()), |(user, group)| chown(path, Some(user), Some(group)));
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text)?;
            fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
            own(&path)
        };
        own(folder.path())?;
        write("password", PASSWORD)?;
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let authority = cert.pem();
        write("certificate.pem", &authority)?;
        write("key.pem", &signing_key.serialize_pem())?;

        let as_owner = |program: &Path| {
            let mut command = Command::new(program);
            command.current_dir(folder.path()).stdin(Stdio::null());
            if let Some((user, group)) = owner {
                command.uid(user).gid(group);
            }
            command
        };
        let made = as_owner(&programs.join("initdb"))
            .args(["-D", "data", "-U", "postgres", "-A", "scram-sha-256", "--pwfile", "password"])
            .args(["-E", "UTF8", "--locale", "C", "--no-sync"])
            .output()?;
        if !made.status.success() {
            return Err(format!("initdb: {}", String::from_utf8_lossy(&made.stderr)).into());
        }
        // The port was free a moment ago. If another process takes it, the server reports it and
        // the tests fail.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{folder}'\nmax_connections = 300\n\
             ssl = on\nssl_cert_file = '{folder}/certificate.pem'\nssl_key_file = '{folder}/key.pem'\n",
            folder = folder.path().display()
        );
        let file = folder.path().join("data/postgresql.conf");
        fs::OpenOptions::new().append(true).open(file)?.write_all(settings.as_bytes())?;

        let mut watch = as_owner(Path::new("/bin/sh"))
            .args(["-c", WATCH, "sh"])
            .arg(&programs)
            .arg(folder.path())
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let pipe = watch.stdin.take().ok_or("no pipe to the server's watch")?;
        // From now on, the watcher removes the folder.
        let folder = folder.keep();
        let server =
            Self { programs, authority, port, databases: AtomicUsize::new(0), _watch: (watch, pipe) };
        let started = Instant::now();
        while let Err(error) = server.run("postgres", "SELECT 1") {
            if started.elapsed() > START {
                let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
                return Err(format!("PostgreSQL did not start: {error}{log}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Creates a database and returns its URL, including the password.
    ///
    /// # Errors
    ///
    /// If it cannot be created.
    pub fn database(&self) -> Result<String, Failure> {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.run("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(format!("postgresql://postgres:{PASSWORD}@127.0.0.1:{}/{name}", self.port))
    }

    /// The certificate in PEM that TLS connections to `localhost` must trust.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Runs statements as the user `postgres` and returns their output.
    ///
    /// # Errors
    ///
    /// The server's error message.
    pub fn run(&self, database: &str, statements: &str) -> Result<String, Failure> {
        let done = Command::new(self.programs.join("psql"))
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres", "-d", database])
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statements])
            .env("PGPASSWORD", PASSWORD)
            .stdin(Stdio::null())
            .output()?;
        match done.status.success() {
            true => Ok(String::from_utf8(done.stdout)?),
            false => Err(String::from_utf8_lossy(&done.stderr).into()),
        }
    }
}

/// The folder with the newest server binaries.
fn programs() -> Option<PathBuf> {
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = debian
        .filter_map(|version| {
            Some((version.file_name().to_str()?.parse::<u32>().ok()?, version.path().join("bin")))
        })
        .filter(|(_, bin)| bin.join("initdb").exists())
        .max();
    if let Some((_, bin)) = newest {
        return Some(bin);
    }
    let asked = Command::new("pg_config").arg("--bindir").output().ok()?;
    let bin = PathBuf::from(String::from_utf8(asked.stdout).ok()?.trim());
    bin.join("initdb").exists().then_some(bin)
}

/// The user to run the server as, if the tests run as root: PostgreSQL refuses to run as root.
fn owner() -> Result<Option<(u32, u32)>, Failure> {
    let me = String::from_utf8(Command::new("id").arg("-u").output()?.stdout)?;
    if me.trim() != "0" {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let ids = |wanted: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(wanted))?;
        let mut ids = line.split(':').skip(2).map(str::parse);
        Some((ids.next()?.ok()?, ids.next()?.ok()?))
    };
    let owner = ["postgres", "nobody"].into_iter().find_map(ids);
    owner.map(Some).ok_or_else(|| {
        "no unprivileged user can run the server: expected `postgres` or `nobody` in /etc/passwd".into()
    })
}
