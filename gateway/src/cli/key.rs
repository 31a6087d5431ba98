//! `actpass-gateway key`.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use actpass_protocol::token::{Algorithm, PublicKey};
use actpass_protocol::{Json, Secret};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Subcommand, ValueEnum};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::Zeroizing;

use super::{Failure, print};
use crate::auth::{self, ApiKeyHash, MAX_KEY_BYTES, MIN_KEY_CHARACTERS, Role};
use crate::files;

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Print the thumbprint of a DPoP key for the settings; with --new, create the key
    Dpop {
        /// File with the private or public key: PEM (PKCS #8, SubjectPublicKeyInfo) or JWK
        file: PathBuf,
        /// Create the file, which must not exist, with a private key that only its owner can read
        #[arg(long)]
        new: bool,
        /// Algorithm of a new key
        #[arg(long, value_enum, default_value_t, requires = "new")]
        algorithm: AlgorithmArgument,
    },
    /// Read a key from standard input and print its hash for the settings
    Hash,
    /// Generate a random key and print it with its hash for the settings
    New {
        /// Role of the key
        #[arg(long, value_enum, default_value_t)]
        role: RoleArgument,
    },
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum AlgorithmArgument {
    #[default]
    #[value(name = "ES256")]
    Es256,
    #[value(name = "EdDSA")]
    EdDsa,
}

impl From<AlgorithmArgument> for Algorithm {
    fn from(algorithm: AlgorithmArgument) -> Self {
        match algorithm {
            AlgorithmArgument::Es256 => Self::Es256,
            AlgorithmArgument::EdDsa => Self::EdDsa,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum RoleArgument {
    #[default]
    Agent,
    Approver,
    Auditor,
    Operator,
}

impl From<RoleArgument> for Role {
    fn from(role: RoleArgument) -> Self {
        match role {
            RoleArgument::Agent => Self::Agent,
            RoleArgument::Approver => Self::Approver,
            RoleArgument::Auditor => Self::Auditor,
            RoleArgument::Operator => Self::Operator,
        }
    }
}

impl KeyCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Dpop { file, new, algorithm } => {
                if new {
                    create_private_key(&file, algorithm.into()).map_err(|error| of_file(&file, error))?;
                }
                print_thumbprint(&file)
            }
            Self::Hash => hash_key(),
            Self::New { role } => new_key(role.into()),
        }
    }
}

/// The start of a private key of Ed25519 in PKCS #8 (RFC 8410); the seed follows.
const ED25519_PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

const EXPECTED_KEY: &str = "expected an Ed25519 or P-256 key: PEM of PKCS #8 (`PRIVATE KEY`) without passphrase or of \
    SubjectPublicKeyInfo (`PUBLIC KEY`), or a JWK";

fn of_file(file: &Path, problem: impl std::fmt::Display) -> Failure {
    Failure::Failed(format!("{}: {problem}", file.display()))
}

fn print_thumbprint(file: &Path) -> Result<(), Failure> {
    let bytes = files::read_bytes(file).map_err(|error| of_file(file, error))?;
    let key = public_key(&bytes).ok_or_else(|| of_file(file, EXPECTED_KEY))?;
    print(format_args!("dpop_jkt = \"{}\"", key.thumbprint()))
}

