//! Who calls: API keys, of which only the hash is known.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use actpass_protocol::{Json, Mode, Secret};
use governor::DefaultDirectRateLimiter;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::policy::{Policy, RiskTier};

/// The longest key that is looked at, in bytes; a longer one is unknown.
pub const MAX_KEY_BYTES: usize = 512;

/// The SHA-256 of an API key.
///
/// Keys are random (see [`generate`]), so a plain hash cannot be turned back by guessing, and it costs a request
/// nothing.
#[derive(Clone, Copy)]
pub struct ApiKeyHash([u8; 32]);

impl ApiKeyHash {
    /// The hash of `key`.
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// Reads `sha256:` and 64 hex digits; `None` for anything else.
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

/// In constant time.
impl PartialEq for ApiKeyHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for ApiKeyHash {}

/// `sha256:` and 64 hex digits, as a configuration holds it.
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

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An agent's: asks for decisions and records evidence.
    Agent,
    /// An operator's: what an agent's may do, and what a person must decide.
    Operator,
}

impl Role {
    /// The word in a configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Operator => "operator",
        }
    }

    /// The role of this word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Agent, Self::Operator].into_iter().find(|role| role.as_str() == word)
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::Agent => "apk_",
            Self::Operator => "apdv_",
        }
    }
}

/// Makes a new key of 32 bytes from the operating system's randomness.
///
/// # Errors
///
/// If the operating system has none.
pub fn generate(role: Role) -> Result<Secret, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(Secret::new(format!("{}{}", role.prefix(), hex::encode(bytes))))
}

/// Keys that are in the documentation, and which anyone can use.
pub const WELL_KNOWN_KEYS: [&str; 2] = ["apk_dev", "apdv_dev"];

/// A key with fewer characters than this can be guessed.
pub const MIN_KEY_CHARACTERS: usize = 32;

/// A tenant: whose events, keys and chains no other sees.
#[derive(Debug)]
pub struct Tenant {
    /// The tenant's id.
    pub id: Arc<str>,
    /// What decides for it.
    pub policy: Policy,
}

/// What is known about an API key.
#[derive(Debug)]
pub struct ApiKey {
    /// The key's name, for the ledger and the log.
    pub name: Arc<str>,
    /// Whose key it is.
    pub tenant: Arc<Tenant>,
    /// What it is for.
    pub role: Role,
    /// The agent it is bound to, a string; `None` if the request names the agent.
    pub agent: Option<Json>,
    /// How often it may call; `None` if as often as it likes.
    pub limiter: Option<DefaultDirectRateLimiter>,
    /// What it may ask for.
    pub grants: Grants,
    /// Held while an approval request is opened, so that the number of pending requests is exact.
    pub opening: tokio::sync::Mutex<()>,
}

impl ApiKey {
    /// A key without limits of its own, for [`Grants::of`] the role and the agent.
    pub fn new(name: &str, tenant: Arc<Tenant>, role: Role, agent: Option<Json>) -> Self {
        let grants = Grants::of(role, agent.is_some());
        Self {
            name: name.into(),
            tenant,
            role,
            agent,
            limiter: None,
            grants,
            opening: tokio::sync::Mutex::default(),
        }
    }

    /// The agent that it is bound to.
    pub fn bound_agent(&self) -> Option<&str> {
        self.agent.as_ref().and_then(Json::as_str)
    }

    /// The agent outside of whose records it sees nothing; `None` for an operator's key, and for a key that is bound to
    /// no agent.
    pub fn confined_to(&self) -> Option<&str> {
        self.bound_agent().filter(|_| self.role == Role::Agent)
    }

    /// Who asks with it, as far as the gateway knows it; see [`Approval::asker`](crate::approvals::Approval::asker).
    pub fn asker(&self) -> String {
        match self.bound_agent() {
            Some(agent) => format!("agent:{agent}"),
            None => format!("key:{}", self.name),
        }
    }

    /// Whether what the key `key_name` did for `agent` is this key's own: done by itself, or for the agent that it is
    /// bound to. Everything is an operator's.
    pub fn owns(&self, key_name: &str, agent: Option<&str>) -> bool {
        let for_agent = self.bound_agent().is_some_and(|bound| agent == Some(bound));
        self.role == Role::Operator || key_name == &*self.name || for_agent
    }
}

