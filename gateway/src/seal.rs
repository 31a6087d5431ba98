//! Sealing of secrets: AES-256-GCM under a master key that the data store never sees.
//!
//! Each purpose has its own key, and each sealed value is bound to its context: moved elsewhere in
//! the data, it does not open.

use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The master key: 32 bytes that are never shown.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; 32]>);

/// Compares in constant time.
impl PartialEq for MasterKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for MasterKey {}

impl MasterKey {
    /// Generates a random key.
    ///
    /// # Errors
    ///
    /// Returns an error if the operating system provides no randomness.
    pub fn generate() -> Result<Self, SealError> {
        Ok(Self(random()?))
    }

    /// Parses 32 bytes from 64 hex digits or base64, ignoring surrounding whitespace; `None` for
    /// anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let mut key = Zeroizing::new([0; 32]);
        if hex::decode_to_slice(text, key.as_mut()).is_ok() {
            return Some(Self(key));
        }
        let decoded = [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD]
            .into_iter()
            .find_map(|engine| engine.decode(text).ok().map(Zeroizing::new))?;
        (decoded.len() == key.len()).then(|| {
            key.copy_from_slice(&decoded);
            Self(key)
        })
    }

    /// Number of distinct bytes; 32 random bytes have about 30.
    pub(crate) fn distinct_bytes(&self) -> usize {
        self.0.iter().collect::<std::collections::HashSet<_>>().len()
    }

    /// Reads the key file, or creates it with a new key. The file is made accessible to its owner
    /// only.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read or created, or has invalid content.
    pub fn load_or_make(path: &Path) -> Result<Self, SealError> {
        use std::io::Write;

        let failed = |error| SealError::File(path.display().to_string(), error);
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        match options.open(path) {
            Ok(mut file) => {
                let key = Self::generate()?;
                let text = Zeroizing::new(hex::encode(key.0.as_ref()));
                file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
                Ok(key)
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                #[cfg(unix)]
                std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
                    .map_err(failed)?;
                let text = Zeroizing::new(std::fs::read_to_string(path).map_err(failed)?);
                Self::parse(&text).ok_or_else(|| SealError::MasterKey(path.display().to_string()))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Returns the cipher for a purpose.
    ///
    /// # Errors
    ///
    /// Returns an error only if a cryptographic primitive fails.
    pub(crate) fn cipher(&self, purpose: Purpose) -> Result<Cipher, SealError> {
        let key = match purpose {
            // Signing keys were sealed first, directly under the master key; the label separates
            // them.
            Purpose::SigningKey => UnboundKey::new(&AES_256_GCM, self.0.as_ref()),
            Purpose::Capture | Purpose::Credential => Salt::new(HKDF_SHA256, b"actpass master key")
                .extract(self.0.as_ref())
                .expand(&[purpose.label()], &AES_256_GCM)
                .map(UnboundKey::from),
        };
        Ok(Cipher { key: LessSafeKey::new(key.map_err(|_| SealError::Crypto)?), purpose })
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

/// Purpose of a sealed value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A captured request.
    Capture,
    /// A credential of the vault.
    Credential,
    /// A key that signs passports.
    SigningKey,
}

impl Purpose {
    /// Label included in every sealed value; its number is the format version.
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Capture => b"actpass captured request 1\0",
            Self::Credential => b"actpass credential 1\0",
            Self::SigningKey => b"actpass signing key 1\0",
        }
    }
}

/// Seals and opens values for one purpose.
pub(crate) struct Cipher {
    key: LessSafeKey,
    purpose: Purpose,
}

impl Cipher {
    /// Seals `secret` under AES-256-GCM, bound to `bound`; returns nonce and ciphertext.
    ///
    /// # Errors
    ///
    /// Returns an error if the operating system provides no randomness.
    pub(crate) fn seal(&self, bound: &[u8], secret: &[u8]) -> Result<Vec<u8>, SealError> {
        let nonce: [u8; NONCE_LEN] = *random()?;
        let mut text = Zeroizing::new(secret.to_vec());
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), self.aad(bound), &mut text)
            .map_err(|_| SealError::Crypto)?;
        Ok([nonce.as_slice(), text.as_slice(), tag.as_ref()].concat())
    }

    /// Opens a sealed value; `None` if it was changed, is bound to something else, or was sealed
    /// with another master key.
    pub(crate) fn open(&self, bound: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, sealed) = sealed.split_first_chunk()?;
        let mut text = Zeroizing::new(sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.key.open_in_place(nonce, self.aad(bound), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }

    fn aad(&self, bound: &[u8]) -> Aad<Vec<u8>> {
        Aad::from([self.purpose.label(), bound].concat())
    }
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cipher({:?})", self.purpose)
    }
}

