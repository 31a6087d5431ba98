//! The proxy as an OAuth 2.1 resource server: access tokens for it, and RFC 9728 metadata.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use actpass_core::Json;
use actpass_core::json::{JsonWriter, Style};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{StatusCode, Url, redirect};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::http_server::is_loopback;

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";
/// The longest token, in bytes.
const MAX_TOKEN: usize = 16 * 1024;
/// The longest key set, in bytes.
const MAX_KEYS: usize = 1024 * 1024;
/// Longest time to the key set.
const FETCH: Duration = Duration::from_secs(5);
/// The shortest time between two reads of the key set, and its longest use.
const REFETCH: Duration = Duration::from_secs(30);
const KEEP: Duration = Duration::from_secs(300);
/// Tolerated difference between the clocks.
const LEEWAY: u64 = 30;

/// The settings of a resource server.
pub(crate) struct ResourceServer {
    /// The identifier of the resource, which tokens have as their audience.
    resource: Url,
    issuers: Vec<String>,
    scopes: Vec<String>,
    source: Source,
    keys: Mutex<Option<Keys>>,
    http: reqwest::Client,
}

/// The location of the key set.
enum Source {
    File(PathBuf),
    Url(Url),
}

struct Keys {
    keys: Vec<Key>,
    read: Instant,
}

/// A public key of a JSON Web Key Set.
#[derive(Clone)]
struct Key {
    id: Option<String>,
    kind: KeyKind,
}

#[derive(Clone)]
enum KeyKind {
    Ed25519(Vec<u8>),
    P256(Vec<u8>),
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

/// A valid access token.
#[derive(Debug)]
pub(crate) struct Token {
    issuer: String,
    pub(crate) subject: String,
}

impl Token {
    /// The identity of the client.
    pub(crate) fn principal(&self) -> String {
        format!("{}\n{}", self.issuer, self.subject)
    }
}

/// A request without a valid access token.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    pub(crate) problem: String,
    pub(crate) challenge: Option<HeaderValue>,
}

