//! Passport signing keys: Ed25519, sealed in the data store.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use actpass_protocol::Json;
use actpass_protocol::token::{self, PublicKey, TokenType, Unverified};
use ring::signature::{Ed25519KeyPair, KeyPair};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{Claims, PassportError};
use crate::object_writer::ObjectWriter;
use crate::seal::{MasterKey, Purpose, SealError, random};
use crate::store::{Rotation, SealedKey, Store, StoreError};

/// Maximum age of the response of [`SigningKeyStore::jwks`].
const JWKS_AGE: Duration = Duration::from_secs(1);

/// Error of the signing keys.
#[derive(Debug, thiserror::Error)]
pub enum SigningKeyError {
    /// A cryptographic operation failed.
    #[error("a signing key could not be created")]
    Crypto,
    /// There is no master key, or sealing failed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The master key does not open a stored key.
    #[error(
        "the master key does not open the signing key {0:?} in the data; use the master key that sealed it"
    )]
    Sealed(String),
    /// The data store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SealedKey {
    /// Generates and seals a new key.
    ///
    /// # Errors
    ///
    /// Returns an error if the operating system provides no randomness.
    pub fn generate(master: &MasterKey) -> Result<Self, SigningKeyError> {
        let seed: Zeroizing<[u8; 32]> = random()?;
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_ref()).map_err(|_| SigningKeyError::Crypto)?;
        let kid = thumbprint(&pair);
        let sealed = master.cipher(Purpose::SigningKey)?.seal(kid.as_bytes(), seed.as_ref())?;
        Ok(Self { kid, sealed, active: true, needed_until: 0 })
    }

    #[cfg(test)]
    pub(super) fn opens_with(&self, master: &MasterKey) -> bool {
        self.open(master).is_ok()
    }

    fn open(&self, master: &MasterKey) -> Result<Ed25519KeyPair, SigningKeyError> {
        let failed = || SigningKeyError::Sealed(self.kid.clone());
        let seed =
            master.cipher(Purpose::SigningKey)?.open(self.kid.as_bytes(), &self.sealed).ok_or_else(failed)?;
        // Derive the public key, so that a forged one in the data file has no effect.
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| failed())?;
        if thumbprint(&pair) == self.kid { Ok(pair) } else { Err(failed()) }
    }
}

/// Computes the JWK thumbprint (RFC 7638), the hash of these members in this order.
fn thumbprint(pair: &Ed25519KeyPair) -> String {
    let mut key = ObjectWriter::new();
    key.string("crv", Some("Ed25519"));
    key.string("kty", Some("OKP"));
    key.string("x", Some(&token::encode(pair.public_key())));
    token::encode(Sha256::digest(key.finish()))
}

struct OpenSigningKey {
    public: PublicKey,
    pair: Ed25519KeyPair,
    active: bool,
    needed_until: i64,
}

/// The signing keys at one point in time.
pub struct SigningKeys(Vec<Arc<OpenSigningKey>>);

impl SigningKeys {
    /// Opens the sealed keys.
    ///
    /// # Errors
    ///
    /// Returns an error if `master` did not seal all of them.
    pub fn open(keys: &[SealedKey], master: &MasterKey) -> Result<Self, SigningKeyError> {
        let open = |key: &SealedKey| {
            let (pair, active, needed_until) = (key.open(master)?, key.active, key.needed_until);
            let public =
                PublicKey::new(&*key.kid, pair.public_key().as_ref()).ok_or(SigningKeyError::Crypto)?;
            Ok(Arc::new(OpenSigningKey { public, pair, active, needed_until }))
        };
        Ok(Self(keys.iter().map(open).collect::<Result<_, SigningKeyError>>()?))
    }

    /// Signs claims with the active key; returns the token and the key's id.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no active key.
    pub fn sign(&self, typ: TokenType, claims: &Json) -> Result<(String, String), SigningKeyError> {
        let key = self.0.iter().rfind(|key| key.active).ok_or(SigningKeyError::Crypto)?;
        let mut token = token::signing_input(typ, key.public.kid(), claims);
        let signature = key.pair.sign(token.as_bytes());
        token.push('.');
        token.push_str(&token::encode(signature));
        Ok((token, key.public.kid().to_owned()))
    }

