//! The identity provider: its metadata, keys and tokens.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actpass_protocol::{Json, Secret};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::Full;
use rustls::pki_types::CertificateDer;

use super::SignInError;
use super::id_token::{Keys, TokenError};
use crate::webhooks::{Target, parse_url};

/// Maximum bytes of a response.
const MAX_BYTES: usize = 1 << 20;

/// Age at which metadata and keys are read again.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// Age at which they are read again because a key is unknown.
const MIN_AGE: Duration = Duration::from_secs(10);

/// Maximum time of a request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Metadata and keys of the provider.
#[derive(Clone, Debug)]
pub(super) struct Metadata {
    pub(super) authorization: Uri,
    token: Uri,
    /// Whether the token endpoint only accepts the secret in the body.
    secret_in_body: bool,
    pub(super) keys: Keys,
}

#[derive(Debug)]
pub(super) struct Provider {
    issuer: String,
    client_id: String,
    client_secret: Option<Secret>,
    allow_private: bool,
    target: Target,
    known: Mutex<Option<(Instant, Arc<Metadata>)>>,
}

impl Provider {
    /// # Errors
    ///
    /// Returns an error if there is no usable authority.
    pub(super) fn new(
        issuer: String,
        client_id: String,
        client_secret: Option<Secret>,
        authorities: Option<&[CertificateDer<'static>]>,
        allow_private: bool,
    ) -> Result<Self, String> {
        let target = Target::new(authorities, allow_private, TIMEOUT)?;
        Ok(Self { issuer, client_id, client_secret, allow_private, target, known: Mutex::default() })
    }

    /// Returns the metadata, read within the last hour.
    pub(super) async fn metadata(&self) -> Result<Arc<Metadata>, SignInError> {
        match self.younger_than(MAX_AGE) {
            Some(known) => Ok(known),
            None => self.read_metadata().await,
        }
    }

    fn younger_than(&self, age: Duration) -> Option<Arc<Metadata>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().filter(|(read, _)| read.elapsed() < age).map(|(_, known)| Arc::clone(known))
    }

    async fn read_metadata(&self) -> Result<Arc<Metadata>, SignInError> {
        let place = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let found = self.get(&self.url("issuer", Some(&place))?).await?;
        let text = |name: &str| found.member(name).and_then(Json::as_str);
        if text("issuer") != Some(&*self.issuer) {
            return Err(SignInError::Provider("its metadata name another issuer".to_owned()));
        }
        let lists = |name: &str, word: &str| match found.member(name) {
            Some(Json::Array(words)) => words.iter().any(|found| found.as_str() == Some(word)),
            Some(_) | None => false,
        };
        let methods = "token_endpoint_auth_methods_supported";
        let keys = self.get(&self.url("jwks_uri", text("jwks_uri"))?).await?;
        let metadata = Arc::new(Metadata {
            authorization: self.url("authorization_endpoint", text("authorization_endpoint"))?,
            token: self.url("token_endpoint", text("token_endpoint"))?,
            secret_in_body: lists(methods, "client_secret_post") && !lists(methods, "client_secret_basic"),
            keys: Keys::parse(&keys)
                .ok_or_else(|| SignInError::Provider("its keys are not a JWK Set".to_owned()))?,
        });
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Instant::now(), Arc::clone(&metadata)));
        Ok(metadata)
    }

    fn url(&self, name: &str, text: Option<&str>) -> Result<Uri, SignInError> {
        let text = text.ok_or_else(|| SignInError::Provider(format!("its metadata have no {name}")))?;
        let url = parse_url(&Secret::new(text), self.allow_private);
        url.map_err(|problem| SignInError::Provider(format!("{name}: {problem}")))
    }

    /// Verifies a token with the provider's keys, which are read again if the key is unknown.
    pub(super) async fn verify(&self, token: &str) -> Result<Json, SignInError> {
        match self.metadata().await?.keys.verify(token) {
            Err(TokenError::UnknownKey) if self.younger_than(MIN_AGE).is_none() => {
                Ok(self.read_metadata().await?.keys.verify(token)?)
            }
            verified => Ok(verified?),
        }
    }

    /// Redeems an authorization code and returns the ID token.
    pub(super) async fn redeem(
        &self,
        code: &str,
        verifier: &str,
        redirect: &str,
    ) -> Result<String, SignInError> {
        let metadata = self.metadata().await?;
        let found = self.send(self.token_request(&metadata, code, verifier, redirect)?).await?;
        let token = found.member("id_token").and_then(Json::as_str);
        token.map(str::to_owned).ok_or_else(|| SignInError::Provider("it returned no ID token".to_owned()))
    }

    fn token_request(
        &self,
        metadata: &Metadata,
        code: &str,
        verifier: &str,
        redirect: &str,
    ) -> Result<Request<Full<Bytes>>, SignInError> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code")
            .append_pair("code", code)
            .append_pair("redirect_uri", redirect)
            .append_pair("code_verifier", verifier);
        let mut request = Request::post(metadata.token.clone())
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))
            .header(header::ACCEPT, HeaderValue::from_static("application/json"));
        match &self.client_secret {
            Some(secret) if !metadata.secret_in_body => {
                let encode =
                    |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
                let pair = format!("{}:{}", encode(&self.client_id), encode(secret.expose()));
                let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair)))
                    .map_err(|_| SignInError::Provider("the client secret is unusable".to_owned()))?;
                value.set_sensitive(true);
                request = request.header(header::AUTHORIZATION, value);
            }
            Some(secret) => {
                form.append_pair("client_id", &self.client_id).append_pair("client_secret", secret.expose());
            }
            None => {
                form.append_pair("client_id", &self.client_id);
            }
        }
        let request = request.body(Full::new(Bytes::from(form.finish())));
        request.map_err(|error| SignInError::Provider(error.to_string()))
    }

    async fn get(&self, url: &Uri) -> Result<Json, SignInError> {
        let request = Request::get(url.clone())
            .header(header::ACCEPT, HeaderValue::from_static("application/json"))
            .body(Full::default());
        self.send(request.map_err(|error| SignInError::Provider(error.to_string()))?).await
    }

    /// Sends a request and returns the JSON of a successful response. The body of another one may
    /// repeat the request, so it is not shown, except for a code of OAuth.
    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Json, SignInError> {
        let response = self.target.send(request, MAX_BYTES).await;
        let response = response.map_err(|error| SignInError::Provider(error.to_string()))?;
        let json = Json::parse(response.body()).ok();
        if !response.status().is_success() {
            let code = json.as_ref().and_then(|json| json.member("error")).and_then(Json::as_str);
            let code = code.filter(|code| code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            let status = response.status().as_u16();
            return Err(SignInError::Provider(match code {
                Some(code) => format!("it responded {status} {code}"),
                None => format!("it responded {status}"),
            }));
        }
        json.ok_or_else(|| SignInError::Provider("its response is not JSON".to_owned()))
    }
}
