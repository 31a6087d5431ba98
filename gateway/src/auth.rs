//! Authentication: API keys, of which only the hashes are stored.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use actpass_protocol::{Json, Mode, Secret};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::acs::AcsSettings;
use crate::client_certificates::CertificateName;
use crate::dpop::Thumbprint;
use crate::policy::{Policy, RiskTier, ShadowPolicy};

/// Maximum length of an API key in bytes. Longer keys are treated as unknown.
pub const MAX_KEY_BYTES: usize = 512;

/// The SHA-256 of an API key.
///
/// Keys are random (see [`generate`]), so a fast hash is sufficient: it cannot be reversed by
/// guessing.
#[derive(Clone, Copy)]
pub struct ApiKeyHash([u8; 32]);

impl ApiKeyHash {
    /// Hashes `key`.
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// Parses `sha256:` followed by 64 hex digits; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        hex::decode_to_slice(text.strip_prefix("sha256:")?, &mut hash).ok()?;
        Some(Self(hash))
    }

    fn bucket(&self) -> [u8; 8] {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        [a, b, c, d, e, f, g, h]
    }
}

/// Compares in constant time.
impl PartialEq for ApiKeyHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for ApiKeyHash {}

/// Formats as `sha256:` followed by 64 hex digits, the form used in settings.
impl fmt::Display for ApiKeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for ApiKeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(..)")
    }
}

/// Role of a principal; see [`Role::may`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A program: requests decisions and records evidence.
    Agent,
    /// A person who decides the approvals of their groups.
    Approver,
    /// A person who reads everything and changes nothing.
    Auditor,
    /// A person or program without restrictions.
    Operator,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::Agent, Self::Approver, Self::Auditor, Self::Operator];

    /// The word used in settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Approver => "approver",
            Self::Auditor => "auditor",
            Self::Operator => "operator",
        }
    }

    /// Parses a role word; `None` if it is unknown.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }

    /// Returns whether principals with this role have the capability. This is the only place that
    /// gives a role its rights.
    pub const fn may(self, capability: Capability) -> bool {
        match capability {
            Capability::Act => matches!(self, Self::Agent | Self::Operator),
            Capability::ReadLedger | Capability::ReadTools => {
                matches!(self, Self::Agent | Self::Auditor | Self::Operator)
            }
            Capability::ReadApproval => true,
            Capability::ListApprovals | Capability::UsePage => {
                matches!(self, Self::Approver | Self::Auditor | Self::Operator)
            }
            Capability::DecideApprovals | Capability::Delegate => {
                matches!(self, Self::Approver | Self::Operator)
            }
            Capability::ReadBudgets
            | Capability::ReadHalts
            | Capability::ReadMetrics
            | Capability::ReadPolicies
            | Capability::ReadWebhooks => matches!(self, Self::Auditor | Self::Operator),
            Capability::Halt | Capability::ManageTools | Capability::Redeliver | Capability::Reload => {
                matches!(self, Self::Operator)
            }
        }
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::Agent => "apk_",
            Self::Approver | Self::Auditor | Self::Operator => "apdv_",
        }
    }
}

/// A right of a principal in the API and on the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Request decisions, record evidence, watch and acknowledge halts, and issue, verify and revoke
    /// passports.
    Act,
    /// Approve and reject approvals.
    DecideApprovals,
    /// Delegate the decision of approvals, and revoke delegations.
    Delegate,
    /// Start and lift halts.
    Halt,
    /// List approvals and delegations.
    ListApprovals,
    /// Approve tools.
    ManageTools,
    /// Read one approval by its id.
    ReadApproval,
    /// Read the accounts of budgets.
    ReadBudgets,
    /// List halts and who has confirmed them.
    ReadHalts,
    /// Read and verify chains.
    ReadLedger,
    /// Read the disagreements of the shadow policy.
    ReadPolicies,
    /// Read the metrics of the tenant and the process.
    ReadMetrics,
    /// Read the approved manifests of tools.
    ReadTools,
    /// Read the states of webhooks and the messages that were set aside.
    ReadWebhooks,
    /// Send a message to a webhook again.
    Redeliver,
    /// Reload the settings.
    Reload,
    /// Log in to the page.
    UsePage,
}

