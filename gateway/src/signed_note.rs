//! Checkpoints of transparency logs: signed notes (C2SP `signed-note`) whose text is the head of a
//! Merkle tree (C2SP `tlog-checkpoint`).
//!
//! ```text
//! gateway.example/acme/decisions
//! 1000
//! CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
//!
//! — gateway.example/acme/decisions Az3grlgtzPIC…
//! ```
//!
//! The passport signing key signs them, with Ed25519 or with ECDSA. A note contains line breaks, and a token does not, so
//! neither signature is accepted as the other.

use std::fmt;

use actpass_protocol::token::{Algorithm, PublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::merkle::Hash;
use crate::passport::SigningKeys;
use crate::passport::keys::SigningKeyError;

/// First part of the origin, if the gateway has no issuer.
pub const DEFAULT_AUTHORITY: &str = "actpass-gateway";

/// Signature types of Ed25519 and ECDSA.
const ED25519: u8 = 1;
const ECDSA: u8 = 2;

/// The start of the DER form of a P-256 public key (RFC 5480), before its point.
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Maximum number of bytes of a note.
const MAX_BYTES: usize = 1 << 16;

/// The head of a chain's Merkle tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeHead {
    /// Identifies the log: `AUTHORITY/TENANT/CHAIN`.
    pub origin: String,
    /// Number of events.
    pub size: u64,
    /// Root of the tree.
    pub root: Hash,
}

/// The name of a key, and its id and signature.
type NamedSignature<'n> = (&'n str, Vec<u8>);

/// Error for an invalid note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// It is not a signed note.
    #[error("expected a signed note: origin, tree size, root hash, an empty line, signatures")]
    Malformed,
    /// None of the keys signed it.
    #[error("is not signed by a given key")]
    UnknownKey,
    /// A signature by a given key is invalid.
    #[error("has an invalid signature")]
    Signature,
}

/// Returns the origin of a chain's log.
pub fn origin(authority: &str, tenant_id: &str, chain_id: &str) -> String {
    format!("{authority}/{}/{}", Escaped(tenant_id), Escaped(chain_id))
}

/// Returns the part of an origin that identifies the gateway with this issuer.
pub fn authority(issuer: Option<&str>) -> String {
    let issuer = issuer.map(|issuer| issuer.split_once("://").map_or(issuer, |(_, rest)| rest));
    let issuer = issuer.map(|issuer| issuer.trim_end_matches('/')).filter(|issuer| !issuer.is_empty());
    issuer
        .unwrap_or(DEFAULT_AUTHORITY)
        .replace(|c: char| c == '+' || c.is_whitespace() || c.is_control(), "_")
}

/// Returns a text as a path segment: all characters but unreserved ones (RFC 3986) as `%XX`.
pub fn escape(text: &str) -> String {
    Escaped(text).to_string()
}

/// Writes a path segment with all characters but unreserved ones (RFC 3986) as `%XX`.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.bytes().try_for_each(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                write!(f, "{}", char::from(byte))
            }
            _ => write!(f, "%{byte:02X}"),
        })
    }
}

impl TreeHead {
    /// Returns whether this is the log of a chain, of any gateway.
    pub fn is_of(&self, tenant_id: &str, chain_id: &str) -> bool {
        self.origin.ends_with(&format!("/{}/{}", Escaped(tenant_id), Escaped(chain_id)))
    }

    /// Returns whether the other log is of the same tenant and chain.
    pub fn is_same_chain(&self, other: &Self) -> bool {
        let chain = |head: &Self| {
            let mut segments = head.origin.rsplitn(3, '/');
            (segments.next().map(str::to_owned), segments.next().map(str::to_owned))
        };
        chain(self) == chain(other)
    }

