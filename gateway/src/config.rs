//! Settings: read from a file or from command-line options, and validated completely before
//! anything starts.

mod sign_in;
mod webhooks;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actpass_protocol::token::Algorithm;
use actpass_protocol::{Json, sha256_hex};
use governor::Quota;
use ipnet::IpNet;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use toml::{Table, Value};

use crate::access_log::AccessLogTarget;
use crate::acs::AcsSettings;
use crate::admission::AdmissionLimits;
use crate::auth::{
    ApiKey, ApiKeyHash, Capability, Directory, Grants, Keyring, MODES, Patterns, Principal, RequestLimit,
    Role, Tenant, WELL_KNOWN_KEYS,
};
use crate::budget::Window;
use crate::checkpoints::Interval;
use crate::client_certificates::{CertificateName, ClientTrust};
use crate::clock::{Clock, parse_millis, rfc3339};
use crate::dpop::Thumbprint;
use crate::files::{self, ReadFile};
use crate::hosts::{Authority, Hosts};
use crate::passport;
use crate::policy::{Policy, RiskTier, ShadowPolicy};
use crate::problems::Problems;
use crate::seal::MasterKey;
use crate::sign_in::SignInSettings;
use crate::store::{Database, Location, TlsTrust};
use crate::traces::{ExportHeaders, TraceSettings};
use crate::webhooks::Webhook;

/// The default policy of `actpass-gateway dev`.
const DEV_POLICY: &[u8] = include_bytes!("../../policies/dev.json");

/// Maximum length of names and ids, in characters.
const MAX_NAME_CHARACTERS: usize = 256;

/// Validated settings of a gateway.
#[derive(Debug)]
pub struct Settings {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Location of the data.
    pub data: Location,
    /// Whether DPoP proofs need a nonce of this process. Default: false.
    pub dpop_nonce: bool,
    /// Log format.
    pub log: LogFormat,
    /// TLS configuration; `None` for plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    /// The authorities of client certificates, if configured.
    pub client_trust: Option<ClientTrust>,
    /// Maximum body size, in bytes.
    pub body_bytes: usize,
    /// The tenants in the order of their ids.
    pub tenants: Vec<Arc<Tenant>>,
    /// The policy files, by tenant.
    pub policy_files: HashMap<String, PathBuf>,
    /// API keys, with their tenants and policies.
    pub keyring: Keyring,
    /// The people who may decide approvals.
    pub directory: Directory,
    /// Timeouts for clients and the store.
    pub timeouts: Timeouts,
    /// Issuer of passports; `None` uses the gateway's URL.
    pub issuer: Option<String>,
    /// Source of the master key, which seals signing keys and credentials.
    pub master_key: MasterKeySource,
    /// Algorithm of new signing keys. Default: EdDSA.
    pub signing_algorithm: Algorithm,
    /// Time to decide an approval, in seconds. Default: 900.
    pub approval_seconds: i64,
    /// Whether a request reuses a pending or approved approval for the same action instead of
    /// opening another. Default: true.
    pub reuse_approvals: bool,
    /// Whether people may approve their own requests. Default: false.
    pub allow_self_approval: bool,
    /// Names of the API keys that may lift halts; `None` for every operator key.
    pub lift_by: Option<Vec<String>>,
    /// Retention of responses under idempotency keys, in seconds. Default: 86400.
    pub retention_seconds: i64,
    /// Interval of ledger checkpoints. Default: every 1000 events or every hour.
    pub checkpoints: Interval,
    /// File to which the signed notes of checkpoints are appended.
    pub checkpoint_file: Option<PathBuf>,
    /// The clock.
    pub clock: Clock,
    /// Host names that the gateway accepts.
    pub hosts: Hosts,
    /// Proxies whose `X-Forwarded-For` header is trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Connection limits.
    pub connections: ConnectionLimits,
    /// Maximum number of pending approvals per agent of a key; all agents of a key together may
    /// have ten times as many. Default: 100.
    pub pending_approvals: u32,
    /// Path under which a proxy serves the gateway, without a trailing slash; empty for the root.
    pub base_path: String,
    /// Minimum level of log lines.
    pub log_level: LogLevel,
    /// The webhooks.
    pub webhooks: Vec<Webhook>,
    /// Sign-in of people at an identity provider.
    pub sign_in: Option<SignInSettings>,
    /// The collector of traces, if configured.
    pub traces: Option<TraceSettings>,
    /// The access log, if configured.
    pub access_log: Option<AccessLogTarget>,
    /// Limits of decisions in progress.
    pub admission: AdmissionLimits,
    /// The separate listener for metrics, if configured.
    pub metrics: Option<MetricsSettings>,
    /// When the first certificate of the TLS chain expires, in seconds since 1970.
    pub certificate_expires_at: Option<i64>,
    /// Warnings about valid but suspicious settings, each with the member's name.
    pub warnings: Vec<String>,
    /// The file that a reload reads; `None` without such a file.
    pub source: Option<PathBuf>,
    /// Whether changed files are reloaded without a request. Default: false.
    pub watch: bool,
    /// The SHA-256, in hex, of the settings without secrets.
    pub hash: String,
    /// The files that were read, including the settings.
    pub(crate) files: Vec<ReadFile>,
}

/// The settings that only a restart changes.
#[derive(Clone, Debug)]
pub(crate) struct FixedSettings {
    listen: SocketAddr,
    data: Location,
    log: LogFormat,
    log_level: LogLevel,
    has_tls: bool,
    issuer: Option<String>,
    master_key: MasterKeySource,
    signing_algorithm: Algorithm,
    checkpoints: Interval,
    checkpoint_file: Option<PathBuf>,
    connections: ConnectionLimits,
    base_path: String,
    watch: bool,
    metrics: Option<SocketAddr>,
}

impl FixedSettings {
    /// Whether changed files are reloaded without a request.
    pub(crate) const fn watches(&self) -> bool {
        self.watch
    }

    /// Returns the members that differ.
    pub(crate) fn differences(&self, other: &Self) -> Vec<&'static str> {
        let (here, there) = (&self.connections, &other.connections);
        let data = match (&self.data, &other.data) {
            (Location::File(_), Location::File(_)) => "data",
            (Location::Database(_) | Location::File(_), _) => "database_url",
        };
        let members = [
            ("listen", self.listen == other.listen),
            (data, self.data == other.data),
            ("log", self.log == other.log),
            ("log_level", self.log_level == other.log_level),
            ("tls", self.has_tls == other.has_tls),
            ("issuer", self.issuer == other.issuer),
            ("master_key_file", self.master_key == other.master_key),
            ("signing_algorithm", self.signing_algorithm == other.signing_algorithm),
            (
                "ledger",
                self.checkpoints == other.checkpoints && self.checkpoint_file == other.checkpoint_file,
            ),
            ("limits.connections", here.total == there.total),
            ("limits.connections_per_address", here.per_address == there.per_address),
            ("page.base_path", self.base_path == other.base_path),
            ("watch", self.watch == other.watch),
            ("metrics.listen", self.metrics == other.metrics),
        ];
        members.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
    }
}

/// The listener for metrics.
#[derive(Clone, Copy, Debug)]
pub struct MetricsSettings {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Hash of the token that a reader presents; `None` permits every reader.
    pub token: Option<ApiKeyHash>,
}

/// Connection limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Total number of connections. Default: 4096, or fewer if the process's file limit is lower.
    pub total: usize,
    /// Connections per address, or per /64 network for IPv6. Default: 1024. Trusted proxies are
    /// exempt.
    pub per_address: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { total: 4096, per_address: 1024 }
    }
}

/// Log level; each level includes the levels before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Failures.
    Error,
    /// Probable mistakes.
    Warn,
    /// Every request.
    #[default]
    Info,
    /// Details for debugging.
    Debug,
}

impl LogLevel {
    /// All levels.
    pub const ALL: [Self; 4] = [Self::Error, Self::Warn, Self::Info, Self::Debug];

    /// The word used in settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    /// Parses a level word; `None` if it is unknown.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str() == word)
    }
}

/// Parses a listen address: an IP address and port, or `localhost` and a port, which means
/// 127.0.0.1.
///
/// # Errors
///
/// Returns a message with the expected form.
pub fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let localhost = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
    localhost.map(|port| SocketAddr::from(([127, 0, 0, 1], port))).ok_or_else(|| {
        let hint = match text.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() && host.matches(':').count() > 1 => {
                "; write an IPv6 address in brackets"
            }
            Some((_, port)) if port.parse::<u16>().is_ok() => {
                "; localhost is the only supported name, so give an IP address"
            }
            _ => "",
        };
        format!(
            "expected an address and a port such as \"127.0.0.1:8787\" or \"localhost:8787\", found {text:?}{hint}"
        )
    })
}