impl ResourceServer {
    /// # Errors
    ///
    /// A URL is invalid.
    pub(crate) fn new(
        resource: &str,
        issuers: Vec<String>,
        scopes: Vec<String>,
        keys: &str,
    ) -> Result<Self, String> {
        let resource = Url::parse(resource).ok().filter(|url| {
            matches!(url.scheme(), "https" | "http") && url.fragment().is_none() && url.query().is_none()
        });
        let resource =
            resource.ok_or("--resource: expected an http or https URL without query and fragment")?;
        if issuers.is_empty() {
            return Err("--authorization-server: expected at least one with --resource".to_owned());
        }
        if scopes
            .iter()
            .any(|scope| scope.bytes().any(|byte| !matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e)))
        {
            return Err("--scope: expected visible ASCII characters without quotation marks and backslashes"
                .to_owned());
        }
        let source = match Url::parse(keys) {
            Ok(url) if url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url)) => {
                Source::Url(url)
            }
            Ok(url) if url.scheme() == "http" => {
                return Err("--jwks: expected https, or http to this machine".to_owned());
            }
            Ok(_) | Err(_) => Source::File(PathBuf::from(keys)),
        };
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder().redirect(redirect::Policy::none()).timeout(FETCH);
        if matches!(&source, Source::Url(url) if url.scheme() == "http") {
            http = http.no_proxy();
        }
        let http = http.build().map_err(|error| error.to_string())?;
        Ok(Self { resource, issuers, scopes, source, keys: Mutex::default(), http })
    }

    /// The configured identifier, without the slash that a URL without path gets.
    fn identifier(&self) -> &str {
        match self.resource.path() {
            "/" => self.resource.as_str().trim_end_matches('/'),
            _ => self.resource.as_str(),
        }
    }

    fn metadata_url(&self) -> String {
        format!(
            "{}{WELL_KNOWN}{}",
            self.resource.origin().ascii_serialization(),
            self.resource.path().trim_end_matches('/')
        )
    }

    /// The paths of the metadata of the endpoint `path`.
    pub(crate) fn metadata_paths(&self, path: &str) -> Vec<String> {
        let mut paths = vec![WELL_KNOWN.to_owned()];
        for path in [path, self.resource.path()] {
            let path = format!("{WELL_KNOWN}{}", path.trim_end_matches('/'));
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        paths
    }

    /// The metadata: RFC 9728.
    pub(crate) fn metadata(&self) -> String {
        let mut out = JsonWriter::new(Style::Compact);
        out.raw("{");
        out.key("resource");
        out.string(self.identifier());
        for (name, values) in [("authorization_servers", &self.issuers), ("scopes_supported", &self.scopes)] {
            if values.is_empty() {
                continue;
            }
            out.raw(",");
            out.key(name);
            out.raw("[");
            for (at, value) in values.iter().enumerate() {
                out.comma(at);
                out.string(value);
            }
            out.raw("]");
        }
        out.raw(r#","bearer_methods_supported":["header"]}"#);
        out.into_string()
    }

    fn refused(&self, status: StatusCode, error: Option<&str>, problem: &str) -> Refused {
        let mut challenge = format!("Bearer resource_metadata=\"{}\"", self.metadata_url());
        if !self.scopes.is_empty() {
            challenge.push_str(&format!(", scope=\"{}\"", self.scopes.join(" ")));
        }
        if let Some(error) = error {
            challenge.push_str(&format!(", error=\"{error}\", error_description=\"{problem}\""));
        }
        Refused { status, problem: problem.to_owned(), challenge: HeaderValue::try_from(challenge).ok() }
    }

    /// Validates the access token of a request.
    ///
    /// # Errors
    ///
    /// The response for the client.
    pub(crate) async fn authenticate(&self, headers: &HeaderMap) -> Result<Token, Refused> {
        let unauthorized =
            |problem: &str| self.refused(StatusCode::UNAUTHORIZED, Some("invalid_token"), problem);
        if !headers.contains_key(AUTHORIZATION) {
            return Err(self.refused(StatusCode::UNAUTHORIZED, None, "authorization: missing"));
        }
        let token = bearer(headers).filter(|token| token.len() <= MAX_TOKEN);
        let token = token.ok_or_else(|| unauthorized("expected one bearer token"))?;
        let parsed = Parsed::of(token).ok_or_else(|| unauthorized("expected a JSON Web Token"))?;
        let keys = self.keys(&parsed).await.map_err(|problem| {
            crate::warn(format_args!("the key set: {problem}"));
            Refused {
                status: StatusCode::SERVICE_UNAVAILABLE,
                problem: "the keys of the authorization server are unavailable".to_owned(),
                challenge: None,
            }
        })?;
        if !keys.iter().any(|key| parsed.is_signed_by(key)) {
            return Err(unauthorized("the signature is invalid, or its key is unknown"));
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let issuer = parsed.claim("iss").filter(|issuer| self.issuers.iter().any(|known| known == issuer));
        let issuer = issuer.ok_or_else(|| unauthorized("issued by another authorization server"))?;
        let is_audience = |audience: &Json| {
            audience
                .as_str()
                .is_some_and(|audience| audience == self.identifier() || audience == self.resource.as_str())
        };
        match parsed.claims.member("aud") {
            Some(Json::Array(audiences)) if audiences.iter().any(is_audience) => {}
            Some(audience) if is_audience(audience) => {}
            Some(_) | None => return Err(unauthorized("issued for another audience")),
        }
        if parsed.seconds("exp").is_none_or(|until| until.saturating_add(LEEWAY) <= now) {
            return Err(unauthorized("expired"));
        }
        if parsed.claims.member("nbf").is_some()
            && parsed.seconds("nbf").is_none_or(|from| from > now + LEEWAY)
        {
            return Err(unauthorized("not yet valid"));
        }
        let subject = parsed.claim("sub").filter(|subject| !subject.is_empty());
        let subject = subject.ok_or_else(|| unauthorized("without a subject"))?;
        let granted: Vec<&str> = parsed.claim("scope").unwrap_or_default().split(' ').collect();
        if !self.scopes.iter().all(|scope| granted.contains(&scope.as_str())) {
            return Err(self.refused(
                StatusCode::FORBIDDEN,
                Some("insufficient_scope"),
                "a scope is missing",
            ));
        }
        Ok(Token { issuer: issuer.to_owned(), subject: subject.to_owned() })
    }

    /// The keys. They are read again if the id of the token's key is missing.
    async fn keys(&self, token: &Parsed<'_>) -> Result<Vec<Key>, String> {
        let mut cached = self.keys.lock().await;
        if let Some(found) = &*cached {
            let is_known = found.keys.iter().any(|key| token.is_of(key));
            let age = found.read.elapsed();
            if (is_known && age < KEEP) || age < REFETCH {
                return Ok(found.keys.clone());
            }
        }
        let text = match &self.source {
            Source::File(path) => {
                std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?
            }
            Source::Url(url) => {
                let response = self.http.get(url.clone()).send().await.map_err(|error| error.to_string())?;
                if !response.status().is_success() {
                    return Err(format!("{url} answered {}", response.status()));
                }
                let mut response = response;
                let mut body = Vec::new();
                while let Some(chunk) = response.chunk().await.map_err(|error| error.to_string())? {
                    if body.len() + chunk.len() > MAX_KEYS {
                        return Err(format!("{url}: over {MAX_KEYS} bytes"));
                    }
                    body.extend_from_slice(&chunk);
                }
                body
            }
        };
        let keys = key_set(&text).ok_or("expected a JSON Web Key Set")?;
        *cached = Some(Keys { keys: keys.clone(), read: Instant::now() });
        Ok(keys)
    }
}

/// The only token of `Authorization: Bearer`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = scheme.eq_ignore_ascii_case("bearer").then(|| token.trim());
    token.filter(|token| !token.is_empty())
}

/// Reads the keys of a set that are usable; others are skipped.
fn key_set(text: &[u8]) -> Option<Vec<Key>> {
    let set = Json::parse(text).ok()?;
    let Json::Array(keys) = set.member("keys")? else { return None };
    Some(keys.iter().filter_map(Key::of).collect())
}

impl Key {
    fn of(json: &Json) -> Option<Self> {
        let text = |name: &str| json.member(name).and_then(Json::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        if text("use").is_some_and(|usage| usage != "sig") {
            return None;
        }
        let kind = match (text("kty")?, text("crv"), text("alg")) {
            ("OKP", Some("Ed25519"), None | Some("EdDSA" | "Ed25519")) => KeyKind::Ed25519(bytes("x")?),
            ("EC", Some("P-256"), None | Some("ES256")) => {
                KeyKind::P256([vec![4], bytes("x")?, bytes("y")?].concat())
            }
            ("RSA", _, None | Some("RS256")) => KeyKind::Rsa { n: bytes("n")?, e: bytes("e")? },
            _ => return None,
        };
        Some(Self { id: text("kid").map(str::to_owned), kind })
    }
}

/// A signed token whose signature has not been validated.
struct Parsed<'t> {
    signed: &'t [u8],
    signature: Vec<u8>,
    algorithm: String,
    key: Option<String>,
    claims: Json,
}

impl<'t> Parsed<'t> {
    fn of(token: &'t str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let object = |part: &str| {
            let json = Json::parse(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()?;
            matches!(json, Json::Object(_)).then_some(json)
        };
        let header = object(header)?;
        let text = |name: &str| header.member(name).and_then(Json::as_str).map(str::to_owned);
        let kind = text("typ").unwrap_or_default().to_ascii_lowercase();
        if header.member("crit").is_some()
            || !matches!(kind.as_str(), "" | "jwt" | "at+jwt" | "application/at+jwt")
        {
            return None;
        }
        Some(Self {
            signed: signed.as_bytes(),
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
            algorithm: text("alg")?,
            key: text("kid"),
            claims: object(claims)?,
        })
    }

    fn claim(&self, name: &str) -> Option<&str> {
        self.claims.member(name).and_then(Json::as_str)
    }

    fn seconds(&self, name: &str) -> Option<u64> {
        match self.claims.member(name)? {
            Json::Number(number) => number.as_str().split('.').next()?.parse().ok(),
            Json::Array(_) | Json::Bool(_) | Json::Null | Json::Object(_) | Json::String(_) => None,
        }
    }

    /// Whether `key` is of the token's algorithm and has the id that the token names.
    fn is_of(&self, key: &Key) -> bool {
        let algorithm = match &key.kind {
            KeyKind::Ed25519(_) => matches!(self.algorithm.as_str(), "EdDSA" | "Ed25519"),
            KeyKind::P256(_) => self.algorithm == "ES256",
            KeyKind::Rsa { .. } => self.algorithm == "RS256",
        };
        algorithm && (self.key.is_none() || key.id.is_none() || self.key == key.id)
    }

    fn is_signed_by(&self, key: &Key) -> bool {
        self.is_of(key)
            && match &key.kind {
                KeyKind::Ed25519(x) => {
                    UnparsedPublicKey::new(&ED25519, x).verify(self.signed, &self.signature)
                }
                KeyKind::P256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                    .verify(self.signed, &self.signature),
                KeyKind::Rsa { n, e } => RsaPublicKeyComponents { n, e }.verify(
                    &RSA_PKCS1_2048_8192_SHA256,
                    self.signed,
                    &self.signature,
                ),
            }
            .is_ok()
    }
}
