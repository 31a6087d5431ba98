//! A gateway as a process that is killed and started again on the same data.

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
    /// Where its ledger is.
    pub data: PathBuf,
    log: PathBuf,
}

impl GatewayConfig {
    /// The gateway for first tries, over plain http.
    pub fn plain(program: &Path, folder: &Path) -> Self {
        let data = folder.join("plain.db");
        let arguments = ["dev", "--listen", "127.0.0.1:0", "--data"].map(OsString::from);
        let arguments = arguments.into_iter().chain([data.clone().into_os_string()]).collect();
        Self { program: program.to_owned(), arguments, data, log: folder.join("plain.gateway.log") }
    }

    /// A gateway with a certificate, which is made for it; also the certificate, in PEM.
    ///
    /// # Errors
    ///
    /// If its files cannot be written.
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

    /// Starts it, and waits until it can decide.
    ///
    /// # Errors
    ///
    /// If it does not start.
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
    /// If it cannot be read.
    pub fn read_log(&self) -> Result<Log> {
        let mut log = Log::default();
        for line in std::io::BufReader::new(File::open(&self.log)?).lines() {
            log.add(&line?);
        }
        Ok(log)
    }

    /// Takes the chain of decisions out of its data, beside which no gateway need run, and has the gateway's own program verify
    /// it; the export, and what the program said.
    ///
    /// # Errors
    ///
    /// If the chain is not whole.
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
            return Err(format!("the chain in {} is not exported: {complaint}", self.data.display()).into());
        }
        let mut verify = Command::new(&self.program);
        let verified = verify.args(["evidence", "verify"]).arg(&file).kill_on_drop(true).output().await?;
        let said = String::from_utf8_lossy(&verified.stdout).lines().next().unwrap_or_default().to_owned();
        if !verified.status.success() || !said.ends_with("whole") {
            let complaint = String::from_utf8_lossy(&verified.stderr);
            return Err(format!("{} does not verify: {said} {complaint}", file.display()).into());
        }
        Ok((file, said))
    }
}

/// What a gateway wrote into its log, over all its lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// How often it answered with each status.
    pub statuses: BTreeMap<String, u64>,
    /// That it failed inside, a line each.
    pub complaints: Vec<String>,
    /// How often it noticed that its data file was removed or replaced.
    pub harmed: u64,
}

impl Log {
    fn add(&mut self, line: &str) {
        let status = line.split_once(" answered status=").and_then(|(_, rest)| rest.split(' ').next());
        if let Some(status) = status {
            *self.statuses.entry(status.to_owned()).or_default() += 1;
        }
        // What `files` does to it on purpose is an error that it must log.
        let harmed = line.contains("a data file was removed, replaced or cut short");
        self.harmed += u64::from(harmed);
        let follows = line.contains("the data file is no longer the one at its path");
        let failed = line.contains(" ERROR ") && !harmed && !follows;
        if status == Some("500") || failed || line.contains("panicked") {
            self.complaints.push(line.to_owned());
        }
    }
}

/// A gateway that runs; dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    address: SocketAddr,
    /// Kept, as it may still print.
    _out: BufReader<ChildStdout>,
}

impl Running {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Kills it with SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    ///
    /// If it ended by itself before.
    pub async fn kill(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            return Err(format!("a gateway ended by itself: {status}").into());
        }
        Ok(self.child.kill().await?)
    }

    /// Has it end as it should.
    ///
    /// # Errors
    ///
    /// If it does not end, or not with code 0.
    pub async fn end(mut self) -> Result<()> {
        Command::new("kill").arg("-TERM").arg(self.process().to_string()).status().await?;
        match timeout(LONGEST_END, self.child.wait()).await?? {
            status if status.success() => Ok(()),
            status => Err(format!("a gateway ended with {status}").into()),
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
        let harmed = "a data file was removed, replaced or cut short while it is in use: nothing is decided until it is back";
        let follows = "the ledger could not be written error=the data file is no longer the one at its path";
        [harmed, follows]
            .iter()
            .for_each(|what| log.add(&format!("2026-01-01T00:00:00Z ERROR store: {what}")));
        assert_eq!((log.complaints.len(), log.harmed), (3, 1));
    }
}
