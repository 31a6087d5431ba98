//! DPoP (RFC 9449): each request proves that the client has the private key that its API key is
//! bound to.

use std::ffi::OsString;
use std::fs;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use actpass_protocol::dpop::{DpopKey, Proof, USE_NONCE, access_token_hash, is_nonce};
use actpass_protocol::{ErrorKind, InvalidArgument, Secret, token};
use arc_swap::ArcSwapOption;

use crate::clock::Clock;
use crate::error::Error;
use crate::transport::Response;

const SETTING: &str = "dpop_key";
/// The environment variable with the path of a file with the key.
const KEY_FILE: &str = "ACTPASS_DPOP_KEY_FILE";

/// Returns the thumbprint of a DPoP key: the SHA-256 of its public key (RFC 7638) in base64url, to
/// which the gateway binds an API key. `pem` is the setting
/// [`dpop_key`](crate::ActPassBuilder::dpop_key).
///
/// # Errors
///
/// If `pem` is not a P-256 or Ed25519 private key in PKCS#8 PEM. The message has nothing of it.
///
/// ```
/// let pem = "-----BEGIN PRIVATE KEY-----\n\
///            MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
///            -----END PRIVATE KEY-----\n";
/// assert_eq!(actpass_core::dpop_thumbprint(&pem.into())?, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
/// # Ok::<(), actpass_core::InvalidArgument>(())
/// ```
pub fn dpop_thumbprint(pem: &Secret) -> Result<String, InvalidArgument> {
    let key = DpopKey::from_pem(pem.expose()).map_err(|problem| InvalidArgument::new(SETTING, problem))?;
    Ok(key.thumbprint().to_owned())
}

/// Makes the proofs of a client's requests.
#[derive(Debug)]
pub(crate) struct Prover {
    key: DpopKey,
    access_token_hash: String,
    /// The gateway's last nonce. Not behind a lock, which a fork could leave locked.
    nonce: ArcSwapOption<String>,
}

impl Prover {
    /// Returns the prover for the setting `dpop_key`, else for the file of the environment variable.
    /// An empty variable counts as unset.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`], naming the setting.
    pub(crate) fn choose(given: Option<Secret>, api_key: &Secret) -> Result<Option<Self>, Error> {
        let from_environment = || std::env::var_os(KEY_FILE).filter(|path| !path.is_empty());
        let pem = match given {
            Some(pem) => pem,
            None => match from_environment() {
                Some(path) => read(&path)?,
                None => return Ok(None),
            },
        };
        let key = DpopKey::from_pem(pem.expose()).map_err(|problem| Error::config(SETTING, problem))?;
        Ok(Some(Self {
            key,
            access_token_hash: access_token_hash(api_key.expose()),
            nonce: ArcSwapOption::empty(),
        }))
    }

    /// Returns a fresh proof for one attempt of a request.
    ///
    /// # Errors
    ///
    /// If the random number generator or the signature fails.
    pub(crate) fn prove(&self, method: &str, url: &str, clock: &dyn Clock) -> Result<Secret, Error> {
        let nonce = self.nonce.load();
        let proof = Proof {
            id: &token::encode(clock.random()?),
            method,
            url,
            issued_at: clock.wall_clock().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            access_token_hash: Some(&self.access_token_hash),
            nonce: nonce.as_deref().map(String::as_str),
        };
        let signed = self.key.prove(&proof);
        signed.map(Secret::new).ok_or_else(|| Error::new(ErrorKind::Internal, "cannot sign the DPoP proof"))
    }

    /// Keeps the gateway's nonce; an invalid one is ignored. Returns whether it is valid.
    pub(crate) fn keep_nonce(&self, nonce: &str) -> bool {
        let is_valid = is_nonce(nonce);
        if is_valid {
            self.nonce.store(Some(Arc::new(nonce.to_owned())));
        }
        is_valid
    }

    /// Keeps the response's nonce. Returns whether the response demands a proof with it, which means
    /// that the gateway did not process the request.
    pub(crate) fn observe(&self, response: &Response) -> bool {
        let has_nonce = response.dpop_nonce.as_deref().is_some_and(|nonce| self.keep_nonce(nonce));
        has_nonce && refusal(response) == Some(USE_NONCE)
    }
}

/// The error code of a 401 that refuses a proof of possession, or an API key without one.
pub(crate) fn refusal(response: &Response) -> Option<&str> {
    challenge_error(response.www_authenticate.as_deref()?).filter(|_| response.status == 401)
}

/// The parameter `error` of the challenge `DPoP` in a `www-authenticate` header.
fn challenge_error(challenges: &str) -> Option<&str> {
    let mut is_dpop = false;
    challenges.split(',').find_map(|part| {
        let part = part.trim();
        // The first parameter of a challenge follows the name of its scheme.
        let (first, rest) = part.split_once(' ').unwrap_or((part, ""));
        let has_scheme = !first.contains('=') && !rest.trim_start().starts_with('=');
        if has_scheme {
            is_dpop = first.eq_ignore_ascii_case("DPoP");
        }
        let (name, value) = if has_scheme { rest } else { part }.split_once('=')?;
        let is_error = is_dpop && name.trim().eq_ignore_ascii_case("error");
        is_error.then(|| value.trim().trim_matches('"'))
    })
}

fn read(path: &OsString) -> Result<Secret, Error> {
    fs::read_to_string(path).map(Secret::new).map_err(|error| {
        let path = path.display();
        Error::config(SETTING, format_args!("cannot read {path}, the file in {KEY_FILE}: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_error_of_a_challenge() {
        for (header, error) in [
            (
                r#"DPoP error="use_dpop_nonce", error_description="a nonce is required""#,
                Some("use_dpop_nonce"),
            ),
            (r#"Bearer, DPoP algs="ES256 EdDSA", error="invalid_token""#, Some("invalid_token")),
            (r#"DPoP algs="ES256", error = "use_dpop_nonce""#, Some("use_dpop_nonce")),
            ("DPoP error=use_dpop_nonce", Some("use_dpop_nonce")),
            (r#"dpop  Error = "use_dpop_nonce""#, Some("use_dpop_nonce")),
            (r#"Bearer error="invalid_token", DPoP algs="ES256""#, None),
            (r#"DPoP algs="ES256", Bearer error="invalid_token""#, None),
            (r#"Bearer, DPoP algs="ES256 EdDSA""#, None),
            (r#"DPoP x="use_dpop_nonce""#, None),
            ("use_dpop_nonce", None),
            ("DPoP", None),
            ("", None),
        ] {
            assert_eq!(challenge_error(header), error, "{header}");
        }
    }
}
