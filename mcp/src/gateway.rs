//! Requests to the gateway about tools.

use std::time::Duration;

use actpass_core::json::{JsonWriter, Style};
use actpass_core::{ActPass, Json, Secret, hash_payload};
use reqwest::header::HeaderValue;
use reqwest::{RequestBuilder, Response, StatusCode, redirect};

use crate::Error;

/// The longest time to a response.
const LIMIT: Duration = Duration::from_secs(30);
/// The most tools in a request, which also bounds the length of its URL.
const MAX_TOOLS: usize = 50;

/// Access to a gateway with a key.
pub(crate) struct Gateway {
    http: reqwest::Client,
    client: ActPass,
    key: Secret,
}

/// The state of a tool at the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ToolState {
    /// Hash of the approved definition.
    pub(crate) approved: Option<String>,
    /// Whether the policy may permit the tool for some arguments. `false` is certain.
    pub(crate) may_permit: bool,
}

/// Why the gateway gave no answer about tools.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GatewayError {
    /// The key is unknown to the gateway.
    #[error("the gateway at {0} does not know the API key")]
    Key(String),
    /// No connection, or no response in time.
    #[error("no response from the gateway at {0}: {1}")]
    Unreachable(String, String),
    /// Another response than expected.
    #[error("the gateway at {0}: {1}")]
    Unexpected(String, String),
}

impl Gateway {
    /// Access to the gateway at `base_url`; default: the one that `ACTPASS_API_BASE_URL` names.
    ///
    /// # Errors
    ///
    /// The key or the URL is invalid.
    pub(crate) fn new(key: Secret, base_url: Option<&str>) -> Result<Self, Error> {
        let builder = ActPass::builder().api_key(key.clone());
        // Reads and checks the URL.
        let client = match base_url {
            Some(url) => builder.base_url(url).build()?,
            None => builder.build()?,
        };
        // Another provider may be installed, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder().redirect(redirect::Policy::none()).timeout(LIMIT);
        if client.base_url().starts_with("http://") {
            http = http.no_proxy();
        }
        Ok(Self { http: http.build()?, client, key })
    }

    /// The base URL.
    pub(crate) fn url(&self) -> &str {
        self.client.base_url()
    }

    /// Sends a request with the key and, if the key is bound to another, with a DPoP proof; again
    /// if the gateway demands a proof with a nonce.
    async fn send(&self, request: RequestBuilder) -> Result<Response, GatewayError> {
        let request = request.build().map_err(|error| self.unreachable(&error))?;
        let mut nonce: Option<String> = None;
        loop {
            let mut sent = request.try_clone().ok_or_else(|| self.unexpected("the request is a stream"))?;
            let proof = self.client.dpop_proof(sent.method().as_str(), sent.url().as_str(), nonce.as_deref());
            let proof = proof.map_err(|error| self.unexpected(error))?;
            let scheme = if proof.is_some() { "DPoP" } else { "Bearer" };
            let credentials = format!("{scheme} {}", self.key.expose());
            for (name, value) in
                [("authorization", Some(&*credentials)), ("dpop", proof.as_ref().map(Secret::expose))]
            {
                let Some(value) = value else { continue };
                let mut value = HeaderValue::try_from(value).map_err(|error| self.unexpected(error))?;
                value.set_sensitive(true);
                sent.headers_mut().insert(name, value);
            }
            let response = self.http.execute(sent).await.map_err(|error| self.unreachable(&error))?;
            let given = response.headers().get("dpop-nonce").and_then(|nonce| nonce.to_str().ok());
            match given {
                Some(given)
                    if response.status() == StatusCode::UNAUTHORIZED
                        && proof.is_some()
                        && nonce.is_none() =>
                {
                    nonce = Some(given.to_owned());
                }
                Some(_) | None => return Ok(response),
            }
        }
    }

    /// The state of each tool, in the order of `names`, the names in the policy.
    pub(crate) async fn states(&self, names: &[String]) -> Result<Vec<ToolState>, GatewayError> {
        let mut states = Vec::with_capacity(names.len());
        for names in names.chunks(MAX_TOOLS) {
            let url = format!("{}/api/v1/tools?{}", self.url(), query(names));
            let response = self.send(self.http.get(url)).await?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::UNAUTHORIZED => return Err(GatewayError::Key(self.url().to_owned())),
                other => return Err(self.unexpected(format_args!("GET /api/v1/tools: {other}"))),
            }
            let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
            let body = Json::parse(&body).map_err(|error| self.unexpected(error))?;
            let Some(Json::Array(found)) = body.member("tools") else {
                return Err(self.unexpected("GET /api/v1/tools: missing list `tools`"));
            };
            if found.len() != names.len() {
                return Err(self.unexpected("GET /api/v1/tools: expected the state of each tool"));
            }
            for (tool, name) in found.iter().zip(names) {
                if tool.member("tool_id").and_then(Json::as_str) != Some(name) {
                    return Err(self.unexpected("GET /api/v1/tools: expected the order of the request"));
                }
                states.push(ToolState {
                    approved: tool.member("manifest_hash").and_then(Json::as_str).map(str::to_owned),
                    may_permit: tool.member("may_permit") != Some(&Json::Bool(false)),
                });
            }
        }
        Ok(states)
    }

    /// Approves a definition as an operator, and returns its hash.
    pub(crate) async fn approve(&self, tool: &str, definition: &Json) -> Result<String, Error> {
        let hash = hash_payload(definition).map_err(|error| format!("{tool}: {error}"))?;
        let mut body = JsonWriter::new(Style::Compact);
        body.raw("{");
        body.key("tool_id");
        body.string(tool);
        body.raw(",");
        body.key("manifest");
        definition.write(&mut body);
        body.raw("}");
        let url = format!("{}/api/v1/tools", self.url());
        let request = self.http.post(url);
        let request = request.header("content-type", "application/json").body(body.into_string());
        let response = self.send(request).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(
                format!("{tool}: the gateway answered {status}; an operator's key is required").into()
            );
        }
        let answer = Json::parse(&response.bytes().await?).map_err(|error| format!("{tool}: {error}"))?;
        match answer.member("manifest_hash").and_then(Json::as_str) == Some(&hash) {
            true => Ok(hash),
            false => Err(format!("{tool}: the gateway's manifest_hash is not that of the definition").into()),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> GatewayError {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        GatewayError::Unreachable(self.url().to_owned(), cause.to_string())
    }

    fn unexpected(&self, problem: impl std::fmt::Display) -> GatewayError {
        GatewayError::Unexpected(self.url().to_owned(), problem.to_string())
    }
}

fn query(names: &[String]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(names.iter().map(|name| ("tool", name))).finish()
}