impl Capability {
    /// All capabilities.
    pub const ALL: [Self; 17] = [
        Self::Act,
        Self::DecideApprovals,
        Self::Delegate,
        Self::Halt,
        Self::ListApprovals,
        Self::ManageTools,
        Self::ReadApproval,
        Self::ReadBudgets,
        Self::ReadHalts,
        Self::ReadLedger,
        Self::ReadPolicies,
        Self::ReadMetrics,
        Self::ReadTools,
        Self::ReadWebhooks,
        Self::Redeliver,
        Self::Reload,
        Self::UsePage,
    ];

    /// Completes the sentence "the role … may not …".
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Act => "request decisions, record evidence or use passports",
            Self::DecideApprovals => "decide approvals",
            Self::Delegate => "delegate the decision of approvals",
            Self::Halt => "start or lift halts",
            Self::ListApprovals => "list approvals",
            Self::ManageTools => "approve tools",
            Self::ReadApproval => "read approvals",
            Self::ReadBudgets => "read budgets",
            Self::ReadHalts => "list halts",
            Self::ReadLedger => "read the ledger",
            Self::ReadPolicies => "read the shadow policy",
            Self::ReadMetrics => "read metrics",
            Self::ReadTools => "read tools",
            Self::ReadWebhooks => "read webhooks",
            Self::Redeliver => "send messages again",
            Self::Reload => "reload the settings",
            Self::UsePage => "use the page",
        }
    }
}

/// Generates a key from 32 random bytes.
///
/// # Errors
///
/// Returns an error if the operating system provides no randomness.
pub fn generate(role: Role) -> Result<Secret, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(Secret::new(format!("{}{}", role.prefix(), hex::encode(bytes))))
}

/// Keys published in the documentation. Anyone can use them.
pub const WELL_KNOWN_KEYS: [&str; 2] = ["apk_dev", "apdv_dev"];

/// Minimum number of characters; a shorter key is considered guessable.
pub const MIN_KEY_CHARACTERS: usize = 32;

/// A tenant. Its events, keys and chains are isolated from other tenants.
#[derive(Debug)]
pub struct Tenant {
    /// The tenant's id.
    pub id: Arc<str>,
    /// The policy that decides for this tenant.
    pub policy: Policy,
    /// A policy that is evaluated as well, without effect.
    pub shadow: Option<ShadowPolicy>,
    /// Retention of captured requests, in milliseconds; `None` captures none.
    pub capture_ms: Option<i64>,
}

impl Tenant {
    /// Creates a tenant without shadow policy and captured requests.
    pub fn new(id: &str, policy: Policy) -> Self {
        Self { id: id.into(), policy, shadow: None, capture_ms: None }
    }
}

/// An authenticated person or program, independent of the means of authentication.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The name in the ledger and the log: of an API key, or of a signed-in person.
    pub name: Arc<str>,
    /// The tenant.
    pub tenant: Arc<Tenant>,
    /// The role.
    pub role: Role,
    /// The person who acts, shared by all ways in which that person authenticates. `None` if only
    /// the name is known.
    pub person: Option<Arc<str>>,
    /// The groups whose approvals the principal decides.
    pub groups: Arc<[String]>,
    /// Whether it may stop every tenant of the database.
    pub halt_all: bool,
    /// The bound agent as a JSON string; `None` if requests name their agent, and for people.
    pub agent: Option<Json>,
}

impl Principal {
    /// Creates a principal without person, groups and agent.
    pub fn new(name: &str, tenant: Arc<Tenant>, role: Role) -> Self {
        let groups = Arc::from([]);
        Self { name: name.into(), tenant, role, person: None, groups, halt_all: false, agent: None }
    }

    /// Returns the person who acts; the name if the person is unknown.
    pub fn person(&self) -> &str {
        self.person.as_ref().unwrap_or(&self.name)
    }

    /// Returns the bound agent.
    pub fn bound_agent(&self) -> Option<&str> {
        self.agent.as_ref().and_then(Json::as_str)
    }

    /// Returns the agent to whose records the principal is confined; `None` without a bound agent
    /// and for roles other than [`Role::Agent`].
    pub fn confined_to(&self) -> Option<&str> {
        self.bound_agent().filter(|_| self.role == Role::Agent)
    }

    /// Returns the authenticated requester; see
    /// [`Approval::asker`](crate::approvals::Approval::asker).
    pub fn asker(&self) -> String {
        let asker = match self.bound_agent() {
            Some(agent) => format!("agent:{agent}"),
            None => format!("key:{}", self.name),
        };
        match &self.person {
            Some(person) => format!("person:{person}\n{asker}"),
            None => asker,
        }
    }