    /// The text that is signed.
    fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        let head = Self {
            origin: origin.to_owned(),
            size: size.parse().ok()?,
            root: STANDARD.decode(root).ok()?.try_into().ok()?,
        };
        let is_exact = head.size.to_string() == size && !origin.is_empty();
        (is_exact && lines.all(|extension| !extension.is_empty())).then_some(head)
    }

    /// Signs the head with the active key. Returns the note.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no active key.
    pub fn sign(&self, keys: &SigningKeys) -> Result<String, SigningKeyError> {
        let text = self.text();
        let (key, signature) = keys.sign_text(&text)?;
        let signature = match key.algorithm() {
            Algorithm::EdDsa => signature,
            Algorithm::Es256 => to_der(&signature).ok_or(SigningKeyError::Crypto)?,
        };
        let signature = [key_id(&self.origin, &key).as_slice(), &signature].concat();
        Ok(format!("{text}\n— {} {}\n", self.origin, STANDARD.encode(signature)))
    }

    /// Reads a note and verifies its signature by one of the keys. Returns the head and the key's
    /// id.
    ///
    /// # Errors
    ///
    /// Returns an error if the text is not a note, none of the keys signed it, or a signature by
    /// one of them is invalid.
    pub fn read(note: &str, keys: &[PublicKey]) -> Result<(Self, String), NoteError> {
        let (head, text, signatures) = Self::split(note)?;
        let mut signer = None;
        for (name, signature) in signatures {
            // The key's name is the origin: other names are those of cosigners.
            let known =
                keys.iter().find(|key| name == head.origin && signature.starts_with(&key_id(name, key)));
            let Some(key) = known else { continue };
            let signature = signature.get(4..).unwrap_or_default();
            let signature = match key.algorithm() {
                Algorithm::EdDsa => Some(signature.to_vec()),
                Algorithm::Es256 => from_der(signature),
            };
            if !signature.is_some_and(|signature| key.has_signed(text.as_bytes(), &signature)) {
                return Err(NoteError::Signature);
            }
            signer = Some(key.kid().to_owned());
        }
        signer.map(|signer| (head, signer)).ok_or(NoteError::UnknownKey)
    }

    /// Reads a note without verifying its signature: to display, not to trust.
    ///
    /// # Errors
    ///
    /// Returns an error if the text is not a note.
    pub fn danger_unverified(note: &str) -> Result<Self, NoteError> {
        Self::split(note).map(|(head, ..)| head)
    }

    /// Returns the head, the signed text, and the names and bytes of the signatures.
    fn split(note: &str) -> Result<(Self, &str, Vec<NamedSignature<'_>>), NoteError> {
        let is_text = |c: char| c == '\n' || !c.is_ascii_control();
        if note.len() > MAX_BYTES || !note.chars().all(is_text) {
            return Err(NoteError::Malformed);
        }
        let (text, signatures) = note.rsplit_once("\n\n").ok_or(NoteError::Malformed)?;
        let text = note.get(..text.len().saturating_add(1)).ok_or(NoteError::Malformed)?;
        let head = Self::parse(text).ok_or(NoteError::Malformed)?;
        let read = |line: &'_ str| -> Option<(usize, Vec<u8>)> {
            let (name, signature) = line.strip_prefix("— ")?.split_once(' ')?;
            let signature = STANDARD.decode(signature).ok().filter(|bytes| bytes.len() > 4)?;
            (!name.is_empty()).then_some((name.len(), signature))
        };
        let signatures = signatures.strip_suffix('\n').ok_or(NoteError::Malformed)?.split('\n');
        let signatures = signatures.map(|line| {
            let (length, signature) = read(line)?;
            let name = line.strip_prefix("— ")?.get(..length)?;
            Some((name, signature))
        });
        Ok((head, text, signatures.collect::<Option<_>>().ok_or(NoteError::Malformed)?))
    }
}

/// Writes an ECDSA signature, two numbers of 32 bytes, as DER.
fn to_der(signature: &[u8]) -> Option<Vec<u8>> {
    let (r, s) = signature.split_at_checked(32)?;
    let integer = |number: &[u8]| {
        let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
        let digits = number.get(start..)?;
        // The number is not negative.
        let sign = digits.first().is_none_or(|byte| byte & 0x80 != 0).then_some(0);
        let content: Vec<u8> = sign.into_iter().chain(digits.iter().copied()).collect();
        Some([vec![2, u8::try_from(content.len()).ok()?], content].concat())
    };
    let content = [integer(r)?, integer(s)?].concat();
    Some([vec![0x30, u8::try_from(content.len()).ok()?], content].concat())
}

/// Reads an ECDSA signature in DER.
fn from_der(der: &[u8]) -> Option<Vec<u8>> {
    let [0x30, _, content @ ..] = der else {
        return None;
    };
    let integer = |content: &[u8]| {
        let [2, length, rest @ ..] = content else {
            return None;
        };
        let (number, rest) = rest.split_at_checked((*length).into())?;
        let digits = number.strip_prefix(&[0]).unwrap_or(number);
        let padding = 32_usize.checked_sub(digits.len())?;
        Some(([vec![0; padding], digits.to_vec()].concat(), rest.to_vec()))
    };
    let (r, rest) = integer(content)?;
    let (s, _) = integer(&rest)?;
    let signature = [r, s].concat();
    // Another form of the same numbers is not DER.
    (to_der(&signature)? == der).then_some(signature)
}

/// The id of a key with this name.
fn key_id(name: &str, key: &PublicKey) -> [u8; 4] {
    let hash: Hash = match key.algorithm() {
        Algorithm::EdDsa => Sha256::new()
            .chain_update(name)
            .chain_update([b'\n', ED25519])
            .chain_update(key.to_bytes())
            .finalize()
            .into(),
        Algorithm::Es256 => {
            Sha256::new().chain_update(P256_PREFIX).chain_update(key.to_bytes()).finalize().into()
        }
    };
    let [a, b, c, d, ..] = hash;
    [a, b, c, d]
}

/// Returns a key in the form that cosigners and other tools for transparency logs read:
/// `NAME+ID+KEY`.
pub fn verifier_key(name: &str, key: &PublicKey) -> String {
    let bytes = match key.algorithm() {
        Algorithm::EdDsa => [vec![ED25519], key.to_bytes()].concat(),
        Algorithm::Es256 => [vec![ECDSA], P256_PREFIX.to_vec(), key.to_bytes()].concat(),
    };
    format!("{name}+{}+{}", hex::encode(key_id(name, key)), STANDARD.encode(bytes))
}

