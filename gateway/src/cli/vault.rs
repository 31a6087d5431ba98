//! `actpass-gateway vault`.

use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use actpass_protocol::Secret;
use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::{Failure, print, require_master_key, with_store};
use crate::clock::{LAST_SECOND, rfc3339};
use crate::config::Settings;
use crate::passport::SigningKeyStore;
use crate::request::MAX_TOOL_CHARACTERS;
use crate::store::{Store, TransitionOutcome};
use crate::vault::{self, MAX_SECRET_BYTES, Vault};

#[derive(Debug, Subcommand)]
pub(super) enum VaultCommand {
    /// List tools with credentials, with the time each was set and expires
    List {
        #[command(flatten)]
        arguments: VaultArguments,
    },
    /// Remove a tool's credential
    Remove {
        /// Tool name as used in requests
        tool: String,
        #[command(flatten)]
        arguments: VaultArguments,
    },
    /// Read a secret from standard input and store it as the tool's credential, replacing any other
    ///
    /// One trailing line break is removed. At a terminal, the command prompts for one line without
    /// echo.
    Set {
        /// Tool name as used in requests
        tool: String,
        /// Expiry: a time such as 2027-01-31T00:00:00Z or a duration such as 90d or 12h; no expiry
        /// if omitted
        #[arg(long, value_name = "WHEN")]
        expires: Option<String>,
        #[command(flatten)]
        arguments: VaultArguments,
    },
}

#[derive(Args, Debug)]
pub(super) struct VaultArguments {
    /// Settings, a TOML file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Tenant; optional if there is only one tenant
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
}

impl VaultCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::List { arguments } => with_vault(&arguments, async |settings, store, tenant| {
                let now = settings.clock.seconds();
                for credential in store.credentials(tenant).await.map_err(Failure::new)? {
                    let until = match credential.expires_at {
                        None => "never".to_owned(),
                        Some(at) if credential.has_expired(now) => format!("{} (has expired)", rfc3339(at)),
                        Some(at) => rfc3339(at),
                    };
                    let (tool, set_at) = (credential.tool_id.escape_debug(), rfc3339(credential.set_at));
                    print(format_args!("{tool}\t{}\tset {set_at}\texpires {until}", credential.id))?;
                }
                Ok(())
            }),
            Self::Remove { tool, arguments } => with_vault(&arguments, async |_, store, tenant| {
                let none = || {
                    Failure::Failed(format!(
                        "tenant {tenant:?} has no credential for tool \
                        {tool:?}"
                    ))
                };
                let credential =
                    store.credential(tenant, &tool).await.map_err(Failure::new)?.ok_or_else(none)?;
                match store.change(vault::remove(tenant, &credential)).await.map_err(Failure::new)? {
                    TransitionOutcome::Recorded => print(format_args!("removed {}", credential.id)),
                    TransitionOutcome::Refused(_) | TransitionOutcome::Stale => {
                        Err(Failure::new("the credential was replaced concurrently and was not removed"))
                    }
                }
            }),
            Self::Set { tool, expires, arguments } => {
                with_vault(&arguments, async |settings, store, tenant| {
                    let characters = tool.chars().count();
                    if characters == 0 || characters > MAX_TOOL_CHARACTERS {
                        let problem =
                            format!("expected a tool name of 1 to {MAX_TOOL_CHARACTERS} characters");
                        return Err(Failure::Failed(problem));
                    }
                    let master = require_master_key(settings)?;
                    // The gateway could not open a credential sealed with another master key.
                    SigningKeyStore::check(store, &master).await.map_err(Failure::new)?;
                    let now = settings.clock.seconds();
                    let expires_at = expires
                        .as_deref()
                        .map(|expires| read_expiry("--expires", expires, now))
                        .transpose()?;
                    let vault = Vault::new(&master).map_err(Failure::new)?;
                    let credential =
                        vault.seal(tenant, &tool, &read_secret()?, now, expires_at).map_err(Failure::new)?;
                    let id = credential.id.clone();
                    store.record(vault::set(tenant, credential)).await.map_err(Failure::new)?;
                    print(format_args!("set {id}"))
                })
            }
        }
    }
}

/// Runs `job` for the selected tenant on the gateway's data, also while a gateway runs.
pub(super) fn with_vault(
    arguments: &VaultArguments,
    job: impl AsyncFnOnce(&Settings, &dyn Store, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let settings = Settings::load(&arguments.config).map_err(Failure::Settings)?;
    let tenants: Vec<_> = settings.tenants.iter().map(|tenant| &*tenant.id).collect();
    let tenant = match (arguments.tenant.as_deref(), tenants.as_slice()) {
        (Some(tenant), tenants) if tenants.contains(&tenant) => tenant,
        (None, [only]) => only,
        (_, tenants) => {
            let problem = format!("--tenant: expected one of {}", tenants.join(", "));
            return Err(Failure::Failed(problem));
        }
    };
    with_store(&settings.data, async |store| job(&settings, store, tenant).await)
}

/// Parses the future time of an option, in seconds since 1970.
pub(super) fn read_expiry(option: &str, text: &str, now: i64) -> Result<i64, Failure> {
    let at = match humantime::parse_rfc3339(text) {
        Ok(time) => {
            time.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok())
        }
        Err(_) => humantime::parse_duration(text)
            .ok()
            .and_then(|duration| i64::try_from(duration.as_secs()).ok())
            .and_then(|seconds| now.checked_add(seconds)),
    };
    at.filter(|at| (now + 1..=LAST_SECOND).contains(at)).ok_or_else(|| {
        let expected = "expected a future time such as 2027-01-31T00:00:00Z or a duration such as 90d";
        Failure::Failed(format!("{option}: {expected}, found {text:?}"))
    })
}

/// Reads the secret from standard input. Errors never contain any part of it.
fn read_secret() -> Result<Secret, Failure> {
    if io::stdin().is_terminal() {
        let secret = rpassword::prompt_password("secret (not shown): ").map_err(Failure::new)?;
        return check_secret(Secret::from(secret));
    }
    let limit = MAX_SECRET_BYTES + "\r\n".len();
    // Reads one byte beyond the limit to detect overlong input. The buffer never grows, because
    // reallocation would leave a copy.
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * limit));
    let most = u64::try_from(limit + 1).unwrap_or(u64::MAX);
    io::stdin().lock().take(most).read_to_end(&mut bytes).map_err(Failure::new)?;
    let text = str::from_utf8(&bytes).map_err(|_| Failure::new("the secret is not UTF-8 text"))?;
    let text = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    check_secret(Secret::from(text))
}

fn check_secret(secret: Secret) -> Result<Secret, Failure> {
    match secret.expose().len() {
        1..=MAX_SECRET_BYTES => Ok(secret),
        0 => Err(Failure::new("expected a secret on standard input, found nothing")),
        _ => Err(Failure::Failed(format!("the secret is longer than {MAX_SECRET_BYTES} bytes"))),
    }
}