    /// Returns whether the principal owns a record that `key_name` created for `agent`: its own
    /// records, those of its bound agent, and all records for roles other than [`Role::Agent`].
    pub fn owns(&self, key_name: &str, agent: Option<&str>) -> bool {
        let for_agent = self.bound_agent().is_some_and(|bound| agent == Some(bound));
        self.role != Role::Agent || key_name == &*self.name || for_agent
    }
}

/// Returns whether two names of people are equal, regardless of case.
pub fn is_same_person(one: &str, other: &str) -> bool {
    one == other || one.to_lowercase() == other.to_lowercase()
}

/// An API key and its settings. It acts as its [`Principal`].
#[derive(Debug)]
pub struct ApiKey {
    /// The person or program that acts with this key.
    pub principal: Principal,
    /// Rate limiter; `None` if unlimited.
    pub limiter: Option<Arc<RequestLimit>>,
    /// Rate limiter of all agent keys of the tenant; `None` if unlimited.
    pub tenant_limiter: Option<Arc<RequestLimit>>,
    /// Limits of requests with this key.
    pub grants: Grants,
    /// From when the key is rejected, in seconds since 1970; `None` for never.
    pub expires_at: Option<i64>,
    /// Settings of the Agent Control Standard; `None` if it is disabled.
    pub acs: Option<AcsSettings>,
    /// The client certificate that each connection with this key needs; `None` for any connection.
    pub certificate: Option<CertificateName>,
    /// Whether that certificate authenticates without the key.
    pub is_certificate_sufficient: bool,
    /// The DPoP key that signs a proof for each request with this key; `None` for a bearer key.
    pub dpop: Option<Thumbprint>,
    /// Held while an approval is opened, so that the pending limit is exact.
    pub opening: Arc<tokio::sync::Mutex<()>>,
}

/// A limit of requests, with the requests so far.
#[derive(Debug)]
pub struct RequestLimit {
    quota: Quota,
    limiter: DefaultDirectRateLimiter,
}

impl RequestLimit {
    /// Creates a limit without requests so far.
    pub fn new(quota: Quota) -> Self {
        Self { quota, limiter: DefaultDirectRateLimiter::direct(quota) }
    }

    /// Counts a request.
    ///
    /// # Errors
    ///
    /// Returns the time to wait if the limit is reached.
    pub fn check(&self) -> Result<(), Duration> {
        self.limiter.check().map_err(|not_until| not_until.wait_time_from(DefaultClock::default().now()))
    }
}

impl ApiKey {
    /// Creates an unlimited key with the default [`Grants::of`] its role and agent.
    pub fn new(name: &str, tenant: Arc<Tenant>, role: Role, agent: Option<Json>) -> Self {
        Self::of(Principal { agent, ..Principal::new(name, tenant, role) })
    }

    /// Creates an unlimited key that acts as `principal`.
    pub fn of(principal: Principal) -> Self {
        let grants = Grants::of(principal.role, principal.agent.is_some());
        Self {
            principal,
            limiter: None,
            tenant_limiter: None,
            grants,
            expires_at: None,
            acs: None,
            certificate: None,
            is_certificate_sufficient: false,
            dpop: None,
            opening: Arc::default(),
        }
    }

    /// Returns whether the key is rejected at `now`, in seconds since 1970.
    pub fn has_expired(&self, now: i64) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }
}

impl Deref for ApiKey {
    type Target = Principal;

    fn deref(&self) -> &Principal {
        &self.principal
    }
}

/// Reason codes for requests outside the key's grants.
pub mod reason {
    /// The key does not permit this mode.
    pub const MODE: &str = "key.mode_not_allowed";
    /// The key does not permit this tool.
    pub const TOOL: &str = "key.tool_not_allowed";
    /// The key does not permit this user.
    pub const USER: &str = "key.user_not_allowed";
}

/// Limits of a key's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grants {
    /// Permitted modes of preflights.
    pub modes: Vec<Mode>,
    /// Permitted tools in preflights and passports.
    pub tools: Patterns,
    /// Permitted users in preflights; `None` for any. A preflight without a user is always
    /// permitted.
    pub users: Option<Patterns>,
    /// Permitted users in passports.
    pub passport_users: Patterns,
    /// Permitted tools in passports.
    pub passport_tools: Patterns,
    /// Permitted risk tiers of passports.
    pub risk_tiers: Vec<RiskTier>,
    /// Maximum lifetime of passports, in seconds.
    pub max_ttl_seconds: i64,
}