/// Error of sealing.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A cryptographic operation failed, or the operating system has no randomness.
    #[error("sealing failed: the operating system provides no randomness")]
    Crypto,
    /// The master key file cannot be read or created.
    #[error("{0}: {1}")]
    File(String, #[source] std::io::Error),
    /// The file has no valid master key.
    #[error("{0}: expected 32 bytes as 64 hex digits or base64")]
    MasterKey(String),
}

/// Returns random bytes.
///
/// # Errors
///
/// Returns an error if the operating system provides no randomness.
pub(crate) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, SealError> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut()).map_err(|_| SealError::Crypto)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_value_opens_only_in_its_context() {
        let master = MasterKey::generate().unwrap();
        let other = MasterKey::generate().unwrap();
        for purpose in [Purpose::Credential, Purpose::SigningKey] {
            let cipher = master.cipher(purpose).unwrap();
            let sealed = cipher.seal(b"its place", b"sealed_secret").unwrap();
            assert_eq!(cipher.open(b"its place", &sealed).unwrap().as_slice(), b"sealed_secret");
            assert_ne!(cipher.seal(b"its place", b"sealed_secret").unwrap(), sealed);
            assert!(cipher.open(b"another place", &sealed).is_none());
            assert!(other.cipher(purpose).unwrap().open(b"its place", &sealed).is_none());
            for at in 0..sealed.len() {
                let mut changed = sealed.clone();
                changed[at] ^= 1;
                assert!(cipher.open(b"its place", &changed).is_none(), "byte {at}");
                assert!(cipher.open(b"its place", &sealed[..at]).is_none(), "{at} bytes");
            }
        }
    }

    #[test]
    fn purposes_use_separate_keys() {
        let master = MasterKey::generate().unwrap();
        let [captures, credentials, keys] = [Purpose::Capture, Purpose::Credential, Purpose::SigningKey]
            .map(|purpose| master.cipher(purpose).unwrap());
        let sealed = credentials.seal(b"", b"s").unwrap();
        for other in [captures, keys] {
            assert!(other.open(b"", &sealed).is_none());
            // The keys differ, not only the labels.
            let relabelled = Cipher { purpose: Purpose::Credential, ..other };
            assert!(relabelled.open(b"", &sealed).is_none());
        }
    }
    #[test]
    fn parses_master_key_in_hex_or_base64() {
        for text in [
            "07".repeat(32),
            "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".to_owned(),
            format!(" {}\n", "07".repeat(32)),
        ] {
            assert_eq!(format!("{:?}", MasterKey::parse(&text).unwrap()), "MasterKey(..)");
        }
        for wrong in [
            "",
            "07",
            &"07".repeat(31),
            &"07".repeat(33),
            &"0g".repeat(32),
            "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBw==",
        ] {
            assert!(MasterKey::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn generated_master_key_file_is_private() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("master-key");
        let made = MasterKey::load_or_make(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = MasterKey::load_or_make(&path).unwrap();
        assert_eq!(again.0, made.0);
        std::fs::write(&path, "apk_not_a_key").unwrap();
        let error = MasterKey::load_or_make(&path).unwrap_err().to_string();
        assert!(error.contains("master-key") && !error.contains("apk_not"), "{error}");
    }

    /// Created with another library.
    #[test]
    fn opens_value_sealed_by_earlier_version() {
        let master = MasterKey::parse(&"07".repeat(32)).unwrap();
        let sealed = "0a0a0a0a0a0a0a0a0a0a0a0a1b90ea9e0ab9f930dfefc514f4da709bd88d141a2e4b125c228ca07059";
        let opened =
            master.cipher(Purpose::Credential).unwrap().open(b"its place", &hex::decode(sealed).unwrap());
        assert_eq!(opened.unwrap().as_slice(), b"sealed_secret");
    }
}
