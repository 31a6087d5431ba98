//! Responses: signed decisions.

use std::fmt;

use actpass_protocol::Json;
use actpass_protocol::json::object;

use crate::key::SessionKey;
use crate::request::{Envelope, Signature, without_signature};
use crate::{ALGORITHM, VERSION};

/// A decision, as members of the result.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// `allow`, `ask`, `defer` or `deny`.
    pub decision: &'static str,
    /// The other members of the result.
    pub members: Vec<(&'static str, Json)>,
}

impl Verdict {
    /// An `allow` without other members.
    pub fn allow() -> Self {
        Self { decision: "allow", members: Vec::new() }
    }

    /// A `deny` with a reason code and its explanation.
    pub fn deny(code: &str, message: &str) -> Self {
        let codes = Json::Array(vec![Json::from(code)]);
        Self { decision: "deny", members: vec![("reason_codes", codes), ("reasoning", Json::from(message))] }
    }
}

/// Builds the result of a request.
pub fn result(request_id: &str, verdict: Verdict, chain_hash: Option<String>) -> Json {
    let fixed = object([
        ("type", Some(Json::from("final"))),
        ("acs_version", Some(Json::from(VERSION))),
        ("request_id", Some(Json::from(request_id))),
        ("decision", Some(Json::from(verdict.decision))),
        ("metadata", Some(object([("evaluator", Some(Json::from("deterministic")))]))),
        ("chain_hash", chain_hash.map(Json::String)),
    ]);
    let Json::Object(mut members) = fixed else { return Json::Null };
    members.extend(verdict.members.into_iter().map(|(name, value)| (name.to_owned(), value)));
    Json::Object(members)
}

/// Builds the response with a signed result. `None` if it has no canonical form, which a result
/// without large numbers always has.
///
/// ```
/// use actpass_acs::{SessionKey, Verdict, result, sign};
/// use actpass_protocol::{Json, Secret};
///
/// let key = SessionKey::derive(&Secret::new("0123456789abcdef0123456789abcdef"), "session").unwrap();
/// let denied = result("1", Verdict::deny("actpass.unreachable", "the gateway is unreachable"), None);
/// let response = sign(&key, "default", &Json::from("1"), denied).unwrap();
/// assert!(response.to_string().contains(r#""decision":"deny""#));
/// ```
pub fn sign(key: &SessionKey, key_id: &str, id: &Json, result: Json) -> Option<Json> {
    let value = key.sign(&envelope(id, result.clone()))?;
    let Json::Object(mut members) = result else { return None };
    let signature = object([
        ("algorithm", Some(Json::from(ALGORITHM))),
        ("value", Some(Json::String(value))),
        ("key_id", Some(Json::from(key_id))),
    ]);
    members.push(("signature".to_owned(), signature));
    Some(envelope(id, Json::Object(members)))
}

fn envelope(id: &Json, result: Json) -> Json {
    object([("jsonrpc", Some(Json::from("2.0"))), ("id", Some(id.clone())), ("result", Some(result))])
}

/// Why a response is not the answer of a Guardian with the session's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidAnswer {
    /// It is not a response of JSON-RPC with a final decision.
    Malformed,
    /// It is an error of JSON-RPC.
    Error,
    /// It answers another request.
    OtherRequest,
    /// Its signature is missing, or does not cover it.
    Signature,
}

impl fmt::Display for InvalidAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "expected a JSON-RPC response with a final decision",
            Self::Error => "expected a decision, found a JSON-RPC error",
            Self::OtherRequest => "the response is for another request",
            Self::Signature => "the response's signature is missing or wrong",
        })
    }
}

impl std::error::Error for InvalidAnswer {}

/// Verifies that a response answers `request` and is signed with `key`; without a key, as for a ping,
/// only that it answers the request.
///
/// # Errors
///
/// [`InvalidAnswer`] for every other response. It is not a decision then.
pub fn verify(response: &[u8], request: &Envelope, key: Option<&SessionKey>) -> Result<Json, InvalidAnswer> {
    let response = Json::parse(response).map_err(|_| InvalidAnswer::Malformed)?;
    if response.member("error").is_some() {
        return Err(InvalidAnswer::Error);
    }
    let Some(result @ Json::Object(_)) = response.member("result") else {
        return Err(InvalidAnswer::Malformed);
    };
    let text = |name: &str| result.member(name).and_then(Json::as_str);
    let is_final = text("type") == Some("final") && text("decision").is_some();
    if response.member("jsonrpc").and_then(Json::as_str) != Some("2.0") || !is_final {
        return Err(InvalidAnswer::Malformed);
    }
    if response.member("id") != Some(&request.id) || text("request_id") != Some(request.request_id()) {
        return Err(InvalidAnswer::OtherRequest);
    }
    if let Some(key) = key {
        let signature = result.member("signature").and_then(Signature::read);
        let signature = signature.ok_or(InvalidAnswer::Signature)?;
        if !key.verifies(&without_signature(response.clone(), "result"), &signature.value) {
            return Err(InvalidAnswer::Signature);
        }
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use actpass_protocol::Secret;

    use super::*;

    #[test]
    fn answer_is_verified_against_its_request() {
        let request =
            br#"{"jsonrpc": "2.0", "id": 1, "method": "system/ping", "params": {"request_id": "r"}}"#;
        let request = Envelope::parse(request).unwrap();
        let secret = Secret::new("0123456789abcdef0123456789abcdef");
        let key = SessionKey::derive(&secret, "s").unwrap();
        let signed = sign(&key, "k", &request.id, result("r", Verdict::allow(), None)).unwrap().to_string();
        let check = |response: &str, key| verify(response.as_bytes(), &request, key).map(|_| ());
        assert_eq!(check(&signed, Some(&key)), Ok(()));
        assert_eq!(check(&signed, None), Ok(()));
        for (from, to, problem) in [
            ("\"allow\"", "\"deny\"", InvalidAnswer::Signature),
            ("HMAC-SHA256", "none", InvalidAnswer::Signature),
            ("\"value\":\"", "\"value\":\"A", InvalidAnswer::Signature),
            ("\"signature\"", "\"other\"", InvalidAnswer::Signature),
            ("\"id\":1", "\"id\":2", InvalidAnswer::OtherRequest),
            ("\"id\":1", "\"id\":\"1\"", InvalidAnswer::OtherRequest),
            ("\"request_id\":\"r\"", "\"request_id\":\"s\"", InvalidAnswer::OtherRequest),
            ("\"final\"", "\"progress\"", InvalidAnswer::Malformed),
            ("\"decision\"", "\"verdict\"", InvalidAnswer::Malformed),
            ("\"jsonrpc\":\"2.0\"", "\"jsonrpc\":\"1.0\"", InvalidAnswer::Malformed),
            ("\"result\"", "\"error\"", InvalidAnswer::Error),
            ("\"result\":", "\"error\":{},\"result\":", InvalidAnswer::Error),
            ("\"id\":1", "\"id\":1,\"id\":1", InvalidAnswer::Malformed),
        ] {
            let changed = signed.replacen(from, to, 1);
            assert_ne!(changed, signed, "{from}");
            assert_eq!(check(&changed, Some(&key)), Err(problem), "{from} {to}");
        }
        let other = SessionKey::derive(&secret, "t").unwrap();
        assert_eq!(check(&signed, Some(&other)), Err(InvalidAnswer::Signature));
    }
}