/// Environment variable with the master key.
pub const MASTER_KEY_VARIABLE: &str = "ACTPASS_MASTER_KEY";

/// Environment variable with the database URL.
pub const DATABASE_URL_VARIABLE: &str = "ACTPASS_DATABASE_URL";

/// Source of the master key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MasterKeySource {
    /// The data file's path with `.master-key` appended; created if missing.
    BesideData,
    /// Given in the settings or the environment.
    Given(MasterKey),
    /// None: passports and the vault are disabled.
    Missing,
}

/// Log format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Human-readable text.
    #[default]
    Text,
}

/// Timeouts for clients and the store.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Maximum time without progress of a response: 30 s.
    pub response: Duration,
    /// Maximum time to receive a body: 30 s.
    pub body: Duration,
    /// Maximum time to receive request headers, including idle time before them: 10 s.
    pub headers: Duration,
    /// Grace period for requests in flight at shutdown: 10 s.
    pub stop: Duration,
    /// Maximum time for one store operation: 15 s.
    pub store: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            response: Duration::from_secs(30),
            body: Duration::from_secs(30),
            headers: Duration::from_secs(10),
            stop: Duration::from_secs(10),
            store: Duration::from_secs(15),
        }
    }
}

impl Settings {
    /// Loads the settings of `actpass-gateway serve` from `path`, including the files it refers to.
    ///
    /// # Errors
    ///
    /// Returns every problem with the member's name.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        Self::load_files(path).0
    }

    /// Same as [`Settings::load`]; also returns the files that were read, even if they are invalid.
    pub(crate) fn load_files(path: &Path) -> (Result<Self, Problems>, Vec<ReadFile>) {
        let read = files::read_bytes(path);
        let mut files = vec![ReadFile::of(path, read.as_ref().map(|bytes| bytes.as_slice()))];
        let text = read.and_then(|bytes| files::to_text(&bytes));
        let text = text.map_err(|error| Problems::one(path.display(), error));
        let folder = path.parent().unwrap_or(Path::new(""));
        let settings = text.and_then(|text| Self::parse_files(&text, folder, &mut files));
        let settings =
            settings.map(|settings| Self { source: Some(path.to_owned()), files: files.clone(), ..settings });
        (settings, files)
    }

    /// The settings that only a restart changes.
    pub(crate) fn fixed(&self) -> FixedSettings {
        FixedSettings {
            listen: self.listen,
            data: self.data.clone(),
            log: self.log,
            log_level: self.log_level,
            has_tls: self.tls.is_some(),
            issuer: self.issuer.clone(),
            master_key: self.master_key.clone(),
            signing_algorithm: self.signing_algorithm,
            checkpoints: self.checkpoints,
            checkpoint_file: self.checkpoint_file.clone(),
            connections: self.connections,
            base_path: self.base_path.clone(),
            watch: self.watch,
            metrics: self.metrics.map(|metrics| metrics.listen),
        }
    }

    /// Parses settings from text; relative paths are resolved against `folder`.
    ///
    /// # Errors
    ///
    /// Same as [`Settings::load`].
    pub fn parse(text: &str, folder: &Path) -> Result<Self, Problems> {
        Self::parse_files(text, folder, &mut Vec::new())
    }

    fn parse_files(text: &str, folder: &Path, files: &mut Vec<ReadFile>) -> Result<Self, Problems> {
        // The parser's own message quotes the line, which may contain a secret.
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error
                .span()
                .map_or(1, |span| 1 + text.bytes().take(span.start).filter(|b| *b == b'\n').count());
            Problems::one(format_args!("line {line}"), error.message().lines().next().unwrap_or_default())
        })?;
        SettingsReader {
            problems: Problems::default(),
            warnings: Vec::new(),
            folder,
            policy_files: HashMap::new(),
            files,
            tenant_limits: HashMap::new(),
        }
        .settings(&table)
    }

    /// Returns the settings of `actpass-gateway dev`: tenant `dev`, keys `apk_dev` and `apdv_dev`,
    /// and the policy in the file `policy` or the refund example.
    ///
    /// # Errors
    ///
    /// Returns an error if `listen` is not a loopback address, the policy is invalid, or the data
    /// file's directory cannot be created.
    pub fn dev(listen: SocketAddr, data: Option<PathBuf>, policy: Option<&Path>) -> Result<Self, Problems> {
        if !listen.ip().is_loopback() {
            let problem = "dev uses publicly known keys; expected a loopback address";
            return Err(Problems::one("--listen", problem));
        }
        let policy = match policy {
            Some(path) => parse_policy("--policy", path, &files::read_bytes(path))?,
            None => Policy::parse(DEV_POLICY)?,
        };
        let data = match data {
            Some(path) => path,
            None => {
                let folder = Path::new(".actpass");
                make_private_folder(folder).map_err(|error| Problems::one("--data", error))?;
                folder.join("dev.db")
            }
        };
        let tenant = Arc::new(Tenant::new("dev", policy));
        let mut keyring = Keyring::default();
        for (secret, name, role) in
            [("apk_dev", "dev-agent", Role::Agent), ("apdv_dev", "dev-operator", Role::Operator)]
        {
            let mut key = ApiKey::new(name, Arc::clone(&tenant), role, None);
            key.principal.halt_all = role == Role::Operator;
            keyring.add(ApiKeyHash::of(secret), key);
        }
        Ok(Self {
            listen,
            data: Location::File(data),
            dpop_nonce: false,
            log: LogFormat::default(),
            tls: None,
            client_trust: None,
            body_bytes: DEFAULT_BODY_BYTES,
            tenants: vec![tenant],
            policy_files: HashMap::new(),
            keyring,
            directory: Directory::default(),
            timeouts: Timeouts::default(),
            issuer: None,
            master_key: MasterKeySource::BesideData,
            signing_algorithm: Algorithm::EdDsa,
            approval_seconds: DEFAULT_APPROVAL_SECONDS,
            reuse_approvals: true,
            allow_self_approval: false,
            lift_by: None,
            retention_seconds: DEFAULT_RETENTION_SECONDS,
            checkpoints: Interval::default(),
            checkpoint_file: None,
            clock: Clock::default(),
            hosts: Hosts::Loopback,
            trusted_proxies: Vec::new(),
            connections: ConnectionLimits::default(),
            pending_approvals: DEFAULT_PENDING_APPROVALS,
            base_path: String::new(),
            log_level: LogLevel::default(),
            webhooks: Vec::new(),
            sign_in: None,
            traces: None,
            access_log: None,
            admission: AdmissionLimits::default(),
            metrics: None,
            certificate_expires_at: None,
            warnings: Vec::new(),
            source: None,
            watch: false,
            hash: String::new(),
            files: Vec::new(),
        })
    }
}

const DEFAULT_APPROVAL_SECONDS: i64 = 900;

const DEFAULT_RETENTION_SECONDS: i64 = 86_400;

/// Permitted retention of responses under idempotency keys, in seconds.
const RETENTION_SECONDS: std::ops::RangeInclusive<u64> = 1..=31_536_000;

const DEFAULT_BODY_BYTES: usize = 1 << 20;

const DEFAULT_PENDING_APPROVALS: u32 = 100;

/// A certificate that expires within this many seconds (30 days) causes a warning.
const EXPIRY_WARNING_SECONDS: i64 = 30 * 24 * 60 * 60;

/// A larger body limit causes a warning, because each request can use that much memory.
const BODY_WARNING_ABOVE: usize = 64 << 20;

/// A smaller body limit causes a warning, because typical preflights do not fit.
const BODY_WARNING_BELOW: usize = 1 << 10;

/// A higher rate limit causes a warning, because it exceeds any gateway's throughput.
const RATE_WARNING_ABOVE: u32 = 100_000;

/// Minimum number of distinct bytes of a master key; 32 random bytes have about 30.
const MIN_DISTINCT_BYTES: usize = 12;

/// Parses the content of a policy file; problems are reported for the member `place`.
fn parse_policy(
    place: &str,
    path: &Path,
    text: &Result<zeroize::Zeroizing<Vec<u8>>, String>,
) -> Result<Policy, Problems> {
    let place = format!("{place}: {}", path.display());
    let text = text.as_ref().map_err(|error| Problems::one(&place, error))?;
    Policy::parse(text).map_err(|found| {
        let mut problems = Problems::default();
        problems.add_all(&place, &found);
        problems
    })
}