impl Grants {
    /// Returns the defaults.
    ///
    /// An agent key that is bound to an agent issues passports for that agent only: without a user,
    /// with risk tier `medium`. An unbound key belongs to a service that acts for its agents and
    /// their users; it may name any.
    pub fn of(role: Role, bound: bool) -> Self {
        let confined = bound && role == Role::Agent;
        Self {
            modes: MODES.to_vec(),
            tools: Patterns::any(),
            users: None,
            passport_users: if confined { Patterns::default() } else { Patterns::any() },
            passport_tools: Patterns::any(),
            risk_tiers: if confined { vec![RiskTier::Medium] } else { RiskTier::ALL.to_vec() },
            max_ttl_seconds: crate::passport::MAX_TTL,
        }
    }
}

/// All modes.
pub const MODES: [Mode; 4] = [Mode::Enforce, Mode::Strict, Mode::Warn, Mode::Monitor];

/// Name patterns. `*` matches any sequence of characters, including none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns(Vec<String>);

impl Patterns {
    /// Creates a list of patterns.
    pub fn new(patterns: Vec<String>) -> Self {
        Self(patterns)
    }

    /// Matches every name.
    pub fn any() -> Self {
        Self(vec!["*".to_owned()])
    }

    /// Returns whether any pattern matches the entire `name`.
    ///
    /// ```
    /// use actpass_gateway::auth::Patterns;
    ///
    /// let tools = Patterns::new(vec!["stripe.*".to_owned(), "crm.read".to_owned()]);
    /// assert!(tools.matches("stripe.refunds.create") && tools.matches("crm.read"));
    /// assert!(!tools.matches("stripe") && !tools.matches("crm.read2"));
    /// ```
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| matches_pattern(pattern, name))
    }
}

/// Formats as a comma-separated list: `stripe.*, crm.read`.
impl fmt::Display for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.is_empty() {
            true => f.write_str("none"),
            false => f.write_str(&self.0.join(", ")),
        }
    }
}

/// Matches the parts between the stars in order: the first is a prefix, the last a suffix, each
/// other one is matched at its first occurrence.
pub(crate) fn matches_pattern(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let (middle, last) = rest.rsplit_once('*').map_or((None, rest), |(middle, last)| (Some(middle), last));
    let inner = name.strip_prefix(first).and_then(|inner| inner.strip_suffix(last));
    let Some(mut inner) = inner else {
        return false;
    };
    for part in middle.into_iter().flat_map(|middle| middle.split('*')) {
        match inner.split_once(part) {
            Some((_, after)) => inner = after,
            None => return false,
        }
    }
    true
}

/// The people of a tenant who may decide approvals, by lower-case name, with their groups.
///
/// It contains the people of the settings: those listed under `[[people]]`, and those of keys that
/// may decide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory(HashMap<(String, String), BTreeSet<String>>);

impl Directory {
    /// Adds groups to a person of a tenant.
    pub fn add(&mut self, tenant_id: &str, person: &str, groups: &[String]) {
        let known = self.0.entry((tenant_id.to_owned(), person.to_lowercase())).or_default();
        known.extend(groups.iter().cloned());
    }

    /// Returns a person's groups; `None` if the person is unknown.
    pub fn groups(&self, tenant_id: &str, person: &str) -> Option<&BTreeSet<String>> {
        self.0.get(&(tenant_id.to_owned(), person.to_lowercase()))
    }

    /// Returns the groups of each person of a tenant.
    pub fn people<'d>(&'d self, tenant_id: &'d str) -> impl Iterator<Item = &'d BTreeSet<String>> {
        self.0.iter().filter(move |((tenant, _), _)| tenant == tenant_id).map(|(_, groups)| groups)
    }
}

/// All API keys of a gateway.
#[derive(Debug, Default)]
pub struct Keyring {
    /// Buckets by the first bytes of the hash. The lookup time reveals only the hash of the sent
    /// key, which the caller knows. Full hashes are compared in constant time.
    buckets: HashMap<[u8; 8], Vec<(ApiKeyHash, Arc<ApiKey>)>>,
    /// The hashes of the keys whose certificate is sufficient.
    certificates: HashMap<CertificateName, ApiKeyHash>,
}

