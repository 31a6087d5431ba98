//! Settings: from a file or from the command line, checked whole before anything starts.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actpass_core::Json;
use governor::{DefaultDirectRateLimiter, Quota};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use toml::{Table, Value};

use crate::auth::{Key, KeyHash, Keyring, Role, Tenant};
use crate::clock::Clock;
use crate::policy::Policy;
use crate::problems::Problems;
use crate::seal::MasterKey;
use crate::store::{Database, Location, Trust};

/// The policy of `actpass-gateway dev`.
const DEV_POLICY: &[u8] = include_bytes!("../../policies/refunds.json");

/// How long names and ids may be, in characters.
const NAME_CHARACTERS: usize = 256;

/// Everything a gateway needs to start, checked.
#[derive(Debug)]
pub struct Settings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the data are.
    pub data: Location,
    /// How the log is written.
    pub log: LogFormat,
    /// The certificate and the key, if it is https.
    pub tls: Option<Arc<ServerConfig>>,
    /// The largest body, in bytes.
    pub body_bytes: usize,
    /// The ids of the tenants, in alphabetical order.
    pub tenants: Vec<String>,
    /// Who may call, and which policy decides for them.
    pub keyring: Keyring,
    /// How long a client or the store may take.
    pub timeouts: Timeouts,
    /// Who issues this gateway's passports; its URL if `None`.
    pub issuer: Option<String>,
    /// What seals the keys that sign passports, and the vault's credentials.
    pub master_key: MasterKeySource,
    /// For how many seconds an approval may be decided: 900 if not set.
    pub approval_seconds: i64,
    /// Whether a request meets the open request for the same action instead of opening another: true if not set.
    pub finds_approvals: bool,
    /// For how many seconds an answer is kept under its idempotency key: 86400 if not set.
    pub keep_seconds: i64,
    /// What time it is.
    pub clock: Clock,
}

/// The environment variable with the master key.
pub const MASTER_KEY_VARIABLE: &str = "ACTPASS_MASTER_KEY";

/// The environment variable with the database's URL.
pub const DATABASE_URL_VARIABLE: &str = "ACTPASS_DATABASE_URL";

/// Where the master key is from.
#[derive(Clone, Debug)]
pub enum MasterKeySource {
    /// The file beside the data file, `.master-key` added to its name, made if it is not there.
    BesideData,
    /// The settings or the environment.
    Given(MasterKey),
    /// There is none, and so there are neither passports nor credentials.
    Missing,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// An object a line.
    Json,
    /// For people.
    #[default]
    Text,
}

/// How long a client or the store may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// A body, from its first byte to its last: 30 s.
    pub body: Duration,
    /// The headers of a request, and how long a connection may be idle before them: 10 s.
    pub headers: Duration,
    /// Requests in flight when the gateway stops: 10 s.
    pub stop: Duration,
    /// The store, for one event or one page: 15 s.
    pub store: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            body: Duration::from_secs(30),
            headers: Duration::from_secs(10),
            stop: Duration::from_secs(10),
            store: Duration::from_secs(15),
        }
    }
}

