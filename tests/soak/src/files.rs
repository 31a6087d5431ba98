//! Removes and replaces data files of a running gateway: it must not decide until they are
//! restored.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use actpass_core::{ActPass, Action};
use serde_json::json;

use crate::Result;
use crate::call::{AGENT, KEY, TOOL};

/// Resource prefix of these requests, which distinguishes them from the workers'.
pub const RESOURCE: &str = "file:";

/// Requests sent while a file is missing.
const PROBES: usize = 8;
/// Maximum time until a gateway decides again after its file is restored.
const RECOVERY: Duration = Duration::from_secs(30);

/// Damage to data files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The data file is removed.
    Removed,
    /// The data file is replaced by another file.
    Replaced,
    /// The write-ahead log is removed.
    LogRemoved,
}

impl Damage {
    /// Returns the kinds in turn.
    pub fn numbered(number: u64) -> Self {
        match number % 3 {
            0 => Self::Removed,
            1 => Self::Replaced,
            _ => Self::LogRemoved,
        }
    }

    fn file(self, data: &Path) -> PathBuf {
        match self {
            Self::Removed | Self::Replaced => data.to_owned(),
            Self::LogRemoved => with_suffix(data, "-wal"),
        }
    }
}

/// Results of damaging files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damaged {
    /// Number of times that files were damaged and restored.
    pub times: u64,
    /// Requests rejected with 503 in between.
    pub refused: u64,
    /// Events returned after the file was restored.
    pub events: Vec<String>,
    /// Violations, one sentence each.
    pub violations: Vec<String>,
}

impl Damaged {
    /// Damages the data of the gateway at `address`, sends requests, and restores the file.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be moved, or the gateway does not recover.
    pub async fn damage(
        &mut self,
        data: &Path,
        address: SocketAddr,
        ca: Option<&str>,
        number: u64,
    ) -> Result<()> {
        let damage = Damage::numbered(number);
        let client = client(address, ca)?;
        let file = damage.file(data);
        let away = with_suffix(&file, ".away");
        std::fs::rename(&file, &away).map_err(|error| format!("{}: {error}", file.display()))?;
        if damage == Damage::Replaced {
            std::fs::write(&file, "")?;
        }
        for probe in 0..PROBES {
            let id = format!("{}-{number}-{probe}", address.port());
            match client.preflight(&action(&id)).await {
                Ok(decision) => self.violations.push(format!(
                    "{damage:?}, {}: decided while its file was missing: {}",
                    file.display(),
                    decision.as_json()
                )),
                Err(error) if error.status() == Some(503) => self.refused += 1,
                Err(error) => {
                    self.violations.push(format!("{damage:?}, {}: expected a 503: {error}", file.display()));
                }
            }
        }
        std::fs::rename(&away, &file)?;
        self.times += 1;
        self.events.push(recovered(&client, address, number).await?);
        Ok(())
    }
}

/// Waits until the gateway decides again and returns the event's id.
async fn recovered(client: &ActPass, address: SocketAddr, number: u64) -> Result<String> {
    let began = Instant::now();
    for attempt in 0_u64.. {
        let id = format!("{}-{number}-back-{attempt}", address.port());
        match client.preflight(&action(&id)).await {
            Ok(decision) => {
                return Ok(decision.evidence_event_id().ok_or("a decision without an event")?.to_string());
            }
            Err(error) if began.elapsed() > RECOVERY => {
                return Err(format!(
                    "the gateway did not recover after its file was restored: \
                {error}"
                )
                .into());
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    Err("no attempts left".into())
}

fn action(id: &str) -> Action {
    Action::new(AGENT, TOOL)
        .resource(format!("{RESOURCE}{id}"))
        .args(json!({"amount": 4900, "currency": "usd"}))
}

/// A client without retries that bypasses the proxy.
fn client(address: SocketAddr, ca: Option<&str>) -> Result<ActPass> {
    let scheme = if ca.is_some() { "https" } else { "http" };
    let builder = ActPass::builder().api_key(KEY).agent_id(AGENT).base_url(format!("{scheme}://{address}"));
    let builder = builder.max_retries(0).circuit_failures(0).timeout(Duration::from_secs(20));
    Ok(match ca {
        Some(ca) => builder.ca(ca),
        None => builder,
    }
    .build()?)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