/// Returns when the first certificate of a chain expires, in seconds since 1970.
fn expiry(chain: &[CertificateDer<'_>]) -> Option<i64> {
    let parsed = chain.iter().filter_map(|certificate| x509_parser::parse_x509_certificate(certificate).ok());
    parsed.map(|(_, certificate)| certificate.validity().not_after.timestamp()).min()
}

fn make_private_folder(folder: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

struct SettingsReader<'f> {
    problems: Problems,
    warnings: Vec<String>,
    folder: &'f Path,
    policy_files: HashMap<String, PathBuf>,
    /// The files that were read.
    files: &'f mut Vec<ReadFile>,
    /// Rate limits of the agent keys of tenants.
    tenant_limits: HashMap<String, Arc<RequestLimit>>,
}

/// Words in the names of members that contain secrets, or are made from them.
const SECRET_WORDS: [&str; 4] = ["password", "secret", "token", "url"];

/// Returns the SHA-256 of the settings without secrets. A hash of the whole file would permit to test
/// candidates for a weak password offline.
fn hash_settings(table: &Table, certificates: &[CertificateDer<'_>]) -> String {
    fn without_secrets(value: &Value) -> Value {
        match value {
            Value::Table(table) => Value::Table(of_table(table)),
            Value::Array(items) => Value::Array(items.iter().map(without_secrets).collect()),
            Value::String(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_) => value.clone(),
        }
    }
    fn of_table(table: &Table) -> Table {
        let is_secret = |name: &str| SECRET_WORDS.iter().any(|word| name.contains(word));
        let shown = table.iter().filter(|(name, _)| !is_secret(name));
        shown.map(|(name, value)| (name.clone(), without_secrets(value))).collect()
    }
    let mut text = of_table(table).to_string().into_bytes();
    for certificate in certificates {
        text.extend_from_slice(sha256_hex(certificate).as_bytes());
    }
    sha256_hex(&text)
}

impl SettingsReader<'_> {
    fn settings(mut self, table: &Table) -> Result<Settings, Problems> {
        let mut root = Section::new("", table.clone());
        let watch = root.optional_bool("watch", &mut self.problems).unwrap_or(false);
        let listen = self.listen(&mut root);
        let data = self.data(&mut root);
        let dpop_nonce = root.optional_bool("dpop_nonce", &mut self.problems).unwrap_or(false);
        let log = self.log(&mut root);
        let log_level = self.log_level(&mut root);
        let hosts = self.hosts(&mut root);
        let trusted_proxies = self.trusted_proxies(&mut root);
        let base_path = self.page(&mut root);
        let danger = root.optional_bool("danger_allow_plain_http", &mut self.problems).unwrap_or(false);
        let issuer = self.issuer(&mut root);
        let master_key = self.master_key(&mut root);
        let signing_algorithm = self.signing_algorithm(&mut root);
        let (approval_seconds, reuse_approvals, allow_self_approval) = self.approvals(&mut root);
        let retention_seconds = self.idempotency(&mut root);
        let (checkpoints, checkpoint_file) = self.checkpoints(&mut root);
        let lift_by = self.halts(&mut root);
        let limits = self.limits(&mut root);
        let has_tls = root.has("tls");
        let read_tls = self.tls(&mut root);
        let client_trust = read_tls.as_ref().and_then(|tls| tls.client_trust);
        let hashed = read_tls.iter().flat_map(|tls| tls.chain.iter().chain(&tls.authorities)).cloned();
        let hashed: Vec<_> = hashed.collect();
        let (tls, certificate) = read_tls.map(|tls| (tls.config, tls.chain)).unzip();
        let hash = hash_settings(table, &hashed);
        let has_master_key = master_key != MasterKeySource::Missing;
        let tenants = self.tenants(&mut root, has_master_key);
        let mut directory = self.people(&mut root, &tenants);
        let keyring = self.keys(&mut root, &tenants, &limits, client_trust.is_some(), &mut directory);
        self.check_lifters(lift_by.as_deref(), &keyring);
        let webhooks = self.webhooks(&mut root, &tenants);
        let sign_in = self.sign_in(&mut root, &tenants);
        let traces = self.traces(&mut root);
        let access_log = self.access_log(&mut root);
        let metrics = self.metrics(&mut root, has_tls || danger);
        let certificate_expires_at = certificate.as_deref().and_then(expiry);
        root.finish(&mut self.problems);

        if listen.is_some_and(|listen| !listen.ip().is_loopback()) && !has_tls && !danger {
            let problem = "is not a loopback address, so [tls] is required: API keys would be sent \
            unencrypted (danger_allow_plain_http = true permits this behind a proxy that terminates TLS)";
            self.problems.add("listen", problem);
        }
        if let (Some(Location::Database(_)), None, MasterKeySource::Given(_)) = (&data, &issuer, &master_key)
        {
            let problem =
                "missing; required with a database, because all its gateways issue passports under one name";
            self.problems.add("issuer", problem);
        }
        let (Some(listen), Some(data)) = (listen, data) else {
            return Err(self.problems);
        };
        if let MasterKeySource::Given(_) = &master_key {
            self.warn_of_issuer(issuer.as_deref(), listen);
        }
        let hosts =
            Hosts::Named(hosts.into_iter().chain(issuer.as_deref().and_then(Authority::of_url)).collect());
        let timeouts = Timeouts::default();
        let mut tenants: Vec<_> = tenants.into_values().flatten().collect();
        tenants.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        self.problems.or(Settings {
            listen,
            data,
            dpop_nonce,
            log,
            tls,
            client_trust,
            body_bytes: limits.body_bytes,
            tenants,
            policy_files: self.policy_files,
            keyring,
            directory,
            timeouts,
            issuer,
            master_key,
            signing_algorithm,
            approval_seconds,
            reuse_approvals,
            allow_self_approval,
            lift_by,
            retention_seconds,
            checkpoints,
            checkpoint_file,
            clock: Clock::default(),
            hosts,
            trusted_proxies,
            connections: limits.connections,
            pending_approvals: limits.pending_approvals,
            base_path,
            log_level,
            webhooks,
            sign_in,
            traces,
            access_log,
            admission: limits.admission,
            metrics,
            certificate_expires_at,
            warnings: self.warnings,
            source: None,
            watch,
            hash,
            files: Vec::new(),
        })
    }

    /// Reads a file that the settings name.
    fn read(&mut self, path: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, String> {
        let read = files::read_bytes(path);
        self.files.push(ReadFile::of(path, read.as_ref().map(|bytes| bytes.as_slice())));
        read
    }

    fn warn(&mut self, place: impl fmt::Display, problem: impl fmt::Display) {
        self.warnings.push(format!("{place}: {problem}"));
    }

    /// Warns about a secret file that other users can read.
    fn warn_if_open(&mut self, place: &str, file: &Path) {
        if files::is_open_to_others(file) {
            let problem = "the file is accessible to other users; expected mode 0600 or 0400";
            self.warn(place, format_args!("{}: {problem}", file.display()));
        }
    }

    /// Warns about an issuer URL that verifiers cannot reach to fetch the public keys.
    fn warn_of_issuer(&mut self, issuer: Option<&str>, listen: SocketAddr) {
        let Some(issuer) = issuer else {
            if listen.ip().is_unspecified() {
                let problem = format_args!(
                    "missing, so passports name {listen}, which is unreachable; expected the gateway's URL \
                    such as \"https://gateway.example\""
                );
                self.warn("issuer", problem);
            }
            return;
        };
        let authority = Authority::of_url(issuer);
        if authority.as_ref().and_then(Authority::address).is_some_and(|address| address.is_unspecified()) {
            let problem = format_args!("{issuer:?} is an unreachable address; expected the gateway's URL");
            self.warn("issuer", problem);
        } else if authority.is_some_and(|authority| authority.is_loopback()) && !listen.ip().is_loopback() {
            self.warn(
                "issuer",
                format_args!(
                    "{issuer:?} is a loopback URL, but the gateway listens on a non-loopback \
                    address"
                ),
            );
        }
    }

    fn log_level(&mut self, root: &mut Section) -> LogLevel {
        let Some(word) = root.optional_text("log_level", &mut self.problems) else {
            return LogLevel::default();
        };
        LogLevel::parse(&word).unwrap_or_else(|| {
            let words = LogLevel::ALL.map(LogLevel::as_str).join(", ");
            self.problems.add("log_level", format_args!("expected one of {words}, found {word:?}"));
            LogLevel::default()
        })
    }

    fn signing_algorithm(&mut self, root: &mut Section) -> Algorithm {
        let Some(name) = root.optional_text("signing_algorithm", &mut self.problems) else {
            return Algorithm::EdDsa;
        };
        Algorithm::from_name(&name).unwrap_or_else(|| {
            let names = Algorithm::ALL.map(Algorithm::as_str).join(", ");
            self.problems.add("signing_algorithm", format_args!("expected one of {names}, found {name:?}"));
            Algorithm::EdDsa
        })
    }

    fn hosts(&mut self, root: &mut Section) -> Vec<Authority> {
        let names = root.optional_texts("hosts", &mut self.problems).unwrap_or_default();
        let mut hosts = Vec::with_capacity(names.len());
        for name in names {
            match Authority::parse(&name) {
                Some(host) => hosts.push(host),
                None => {
                    let expected = "expected host names with optional ports such as \"gateway.example\"";
                    self.problems.add("hosts", format_args!("{expected}, found {name:?}"));
                }
            }
        }
        hosts
    }

    fn trusted_proxies(&mut self, root: &mut Section) -> Vec<IpNet> {
        let texts = root.optional_texts("trusted_proxies", &mut self.problems).unwrap_or_default();
        let mut networks = Vec::with_capacity(texts.len());
        for text in texts {
            let address = || text.parse::<std::net::IpAddr>().map(IpNet::from);
            match text.parse::<IpNet>().or_else(|_| address()) {
                Ok(network) if network.prefix_len() == 0 => {
                    let problem = format_args!(
                        "{text:?} covers every address, so any client could forge \
                        its address"
                    );
                    self.problems.add("trusted_proxies", problem);
                }
                Ok(network) => networks.push(network),
                Err(_) => {
                    let expected = "expected addresses or networks such as \"10.0.0.0/8\"";
                    self.problems.add("trusted_proxies", format_args!("{expected}, found {text:?}"));
                }
            }
        }
        networks
    }

    fn page(&mut self, root: &mut Section) -> String {
        let Some(mut section) = root.section("page", &mut self.problems) else {
            return String::new();
        };
        let path = section.optional_text("base_path", &mut self.problems).unwrap_or_default();
        section.finish(&mut self.problems);
        let segment = |segment: &str| {
            !segment.is_empty()
                && segment != "."
                && segment != ".."
                && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
        };
        let is_path =
            path.is_empty() || path.strip_prefix('/').is_some_and(|path| path.split('/').all(segment));
        if !is_path {
            let expected =
                "expected a path of letters, digits and -._~ without a trailing slash, such as \"/actpass\"";
            self.problems.add("page.base_path", format_args!("{expected}, found {path:?}"));
        }
        path
    }

    /// Reads the grants of a key.
    fn grants(&mut self, section: &mut Section, role: Option<Role>, bound: bool) -> Grants {
        let mut grants = Grants::of(role.unwrap_or(Role::Agent), bound);
        if let Some(words) = section.optional_words("modes", &mut self.problems, &MODES, |mode| mode.as_str())
        {
            grants.modes = words;
        }
        let tiers =
            section.optional_words("risk_tiers", &mut self.problems, &RiskTier::ALL, |tier| tier.as_str());
        if let Some(tiers) = tiers {
            grants.risk_tiers = tiers;
        }
        if let Some(tools) = section.optional_texts("tools", &mut self.problems).map(Patterns::new) {
            grants.passport_tools = tools.clone();
            grants.tools = tools;
        }
        if let Some(tools) = section.optional_texts("allowed_tools", &mut self.problems) {
            grants.passport_tools = Patterns::new(tools);
        }
        if let Some(users) = section.optional_texts("users", &mut self.problems).map(Patterns::new) {
            grants.passport_users = users.clone();
            grants.users = Some(users);
        }
        if let Some(seconds) = section.positive("max_ttl_seconds", &mut self.problems) {
            grants.max_ttl_seconds = i64::from(seconds.get());
            if grants.max_ttl_seconds > passport::MAX_TTL {
                let problem = format_args!("expected an integer of 1 to {}", passport::MAX_TTL);
                self.problems.add(section.member("max_ttl_seconds"), problem);
            }
        }
        grants
    }

    fn listen(&mut self, root: &mut Section) -> Option<SocketAddr> {
        let text = root.text("listen", &mut self.problems)?;
        parse_listen(&text).map_err(|problem| self.problems.add("listen", problem)).ok()
    }

    /// The URL is never shown, because it contains a password.
    fn data(&mut self, root: &mut Section) -> Option<Location> {
        let url = root.optional_text("database_url", &mut self.problems);
        let variable = std::env::var_os(DATABASE_URL_VARIABLE);
        let has_url = url.is_some() || variable.is_some();
        let place = if url.is_some() { "database_url" } else { DATABASE_URL_VARIABLE };
        let authorities = root.optional_text("database_ca", &mut self.problems).map(|path| {
            if !has_url {
                self.problems.add("database_ca", "needs database_url");
            }
            self.certificates("database_ca", &path)
        });
        let danger = root.optional_bool("danger_allow_plain_database", &mut self.problems);
        if danger.is_some() && !has_url {
            self.problems.add("danger_allow_plain_database", "needs database_url");
        }
        if !has_url {
            return root.text("data", &mut self.problems).map(|data| Location::File(self.folder.join(data)));
        }
        if root.has("data") {
            let _ = root.optional_text("data", &mut self.problems);
            self.problems.add("data", format_args!("conflicts with {place}; set only one"));
        }
        if url.is_some() && variable.is_some() {
            let problem =
                format_args!("conflicts with the environment variable {DATABASE_URL_VARIABLE}; set only one");
            self.problems.add("database_url", problem);
        }
        let url = url.or_else(|| variable.and_then(|url| url.into_string().ok())).unwrap_or_default();
        // Invalid authorities were already reported.
        let authorities = match authorities {
            None => None,
            Some(found) => Some(found?),
        };
        let trust = TlsTrust { authorities, danger_allow_plain: danger.unwrap_or(false) };
        let parsed = Database::parse(&zeroize::Zeroizing::new(url), trust);
        parsed.map_err(|problem| self.problems.add(place, problem)).ok().map(Location::Database)
    }

    fn log(&mut self, root: &mut Section) -> LogFormat {
        match root.optional_text("log", &mut self.problems).as_deref() {
            None | Some("text") => LogFormat::Text,
            Some("json") => LogFormat::Json,
            Some(other) => {
                self.problems.add("log", format_args!("expected \"text\" or \"json\", found {other:?}"));
                LogFormat::Text
            }
        }
    }

    fn issuer(&mut self, root: &mut Section) -> Option<String> {
        let issuer = root.optional_text("issuer", &mut self.problems)?;
        let is_url =
            (issuer.starts_with("https://") || issuer.starts_with("http://")) && !issuer.ends_with('/');
        if !is_url {
            let problem = "expected a URL without a trailing slash such as \"https://gateway.example\"";
            self.problems.add("issuer", format_args!("{problem}, found {issuer:?}"));
        }
        Some(issuer)
    }

    /// The key itself is never shown.
    fn master_key(&mut self, root: &mut Section) -> MasterKeySource {
        let file =
            root.optional_text("master_key_file", &mut self.problems).map(|file| self.folder.join(file));
        let variable = std::env::var_os(MASTER_KEY_VARIABLE);
        let (place, text) = match (file, variable) {
            (None, None) => return MasterKeySource::Missing,
            (None, Some(text)) => (MASTER_KEY_VARIABLE.to_owned(), text.into_string().ok()),
            (Some(_), Some(_)) => {
                let problem = format_args!(
                    "conflicts with the environment variable {MASTER_KEY_VARIABLE}; set only \
                    one"
                );
                self.problems.add("master_key_file", problem);
                return MasterKeySource::Missing;
            }
            (Some(file), None) => match self.read(&file).and_then(|bytes| files::to_text(&bytes)) {
                Ok(text) => {
                    self.warn_if_open("master_key_file", &file);
                    (format!("master_key_file: {}", file.display()), Some(text.to_string()))
                }
                Err(error) => {
                    self.problems.add("master_key_file", format_args!("{}: {error}", file.display()));
                    return MasterKeySource::Missing;
                }
            },
        };
        match text.map(zeroize::Zeroizing::new).and_then(|text| MasterKey::parse(&text)) {
            Some(key) => {
                if key.distinct_bytes() < MIN_DISTINCT_BYTES {
                    let problem = "has few distinct bytes, so it is not random and can be guessed; create \
                    one with \
                    `openssl rand -hex 32`";
                    self.warn(place, problem);
                }
                MasterKeySource::Given(key)
            }
            None => {
                self.problems.add(place, "expected 32 bytes as 64 hex digits or base64");
                MasterKeySource::Missing
            }
        }
    }

    /// Returns the time to decide, whether approvals are reused, and whether people may
    /// approve their own requests.
    fn approvals(&mut self, root: &mut Section) -> (i64, bool, bool) {
        let Some(mut section) = root.section("approvals", &mut self.problems) else {
            return (DEFAULT_APPROVAL_SECONDS, true, false);
        };
        let reuse = section.optional_bool("reuse", &mut self.problems).unwrap_or(true);
        let allow_self = section.optional_bool("allow_self", &mut self.problems).unwrap_or(false);
        if allow_self {
            self.warn("approvals.allow_self", "people may approve their own requests");
        }
        let seconds = section.positive("deadline_seconds", &mut self.problems).map(|s| i64::from(s.get()));
        if seconds.is_some_and(|seconds| !(10..=86_400).contains(&seconds)) {
            self.problems.add("approvals.deadline_seconds", "expected an integer of 10 to 86400");
        }
        section.finish(&mut self.problems);
        (seconds.unwrap_or(DEFAULT_APPROVAL_SECONDS), reuse, allow_self)
    }

    fn idempotency(&mut self, root: &mut Section) -> i64 {
        let Some(mut section) = root.section("idempotency", &mut self.problems) else {
            return DEFAULT_RETENTION_SECONDS;
        };
        let text = section.optional_text("keep", &mut self.problems);
        section.finish(&mut self.problems);
        let Some(text) = text else {
            return DEFAULT_RETENTION_SECONDS;
        };
        let seconds = humantime::parse_duration(&text).ok().filter(|duration| duration.subsec_nanos() == 0);
        let seconds = seconds.map(|duration| duration.as_secs()).filter(|s| RETENTION_SECONDS.contains(s));
        if seconds.is_none() {
            let problem = format_args!("expected a duration of 1s to 365d such as \"24h\", found {text:?}");
            self.problems.add("idempotency.keep", problem);
        }
        seconds.and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(DEFAULT_RETENTION_SECONDS)
    }

    fn checkpoints(&mut self, root: &mut Section) -> (Interval, Option<PathBuf>) {
        let mut interval = Interval::default();
        let Some(mut section) = root.section("ledger", &mut self.problems) else {
            return (interval, None);
        };
        if let Some(events) = section.positive("checkpoint_events", &mut self.problems) {
            interval.events = events.get().into();
        }
        if let Some(seconds) = section.positive("checkpoint_seconds", &mut self.problems) {
            interval.seconds = seconds.get();
        }
        let file = section.optional_text("checkpoint_file", &mut self.problems);
        section.finish(&mut self.problems);
        (interval, file.map(|file| self.folder.join(file)))
    }

    /// Reads the names of the keys that may lift halts.
    fn halts(&mut self, root: &mut Section) -> Option<Vec<String>> {
        let mut section = root.section("halts", &mut self.problems)?;
        let names = section.optional_texts("lift_by", &mut self.problems);
        section.finish(&mut self.problems);
        names
    }

    /// With a wrong name, a halt might be impossible to lift.
    fn check_lifters(&mut self, names: Option<&[String]>, keyring: &Keyring) {
        if names.is_some_and(<[String]>::is_empty) {
            self.problems
                .add("halts.lift_by", "is empty, so no key could lift a halt; expected names of keys");
        }
        for name in names.into_iter().flatten() {
            if !keyring.keys().any(|key| *key.name == **name && key.role.may(Capability::Halt)) {
                let problem = format_args!("expected names of operator keys, found {name:?}");
                self.problems.add("halts.lift_by", problem);
            }
        }
    }

    /// Reads a rate limit.
    fn quota(&mut self, section: &mut Section) -> Option<Quota> {
        let per_second = section.positive("requests_per_second", &mut self.problems);
        let has_burst = section.has("burst");
        let burst = section.positive("burst", &mut self.problems);
        let (rate_place, burst_place) = (section.member("requests_per_second"), section.member("burst"));
        if has_burst && per_second.is_none() {
            self.problems.add(&burst_place, format_args!("needs {rate_place}"));
        }
        if per_second.is_some_and(|rate| rate.get() > RATE_WARNING_ABOVE) {
            let problem = format_args!("more than {RATE_WARNING_ABOVE} has no effect; omit it for no limit");
            self.warn(&rate_place, problem);
        }
        if let (Some(rate), Some(burst)) = (per_second, burst)
            && burst < rate
        {
            self.warn(&burst_place, format_args!("{burst} is less than {rate_place}, {rate}"));
        }
        per_second.map(|rate| Quota::per_second(rate).allow_burst(burst.unwrap_or(rate)))
    }

    fn limits(&mut self, root: &mut Section) -> Limits {
        let mut limits = Limits {
            body_bytes: DEFAULT_BODY_BYTES,
            quota: None,
            connections: ConnectionLimits::default(),
            pending_approvals: DEFAULT_PENDING_APPROVALS,
            admission: AdmissionLimits::default(),
        };
        let Some(mut section) = root.section("limits", &mut self.problems) else {
            return limits;
        };
        if let Some(bytes) = section.positive("body_bytes", &mut self.problems) {
            limits.body_bytes = usize::try_from(bytes.get()).unwrap_or(usize::MAX);
            if limits.body_bytes > BODY_WARNING_ABOVE {
                let problem = format_args!(
                    "{bytes} is more than {BODY_WARNING_ABOVE}; each request can use that much memory"
                );
                self.warn("limits.body_bytes", problem);
            }
            if limits.body_bytes < BODY_WARNING_BELOW {
                let problem = format_args!(
                    "{bytes} is less than {BODY_WARNING_BELOW}; typical requests will be \
                    rejected"
                );
                self.warn("limits.body_bytes", problem);
            }
        }
        let count = |number: Option<NonZeroU32>| number.and_then(|number| usize::try_from(number.get()).ok());
        let total = count(section.positive("connections", &mut self.problems));
        let per_address = count(section.positive("connections_per_address", &mut self.problems));
        limits.connections.total = total.unwrap_or(limits.connections.total);
        // Never more than the total.
        limits.connections.per_address =
            per_address.unwrap_or(limits.connections.per_address).min(limits.connections.total);
        if per_address.is_some_and(|per_address| per_address > limits.connections.total) {
            let problem = format_args!("is more than limits.connections, {}", limits.connections.total);
            self.warn("limits.connections_per_address", problem);
        }
        if let Some(pending) = section.positive("pending_approvals", &mut self.problems) {
            limits.pending_approvals = pending.get();
            if limits.pending_approvals > 10_000 {
                self.warn("limits.pending_approvals", "more than 10000 pending approvals cannot be reviewed");
            }
        }
        limits.quota = self.quota(&mut section);
        if let Some(decisions) = section.positive("decisions", &mut self.problems) {
            limits.admission.decisions = decisions.get();
        }
        if let Some(millis) = section.positive("decision_latency_ms", &mut self.problems) {
            limits.admission.latency = Duration::from_millis(millis.get().into());
        }
        section.finish(&mut self.problems);
        limits
    }

    fn traces(&mut self, root: &mut Section) -> Option<TraceSettings> {
        let mut section = root.section("traces", &mut self.problems)?;
        let endpoint = section.text("endpoint", &mut self.problems);
        let authorities = section.optional_text("ca", &mut self.problems);
        let percent = section.optional_percent("sample_percent", &mut self.problems);
        let headers = self.export_headers(&mut section);
        section.finish(&mut self.problems);
        let endpoint = endpoint?;
        let Some(authority) = Authority::of_url(&endpoint) else {
            let problem = "expected a URL such as \"https://collector.example:4318/v1/traces\"";
            self.problems.add("traces.endpoint", problem);
            return None;
        };
        if !headers.is_empty() && endpoint.starts_with("http://") && !authority.is_loopback() {
            let problem = "headers are secret; expected https or a loopback address";
            self.problems.add("traces.endpoint", problem);
        }
        let authorities = match authorities {
            None => None,
            Some(path) => Some(self.certificates("traces.ca", &path)?),
        };
        Some(TraceSettings { endpoint, authorities, sample_percent: percent.unwrap_or(100), headers })
    }

    fn export_headers(&mut self, section: &mut Section) -> ExportHeaders {
        let mut headers = ExportHeaders::default();
        if !section.has("headers") {
            return headers;
        }
        for mut header in section.sections("headers", &mut self.problems) {
            let name = header.text("name", &mut self.problems);
            let file = header.text("file", &mut self.problems);
            header.finish(&mut self.problems);
            let Some((name, file)) = name.zip(file) else { continue };
            let Some(value) = self.secret(&header.member("file"), &file) else { continue };
            if let Err((member, problem)) = headers.add(&name, &value) {
                self.problems.add(header.member(member), problem);
            }
        }
        headers
    }

    fn access_log(&mut self, root: &mut Section) -> Option<AccessLogTarget> {
        let mut section = root.section("access_log", &mut self.problems)?;
        let file = section.text("file", &mut self.problems);
        section.finish(&mut self.problems);
        Some(match file?.as_str() {
            "-" => AccessLogTarget::Stdout,
            file => AccessLogTarget::File(self.folder.join(file)),
        })
    }

    /// `is_protected` is whether the gateway has TLS, or a proxy with TLS.
    fn metrics(&mut self, root: &mut Section, is_protected: bool) -> Option<MetricsSettings> {
        let mut section = root.section("metrics", &mut self.problems)?;
        let listen = section.text("listen", &mut self.problems);
        let token = section.has("hash").then(|| section.hash("hash", &mut self.problems)).flatten();
        let danger = section.optional_bool("danger_allow_open_metrics", &mut self.problems).unwrap_or(false);
        section.finish(&mut self.problems);
        let listen = parse_listen(&listen?);
        let listen = listen.map_err(|problem| self.problems.add("metrics.listen", problem)).ok()?;
        if !listen.ip().is_loopback() && token.is_none() && !danger {
            let problem = "is not a loopback address, so metrics.hash is required: anyone could read the names \
            of tenants, keys and budgets (danger_allow_open_metrics = true permits this)";
            self.problems.add("metrics.listen", problem);
        }
        if !listen.ip().is_loopback() && !is_protected {
            let problem = "is not a loopback address, so [tls] is required (or danger_allow_plain_http)";
            self.problems.add("metrics.listen", problem);
        }
        Some(MetricsSettings { listen, token })
    }

    fn tls(&mut self, root: &mut Section) -> Option<Tls> {
        let mut section = root.section("tls", &mut self.problems)?;
        let certificate = section.text("certificate", &mut self.problems);
        let key = section.text("key", &mut self.problems);
        let authorities = section.optional_text("client_ca", &mut self.problems);
        let word = section.optional_text("client_certificates", &mut self.problems);
        section.finish(&mut self.problems);

        let is_required = match word.as_deref() {
            None | Some("optional") => false,
            Some("required") => true,
            Some(other) => {
                let problem = format_args!("expected \"optional\" or \"required\", found {other:?}");
                self.problems.add("tls.client_certificates", problem);
                return None;
            }
        };
        if word.is_some() && authorities.is_none() {
            self.problems.add("tls.client_certificates", "needs client_ca");
        }
        let authorities = match authorities {
            None => None,
            Some(path) => Some(self.certificates("tls.client_ca", &path)?),
        };
        let client_trust = authorities.as_deref().map(|found| ClientTrust::new(found, is_required));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = match &authorities {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(found) => match client_verifier(found, is_required, &provider) {
                Ok(verifier) => verifier,
                Err(problem) => {
                    self.problems.add("tls.client_ca", problem);
                    return None;
                }
            },
        };
        let chain = self.certificates("tls.certificate", &certificate?);
        let key = self.private_key(key?);
        let (chain, key) = (chain?, key?);
        self.warn_of_expiry(&chain);
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().and_then(
                |builder| builder.with_client_cert_verifier(verifier).with_single_cert(chain.clone(), key),
            );
        match config {
            Ok(mut config) => {
                config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
                let authorities = authorities.unwrap_or_default();
                Some(Tls { config: Arc::new(config), chain, authorities, client_trust })
            }
            Err(error) => {
                self.problems.add("tls.key", format_args!("cannot be used with tls.certificate: {error}"));
                None
            }
        }
    }

    fn certificates(&mut self, place: &str, path: &str) -> Option<Vec<CertificateDer<'static>>> {
        let path = self.folder.join(path);
        let chain = self.read(&path).and_then(|bytes| {
            let chain = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
            chain.map_err(|error| error.to_string())
        });
        match chain {
            Ok(chain) if !chain.is_empty() => return Some(chain),
            Ok(_) => {
                self.problems.add(place, format_args!("{}: contains no PEM certificate", path.display()));
            }
            Err(error) => self.problems.add(place, format_args!("{}: {error}", path.display())),
        }
        None
    }

    fn warn_of_expiry(&mut self, chain: &[CertificateDer<'_>]) {
        let now = Clock::default().seconds();
        for (index, certificate) in chain.iter().enumerate() {
            // rustls rejects data that is not X.509.
            let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
                continue;
            };
            let validity = parsed.validity();
            let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
            let problem = match (from > now, until - now) {
                (true, _) => format!("is not valid before {}", rfc3339(from)),
                (false, ..0) => format!("expired at {}; clients reject it", rfc3339(until)),
                (false, 0..EXPIRY_WARNING_SECONDS) => format!("expires soon: {}", rfc3339(until)),
                (false, _) => continue,
            };
            self.warn("tls.certificate", format_args!("certificate {} in the file {problem}", index + 1));
        }
    }

    fn private_key(&mut self, path: String) -> Option<PrivateKeyDer<'static>> {
        let path = self.folder.join(path);
        let bytes = self.read(&path);
        let read = || {
            let bytes = bytes?;
            // PKCS #8 marks encryption in the label, older formats in a header.
            let is_encrypted = [b"-----BEGIN ENCRYPTED PRIVATE KEY".as_slice(), b"Proc-Type: 4,ENCRYPTED"]
                .into_iter()
                .any(|mark| bytes.windows(mark.len()).any(|window| window == mark));
            if is_encrypted {
                return Err(
                    "is encrypted; decrypt it with `openssl pkey -in KEY -out DECRYPTED` into a file that \
                    only the gateway can read"
                        .to_owned(),
                );
            }
            PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
                match matches!(error, rustls::pki_types::pem::Error::NoItemsFound) {
                    true => "contains no PEM private key".to_owned(),
                    false => error.to_string(),
                }
            })
        };
        let key = read();
        if key.is_ok() {
            self.warn_if_open("tls.key", &path);
        }
        key.map_err(|problem| self.problems.add("tls.key", format_args!("{}: {problem}", path.display())))
            .ok()
    }

    /// Reads a policy file; problems are reported for the member `place`.
    fn policy(&mut self, place: &str, file: &str) -> Option<Policy> {
        let path = self.folder.join(file);
        let text = self.read(&path);
        parse_policy(place, &path, &text).map_err(|found| self.problems.extend(found)).ok()
    }

    /// Reads the retention of captured requests, in milliseconds.
    fn capture(&mut self, section: &mut Section, has_master_key: bool) -> Option<i64> {
        let text = section.optional_text("capture", &mut self.problems)?;
        let place = section.member("capture");
        if !has_master_key {
            let problem = format_args!(
                "needs a master key: set master_key_file or the environment variable {MASTER_KEY_VARIABLE}"
            );
            self.problems.add(&place, problem);
        }
        let window = Window::parse(&text);
        window
            .map_err(|problem| self.problems.add(place, format_args!("{problem}, found {text:?}")))
            .ok()
            .map(|window| window.millis())
    }

    /// Tenants by id; `None` for a tenant with an invalid policy, so that its keys are not reported
    /// as well.
    fn tenants(&mut self, root: &mut Section, has_master_key: bool) -> Tenants {
        let mut tenants = Tenants::new();
        for mut section in root.sections("tenants", &mut self.problems) {
            let id = section.name("id", &mut self.problems);
            let policy = section.text("policy", &mut self.problems);
            let shadow = section.optional_text("shadow", &mut self.problems);
            let capture_ms = self.capture(&mut section, has_master_key);
            let quota = self.quota(&mut section);
            section.finish(&mut self.problems);
            let place = section.member("policy");
            if let (Some(id), Some(policy)) = (&id, &policy) {
                self.policy_files.insert(id.clone(), self.folder.join(policy));
            }
            let policy = policy.and_then(|policy| self.policy(&place, &policy));
            let shadow = shadow.and_then(|shadow| self.policy(&section.member("shadow"), &shadow));
            let Some(id) = id else {
                continue;
            };
            if let Some(quota) = quota {
                self.tenant_limits.insert(id.clone(), Arc::new(RequestLimit::new(quota)));
            }
            if let Some(policy) = &policy {
                for finding in policy.findings().iter().filter(|finding| finding.is_defect()) {
                    self.warn(&place, finding);
                }
            }
            let tenant = policy.map(|policy| {
                let shadow = shadow.map(|shadow| ShadowPolicy::new(shadow, &policy));
                Arc::new(Tenant { shadow, capture_ms, ..Tenant::new(&id, policy) })
            });
            if tenants.insert(id.clone(), tenant).is_some() {
                self.problems.add(section.member("id"), format_args!("duplicate tenant id {id:?}"));
            }
        }
        tenants
    }

    /// People with groups, in addition to those that keys name. A person signs in with a key, or by other
    /// means.
    fn people(&mut self, root: &mut Section, tenants: &Tenants) -> Directory {
        let mut directory = Directory::default();
        if !root.has("people") {
            return directory;
        }
        for mut section in root.sections("people", &mut self.problems) {
            let name = section.name("name", &mut self.problems);
            let tenant = self.tenant(&mut section, tenants);
            let groups = section.optional_texts("groups", &mut self.problems).unwrap_or_default();
            section.finish(&mut self.problems);
            let (Some(name), Some(tenant)) = (name, tenant) else {
                continue;
            };
            if directory.groups(&tenant, &name).is_some() {
                self.problems.add(section.member("name"), format_args!("duplicate person {name:?}"));
            }
            directory.add(&tenant, &name, &groups);
        }
        directory
    }

    /// Returns the id of an existing tenant.
    fn tenant(&mut self, section: &mut Section, tenants: &Tenants) -> Option<String> {
        let tenant = section.text("tenant", &mut self.problems)?;
        if !tenants.contains_key(&tenant) {
            self.problems.add(section.member("tenant"), format_args!("unknown tenant {tenant:?}"));
            return None;
        }
        Some(tenant)
    }

    /// Reads the keys and adds their people to `directory`.
    fn keys(
        &mut self,
        root: &mut Section,
        tenants: &Tenants,
        limits: &Limits,
        trusts_clients: bool,
        directory: &mut Directory,
    ) -> Keyring {
        let listed = directory.clone();
        let mut keyring = Keyring::default();
        let mut names = HashSet::new();
        let mut hashes = HashSet::new();
        let mut acs_keys = HashSet::new();
        let mut certificates = HashSet::new();
        for mut section in root.sections("keys", &mut self.problems) {
            let name = section.name("name", &mut self.problems);
            let hash = section.hash("hash", &mut self.problems);
            let tenant = self.tenant(&mut section, tenants);
            let role = section.role("role", &mut self.problems);
            let agent = section.optional_name("agent", &mut self.problems);
            let person = section.optional_name("person", &mut self.problems);
            let groups = section.optional_texts("groups", &mut self.problems);
            if groups.is_some() && role.is_some_and(|role| !role.may(Capability::DecideApprovals)) {
                let problem = "not supported for a role that decides no approvals; use approver or operator";
                self.problems.add(section.member("groups"), problem);
            }
            let grants = self.grants(&mut section, role, agent.is_some());
            let expires_at = section.optional_time("expires_at", &mut self.problems);
            if expires_at.is_some_and(|expires_at| expires_at <= Clock::default().seconds()) {
                self.warn(section.member("expires_at"), "has passed; the key is rejected");
            }
            let halt_all = section.optional_bool("halt_all", &mut self.problems).unwrap_or(false);
            if halt_all && !role.is_none_or(|role| role.may(Capability::Halt)) {
                self.problems.add(section.member("halt_all"), "needs the role operator");
            }
            let (certificate, is_certificate_sufficient) =
                self.key_certificate(&mut section, role, trusts_clients);
            if let Some(certificate) = certificate.clone().filter(|_| is_certificate_sufficient)
                && !certificates.insert(certificate)
            {
                let problem = "duplicate: it authenticates another key";
                self.problems.add(section.member("certificate"), problem);
            }
            let acs = self.acs(&mut section, name.as_deref(), role);
            if let Some(acs) = &acs
                && !acs_keys.insert(acs.key_id.clone())
            {
                let problem = format_args!("duplicate key id {:?}", acs.key_id);
                self.problems.add(section.member("acs_key_id"), problem);
            }
            let dpop = self.dpop(&mut section, is_certificate_sufficient, acs.is_some());
            let quota = self.quota(&mut section).or(limits.quota);
            section.finish(&mut self.problems);
            if let Some(public) =
                hash.and_then(|hash| WELL_KNOWN_KEYS.into_iter().find(|key| ApiKeyHash::of(key) == hash))
            {
                self.warn(
                    section.member("hash"),
                    format_args!("is the hash of {public}, a publicly known key"),
                );
            }

            if let Some(name) = &name
                && !names.insert(name.clone())
            {
                self.problems.add(section.member("name"), format_args!("duplicate key name {name:?}"));
            }
            if let Some(hash) = hash
                && !hashes.insert(hash.to_string())
            {
                self.problems.add(section.member("hash"), "duplicate hash: another key has it");
            }
            let known = tenant.as_ref().and_then(|tenant| tenants.get(tenant));
            if let (Some(name), Some(hash), Some(tenant), Some(role)) =
                (name, hash, known.and_then(Option::as_ref), role)
            {
                let mut principal = Principal {
                    person: person.map(Arc::from),
                    agent: agent.map(Json::String),
                    halt_all,
                    ..Principal::new(&name, Arc::clone(tenant), role)
                };
                if role.may(Capability::DecideApprovals) {
                    let mut groups = groups.unwrap_or_default();
                    directory.add(&tenant.id, principal.person(), &groups);
                    groups
                        .extend(listed.groups(&tenant.id, principal.person()).into_iter().flatten().cloned());
                    groups.sort_unstable();
                    groups.dedup();
                    principal.groups = groups.into();
                }
                let key = ApiKey {
                    limiter: quota.map(|quota| Arc::new(RequestLimit::new(quota))),
                    // An operator can stop everything while agents exceed the limit.
                    tenant_limiter: match role {
                        Role::Agent => self.tenant_limits.get(&*tenant.id).map(Arc::clone),
                        Role::Approver | Role::Auditor | Role::Operator => None,
                    },
                    grants,
                    expires_at,
                    acs,
                    certificate,
                    is_certificate_sufficient,
                    dpop,
                    ..ApiKey::of(principal)
                };
                keyring.add(hash, key);
            }
        }
        keyring
    }
}

