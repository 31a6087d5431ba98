//! Proof of possession by DPoP (RFC 9449): the claims of a proof, its single use, and nonces.
//!
//! [`DpopProof`] verifies the signature. [`ProvenRequest::check`] compares the claims with the
//! request, [`Replays`] accepts each proof once, and [`Nonces`] binds proofs to this process.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use actpass_protocol::dpop::access_token_hash;
use actpass_protocol::token::{self, DpopProof, InvalidProof};
use ring::hmac;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::hosts::Authority;

/// Maximum difference between a proof's `iat` and the gateway's clock, in seconds.
pub const MAX_SKEW: i64 = 60;

/// Length of a nonce's window in seconds. A nonce is accepted in its window and in the next one.
pub const NONCE_SECONDS: i64 = 60;

/// Maximum number of remembered proofs, of all keys.
pub const MAX_REMEMBERED: usize = 1 << 20;

/// Maximum number of remembered proofs of one key: 2,184 requests a second for 120 s.
pub const MAX_REMEMBERED_OF_KEY: usize = 1 << 18;

/// Length of a thumbprint in base64url.
const THUMBPRINT_CHARACTERS: usize = 43;

/// The thumbprint of a public key (RFC 7638, SHA-256).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Thumbprint(String);

impl Thumbprint {
    /// Parses 43 characters of base64url; `None` for anything else.
    ///
    /// ```
    /// use actpass_gateway::dpop::Thumbprint;
    ///
    /// assert!(Thumbprint::parse("0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I").is_some());
    /// assert!(Thumbprint::parse("0ZcOCORZNYy+DWpqq30jZyJGHTN0d2HglBV3uiguA4I=").is_none());
    /// ```
    pub fn parse(text: &str) -> Option<Self> {
        let is_hash = text.len() == THUMBPRINT_CHARACTERS
            && token::decode(text).is_ok_and(|bytes| bytes.len() == Sha256::output_size());
        is_hash.then(|| Self(text.to_owned()))
    }

    /// The thumbprint in base64url.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Thumbprint({})", self.0)
    }
}

/// Why a proof is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProofError {
    /// The proof is invalid, or is not for this request.
    Invalid(InvalidProof),
    /// The proof has no nonce that is accepted now.
    Nonce,
    /// The memory of proofs is full.
    Full,
}

impl From<InvalidProof> for ProofError {
    fn from(invalid: InvalidProof) -> Self {
        Self::Invalid(invalid)
    }
}

/// A request that a proof must be for.
#[derive(Clone, Copy, Debug)]
pub struct ProvenRequest<'a> {
    /// The method.
    pub method: &'a str,
    /// The path, without the base path.
    pub path: &'a str,
    /// The hosts under which clients reach the gateway: the request's own, and that of its URL.
    pub hosts: &'a [Authority],
    /// The path under which a proxy publishes the gateway; empty for the root.
    pub base_path: &'a str,
    /// Whether only `https` reaches the gateway. Otherwise a proxy may terminate TLS.
    pub is_https: bool,
    /// The presented API key; `None` if a client certificate authenticates the request.
    pub api_key: Option<&'a str>,
    /// The time, in seconds since 1970.
    pub now: i64,
}

/// A proof that is valid for its request.
#[derive(Clone, Debug)]
pub struct CheckedProof {
    /// The thumbprint of the key that signed it.
    pub thumbprint: Thumbprint,
    id: ProofId,
    /// Until when its claims are accepted, in seconds since 1970.
    until: i64,
}

/// Identifies a proof of a key: the start of the SHA-256 of its `jti`.
type ProofId = [u8; 16];

