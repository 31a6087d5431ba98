//! Requests: JSON-RPC 2.0 with a signature in `params`.

use actpass_protocol::json::{Number, object};
use actpass_protocol::{Json, Secret};

use crate::ALGORITHM;
use crate::key::SessionKey;

const PING: &str = "system/ping";

/// An error of JSON-RPC: the answer to a request that cannot be authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcError {
    /// The request's id; null without an id.
    pub id: Json,
    /// The code of JSON-RPC or of the standard.
    pub code: i64,
    /// The machine-readable reason.
    pub reason: &'static str,
    /// The problem.
    pub message: String,
}

impl RpcError {
    /// The error of a text that is no JSON object, or has a duplicate member.
    pub fn unreadable(message: impl Into<String>) -> Self {
        Self { id: Json::Null, code: -32700, reason: "parse_error", message: message.into() }
    }

    /// The error of a request whose signature is not one of a known key.
    pub fn unsigned(id: Json) -> Self {
        let message = "params.signature: unknown key_id, or the signature does not cover this request";
        Self { id, code: -32004, reason: "signature_invalid", message: message.to_owned() }
    }

    /// The response.
    pub fn response(&self) -> Json {
        let data = object([
            ("reason", Some(Json::from(self.reason))),
            ("message", Some(Json::from(&*self.message))),
        ]);
        let shown = object([
            ("code", Some(Json::Number(Number::from(self.code)))),
            ("message", Some(Json::from(&*self.message))),
            ("data", Some(data)),
        ]);
        object([("jsonrpc", Some(Json::from("2.0"))), ("id", Some(self.id.clone())), ("error", Some(shown))])
    }
}

/// A request whose signature is not verified yet.
#[derive(Debug)]
pub struct Envelope {
    /// The id of JSON-RPC: a string or a number.
    pub id: Json,
    /// The method.
    pub method: String,
    /// The session's id; empty if the request has none.
    pub session_id: String,
    /// `None` for a request without signature: only a ping.
    pub signature: Option<Signature>,
    /// The `params`, with the signature.
    pub params: Json,
    /// The request without its signature.
    unsigned: Json,
}

/// The signature of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The name of the key.
    pub key_id: String,
    /// The signature in Base64.
    pub value: String,
}

impl Envelope {
    /// Parses the parts that are needed to verify the signature.
    ///
    /// # Errors
    ///
    /// Returns the answer to a request that cannot be authenticated.
    ///
    /// ```
    /// use actpass_acs::Envelope;
    ///
    /// let ping = Envelope::parse(br#"{"jsonrpc": "2.0", "id": 1, "method": "system/ping", "params": {}}"#)?;
    /// assert!(ping.is_ping() && ping.signature.is_none());
    /// assert_eq!(Envelope::parse(b"[]").unwrap_err().code, -32600);
    /// # Ok::<(), actpass_acs::RpcError>(())
    /// ```
    pub fn parse(text: &[u8]) -> Result<Self, RpcError> {
        let body = Json::parse(text)
            .map_err(|_| RpcError::unreadable("expected one JSON object without duplicate members"))?;
        let id = match body.member("id") {
            Some(id @ (Json::String(_) | Json::Number(_))) => id.clone(),
            Some(Json::Array(_) | Json::Bool(_) | Json::Null | Json::Object(_)) | None => Json::Null,
        };
        let error = |code, reason, message: &str| {
            Err(RpcError { id: id.clone(), code, reason, message: message.to_owned() })
        };
        let text = |name: &str| body.member(name).and_then(Json::as_str);
        if text("jsonrpc") != Some("2.0") || id == Json::Null {
            let expected = "expected one JSON-RPC 2.0 request with an id";
            return error(-32600, "invalid_request", expected);
        }
        let Some(method) = text("method").map(str::to_owned) else {
            return error(-32600, "invalid_request", "method: missing; expected a string");
        };
        let Some(params @ Json::Object(_)) = body.member("params") else {
            return error(-32602, "invalid_params", "params: missing; expected an object");
        };
        let params = params.clone();
        let session_id = params.member("metadata").and_then(|metadata| metadata.member("session_id"));
        let session_id = session_id.and_then(Json::as_str).unwrap_or_default().to_owned();
        let signature = params.member("signature").and_then(Signature::read);
        if signature.is_none() && method != PING {
            let expected = format!("params.signature: expected algorithm {ALGORITHM}, key_id and value");
            return error(-32004, "signature_invalid", &expected);
        }
        let unsigned = without_signature(body, "params");
        Ok(Self { id, method, session_id, signature, params, unsigned })
    }

    /// Returns the session's key if it signed the request.
    pub fn authenticate(&self, secret: &Secret) -> Option<SessionKey> {
        let signature = self.signature.as_ref()?;
        let key = SessionKey::derive(secret, &self.session_id)?;
        key.verifies(&self.unsigned, &signature.value).then_some(key)
    }

    /// Whether the request is a ping, which needs no signature.
    pub fn is_ping(&self) -> bool {
        self.method == PING
    }

    /// The request's id as it was sent, or an empty text, for the response.
    pub fn request_id(&self) -> &str {
        self.params.member("request_id").and_then(Json::as_str).unwrap_or_default()
    }
}

impl Signature {
    /// Reads a signature; `None` if it is incomplete or of another algorithm.
    pub(crate) fn read(signature: &Json) -> Option<Self> {
        let text = |name: &str| signature.member(name).and_then(Json::as_str);
        let (algorithm, key_id, value) = (text("algorithm")?, text("key_id")?, text("value")?);
        (algorithm == ALGORITHM).then(|| Self { key_id: key_id.to_owned(), value: value.to_owned() })
    }
}

/// Removes the signature from the member `container` of an envelope.
pub(crate) fn without_signature(envelope: Json, container: &str) -> Json {
    let Json::Object(mut members) = envelope else { return envelope };
    for (name, value) in &mut members {
        if let (true, Json::Object(inner)) = (name == container, value) {
            inner.retain(|(name, _)| name != "signature");
        }
    }
    Json::Object(members)
}
