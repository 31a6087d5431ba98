//! Who calls: API keys, of which only the hash is known.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use actpass_core::{Json, Secret};
use governor::DefaultDirectRateLimiter;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::policy::Policy;

/// The longest key that is looked at, in bytes; a longer one is unknown.
pub const MAX_KEY_BYTES: usize = 512;

/// The SHA-256 of an API key.
///
/// Keys are random (see [`generate`]), so a plain hash cannot be turned back by guessing, and it costs a request
/// nothing.
#[derive(Clone, Copy)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
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
impl PartialEq for KeyHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for KeyHash {}

/// `sha256:` and 64 hex digits, as a configuration holds it.
impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for KeyHash {
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
pub struct Key {
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
}

/// All keys of a gateway.
#[derive(Debug, Default)]
pub struct Keyring {
    /// By the first bytes of the hash. What finding a bucket tells by its time is about the hash of what the caller
    /// sent, which the caller knows; the comparison with a known hash takes the same time whatever it is.
    buckets: HashMap<[u8; 8], Vec<(KeyHash, Arc<Key>)>>,
}

impl Keyring {
    /// Adds a key.
    pub fn add(&mut self, hash: KeyHash, key: Key) {
        self.buckets.entry(hash.bucket()).or_default().push((hash, Arc::new(key)));
    }

    /// The key that `presented` is, if there is one.
    pub fn find(&self, presented: &str) -> Option<&Arc<Key>> {
        if presented.len() > MAX_KEY_BYTES {
            return None;
        }
        self.known(&KeyHash::of(presented))
    }

    /// The key of this hash, if there is one.
    pub fn known(&self, hash: &KeyHash) -> Option<&Arc<Key>> {
        let bucket = self.buckets.get(&hash.bucket())?;
        bucket.iter().find_map(|(known, key)| (known == hash).then_some(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_its_hash_alone() {
        let keyring = keyring("apk_one");
        assert_eq!(keyring.find("apk_one").map(|key| &*key.name), Some("agent"));
        for unknown in ["", "apk_on", "apk_one ", "apk_two", &KeyHash::of("apk_one").to_string()] {
            assert!(keyring.find(unknown).is_none(), "{unknown:?}");
        }
    }

    #[test]
    fn an_over_long_key_is_unknown_even_if_its_hash_is_not() {
        let long = "k".repeat(MAX_KEY_BYTES + 1);
        assert!(keyring(&long).find(&long).is_none());
        let longest = "k".repeat(MAX_KEY_BYTES);
        assert!(keyring(&longest).find(&longest).is_some());
    }

    #[test]
    fn hashes_are_read_and_written_in_one_form() {
        let hash = KeyHash::of("apk_one");
        assert!(KeyHash::parse(&hash.to_string()) == Some(hash));
        let hex = "0".repeat(64);
        assert!(KeyHash::parse(&format!("sha256:{hex}")).is_some());
        for wrong in
            [&hex, &format!("sha256:{hex}0"), &format!("sha256:g{}", "0".repeat(63)), &format!("md5:{hex}")]
        {
            assert!(KeyHash::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn new_keys_differ_and_name_their_role() {
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
        keyring.add(
            KeyHash::of(key),
            Key { name: "agent".into(), tenant, role: Role::Agent, agent: None, limiter: None },
        );
        keyring
    }
}