/// Why a request is outside of what its key may ask for.
pub mod reason {
    /// The key may not ask in this mode.
    pub const MODE: &str = "key.mode_not_allowed";
    /// The key may not ask for this tool.
    pub const TOOL: &str = "key.tool_not_allowed";
    /// The key may not act for this user.
    pub const USER: &str = "key.user_not_allowed";
}

/// What a key may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grants {
    /// The modes of its preflights.
    pub modes: Vec<Mode>,
    /// The tools of its preflights, and of its passports.
    pub tools: Patterns,
    /// The users that its preflights may name; `None` if any. A preflight that names no user is always allowed.
    pub users: Option<Patterns>,
    /// The users that its passports may name.
    pub passport_users: Patterns,
    /// The tools that its passports may name.
    pub passport_tools: Patterns,
    /// The risk tiers that its passports may have.
    pub risk_tiers: Vec<RiskTier>,
    /// How long its passports may hold, in seconds.
    pub max_ttl_seconds: i64,
}

impl Grants {
    /// The defaults.
    ///
    /// A key that is bound to an agent issues passports for itself: without a user, in the tier `medium`. A key that is
    /// bound to no agent belongs to a service that speaks for its agents and their users, and may name any.
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

/// Every mode.
pub const MODES: [Mode; 4] = [Mode::Enforce, Mode::Strict, Mode::Warn, Mode::Monitor];

/// Names, in which `*` stands for any characters or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns(Vec<String>);

impl Patterns {
    /// These patterns.
    pub fn new(patterns: Vec<String>) -> Self {
        Self(patterns)
    }

    /// What every name matches.
    pub fn any() -> Self {
        Self(vec!["*".to_owned()])
    }

    /// Whether a pattern matches all of `name`.
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

/// As a person reads it: `stripe.*, crm.read`.
impl fmt::Display for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.is_empty() {
            true => f.write_str("none"),
            false => f.write_str(&self.0.join(", ")),
        }
    }
}

/// The parts between the stars must follow each other: the first at the start, the last at the end, the others at the
/// first place where they are found.
fn matches_pattern(pattern: &str, name: &str) -> bool {
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

/// All keys of a gateway.
#[derive(Debug, Default)]
pub struct Keyring {
    /// By the first bytes of the hash. What finding a bucket tells by its time is about the hash of what the caller
    /// sent, which the caller knows; the comparison with a known hash takes the same time whatever it is.
    buckets: HashMap<[u8; 8], Vec<(ApiKeyHash, Arc<ApiKey>)>>,
}

impl Keyring {
    /// Adds a key.
    pub fn add(&mut self, hash: ApiKeyHash, key: ApiKey) {
        self.buckets.entry(hash.bucket()).or_default().push((hash, Arc::new(key)));
    }

    /// The key that `presented` is, if there is one.
    pub fn find(&self, presented: &str) -> Option<&Arc<ApiKey>> {
        if presented.len() > MAX_KEY_BYTES {
            return None;
        }
        self.known(&ApiKeyHash::of(presented))
    }

    /// The key of this hash, if there is one.
    pub fn known(&self, hash: &ApiKeyHash) -> Option<&Arc<ApiKey>> {
        let bucket = self.buckets.get(&hash.bucket())?;
        bucket.iter().find_map(|(known, key)| (known == hash).then_some(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_key_by_hash() {
        let keyring = keyring("apk_one");
        assert_eq!(keyring.find("apk_one").map(|key| &*key.name), Some("agent"));
        for unknown in ["", "apk_on", "apk_one ", "apk_two", &ApiKeyHash::of("apk_one").to_string()] {
            assert!(keyring.find(unknown).is_none(), "{unknown:?}");
        }
    }

    #[test]
    fn rejects_overlong_key() {
        let long = "k".repeat(MAX_KEY_BYTES + 1);
        assert!(keyring(&long).find(&long).is_none());
        let longest = "k".repeat(MAX_KEY_BYTES);
        assert!(keyring(&longest).find(&longest).is_some());
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

    fn keyring(key: &str) -> Keyring {
        let policy = Policy::parse(br#"{"id": "p", "version": 1, "rules": []}"#).unwrap();
        let tenant = Arc::new(Tenant { id: "t".into(), policy });
        let mut keyring = Keyring::default();
        keyring.add(ApiKeyHash::of(key), ApiKey::new("agent", tenant, Role::Agent, None));
        keyring
    }
}