impl Keyring {
    /// Adds a key.
    pub fn add(&mut self, hash: ApiKeyHash, key: ApiKey) {
        if let Some(certificate) = key.certificate.clone().filter(|_| key.is_certificate_sufficient) {
            self.certificates.insert(certificate, hash);
        }
        self.buckets.entry(hash.bucket()).or_default().push((hash, Arc::new(key)));
    }

    /// Returns all keys.
    pub fn keys(&self) -> impl Iterator<Item = &ApiKey> {
        self.buckets.values().flatten().map(|(_, key)| &**key)
    }

    /// Looks up a presented key that is not expired at `now`, in seconds since 1970.
    pub fn find(&self, presented: &str, now: i64) -> Option<&Arc<ApiKey>> {
        if presented.len() > MAX_KEY_BYTES {
            return None;
        }
        self.known(&ApiKeyHash::of(presented), now)
    }

    /// Returns the key that a client certificate with these names authenticates, if it is not expired
    /// at `now`, in seconds since 1970.
    pub fn of_certificate(&self, names: &[CertificateName], now: i64) -> Option<&Arc<ApiKey>> {
        let mut found = names.iter().filter_map(|name| self.certificates.get(name));
        match (found.next(), found.next()) {
            (Some(hash), None) => self.known(hash, now),
            // Two names of the certificate authenticate different keys.
            (Some(_), Some(_)) | (None, _) => None,
        }
    }

    /// Returns the key that signs requests of the Agent Control Standard with this `key_id`, if it is
    /// not expired at `now`, in seconds since 1970.
    pub(crate) fn speaks_acs(&self, key_id: &str, now: i64) -> Option<(&Arc<ApiKey>, &AcsSettings)> {
        let keys = self.buckets.values().flatten().map(|(_, key)| key);
        let mut speaking = keys.filter_map(|key| Some((key, key.acs.as_ref()?)));
        speaking.find(|(key, acs)| acs.key_id == key_id && !key.has_expired(now))
    }

    /// Same as [`Keyring::find`], by the key's hash.
    pub fn known(&self, hash: &ApiKeyHash, now: i64) -> Option<&Arc<ApiKey>> {
        let bucket = self.buckets.get(&hash.bucket())?;
        let key = bucket.iter().find_map(|(known, key)| (known == hash).then_some(key))?;
        if key.has_expired(now) {
            tracing::info!(tenant = &*key.tenant.id, key = &*key.name, "an expired key was rejected");
            return None;
        }
        Some(key)
    }