/// Splits a text into the notes that it contains: one, or several after each other with an empty
/// line between them.
pub fn split_notes(text: &str) -> Vec<String> {
    let mut notes = Vec::new();
    let mut parts = text.trim_end_matches('\n').split("\n\n");
    while let (Some(head), Some(signatures)) = (parts.next(), parts.next()) {
        notes.push(format!("{head}\n\n{signatures}\n"));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::MasterKey;
    use crate::store::SealedKey;

    fn keys() -> SigningKeys {
        keys_of(Algorithm::EdDsa)
    }

    fn keys_of(algorithm: Algorithm) -> SigningKeys {
        let master = MasterKey::parse(&"07".repeat(32)).unwrap();
        SigningKeys::open(&[SealedKey::generate(&master, algorithm).unwrap()], &master).unwrap()
    }

    /// The example of the package `golang.org/x/mod/sumdb/note`.
    #[test]
    fn verifies_a_signature_of_another_implementation() {
        let text = "If you think cryptography is the answer to your problem,\n\
            then you don't know what your problem is.\n";
        let key = STANDARD.decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW").unwrap();
        let key = PublicKey::new("k", Algorithm::EdDsa, &key[1..]).unwrap();
        assert_eq!(hex::encode(key_id("PeterNeumann", &key)), "c74f20a3");
        assert_eq!(
            verifier_key("PeterNeumann", &key),
            "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
        );
        let signature =
            "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=";
        let signature = STANDARD.decode(signature).unwrap();
        assert!(key.has_signed(text.as_bytes(), &signature[4..]));
        assert!(!key.has_signed(text.to_uppercase().as_bytes(), &signature[4..]));
    }

    #[test]
    fn ecdsa_signatures_have_one_der_form() {
        for (r, s) in [(1, 0x80), (0xff, 0), (0x7f, 1)] {
            let mut signature = [0; 64];
            (signature[0], signature[31], signature[32], signature[63]) = (r, 1, s, 1);
            let der = to_der(&signature).unwrap();
            assert_eq!(from_der(&der).as_deref(), Some(signature.as_slice()));
            assert_eq!(from_der(&[&der[..], &[0]].concat()), None, "data after it");
            let padded = [&[0x30, der[1] + 1, 2, der[3] + 1, 0][..], &der[4..]].concat();
            assert_eq!(from_der(&padded), None, "a needless zero");
            assert_eq!(from_der(&der[..20]), None);
        }
    }

    /// The example of the specification.
    #[test]
    fn parses_the_checkpoint_of_the_specification() {
        let note = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\
            — example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n";
        let head = TreeHead::danger_unverified(note).unwrap();
        assert_eq!((&*head.origin, head.size), ("example.com/behind-the-sofa", 20_852_163));
        assert_eq!(TreeHead::read(note, &keys().public_keys()), Err(NoteError::UnknownKey));
    }

    #[test]
    fn signed_heads_verify_and_changed_ones_do_not() {
        Algorithm::ALL.into_iter().for_each(heads_verify);
    }

    fn heads_verify(algorithm: Algorithm) {
        let keys = keys_of(algorithm);
        let public = keys.public_keys();
        let origin = origin(&authority(Some("https://gateway.example/base/")), "a+c me", "dé");
        assert_eq!(origin, "gateway.example/base/a%2Bc%20me/d%C3%A9");
        let head = TreeHead { origin, size: 1000, root: [7; 32] };
        assert!(head.is_of("a+c me", "dé") && !head.is_of("a+c me", "d"));
        let note = head.sign(&keys).unwrap();
        let signer = public.first().unwrap().kid().to_owned();
        assert_eq!(TreeHead::read(&note, &public), Ok((head.clone(), signer.clone())));
        // Other signatures are ignored.
        let cosigned = format!("{note}— cosigner.example AAAAAAAA\n");
        assert_eq!(TreeHead::read(&cosigned, &public), Ok((head, signer)));
        assert_eq!(split_notes(&format!("{note}\n{cosigned}")), [note.clone(), cosigned]);
        for (from, to, error) in [
            ("\n1000\n", "\n1001\n", NoteError::Signature),
            ("\n1000\n", "\n01000\n", NoteError::Malformed),
            ("\n1000\n", "\n\n", NoteError::Malformed),
            ("gateway", "gatevay", NoteError::UnknownKey),
            ("BwcH", "BwcI", NoteError::Signature),
            ("\n\n", "\nmore\n\n", NoteError::Signature),
            ("— ", "- ", NoteError::Malformed),
            ("\n\n", "\n", NoteError::Malformed),
            ("\n\n", "\n\r\n", NoteError::Malformed),
        ] {
            assert_eq!(TreeHead::read(&note.replacen(from, to, 1), &public), Err(error), "{from:?} {to:?}");
        }
        let other = keys_of(algorithm).public_keys();
        assert_eq!(TreeHead::read(&note, &other), Err(NoteError::UnknownKey));
    }
}