impl ProvenRequest<'_> {
    /// Verifies a proof for this request, except that it was not used before.
    ///
    /// # Errors
    ///
    /// Returns the first claim that differs from the request. With `nonces`, returns
    /// [`ProofError::Nonce`] if nothing else is wrong.
    pub fn check(&self, proof: &str, nonces: Option<&Nonces>) -> Result<CheckedProof, ProofError> {
        let proof = DpopProof::verify(proof)?;
        if proof.method() != self.method {
            let problem = format_args!("expected the method of this request, {:?}", self.method);
            return Err(InvalidProof::new("htm", problem).into());
        }
        if !self.has_url(proof.url()) {
            let problem = format_args!(
                "expected the URL of this request without query and fragment: {}",
                self.expected_urls().join(" or ")
            );
            return Err(InvalidProof::new("htu", problem).into());
        }
        let issued_at = proof.issued_at();
        if issued_at < self.now.saturating_sub(MAX_SKEW) || issued_at > self.now.saturating_add(MAX_SKEW) {
            let problem = format_args!("expected within {MAX_SKEW} s of {}, found {issued_at}", self.now);
            return Err(InvalidProof::new("iat", problem).into());
        }
        if let Some(api_key) = self.api_key {
            let expected = access_token_hash(api_key);
            let found = proof.token_hash().unwrap_or_default();
            if !bool::from(found.as_bytes().ct_eq(expected.as_bytes())) {
                let problem = "expected the SHA-256 of the API key in base64url without padding";
                return Err(InvalidProof::new("ath", problem).into());
            }
        }
        if nonces.is_some_and(|nonces| !nonces.accepts(proof.nonce(), self.now)) {
            return Err(ProofError::Nonce);
        }
        let digest = <[u8; 32]>::from(Sha256::digest(proof.id()));
        let [id, _] = halves(digest);
        Ok(CheckedProof {
            thumbprint: Thumbprint(proof.thumbprint().to_owned()),
            id,
            until: issued_at.saturating_add(MAX_SKEW),
        })
    }

    /// Returns whether a URL is that of the request, after the normalization of RFC 3986 (6.2.2 and
    /// 6.2.3): the case of scheme and host, default ports, percent-encoding, and dot segments.
    fn has_url(&self, url: &str) -> bool {
        let url = url.split(['?', '#']).next().unwrap_or_default();
        let Some((scheme, rest)) = url.split_once("://") else { return false };
        let default_port = match &*scheme.to_ascii_lowercase() {
            "https" => 443,
            "http" if !self.is_https => 80,
            _ => return false,
        };
        let (authority, path) = match rest.find('/').and_then(|at| rest.split_at_checked(at)) {
            Some(parts) => parts,
            None => (rest, "/"),
        };
        let Some(authority) = Authority::parse(authority) else { return false };
        let authority = authority.with_port(default_port);
        let path = remove_dot_segments(&normalized(path));
        let below = path.strip_prefix(self.base_path).filter(|rest| rest.is_empty() || rest.starts_with('/'));
        let path = match below {
            Some("") => "/",
            Some(below) => below,
            // The proxy has stripped the base path, or the client reaches the gateway directly.
            None => &path,
        };
        path == normalized(self.path)
            && self.hosts.iter().any(|host| host.clone().with_port(default_port) == authority)
    }

    fn expected_urls(&self) -> Vec<String> {
        let scheme = if self.is_https { "https" } else { "http(s)" };
        let url = |host: &Authority| format!("{scheme}://{host}{}{}", self.base_path, self.path);
        self.hosts.iter().map(url).collect()
    }
}

fn halves(digest: [u8; 32]) -> [ProofId; 2] {
    let mut halves = [[0; 16]; 2];
    for (half, bytes) in halves.iter_mut().zip(digest.chunks_exact(16)) {
        half.copy_from_slice(bytes);
    }
    halves
}

/// Normalizes the percent-encoding of a path: upper-case digits, and unreserved characters decoded.
fn normalized(path: &str) -> String {
    let mut written = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        written.push_str(before);
        let encoded = after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let is_hex = after.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
        rest = match encoded.filter(|_| is_hex) {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                written.push(char::from(byte));
                after.get(2..).unwrap_or_default()
            }
            Some(byte) => {
                written.push_str(&format!("%{byte:02X}"));
                after.get(2..).unwrap_or_default()
            }
            None => {
                written.push('%');
                after
            }
        };
    }
    written.push_str(rest);
    written
}