impl SettingsReader<'_> {
    /// Reads the settings of a key for the Agent Control Standard.
    fn acs(&mut self, section: &mut Section, name: Option<&str>, role: Option<Role>) -> Option<AcsSettings> {
        let file = section.optional_text("acs_secret_file", &mut self.problems);
        let key_id = section.optional_text("acs_key_id", &mut self.problems);
        let asks = section.optional_bool("acs_ask", &mut self.problems);
        let Some(file) = file else {
            for (member, is_set) in [("acs_key_id", key_id.is_some()), ("acs_ask", asks.is_some())] {
                if is_set {
                    self.problems.add(section.member(member), "needs acs_secret_file");
                }
            }
            return None;
        };
        let place = section.member("acs_secret_file");
        if !role.is_none_or(|role| role.may(Capability::Act)) {
            self.problems.add(&place, "needs the role agent or operator");
        }
        let secret = self.secret(&place, &file)?;
        let secret = actpass_acs::read_secret(secret.expose());
        let secret = secret.map_err(|error| self.problems.add(&place, error)).ok()?;
        let key_id = key_id.or(name.map(str::to_owned))?;
        Some(AcsSettings { key_id, secret, asks: asks.unwrap_or(false) })
    }
}

impl SettingsReader<'_> {
    /// Reads the DPoP key of a key.
    fn dpop(
        &mut self,
        section: &mut Section,
        is_certificate_sufficient: bool,
        has_acs: bool,
    ) -> Option<Thumbprint> {
        let text = section.optional_text("dpop_jkt", &mut self.problems)?;
        let place = section.member("dpop_jkt");
        // Requests that these members authenticate carry no API key, so no proof covers it.
        for (member, is_set) in
            [("certificate_authenticates", is_certificate_sufficient), ("acs_secret_file", has_acs)]
        {
            if is_set {
                self.problems.add(&place, format_args!("conflicts with {member}; use two keys"));
            }
        }
        let thumbprint = Thumbprint::parse(&text);
        if thumbprint.is_none() {
            let problem = "expected the thumbprint of a public key, 43 characters of base64url; create it with \
                `actpass-gateway key dpop`";
            self.problems.add(place, problem);
        }
        thumbprint
    }
}