    /// Continues the state of the keys of `before` that have the same tenant and name: their
    /// requests so far, if the limit is the same, and their approvals that are being opened. Limits
    /// of tenants continue in the same way.
    pub fn continue_from(&mut self, before: &Self) {
        let name_of = |key: &ApiKey| (Arc::clone(&key.tenant.id), Arc::clone(&key.name));
        let of_tenants = before.keys().filter_map(|key| Some((&key.tenant.id, key.tenant_limiter.as_ref()?)));
        let of_tenants: HashMap<_, _> = of_tenants.collect();
        let before: HashMap<_, _> = before.keys().map(|key| (name_of(key), key)).collect();
        for (_, key) in self.buckets.values_mut().flatten() {
            let (before, of_tenant) = (before.get(&name_of(key)), of_tenants.get(&key.tenant.id));
            if let Some(key) = Arc::get_mut(key)
                && let (Some(limit), Some(so_far)) = (&mut key.tenant_limiter, of_tenant)
                && limit.quota == so_far.quota
            {
                *limit = Arc::clone(so_far);
            }
            // A new keyring is the only owner of its keys.
            if let (Some(before), Some(key)) = (before, Arc::get_mut(key)) {
                key.opening = Arc::clone(&before.opening);
                if let (Some(limit), Some(so_far)) = (&mut key.limiter, &before.limiter)
                    && limit.quota == so_far.quota
                {
                    *limit = Arc::clone(so_far);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_key_by_hash() {
        let keyring = keyring("apk_one");
        assert_eq!(keyring.find("apk_one", 0).map(|key| &*key.name), Some("agent"));
        for unknown in ["", "apk_on", "apk_one ", "apk_two", &ApiKeyHash::of("apk_one").to_string()] {
            assert!(keyring.find(unknown, 0).is_none(), "{unknown:?}");
        }
    }

    #[test]
    fn rejects_overlong_key() {
        let long = "k".repeat(MAX_KEY_BYTES + 1);
        assert!(keyring(&long).find(&long, 0).is_none());
        let longest = "k".repeat(MAX_KEY_BYTES);
        assert!(keyring(&longest).find(&longest, 0).is_some());
    }

    #[test]
    fn key_hash_round_trips() {
        let hash = ApiKeyHash::of("apk_one");
        assert!(ApiKeyHash::parse(&hash.to_string()) == Some(hash));
        let hex = "0".repeat(64);
        assert!(ApiKeyHash::parse(&format!("sha256:{hex}")).is_some());
        for wrong in
            [&hex, &format!("sha256:{hex}0"), &format!("sha256:g{}", "0".repeat(63)), &format!("md5:{hex}")]
        {
            assert!(ApiKeyHash::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn patterns_match_entire_name() {
        for (pattern, name, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "a.b", true),
            ("stripe.*", "stripe.refunds.create", true),
            ("stripe.*", "stripe", false),
            ("stripe.*", "xstripe.a", false),
            ("*.read", "crm.read", true),
            ("*.read", "crm.reads", false),
            ("a*b", "ab", true),
            ("a*b", "a-b-b", true),
            ("a*a", "a", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "acb", false),
            ("a*bb*b", "abb", false),
            ("**", "x", true),
            ("stripe.*", "Stripe.a", false),
            ("\u{e9}*", "\u{e9}a", true),
        ] {
            let patterns = Patterns::new(vec![pattern.to_owned()]);
            assert_eq!(patterns.matches(name), expected, "{pattern} {name}");
        }
        assert!(!Patterns::default().matches(""));
    }

    #[test]
    fn generated_keys_are_unique_with_role_prefix() {
        let keys: Vec<_> = (0..8).map(|_| generate(Role::Agent).unwrap()).collect();
        assert!(keys.iter().all(|key| key.expose().starts_with("apk_") && key.expose().len() == 68));
        let distinct: std::collections::HashSet<_> = keys.iter().map(Secret::expose).collect();
        assert_eq!(distinct.len(), keys.len());
        assert!(generate(Role::Operator).unwrap().expose().starts_with("apdv_"));
    }

    #[test]
    fn state_of_unchanged_keys_continues() {
        let keyring = |name: &str, per_second: u32| {
            let policy = Policy::parse(br#"{"id": "p", "version": 1, "rules": []}"#).unwrap();
            let tenant = Arc::new(Tenant::new("t", policy));
            let quota = Quota::per_second(per_second.try_into().unwrap());
            let limiter = Some(Arc::new(RequestLimit::new(quota)));
            let mut keyring = Keyring::default();
            let key = ApiKey { limiter, ..ApiKey::new(name, tenant, Role::Agent, None) };
            keyring.add(ApiKeyHash::of("apk_one"), key);
            keyring
        };
        let before = keyring("agent", 1);
        let known = |keyring: &Keyring| Arc::clone(keyring.find("apk_one", 0).unwrap());
        let first = known(&before);
        assert!(first.limiter.as_ref().unwrap().check().is_ok());
        for (name, per_second, same_limit, same_opening) in
            [("agent", 1, true, true), ("agent", 2, false, true), ("other", 1, false, false)]
        {
            let mut after = keyring(name, per_second);
            after.continue_from(&before);
            let after = known(&after);
            assert_eq!(after.limiter.as_ref().unwrap().check().is_err(), same_limit, "{name} {per_second}");
            assert_eq!(Arc::ptr_eq(&after.opening, &first.opening), same_opening, "{name} {per_second}");
        }
    }

    #[test]
    fn expired_key_is_unknown() {
        let mut keyring = Keyring::default();
        let policy = Policy::parse(br#"{"id": "p", "version": 1, "rules": []}"#).unwrap();
        let tenant = Arc::new(Tenant::new("t", policy));
        let key = ApiKey { expires_at: Some(10), ..ApiKey::new("agent", tenant, Role::Agent, None) };
        keyring.add(ApiKeyHash::of("apk_one"), key);
        for (now, is_known) in [(0, true), (9, true), (10, false), (11, false)] {
            assert_eq!(keyring.find("apk_one", now).is_some(), is_known, "{now}");
        }
    }

    fn keyring(key: &str) -> Keyring {
        let policy = Policy::parse(br#"{"id": "p", "version": 1, "rules": []}"#).unwrap();
        let tenant = Arc::new(Tenant::new("t", policy));
        let mut keyring = Keyring::default();
        keyring.add(ApiKeyHash::of(key), ApiKey::new("agent", tenant, Role::Agent, None));
        keyring
    }
}