impl Settings {
    /// Reads the settings of `actpass-gateway serve` from the file `path`, and what the file refers to.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, each with the member's name.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let text = std::fs::read_to_string(path).map_err(|error| Problems::one(path.display(), error))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, folder)
    }

    /// As [`Settings::load`], from the text of a file that lies in `folder`.
    ///
    /// # Errors
    ///
    /// As [`Settings::load`].
    pub fn parse(text: &str, folder: &Path) -> Result<Self, Problems> {
        // The parser's own message shows the line, and there could be a secret in it.
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error
                .span()
                .map_or(1, |span| 1 + text.bytes().take(span.start).filter(|b| *b == b'\n').count());
            Problems::one(format_args!("line {line}"), error.message().lines().next().unwrap_or_default())
        })?;
        Reader { problems: Problems::default(), folder }.settings(table)
    }

    /// The settings of `actpass-gateway dev`: the tenant `dev`, the keys `apk_dev` and `apdv_dev`, and the refund
    /// policy or the one in the file `policy`.
    ///
    /// # Errors
    ///
    /// If `listen` is not a loopback address, the policy is wrong, or the data file's folder cannot be made.
    pub fn dev(listen: SocketAddr, data: Option<PathBuf>, policy: Option<&Path>) -> Result<Self, Problems> {
        if !listen.ip().is_loopback() {
            let problem = "dev has keys that everyone knows, so it listens on a loopback address only";
            return Err(Problems::one("--listen", problem));
        }
        let policy = match policy {
            Some(path) => load_policy("--policy", path)?,
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
        let tenant = Arc::new(Tenant { id: "dev".into(), policy });
        let mut keyring = Keyring::default();
        for (secret, name, role) in
            [("apk_dev", "dev-agent", Role::Agent), ("apdv_dev", "dev-operator", Role::Operator)]
        {
            let key =
                Key { name: name.into(), tenant: Arc::clone(&tenant), role, agent: None, limiter: None };
            keyring.add(KeyHash::of(secret), key);
        }
        Ok(Self {
            listen,
            data: Location::File(data),
            log: LogFormat::default(),
            tls: None,
            body_bytes: DEFAULT_BODY_BYTES,
            tenants: vec!["dev".to_owned()],
            keyring,
            timeouts: Timeouts::default(),
            issuer: None,
            master_key: MasterKeySource::BesideData,
            approval_seconds: DEFAULT_APPROVAL_SECONDS,
            finds_approvals: true,
            keep_seconds: DEFAULT_KEEP_SECONDS,
            clock: Clock::default(),
        })
    }
}

const DEFAULT_APPROVAL_SECONDS: i64 = 900;

const DEFAULT_KEEP_SECONDS: i64 = 86_400;

/// How long an answer may be kept under its idempotency key, in seconds.
const KEEP_SECONDS: std::ops::RangeInclusive<u64> = 1..=31_536_000;

const DEFAULT_BODY_BYTES: usize = 1 << 20;

/// Reads a policy file; problems are those of the member `place`.
fn load_policy(place: &str, path: &Path) -> Result<Policy, Problems> {
    let place = format!("{place}: {}", path.display());
    let text = std::fs::read(path).map_err(|error| Problems::one(&place, error))?;
    Policy::parse(&text).map_err(|found| {
        let mut problems = Problems::default();
        problems.add_all(&place, &found);
        problems
    })
}

fn make_private_folder(folder: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

struct Reader<'f> {
    problems: Problems,
    folder: &'f Path,
}