/// The settings of TLS.
struct Tls {
    config: Arc<ServerConfig>,
    chain: Vec<CertificateDer<'static>>,
    /// The authorities of client certificates.
    authorities: Vec<CertificateDer<'static>>,
    client_trust: Option<ClientTrust>,
}

fn client_verifier(
    authorities: &[CertificateDer<'static>],
    is_required: bool,
    provider: &Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(|error| format!("contains an unusable certificate: {error}"))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = if is_required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| error.to_string())
}

impl SettingsReader<'_> {
    /// Reads the client certificate of a key, and whether it is sufficient.
    fn key_certificate(
        &mut self,
        section: &mut Section,
        role: Option<Role>,
        trusts_clients: bool,
    ) -> (Option<CertificateName>, bool) {
        let text = section.optional_text("certificate", &mut self.problems);
        let is_sufficient = section.optional_bool("certificate_authenticates", &mut self.problems);
        let is_sufficient = is_sufficient.unwrap_or(false);
        let place = section.member("certificate_authenticates");
        if is_sufficient && text.is_none() {
            self.problems.add(&place, "needs certificate");
        }
        // A browser presents its certificate in requests that other sites cause.
        if is_sufficient && role.is_some_and(|role| role != Role::Agent) {
            self.problems.add(&place, "needs the role agent");
        }
        let Some(text) = text else { return (None, false) };
        let place = section.member("certificate");
        if !trusts_clients {
            self.problems.add(&place, "needs client_ca in [tls]");
        }
        let name = CertificateName::parse(&text);
        if name.is_none() {
            let problem = "expected a SPIFFE ID such as \"spiffe://example.org/agent\", or \"sha256:\" and 64 hex digits";
            self.problems.add(place, problem);
        }
        (name, is_sufficient)
    }
}