    /// Returns the public keys, including retired ones.
    pub fn public_keys(&self) -> Vec<PublicKey> {
        self.0.iter().map(|key| key.public.clone()).collect()
    }

    /// Verifies a passport's signature and returns its claims.
    ///
    /// # Errors
    ///
    /// Returns the first problem with its form, algorithm, key or signature.
    pub fn verify(&self, token: &str) -> Result<Claims, PassportError> {
        let passport = Unverified::passport(token)?;
        let signer = self.0.iter().find(|key| key.public.kid() == passport.kid());
        Claims::parse(&passport.verify(&signer.ok_or(PassportError::UnknownKey)?.public)?)
    }

    /// Returns the public keys needed to verify passports valid at `now`: the `keys` of a JWK Set
    /// (RFC 8037).
    pub fn jwks(&self, now: i64) -> Json {
        let needed = self.0.iter().filter(|key| key.active || key.needed_until > now);
        Json::Array(needed.map(|key| key.public.to_jwk()).collect())
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| key.public.kid())).finish()
    }
}

/// The signing keys in the data store. Another process may rotate them.
#[derive(Debug)]
pub struct SigningKeyStore {
    master: MasterKey,
    keys: RwLock<(Arc<SigningKeys>, Instant)>,
}

impl SigningKeyStore {
    /// Opens the stored keys; creates the first one if the store is empty.
    ///
    /// # Errors
    ///
    /// Returns an error if the store fails, or `master` did not seal a key.
    pub async fn open(store: &dyn Store, master: MasterKey) -> Result<Self, SigningKeyError> {
        let mut keys = store.signing_keys().await?;
        if keys.is_empty() {
            store.add_signing_key(SealedKey::generate(&master)?, Rotation::First).await?;
            keys = store.signing_keys().await?;
        }
        let keys = Arc::new(SigningKeys::open(&keys, &master)?);
        Ok(Self { master, keys: RwLock::new((keys, Instant::now())) })
    }

    /// Creates a new active key and returns its id. Earlier keys verify until their last passport
    /// expires.
    ///
    /// # Errors
    ///
    /// Same as [`SigningKeyStore::open`].
    pub async fn rotate(store: &dyn Store, master: &MasterKey) -> Result<String, SigningKeyError> {
        // A different master key would make all keys unusable.
        Self::check(store, master).await?;
        let key = SealedKey::generate(master)?;
        let kid = key.kid.clone();
        store.add_signing_key(key, Rotation::Next).await?;
        Ok(kid)
    }

    /// Checks that `master` opens every stored key.
    ///
    /// # Errors
    ///
    /// Same as [`SigningKeyStore::open`].
    pub async fn check(store: &dyn Store, master: &MasterKey) -> Result<(), SigningKeyError> {
        SigningKeys::open(&store.signing_keys().await?, master).map(|_| ())
    }

    /// Returns the keys as last read.
    pub fn cached(&self) -> Arc<SigningKeys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Reads the current keys from the store.
    ///
    /// # Errors
    ///
    /// Same as [`SigningKeyStore::open`].
    pub async fn read(&self, store: &dyn Store) -> Result<Arc<SigningKeys>, SigningKeyError> {
        let keys = Arc::new(SigningKeys::open(&store.signing_keys().await?, &self.master)?);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = (Arc::clone(&keys), Instant::now());
        Ok(keys)
    }

    /// Returns the JWK Set's keys for `now`, at most one second old, because the resource is
    /// public.
    ///
    /// # Errors
    ///
    /// Same as [`SigningKeyStore::open`].
    pub async fn jwks(&self, store: &dyn Store, now: i64) -> Result<Json, SigningKeyError> {
        let (keys, read_at) = self.keys.read().unwrap_or_else(PoisonError::into_inner).clone();
        match read_at.elapsed() < JWKS_AGE {
            true => Ok(keys.jwks(now)),
            false => Ok(self.read(store).await?.jwks(now)),
        }
    }
}