impl Reader<'_> {
    fn settings(mut self, table: Table) -> Result<Settings, Problems> {
        let mut root = Section::new("", table);
        let listen = self.listen(&mut root);
        let data = self.data(&mut root);
        let log = self.log(&mut root);
        let danger = root.optional_bool("danger_allow_plain_http", &mut self.problems).unwrap_or(false);
        let issuer = self.issuer(&mut root);
        let master_key = self.master_key(&mut root);
        let (approval_seconds, finds_approvals) = self.approvals(&mut root);
        let keep_seconds = self.idempotency(&mut root);
        let limits = self.limits(&mut root);
        let has_tls = root.has("tls");
        let tls = self.tls(&mut root);
        let tenants = self.tenants(&mut root);
        let keyring = self.keys(&mut root, &tenants, &limits);
        root.finish(&mut self.problems);

        if listen.is_some_and(|listen| !listen.ip().is_loopback()) && !has_tls && !danger {
            let problem = "is not a loopback address, so it needs [tls]: keys would travel in the clear \
                           (danger_allow_plain_http = true allows it, behind a proxy that ends TLS)";
            self.problems.add("listen", problem);
        }
        if let (Some(Location::Database(_)), None, MasterKeySource::Given(_)) = (&data, &issuer, &master_key)
        {
            let problem =
                "missing; with a database it is needed, because all gateways on it issue passports as one";
            self.problems.add("issuer", problem);
        }
        let (Some(listen), Some(data)) = (listen, data) else {
            return Err(self.problems);
        };
        let timeouts = Timeouts::default();
        let mut tenants: Vec<_> = tenants.into_keys().collect();
        tenants.sort_unstable();
        self.problems.or(Settings {
            listen,
            data,
            log,
            tls,
            body_bytes: limits.body_bytes,
            tenants,
            keyring,
            timeouts,
            issuer,
            master_key,
            approval_seconds,
            finds_approvals,
            keep_seconds,
            clock: Clock::default(),
        })
    }

    fn listen(&mut self, root: &mut Section) -> Option<SocketAddr> {
        let text = root.text("listen", &mut self.problems)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.problems.add(
                "listen",
                format_args!("expected an address and a port such as \"127.0.0.1:8787\", found {text:?}"),
            );
        }
        parsed
    }

    /// The URL is never shown: it has a password.
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
            self.problems.add("data", format_args!("there is {place} too; expected one of them"));
        }
        if url.is_some() && variable.is_some() {
            let problem =
                format_args!("the environment has {DATABASE_URL_VARIABLE} too; expected one of them");
            self.problems.add("database_url", problem);
        }
        let url = url.or_else(|| variable.and_then(|url| url.into_string().ok())).unwrap_or_default();
        // What is wrong with the authorities is said already.
        let authorities = match authorities {
            None => None,
            Some(found) => Some(found?),
        };
        let trust = Trust { authorities, danger_allow_plain: danger.unwrap_or(false) };
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
            let problem = "expected a URL without a slash at its end, such as \"https://gateway.example\"";
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
                let problem =
                    format_args!("the environment has {MASTER_KEY_VARIABLE} too; expected one of them");
                self.problems.add("master_key_file", problem);
                return MasterKeySource::Missing;
            }
            (Some(file), None) => match std::fs::read_to_string(&file) {
                Ok(text) => (format!("master_key_file: {}", file.display()), Some(text)),
                Err(error) => {
                    self.problems.add("master_key_file", format_args!("{}: {error}", file.display()));
                    return MasterKeySource::Missing;
                }
            },
        };
        match text.map(zeroize::Zeroizing::new).and_then(|text| MasterKey::parse(&text)) {
            Some(key) => MasterKeySource::Given(key),
            None => {
                self.problems.add(place, "expected 32 bytes as 64 hex digits or base64");
                MasterKeySource::Missing
            }
        }
    }

    fn approvals(&mut self, root: &mut Section) -> (i64, bool) {
        let Some(mut section) = root.section("approvals", &mut self.problems) else {
            return (DEFAULT_APPROVAL_SECONDS, true);
        };
        let reuse = section.optional_bool("reuse", &mut self.problems).unwrap_or(true);
        let seconds = section.positive("deadline_seconds", &mut self.problems).map(|s| i64::from(s.get()));
        if seconds.is_some_and(|seconds| !(10..=86_400).contains(&seconds)) {
            self.problems.add("approvals.deadline_seconds", "expected an integer of 10 to 86400");
        }
        section.finish(&mut self.problems);
        (seconds.unwrap_or(DEFAULT_APPROVAL_SECONDS), reuse)
    }

    fn idempotency(&mut self, root: &mut Section) -> i64 {
        let Some(mut section) = root.section("idempotency", &mut self.problems) else {
            return DEFAULT_KEEP_SECONDS;
        };
        let text = section.optional_text("keep", &mut self.problems);
        section.finish(&mut self.problems);
        let Some(text) = text else {
            return DEFAULT_KEEP_SECONDS;
        };
        let seconds = humantime::parse_duration(&text).ok().filter(|duration| duration.subsec_nanos() == 0);
        let seconds = seconds.map(|duration| duration.as_secs()).filter(|s| KEEP_SECONDS.contains(s));
        if seconds.is_none() {
            let problem = format_args!("expected a duration of 1s to 365d such as \"24h\", found {text:?}");
            self.problems.add("idempotency.keep", problem);
        }
        seconds.and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(DEFAULT_KEEP_SECONDS)
    }

    fn limits(&mut self, root: &mut Section) -> Limits {
        let mut limits = Limits { body_bytes: DEFAULT_BODY_BYTES, quota: None };
        let Some(mut section) = root.section("limits", &mut self.problems) else {
            return limits;
        };
        if let Some(bytes) = section.positive("body_bytes", &mut self.problems) {
            limits.body_bytes = usize::try_from(bytes.get()).unwrap_or(usize::MAX);
        }
        let per_second = section.positive("requests_per_second", &mut self.problems);
        let has_burst = section.has("burst");
        let burst = section.positive("burst", &mut self.problems);
        if has_burst && per_second.is_none() {
            self.problems.add("limits.burst", "needs limits.requests_per_second");
        }
        limits.quota = per_second.map(|rate| Quota::per_second(rate).allow_burst(burst.unwrap_or(rate)));
        section.finish(&mut self.problems);
        limits
    }

    fn tls(&mut self, root: &mut Section) -> Option<Arc<ServerConfig>> {
        let mut section = root.section("tls", &mut self.problems)?;
        let certificate = section.text("certificate", &mut self.problems);
        let key = section.text("key", &mut self.problems);
        section.finish(&mut self.problems);

        let chain = self.certificates("tls.certificate", &certificate?);
        let key = self.private_key(key?);
        let (chain, key) = (chain?, key?);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
        match config {
            Ok(mut config) => {
                config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
                Some(Arc::new(config))
            }
            Err(error) => {
                self.problems.add("tls.key", format_args!("cannot be used with tls.certificate: {error}"));
                None
            }
        }
    }

    fn certificates(&mut self, place: &str, path: &str) -> Option<Vec<CertificateDer<'static>>> {
        let path = self.folder.join(path);
        let chain = CertificateDer::pem_file_iter(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match chain {
            Ok(chain) if !chain.is_empty() => return Some(chain),
            Ok(_) => {
                self.problems.add(place, format_args!("{}: holds no PEM certificate", path.display()));
            }
            Err(error) => self.problems.add(place, format_args!("{}: {error}", path.display())),
        }
        None
    }

    fn private_key(&mut self, path: String) -> Option<PrivateKeyDer<'static>> {
        let path = self.folder.join(path);
        PrivateKeyDer::from_pem_file(&path)
            .map_err(|error| self.problems.add("tls.key", format_args!("{}: {error}", path.display())))
            .ok()
    }

    /// By id; `None` for a tenant whose policy is wrong, so that its keys are not called wrong too.
    fn tenants(&mut self, root: &mut Section) -> Tenants {
        let mut tenants = Tenants::new();
        for mut section in root.sections("tenants", &mut self.problems) {
            let id = section.name("id", &mut self.problems);
            let policy = section.text("policy", &mut self.problems);
            section.finish(&mut self.problems);
            let place = section.member("policy");
            let policy = policy.and_then(|policy| match load_policy(&place, &self.folder.join(policy)) {
                Ok(policy) => Some(policy),
                Err(found) => {
                    self.problems.extend(found);
                    None
                }
            });
            let Some(id) = id else {
                continue;
            };
            let tenant = policy.map(|policy| Arc::new(Tenant { id: id.as_str().into(), policy }));
            if tenants.insert(id.clone(), tenant).is_some() {
                self.problems.add(section.member("id"), format_args!("the tenant {id:?} is given twice"));
            }
        }
        tenants
    }

    fn keys(&mut self, root: &mut Section, tenants: &Tenants, limits: &Limits) -> Keyring {
        let mut keyring = Keyring::default();
        let mut names = HashSet::new();
        let mut hashes = HashSet::new();
        for mut section in root.sections("keys", &mut self.problems) {
            let name = section.name("name", &mut self.problems);
            let hash = section.hash("hash", &mut self.problems);
            let tenant = section.text("tenant", &mut self.problems);
            let role = section.role("role", &mut self.problems);
            let agent = section.optional_name("agent", &mut self.problems);
            section.finish(&mut self.problems);

            if let Some(name) = &name
                && !names.insert(name.clone())
            {
                self.problems
                    .add(section.member("name"), format_args!("the key name {name:?} is given twice"));
            }
            if let Some(hash) = hash
                && !hashes.insert(hash.to_string())
            {
                self.problems.add(section.member("hash"), "another key has this hash");
            }
            let known = tenant.as_ref().and_then(|tenant| tenants.get(tenant));
            if let (Some(tenant), None) = (&tenant, known) {
                self.problems.add(section.member("tenant"), format_args!("there is no tenant {tenant:?}"));
            }
            if let (Some(name), Some(hash), Some(tenant), Some(role)) =
                (name, hash, known.and_then(Option::as_ref), role)
            {
                let key = Key {
                    name: name.as_str().into(),
                    tenant: Arc::clone(tenant),
                    role,
                    agent: agent.map(Json::String),
                    limiter: limits.quota.map(DefaultDirectRateLimiter::direct),
                };
                keyring.add(hash, key);
            }
        }
        keyring
    }
}