type Tenants = HashMap<String, Option<Arc<Tenant>>>;

struct Limits {
    body_bytes: usize,
    quota: Option<Quota>,
    connections: ConnectionLimits,
    pending_approvals: u32,
    admission: AdmissionLimits,
}

/// A table whose members are removed as they are read; remaining members are unknown.
struct Section {
    place: String,
    members: Table,
}

impl Section {
    fn new(place: impl Into<String>, members: Table) -> Self {
        Self { place: place.into(), members }
    }

    fn of(place: String, value: Value, problems: &mut Problems) -> Option<Self> {
        if let Value::Table(members) = value {
            return Some(Self::new(place, members));
        }
        problems.add(place, expected("a table", &value));
        None
    }

    /// The member's full name in problems: `keys[0].hash`.
    fn member(&self, name: &str) -> String {
        match self.place.is_empty() {
            true => name.to_owned(),
            false => format!("{}.{name}", self.place),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    fn text(&mut self, name: &str, problems: &mut Problems) -> Option<String> {
        if !self.has(name) {
            problems.add(self.member(name), "missing; expected a non-empty string");
        }
        self.optional_text(name, problems)
    }

    fn optional_text(&mut self, name: &str, problems: &mut Problems) -> Option<String> {
        let value = self.members.remove(name)?;
        match value.as_str() {
            Some("") => problems.add(self.member(name), "expected a non-empty string, found an empty one"),
            Some(text) => return Some(text.to_owned()),
            None => problems.add(self.member(name), expected("a non-empty string", &value)),
        }
        None
    }

    /// A list of non-empty strings; may be empty.
    fn optional_texts(&mut self, name: &str, problems: &mut Problems) -> Option<Vec<String>> {
        let value = self.members.remove(name)?;
        let texts = value.as_array().and_then(|items| {
            items
                .iter()
                .map(|item| item.as_str().filter(|text| !text.is_empty()).map(str::to_owned))
                .collect()
        });
        if texts.is_none() {
            let found =
                if value.is_array() { "another list".to_owned() } else { value.type_str().to_owned() };
            problems
                .add(self.member(name), format_args!("expected a list of non-empty strings, found {found}"));
        }
        texts
    }

    /// A non-empty list of known words.
    fn optional_words<T: Copy>(
        &mut self,
        name: &str,
        problems: &mut Problems,
        all: &[T],
        word: impl Fn(T) -> &'static str,
    ) -> Option<Vec<T>> {
        let texts = self.optional_texts(name, problems)?;
        let known = || all.iter().map(|item| word(*item)).collect::<Vec<_>>().join(", ");
        if texts.is_empty() {
            problems.add(self.member(name), format_args!("expected at least one of {}, found none", known()));
        }
        let mut words = Vec::with_capacity(texts.len());
        for text in texts {
            match all.iter().find(|item| word(**item) == text) {
                Some(item) => words.push(*item),
                None => problems
                    .add(self.member(name), format_args!("expected some of {}, found {text:?}", known())),
            }
        }
        Some(words)
    }

    fn name(&mut self, name: &str, problems: &mut Problems) -> Option<String> {
        let text = self.text(name, problems)?;
        self.check_length(name, text, problems)
    }

    fn optional_name(&mut self, name: &str, problems: &mut Problems) -> Option<String> {
        let text = self.optional_text(name, problems)?;
        self.check_length(name, text, problems)
    }

    fn check_length(&self, name: &str, text: String, problems: &mut Problems) -> Option<String> {
        if text.chars().count() > MAX_NAME_CHARACTERS {
            let problem = format_args!("expected at most {MAX_NAME_CHARACTERS} characters");
            problems.add(self.member(name), problem);
            return None;
        }
        Some(text)
    }

    /// A time in seconds since 1970, as a TOML time with an offset or the same text in a string.
    fn optional_time(&mut self, name: &str, problems: &mut Problems) -> Option<i64> {
        let value = self.members.remove(name)?;
        let time = value.as_datetime().map(ToString::to_string);
        let text = time.or_else(|| value.as_str().map(str::to_owned)).unwrap_or_default();
        let seconds = parse_millis(&text).map(|millis| millis.div_euclid(1000));
        if seconds.is_none() {
            let problem = "expected a time in UTC such as \"2027-01-31T00:00:00Z\"";
            problems.add(self.member(name), format_args!("{problem}, found {value}"));
        }
        seconds
    }

    fn optional_bool(&mut self, name: &str, problems: &mut Problems) -> Option<bool> {
        let value = self.members.remove(name)?;
        if !value.is_bool() {
            problems.add(self.member(name), expected("true or false", &value));
        }
        value.as_bool()
    }

    fn optional_percent(&mut self, name: &str, problems: &mut Problems) -> Option<u8> {
        let value = self.members.remove(name)?;
        let number = value.as_integer().and_then(|number| u8::try_from(number).ok());
        let number = number.filter(|number| *number <= 100);
        if number.is_none() {
            problems.add(self.member(name), expected("an integer of 0 to 100", &value));
        }
        number
    }

    fn positive(&mut self, name: &str, problems: &mut Problems) -> Option<NonZeroU32> {
        let value = self.members.remove(name)?;
        let number =
            value.as_integer().and_then(|number| u32::try_from(number).ok()).and_then(NonZeroU32::new);
        if number.is_none() {
            let wanted = format!("an integer of 1 to {}", u32::MAX);
            problems.add(self.member(name), expected(&wanted, &value));
        }
        number
    }

    /// The value is never shown: it may be a key in place of its hash.
    fn hash(&mut self, name: &str, problems: &mut Problems) -> Option<ApiKeyHash> {
        let text = self.text(name, problems)?;
        let hash = ApiKeyHash::parse(&text);
        if hash.is_none() {
            let problem = "expected \"sha256:\" and 64 hex digits; create it with `actpass-gateway key hash`";
            problems.add(self.member(name), problem);
        }
        hash
    }

    fn role(&mut self, name: &str, problems: &mut Problems) -> Option<Role> {
        let word = self.text(name, problems)?;
        let role = Role::parse(&word);
        if role.is_none() {
            let words = Role::ALL.map(Role::as_str).join(", ");
            problems.add(self.member(name), format_args!("expected one of {words}, found {word:?}"));
        }
        role
    }

    fn section(&mut self, name: &str, problems: &mut Problems) -> Option<Self> {
        let value = self.members.remove(name)?;
        let place = self.member(name);
        Self::of(place, value, problems)
    }

    /// A non-empty list of tables.
    fn sections(&mut self, name: &str, problems: &mut Problems) -> Vec<Self> {
        let place = self.member(name);
        let items = match self.members.remove(name) {
            Some(Value::Array(items)) => items,
            Some(other) => {
                problems.add(place, expected("a list of tables", &other));
                return Vec::new();
            }
            None => Vec::new(),
        };
        if items.is_empty() {
            problems.add(&place, format_args!("missing; expected at least one [[{place}]]"));
        }
        let mut sections = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            sections.extend(Self::of(format!("{place}[{index}]"), item, problems));
        }
        sections
    }

    /// Reports unknown members.
    fn finish(&mut self, problems: &mut Problems) {
        for name in self.members.keys() {
            problems.add(self.member(name), "unknown member");
        }
    }
}

fn expected(what: impl fmt::Display, found: &Value) -> String {
    format!("expected {what}, found {}", found.type_str())
}