/// Removes the segments `.` and `..` of an absolute path (RFC 3986, 5.2.4).
fn remove_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    for (index, segment) in segments.iter().enumerate() {
        let is_last = index + 1 == segments.len();
        match *segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            segment => {
                kept.push(segment);
                continue;
            }
        }
        if is_last {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

/// The nonces of this process: a MAC of the current window of time under a random key.
///
/// A proof with a nonce is accepted by the process that gave the nonce, and [`Replays`] of that
/// process contains it. Another gateway and the next process require another nonce.
pub struct Nonces(hmac::Key);

impl Nonces {
    /// Creates a random key.
    ///
    /// # Errors
    ///
    /// Returns an error if the operating system provides no randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    /// The nonce at `now`, in seconds since 1970.
    pub fn current(&self, now: i64) -> String {
        self.of(now.div_euclid(NONCE_SECONDS))
    }

    fn of(&self, window: i64) -> String {
        token::encode(hmac::sign(&self.0, &window.to_be_bytes()))
    }

    fn accepts(&self, nonce: Option<&str>, now: i64) -> bool {
        let window = now.div_euclid(NONCE_SECONDS);
        let is =
            |window| nonce.is_some_and(|nonce| nonce.as_bytes().ct_eq(self.of(window).as_bytes()).into());
        is(window) || is(window.saturating_sub(1))
    }
}

impl fmt::Debug for Nonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonces(..)")
    }
}

/// The proofs that this process has accepted, until their claims expire.
#[derive(Debug)]
pub struct Replays {
    remembered: Mutex<Remembered>,
    limit: usize,
    limit_of_key: usize,
}

#[derive(Debug, Default)]
struct Remembered {
    by_key: HashMap<Thumbprint, OfKey>,
    total: usize,
    /// When the proofs of all keys were last expired, in seconds since 1970.
    expired_at: i64,
}

#[derive(Debug, Default)]
struct OfKey {
    ids: HashSet<ProofId>,
    by_end: BTreeMap<i64, Vec<ProofId>>,
}

impl OfKey {
    /// Removes the proofs that are no longer accepted at `now`; returns their number.
    fn expire(&mut self, now: i64) -> usize {
        let mut expired = 0;
        while let Some(end) = self.by_end.first_entry().filter(|end| *end.key() < now) {
            for id in end.remove() {
                expired += usize::from(self.ids.remove(&id));
            }
        }
        expired
    }
}

impl Default for Replays {
    fn default() -> Self {
        Self::new(MAX_REMEMBERED, MAX_REMEMBERED_OF_KEY)
    }
}

impl Replays {
    /// Creates an empty memory for `limit` proofs, and `limit_of_key` of each key.
    pub fn new(limit: usize, limit_of_key: usize) -> Self {
        Self { remembered: Mutex::default(), limit, limit_of_key }
    }