/// Creates a file with a new private key.
fn create_private_key(file: &Path, algorithm: Algorithm) -> Result<(), String> {
    const LABEL: &str = "PRIVATE KEY";
    let document = Zeroizing::new(match algorithm {
        Algorithm::EdDsa => {
            let mut seed = Zeroizing::new([0; 32]);
            getrandom::fill(&mut *seed).map_err(|error| error.to_string())?;
            [ED25519_PKCS8.as_slice(), &*seed].concat()
        }
        Algorithm::Es256 => {
            let document =
                EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
            document.map_err(|_| "the key could not be created")?.as_ref().to_vec()
        }
    });
    let encoded = Zeroizing::new(STANDARD.encode(&*document));
    let mut pem = Zeroizing::new(format!("-----BEGIN {LABEL}-----\n"));
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str(&format!("-----END {LABEL}-----\n"));
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(file).and_then(|mut file| {
        file.write_all(pem.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| error.to_string())
}

/// Returns the public key in the text of a key file.
fn public_key(text: &[u8]) -> Option<PublicKey> {
    if let Ok(Json::Object(mut members)) = Json::parse(text) {
        // A private JWK has the public members, too.
        members.retain(|(name, _)| ["crv", "kty", "x", "y"].contains(&&**name));
        return PublicKey::from_public_jwk(&Json::Object(members)).ok();
    }
    if let Ok(PrivateKeyDer::Pkcs8(document)) = PrivateKeyDer::from_pem_slice(text) {
        let document = document.secret_pkcs8_der();
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(document) {
            return PublicKey::new("", Algorithm::EdDsa, pair.public_key().as_ref());
        }
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document, &SystemRandom::new());
        return PublicKey::new("", Algorithm::Es256, pair.ok()?.public_key().as_ref());
    }
    let document = SubjectPublicKeyInfoDer::from_pem_slice(text).ok()?;
    let (_, info) = SubjectPublicKeyInfo::from_der(&document).ok()?;
    let algorithm = match &*info.algorithm.algorithm.to_id_string() {
        "1.3.101.112" => Algorithm::EdDsa,
        "1.2.840.10045.2.1" => Algorithm::Es256,
        _ => return None,
    };
    PublicKey::new("", algorithm, &info.subject_public_key.data)
}

fn new_key(role: Role) -> Result<(), Failure> {
    let key = auth::generate(role).map_err(Failure::new)?;
    print(format_args!("{}\n{}", key.expose(), hash_line(&ApiKeyHash::of(key.expose()))))
}

fn hash_key() -> Result<(), Failure> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(Failure::new)?;
    let key = Secret::from(line);
    let key = key.expose().trim();
    if key.is_empty() || key.len() > MAX_KEY_BYTES || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        let problem =
            format!("expected a key on standard input: 1 to {MAX_KEY_BYTES} visible ASCII characters");
        return Err(Failure::Failed(problem));
    }
    let distinct = key.bytes().collect::<std::collections::HashSet<_>>().len();
    if key.len() < MIN_KEY_CHARACTERS || distinct < MIN_KEY_CHARACTERS / 4 {
        eprintln!(
            "warning: this key is guessable: {} characters, {distinct} distinct; use a random key of at \
            least {MIN_KEY_CHARACTERS} characters from `key new`",
            key.len()
        );
    }
    print(hash_line(&ApiKeyHash::of(key)))
}

fn hash_line(hash: &ApiKeyHash) -> String {
    format!("hash = \"{hash}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key pair of RFC 8037, appendix A.
    const THUMBPRINT: &str = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";

    #[test]
    fn thumbprint_is_the_same_for_each_form_of_a_key() {
        for text in [
            r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
            r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
                "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"k","use":"sig"}"#,
            "-----BEGIN PRIVATE KEY-----\n\
                MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
                -----END PRIVATE KEY-----\n",
            "-----BEGIN PUBLIC KEY-----\n\
                MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n\
                -----END PUBLIC KEY-----\n",
        ] {
            let key = public_key(text.as_bytes()).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(key.thumbprint(), THUMBPRINT, "{text}");
        }
        for wrong in ["", "{}", "[]", "key", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"] {
            assert_eq!(public_key(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn new_key_is_private_and_replaces_no_file() {
        let folder = tempfile::TempDir::new().unwrap();
        for (name, algorithm) in [("one.pem", Algorithm::Es256), ("other.pem", Algorithm::EdDsa)] {
            let file = folder.path().join(name);
            create_private_key(&file, algorithm).unwrap();
            let text = std::fs::read(&file).unwrap();
            assert_eq!(public_key(&text).unwrap().algorithm(), algorithm);
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
            }
            assert!(create_private_key(&file, algorithm).is_err(), "exists");
            assert_eq!(std::fs::read(&file).unwrap(), text);
        }
    }
}
