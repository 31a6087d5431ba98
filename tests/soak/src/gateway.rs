//! A gateway process that is killed and restarted on the same data.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::Result;
use crate::call::KEY;

const LONGEST_START: Duration = Duration::from_secs(60);
const LONGEST_END: Duration = Duration::from_secs(30);

/// How to start a gateway.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    program: PathBuf,
    arguments: Vec<OsString>,
    /// Its data file.
    pub data: PathBuf,
    log: PathBuf,
}

impl GatewayConfig {
    /// A dev gateway over plain HTTP.
    pub fn plain(program: &Path, folder: &Path) -> Self {
        let data = folder.join("plain.db");
        let arguments = ["dev", "--listen", "127.0.0.1:0", "--data"].map(OsString::from);
        let arguments = arguments.into_iter().chain([data.clone().into_os_string()]).collect();
        Self { program: program.to_owned(), arguments, data, log: folder.join("plain.gateway.log") }
    }

    /// A gateway with a generated certificate; also returns the certificate in PEM.
    ///
    /// # Errors
    ///
    /// Returns an error if its files cannot be written.
    pub fn tls(program: &Path, policy: &Path, folder: &Path) -> Result<(Self, String)> {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        let certificate = made.cert.pem();
        std::fs::write(folder.join("certificate.pem"), &certificate)?;
        std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem())?;
        let mut master =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join("master.key"))?;
        writeln!(master, "{}", actpass_core::sha256_hex(made.signing_key.serialized_der()))?;
        let policy = serde_json::to_string(&policy.canonicalize()?)?;
        let hash = actpass_core::sha256_hex(KEY.as_bytes());
        let settings = format!(
            "listen = \"127.0.0.1:0\"\ndata = \"tls.db\"\nissuer = \"https://soak.example\"\nmaster_key_file = \"master.key\"\n\
             [tls]\ncertificate = \"certificate.pem\"\nkey = \"key.pem\"\n\
             [[tenants]]\nid = \"dev\"\npolicy = {policy}\n\
             [[keys]]\nname = \"dev-agent\"\nhash = \"sha256:{hash}\"\ntenant = \"dev\"\nrole = \"agent\"\n"
        );
        let path = folder.join("tls.toml");
        std::fs::write(&path, settings)?;
        let arguments = vec![OsString::from("serve"), OsString::from("--config"), path.into_os_string()];
        let config = Self {
            program: program.to_owned(),
            arguments,
            data: folder.join("tls.db"),
            log: folder.join("tls.gateway.log"),
        };
        Ok((config, certificate))
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    ///
    /// Returns an error if it does not start.
    pub async fn start(&self) -> Result<Running> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let mut out = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        let mut line = String::new();
        timeout(LONGEST_START, out.read_line(&mut line)).await??;
        let address = line.trim_end().rsplit_once("://").and_then(|(_, address)| address.parse().ok());
        let address =
            address.ok_or_else(|| format!("{} does not start: {line:?}", self.program.display()))?;
        Ok(Running { child, address, _out: out })
    }

    /// Reads its log.
    ///
    /// # Errors
    ///
    /// Returns an error if the log cannot be read.
    pub fn read_log(&self) -> Result<Log> {
        let mut log = Log::default();
        for line in std::io::BufReader::new(File::open(&self.log)?).lines() {
            log.add(&line?);
        }
        Ok(log)
    }

    /// Exports the chain of decisions offline and verifies it with the gateway's program; returns
    /// the export and the program's output.
    ///
    /// # Errors
    ///
    /// Returns an error if the chain is broken.
    pub async fn export(&self, folder: &Path) -> Result<(PathBuf, String)> {
        let file = folder.join(self.data.file_stem().unwrap_or_default()).with_extension("jsonl");
        let exported = Command::new(&self.program)
            .args(["evidence", "export", "decisions", "--tenant", "dev", "--data"])
            .arg(&self.data)
            .stdout(File::create(&file)?)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?
            .wait_with_output()
            .await?;
        if !exported.status.success() {
            let complaint = String::from_utf8_lossy(&exported.stderr);
            return Err(format!("exporting the chain in {} failed: {complaint}", self.data.display()).into());
        }
        let mut verify = Command::new(&self.program);
        let verified = verify.args(["evidence", "verify"]).arg(&file).kill_on_drop(true).output().await?;
        let said = String::from_utf8_lossy(&verified.stdout).lines().next().unwrap_or_default().to_owned();
        if !verified.status.success() || !said.ends_with("intact") {
            let complaint = String::from_utf8_lossy(&verified.stderr);
            return Err(format!("verifying {} failed: {said} {complaint}", file.display()).into());
        }
        Ok((file, said))
    }
}

/// Log of a gateway over all restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Number of responses by status.
    pub statuses: BTreeMap<String, u64>,
    /// Internal errors, one line each.
    pub complaints: Vec<String>,
    /// Number of detections of a removed or replaced data file.
    pub harmed: u64,
}

impl Log {
    fn add(&mut self, line: &str) {
        let status = line.split_once(" answered status=").and_then(|(_, rest)| rest.split(' ').next());
        if let Some(status) = status {
            *self.statuses.entry(status.to_owned()).or_default() += 1;
        }
        // Errors caused on purpose by `files`.
        let harmed = line.contains("a data file was removed, replaced or truncated");
        self.harmed += u64::from(harmed);
        let follows = line.contains("the data file at the path was replaced");
        let failed = line.contains(" ERROR ") && !harmed && !follows;
        if status == Some("500") || failed || line.contains("panicked") {
            self.complaints.push(line.to_owned());
        }
    }
}

/// A running gateway; killed on drop.
#[derive(Debug)]
pub struct Running {
    child: Child,
    address: SocketAddr,
    /// Kept open, because the process may still print.
    _out: BufReader<ChildStdout>,
}

impl Running {
    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn process(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Kills it with SIGKILL and waits for its exit.
    ///
    /// # Errors
    ///
    /// Returns an error if it had already exited.
    pub async fn kill(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            return Err(format!("the gateway exited unexpectedly: {status}").into());
        }
        Ok(self.child.kill().await?)
    }

    /// Shuts it down cleanly.
    ///
    /// # Errors
    ///
    /// Returns an error if it does not exit with code 0.
    pub async fn end(mut self) -> Result<()> {
        Command::new("kill").arg("-TERM").arg(self.process().to_string()).status().await?;
        match timeout(LONGEST_END, self.child.wait()).await?? {
            status if status.success() => Ok(()),
            status => Err(format!("the gateway exited with {status}").into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_errors_are_found_in_log() {
        let mut log = Log::default();
        let line = |level: &str, status: u16| {
            format!(
                "2026-01-01T00:00:00Z {level} request{{}}: actpass_gateway::http: answered status={status} micros=9"
            )
        };
        [line(" INFO", 200), line(" INFO", 200), line(" INFO", 400)].iter().for_each(|line| log.add(line));
        assert_eq!(log.statuses.get("200"), Some(&2));
        assert_eq!(log.complaints, [""; 0]);
        [line(" INFO", 500), line("ERROR", 503), "thread 'main' panicked at".to_owned()]
            .iter()
            .for_each(|line| log.add(line));
        assert_eq!(log.complaints.len(), 3);
        let harmed = "a data file was removed, replaced or truncated while in use: no decisions \
        until it is restored";
        let follows = "writing to the ledger failed error=the data file at the path was replaced";
        [harmed, follows]
            .iter()
            .for_each(|what| log.add(&format!("2026-01-01T00:00:00Z ERROR store: {what}")));
        assert_eq!((log.complaints.len(), log.harmed), (3, 1));
    }
}