    /// Accepts a proof that was not used before at `now`, in seconds since 1970.
    ///
    /// # Errors
    ///
    /// Returns [`ProofError::Invalid`] for a proof that was used before, and [`ProofError::Full`] if
    /// the memory is full: no proof is forgotten before it expires.
    pub fn accept(&self, proof: &CheckedProof, now: i64) -> Result<(), ProofError> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let Remembered { by_key, total, expired_at } = &mut *remembered;
        if let Some(of_key) = by_key.get_mut(&proof.thumbprint) {
            *total -= of_key.expire(now);
            if of_key.ids.contains(&proof.id) {
                return Err(
                    InvalidProof::new("jti", "used before; expected a new one for each request").into()
                );
            }
            if of_key.ids.len() >= self.limit_of_key {
                return Err(ProofError::Full);
            }
        }
        if *total >= self.limit && *expired_at < now {
            *expired_at = now;
            by_key.retain(|_, of_key| {
                *total -= of_key.expire(now);
                !of_key.ids.is_empty()
            });
        }
        if *total >= self.limit {
            return Err(ProofError::Full);
        }
        let of_key = by_key.entry(proof.thumbprint.clone()).or_default();
        of_key.ids.insert(proof.id);
        of_key.by_end.entry(proof.until).or_default().push(proof.id);
        *total += 1;
        Ok(())
    }

    /// Returns the number of remembered proofs, some of which may have expired, and its limit.
    pub fn load(&self) -> [usize; 2] {
        [self.remembered.lock().unwrap_or_else(PoisonError::into_inner).total, self.limit]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The proof of section 7.1 of RFC 9449, and its access token.
    const EXAMPLE: &str = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaH\
        gtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERW\
        clUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0c\
        HM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJ\
        aM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8\
        y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA";
    const TOKEN: &str = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
    const ISSUED_AT: i64 = 1_562_262_618;

    fn request<'a>(hosts: &'a [Authority]) -> ProvenRequest<'a> {
        ProvenRequest {
            method: "GET",
            path: "/protectedresource",
            hosts,
            base_path: "",
            is_https: true,
            api_key: Some(TOKEN),
            now: ISSUED_AT,
        }
    }

    fn member(found: Result<CheckedProof, ProofError>) -> Option<&'static str> {
        match found {
            Ok(_) => None,
            Err(ProofError::Invalid(invalid)) => Some(invalid.member),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn example_of_the_rfc_is_valid_for_its_request_only() {
        let hosts = [Authority::parse("resource.example.org").unwrap()];
        let others = [Authority::parse("server.example.com").unwrap()];
        let request = request(&hosts);
        let checked = request.check(EXAMPLE, None).unwrap();
        assert_eq!(checked.thumbprint.as_str(), "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I");
        for (request, wrong) in [
            (ProvenRequest { method: "POST", ..request }, Some("htm")),
            (ProvenRequest { method: "get", ..request }, Some("htm")),
            (ProvenRequest { path: "/protectedresources", ..request }, Some("htu")),
            (ProvenRequest { hosts: &others, ..request }, Some("htu")),
            (ProvenRequest { hosts: &[], ..request }, Some("htu")),
            (ProvenRequest { is_https: false, ..request }, None),
            (ProvenRequest { api_key: Some("Kz"), ..request }, Some("ath")),
            (ProvenRequest { api_key: None, ..request }, None),
            (ProvenRequest { now: ISSUED_AT + MAX_SKEW, ..request }, None),
            (ProvenRequest { now: ISSUED_AT + MAX_SKEW + 1, ..request }, Some("iat")),
            (ProvenRequest { now: ISSUED_AT - MAX_SKEW, ..request }, None),
            (ProvenRequest { now: ISSUED_AT - MAX_SKEW - 1, ..request }, Some("iat")),
        ] {
            assert_eq!(member(request.check(EXAMPLE, None)), wrong, "{request:?}");
        }
    }

    #[test]
    fn urls_are_compared_after_normalization() {
        let hosts = ["gateway.example", "10.0.0.5:8443"].map(|host| Authority::parse(host).unwrap());
        let of = |path, base_path, is_https| ProvenRequest { path, base_path, is_https, ..request(&hosts) };
        let direct = of("/api/v1/a%2Fb", "", true);
        for (url, expected) in [
            ("https://gateway.example/api/v1/a%2Fb", true),
            ("HTTPS://Gateway.Example:443/api/v1/a%2fb", true),
            ("https://gateway.example/api/%76%31/a%2Fb?after=1#x", true),
            ("https://gateway.example/x/../api/./v1/a%2Fb", true),
            ("https://10.0.0.5:8443/api/v1/a%2Fb", true),
            ("https://10.0.0.5/api/v1/a%2Fb", false),
            ("https://gateway.example:8443/api/v1/a%2Fb", false),
            ("http://gateway.example/api/v1/a%2Fb", false),
            ("http://gateway.example:443/api/v1/a%2Fb", false),
            ("https://gateway.example/api/v1/a/b", false),
            ("https://gateway.example/api/v1/a%2Fb/", false),
            ("https://gateway.example/API/v1/a%2Fb", false),
            ("https://user@gateway.example/api/v1/a%2Fb", false),
            ("https://gateway.example.evil.example/api/v1/a%2Fb", false),
            ("https:/gateway.example/api/v1/a%2Fb", false),
            ("/api/v1/a%2Fb", false),
            ("", false),
        ] {
            assert_eq!(direct.has_url(url), expected, "{url}");
        }
        let behind = of("/api", "/actpass", false);
        for (url, expected) in [
            ("https://gateway.example/actpass/api", true),
            ("http://gateway.example/actpass/api", true),
            ("http://gateway.example/api", true),
            ("http://gateway.example/actpassx/api", false),
            ("http://gateway.example/actpass/actpass/api", false),
        ] {
            assert_eq!(behind.has_url(url), expected, "{url}");
        }
        assert!(of("/", "", true).has_url("https://gateway.example"));
        assert!(of("/", "/actpass", true).has_url("https://gateway.example/actpass"));
    }

    #[test]
    fn percent_encoding_and_dot_segments_are_normalized() {
        for (path, expected) in
            [("/%7ea", "/~a"), ("/%e9", "/%E9"), ("/%", "/%"), ("/%+1", "/%+1"), ("/%2", "/%2")]
        {
            assert_eq!(normalized(path), expected, "{path}");
        }
        for (path, expected) in [
            ("/", "/"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/../../a", "/a"),
            ("/a/b/../c", "/a/c"),
            ("/a//b", "/a//b"),
        ] {
            assert_eq!(remove_dot_segments(path), expected, "{path}");
        }
    }

    #[test]
    fn nonces_are_accepted_in_their_window_and_the_next() {
        let [one, other] = [Nonces::generate().unwrap(), Nonces::generate().unwrap()];
        let nonce = one.current(0);
        for (now, expected) in [(0, true), (59, true), (60, true), (119, true), (120, false), (-1, false)] {
            assert_eq!(one.accepts(Some(&nonce), now), expected, "{now}");
        }
        assert!(!other.accepts(Some(&nonce), 0), "another process");
        assert!(!one.accepts(None, 0) && !one.accepts(Some(""), 0));
        let hosts = [Authority::parse("resource.example.org").unwrap()];
        assert_eq!(request(&hosts).check(EXAMPLE, Some(&one)).unwrap_err(), ProofError::Nonce);
    }

    fn proof(key: u8, id: u8, until: i64) -> CheckedProof {
        let thumbprint = Thumbprint(token::encode([key; 32]));
        CheckedProof { thumbprint, id: [id; 16], until }
    }

    #[test]
    fn proof_is_accepted_once_until_it_expires() {
        let replays = Replays::default();
        let replayed = |now| match replays.accept(&proof(1, 1, 100), now) {
            Ok(()) => false,
            Err(ProofError::Invalid(invalid)) => invalid.member == "jti",
            Err(other) => panic!("{other:?}"),
        };
        assert!(!replayed(0));
        assert!(replayed(0) && replayed(100), "as long as iat is accepted");
        assert!(replays.accept(&proof(2, 1, 100), 0).is_ok(), "another key");
        assert_eq!(replays.load()[0], 2);
        assert!(!replayed(101), "removed with its iat, which is refused");
    }

    #[test]
    fn full_memory_refuses_and_removes_nothing() {
        let replays = Replays::new(3, 2);
        for id in 0..2 {
            assert_eq!(replays.accept(&proof(1, id, 100), 0), Ok(()));
        }
        assert_eq!(replays.accept(&proof(1, 2, 100), 0), Err(ProofError::Full), "the key's share");
        assert_eq!(replays.accept(&proof(2, 0, 200), 0), Ok(()), "another key is not affected");
        assert_eq!(replays.accept(&proof(3, 0, 200), 0), Err(ProofError::Full), "all keys");
        for id in 0..2 {
            let again = replays.accept(&proof(1, id, 100), 50);
            assert!(matches!(again, Err(ProofError::Invalid(_))), "{again:?}");
        }
        assert_eq!(replays.accept(&proof(3, 0, 200), 101), Ok(()), "expired proofs make room");
        assert_eq!(replays.load(), [2, 3]);
    }
}
