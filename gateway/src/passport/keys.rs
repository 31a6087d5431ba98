//! Signing keys: Ed25519 or P-256, sealed in the data store. A key has one algorithm for its life.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use actpass_protocol::Json;
use actpass_protocol::token::{self, Algorithm, PublicKey, TokenType, Unverified};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{Claims, PassportError};
use crate::object_writer::ObjectWriter;
use crate::seal::{MasterKey, Purpose, SealError, random};
use crate::store::{Rotation, SealedKey, Store, StoreError};

/// Length of an Ed25519 seed in bytes. A sealed P-256 key is a PKCS #8 document, which is longer.
const SEED_LENGTH: usize = 32;

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
    /// Generates and seals a new key of `algorithm`.
    ///
    /// # Errors
    ///
    /// Returns an error if the operating system provides no randomness.
    pub fn generate(master: &MasterKey, algorithm: Algorithm) -> Result<Self, SigningKeyError> {
        let private = Zeroizing::new(match algorithm {
            Algorithm::EdDsa => random::<SEED_LENGTH>()?.to_vec(),
            Algorithm::Es256 => {
                EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                    .map_err(|_| SigningKeyError::Crypto)?
                    .as_ref()
                    .to_vec()
            }
        });
        let kid = Pair::parse(&private).ok_or(SigningKeyError::Crypto)?.thumbprint();
        let sealed = master.cipher(Purpose::SigningKey)?.seal(kid.as_bytes(), &private)?;
        Ok(Self { kid, sealed, active: true, needed_until: 0 })
    }

    #[cfg(test)]
    pub(super) fn opens_with(&self, master: &MasterKey) -> bool {
        self.open(master).is_ok()
    }

    fn open(&self, master: &MasterKey) -> Result<Pair, SigningKeyError> {
        let failed = || SigningKeyError::Sealed(self.kid.clone());
        let private =
            master.cipher(Purpose::SigningKey)?.open(self.kid.as_bytes(), &self.sealed).ok_or_else(failed)?;
        // Derive the public key, so that a forged one in the data file has no effect.
        let pair = Pair::parse(&private).ok_or_else(failed)?;
        if pair.thumbprint() == self.kid { Ok(pair) } else { Err(failed()) }
    }
}

/// An opened signing key.
enum Pair {
    Ed25519(Ed25519KeyPair),
    P256(Box<EcdsaKeyPair>),
}

impl Pair {
    /// Parses an Ed25519 seed, or the PKCS #8 document of a P-256 key.
    fn parse(private: &[u8]) -> Option<Self> {
        if private.len() == SEED_LENGTH {
            return Ed25519KeyPair::from_seed_unchecked(private).ok().map(Self::Ed25519);
        }
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, private, &SystemRandom::new())
            .ok()
            .map(|pair| Self::P256(Box::new(pair)))
    }

    fn public(&self, kid: &str) -> Option<PublicKey> {
        match self {
            Self::Ed25519(pair) => PublicKey::new(kid, Algorithm::EdDsa, pair.public_key().as_ref()),
            Self::P256(pair) => PublicKey::new(kid, Algorithm::Es256, pair.public_key().as_ref()),
        }
    }

    /// Computes the JWK thumbprint (RFC 7638), the hash of these members in this order.
    fn thumbprint(&self) -> String {
        let mut key = ObjectWriter::new();
        match self {
            Self::Ed25519(pair) => {
                key.string("crv", Some("Ed25519"));
                key.string("kty", Some("OKP"));
                key.string("x", Some(&token::encode(pair.public_key())));
            }
            Self::P256(pair) => {
                // An uncompressed point: a byte, then two coordinates of equal length.
                let point = pair.public_key().as_ref().get(1..).unwrap_or_default();
                let (x, y) = point.split_at(point.len() / 2);
                key.string("crv", Some("P-256"));
                key.string("kty", Some("EC"));
                key.string("x", Some(&token::encode(x)));
                key.string("y", Some(&token::encode(y)));
            }
        }
        token::encode(Sha256::digest(key.finish()))
    }

    fn sign(&self, message: &[u8]) -> Option<String> {
        self.sign_bytes(message).map(token::encode)
    }

    fn sign_bytes(&self, message: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Ed25519(pair) => Some(pair.sign(message).as_ref().to_vec()),
            Self::P256(pair) => Some(pair.sign(&SystemRandom::new(), message).ok()?.as_ref().to_vec()),
        }
    }
}

struct OpenSigningKey {
    public: PublicKey,
    pair: Pair,
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
            let public = pair.public(&key.kid).ok_or(SigningKeyError::Crypto)?;
            Ok(Arc::new(OpenSigningKey { public, pair, active, needed_until }))
        };
        Ok(Self(keys.iter().map(open).collect::<Result<_, SigningKeyError>>()?))
    }

    /// Signs claims with the active key; returns the token and the key's id.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no active key, or no randomness.
    pub fn sign(&self, typ: TokenType, claims: &Json) -> Result<(String, String), SigningKeyError> {
        let key = self.active().ok_or(SigningKeyError::Crypto)?;
        let mut token = token::signing_input(typ, &key.public, claims);
        let signature = key.pair.sign(token.as_bytes()).ok_or(SigningKeyError::Crypto)?;
        token.push('.');
        token.push_str(&signature);
        Ok((token, key.public.kid().to_owned()))
    }

    fn active(&self) -> Option<&OpenSigningKey> {
        self.0.iter().rfind(|key| key.active).map(|key| &**key)
    }

    /// Returns the algorithm of the active key.
    pub fn algorithm(&self) -> Option<Algorithm> {
        self.active().map(|key| key.public.algorithm())
    }

    /// Signs a text that is not a token with the active key; returns the key and the signature.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no active key, or no randomness.
    pub(crate) fn sign_text(&self, text: &str) -> Result<(PublicKey, Vec<u8>), SigningKeyError> {
        let key = self.active().ok_or(SigningKeyError::Crypto)?;
        let signature = key.pair.sign_bytes(text.as_bytes()).ok_or(SigningKeyError::Crypto)?;
        Ok((key.public.clone(), signature))
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

    /// Returns the public keys needed to verify passports valid at `now`: the `keys` of a JWK Set.
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
    /// Opens the stored keys; creates the first one, of `algorithm`, if the store is empty.
    ///
    /// # Errors
    ///
    /// Returns an error if the store fails, or `master` did not seal a key.
    pub async fn open(
        store: &dyn Store,
        master: MasterKey,
        algorithm: Algorithm,
    ) -> Result<Self, SigningKeyError> {
        let mut keys = store.signing_keys().await?;
        if keys.is_empty() {
            store.add_signing_key(SealedKey::generate(&master, algorithm)?, Rotation::First).await?;
            keys = store.signing_keys().await?;
        }
        let keys = Arc::new(SigningKeys::open(&keys, &master)?);
        Ok(Self { master, keys: RwLock::new((keys, Instant::now())) })
    }

    /// Creates a new active key of `algorithm` and returns its id. Earlier keys verify until their
    /// last passport expires.
    ///
    /// # Errors
    ///
    /// Same as [`SigningKeyStore::open`].
    pub async fn rotate(
        store: &dyn Store,
        master: &MasterKey,
        algorithm: Algorithm,
    ) -> Result<String, SigningKeyError> {
        // A different master key would make all keys unusable.
        Self::check(store, master).await?;
        let key = SealedKey::generate(master, algorithm)?;
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