type Tenants = HashMap<String, Option<Arc<Tenant>>>;

struct Limits {
    body_bytes: usize,
    quota: Option<Quota>,
}

/// A table whose members are taken out as they are checked, so that what is left is unknown.
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

    /// The name of a member in problems: `keys[0].hash`.
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

    fn name(&mut self, name: &str, problems: &mut Problems) -> Option<String> {
        let text = self.text(name, problems)?;
        self.check_length(name, text, problems)
    }

    fn optional_name(&mut self, name: &str, problems: &mut Problems) -> Option<String> {
        let text = self.optional_text(name, problems)?;
        self.check_length(name, text, problems)
    }

    fn check_length(&self, name: &str, text: String, problems: &mut Problems) -> Option<String> {
        if text.chars().count() > NAME_CHARACTERS {
            let problem = format_args!("expected at most {NAME_CHARACTERS} characters");
            problems.add(self.member(name), problem);
            return None;
        }
        Some(text)
    }

    fn optional_bool(&mut self, name: &str, problems: &mut Problems) -> Option<bool> {
        let value = self.members.remove(name)?;
        if !value.is_bool() {
            problems.add(self.member(name), expected("true or false", &value));
        }
        value.as_bool()
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

    /// The text itself is never shown: somebody may have put the key where its hash belongs.
    fn hash(&mut self, name: &str, problems: &mut Problems) -> Option<KeyHash> {
        let text = self.text(name, problems)?;
        let hash = KeyHash::parse(&text);
        if hash.is_none() {
            let problem =
                "expected \"sha256:\" and 64 hex digits; `actpass-gateway key hash` makes it from a key";
            problems.add(self.member(name), problem);
        }
        hash
    }

    fn role(&mut self, name: &str, problems: &mut Problems) -> Option<Role> {
        let word = self.text(name, problems)?;
        let role = Role::parse(&word);
        if role.is_none() {
            problems
                .add(self.member(name), format_args!("expected \"agent\" or \"operator\", found {word:?}"));
        }
        role
    }

    fn section(&mut self, name: &str, problems: &mut Problems) -> Option<Self> {
        let value = self.members.remove(name)?;
        let place = self.member(name);
        Self::of(place, value, problems)
    }

    /// A list of tables with at least one.
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

    /// Reports what was not taken.
    fn finish(&mut self, problems: &mut Problems) {
        for name in self.members.keys() {
            problems.add(self.member(name), "unknown member");
        }
    }
}

fn expected(what: impl fmt::Display, found: &Value) -> String {
    format!("expected {what}, found {}", found.type_str())
}
