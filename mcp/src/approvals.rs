//! Approvals in MCP's own way: elicitation by URL, and request state that is sealed.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use actpass_core::json::{JsonWriter, Style};
use actpass_core::{Json, hash_payload};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::ValueEnum;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::message::{INPUT, Id, RpcError, response_head};

/// The validity of request state.
const STATE_VALIDITY: Duration = Duration::from_secs(60 * 60);
/// The most states that are remembered as used. Beyond it, no state is issued.
const MAX_USED: usize = 100_000;
/// The longest state that is issued, in bytes.
const MAX_STATE: usize = 64 * 1024;

/// The handling of a call that needs approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Approvals {
    /// Elicitation by URL if the client declares it; else `hold` for a call with a progress token; else `tell`.
    Auto,
    /// The result states that approval is needed. After it, the same call runs.
    Tell,
    /// The call waits for the approval, and then runs.
    Hold,
}

/// The call that request state belongs to.
pub(crate) struct Subject<'a> {
    /// The authenticated client; empty without authentication.
    pub(crate) principal: &'a str,
    /// The digest of the call: see [`digest`].
    pub(crate) digest: &'a str,
}

/// The content of request state.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) approval: String,
    /// The JSON text of the `requestState` of the call itself, for the server.
    pub(crate) request_state: Option<String>,
    /// The JSON text of the `inputResponses` of the call itself, for the server.
    pub(crate) input_responses: Option<String>,
}

/// The digest of a call: tool, arguments, goal and user. `None` if the arguments have no canonical
/// form.
pub(crate) fn digest(tool: &str, arguments: &str, goal: &str, user_id: Option<&str>) -> Option<String> {
    let mut text = JsonWriter::new(Style::Compact);
    text.raw("{");
    for (name, value) in [("tool", tool), ("goal", goal), ("user_id", user_id.unwrap_or_default())] {
        text.key(name);
        text.string(value);
        text.raw(",");
    }
    text.key("args");
    text.raw(arguments);
    text.raw("}");
    hash_payload(&Json::parse(text.as_str().as_bytes()).ok()?).ok()
}

/// Seals request state, and opens each once.
pub(crate) struct Seal {
    key: LessSafeKey,
    /// The start of a state, which names the server.
    prefix: String,
    /// The nonces of the states that were used, with the end of their validity.
    used: Mutex<HashMap<[u8; NONCE_LEN], SystemTime>>,
}

impl Seal {
    /// `key` is shared by the processes that serve the same clients; `None` generates one.
    ///
    /// # Errors
    ///
    /// The operating system provides no randomness.
    pub(crate) fn new(server: &str, key: Option<[u8; 32]>) -> Result<Self, String> {
        let key = match key {
            Some(key) => key,
            None => random()?,
        };
        let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| "the state key is invalid".to_owned())?;
        Ok(Self { key: LessSafeKey::new(key), prefix: format!("actpass1.{server}."), used: Mutex::default() })
    }

    /// Whether `state` was issued under this name. Another one belongs to the server.
    pub(crate) fn is_own(&self, state: &str) -> bool {
        state.starts_with(&self.prefix)
    }

    /// Seals `state` for the call. `None` if it is too long, or too many are in use.
    pub(crate) fn seal(&self, subject: &Subject<'_>, state: &State, now: SystemTime) -> Option<String> {
        if self.used.lock().unwrap_or_else(PoisonError::into_inner).len() >= MAX_USED {
            return None;
        }
        let until = (now + STATE_VALIDITY).duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        let mut text = JsonWriter::new(Style::Compact);
        text.raw(&format!("{{\"until\":{until}"));
        for (name, value) in [
            ("approval", Some(&state.approval)),
            ("state", state.request_state.as_ref()),
            ("responses", state.input_responses.as_ref()),
        ] {
            if let Some(value) = value {
                text.raw(",");
                text.key(name);
                text.string(value);
            }
        }
        for (name, value) in [("principal", subject.principal), ("digest", subject.digest)] {
            text.raw(",");
            text.key(name);
            text.string(value);
        }
        text.raw("}");
        let nonce: [u8; NONCE_LEN] = random().ok()?;
        let mut sealed = text.into_string().into_bytes();
        let aad = Aad::from(self.prefix.as_bytes());
        self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed).ok()?;
        let sealed = [nonce.as_slice(), &sealed].concat();
        let state = format!("{}{}", self.prefix, URL_SAFE_NO_PAD.encode(sealed));
        (state.len() <= MAX_STATE).then_some(state)
    }

    /// Opens a state, once.
    ///
    /// # Errors
    ///
    /// It is not genuine, has expired, was used, or belongs to another client or call.
    pub(crate) fn open(
        &self,
        state: &str,
        subject: &Subject<'_>,
        now: SystemTime,
    ) -> Result<State, RpcError> {
        let invalid = |problem: &str| RpcError::invalid_params(format_args!("requestState: {problem}"));
        let genuine = || {
            let mut sealed = URL_SAFE_NO_PAD.decode(state.strip_prefix(&self.prefix)?).ok()?;
            let (nonce, sealed) = sealed.split_first_chunk_mut::<NONCE_LEN>()?;
            let nonce = *nonce;
            let aad = Aad::from(self.prefix.as_bytes());
            let text = self.key.open_in_place(Nonce::assume_unique_for_key(nonce), aad, sealed).ok()?;
            Some((nonce, Json::parse(text).ok()?))
        };
        let (nonce, content) =
            genuine().ok_or_else(|| invalid("not issued by this proxy; send the call without it"))?;
        let text = |name: &str| content.member(name).and_then(Json::as_str);
        let until = match content.member("until") {
            Some(Json::Number(until)) => until.as_str().parse().ok(),
            Some(_) | None => None,
        };
        let until = SystemTime::UNIX_EPOCH + Duration::from_secs(until.unwrap_or(0));
        if until <= now {
            return Err(invalid("expired; send the call without it"));
        }
        if text("principal") != Some(subject.principal) {
            return Err(invalid("issued to another client"));
        }
        if text("digest") != Some(subject.digest) {
            return Err(invalid("issued for another call; send the call without it"));
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, until| *until > now);
        if used.len() >= MAX_USED || used.insert(nonce, until).is_some() {
            return Err(invalid("used before; send the call without it"));
        }
        Ok(State {
            approval: text("approval").unwrap_or_default().to_owned(),
            request_state: text("state").map(str::to_owned),
            input_responses: text("responses").map(str::to_owned),
        })
    }
}

/// Random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| format!("no randomness: {error}"))?;
    Ok(bytes)
}

/// The text for the person who is led to the gateway's page.
fn message(tool: &str, approval: &str) -> String {
    format!("{tool} needs the approval of a person. Decide on the gateway's page (approval {approval}).")
}

/// The request `id` of the proxy that leads a person to `url`: up to 2025-11-25.
pub(crate) fn elicitation(id: &Id, elicitation: &str, url: &str, tool: &str, approval: &str) -> Vec<u8> {
    let mut out = response_head(Some(id));
    out.raw(r#""method":"elicitation/create","params":{"mode":"url","elicitationId":"#);
    out.string(elicitation);
    out.raw(",");
    out.key("url");
    out.string(url);
    out.raw(",");
    out.key("message");
    out.string(&message(tool, approval));
    out.raw("}}\n");
    out.into_string().into_bytes()
}

/// The notification that an elicitation of the proxy has ended: up to 2025-11-25.
pub(crate) fn elicitation_complete(elicitation: &str) -> Vec<u8> {
    let mut out = response_head(None);
    out.raw(r#""method":"notifications/elicitation/complete","params":{"elicitationId":"#);
    out.string(elicitation);
    out.raw("}}\n");
    out.into_string().into_bytes()
}

/// The result that leads a person to `url` and requests the call again: 2026-07-28 and later.
pub(crate) fn input_required(id: &Id, url: &str, tool: &str, approval: &str, state: &str) -> Vec<u8> {
    let mut out = response_head(Some(id));
    out.raw(r#""result":{"resultType":"input_required","inputRequests":{"#);
    out.key(INPUT);
    out.raw(r#"{"method":"elicitation/create","params":{"mode":"url","url":"#);
    out.string(url);
    out.raw(",");
    out.key("message");
    out.string(&message(tool, approval));
    out.raw("}}},");
    out.key("requestState");
    out.string(state);
    out.raw("}}\n");
    out.into_string().into_bytes()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn state() -> State {
        State { approval: "apr_1".to_owned(), request_state: Some("\"s\"".to_owned()), input_responses: None }
    }

    #[test]
    fn state_is_bound_to_client_call_deadline_and_one_use() {
        let now = SystemTime::now();
        let seal = Seal::new("pay", None).unwrap();
        let call = digest("pay.refund", "{\"amount\": 1}", "g", None).unwrap();
        let subject = Subject { principal: "alice", digest: &call };
        let sealed = seal.seal(&subject, &state(), now).unwrap();
        assert!(seal.is_own(&sealed) && !sealed.contains("apr_1"));
        let refused =
            |state: &str, subject: &Subject<'_>, now| seal.open(state, subject, now).unwrap_err().message;

        assert!(refused(&sealed, &Subject { principal: "bob", ..subject }, now).contains("another client"));
        for other in [
            digest("pay.refund", "{\"amount\":2}", "g", None),
            digest("pay.charge", "{\"amount\":1}", "g", None),
            digest("pay.refund", "{\"amount\":1}", "h", None),
            digest("pay.refund", "{\"amount\":1}", "g", Some("u")),
        ] {
            let subject = Subject { principal: "alice", digest: &other.unwrap() };
            assert!(refused(&sealed, &subject, now).contains("another call"));
        }
        assert!(refused(&sealed, &subject, now + STATE_VALIDITY).contains("expired"));
        let mut changed = sealed.clone().into_bytes();
        let last = changed.last_mut().unwrap();
        *last = if *last == b'A' { b'B' } else { b'A' };
        assert!(refused(&String::from_utf8(changed).unwrap(), &subject, now).contains("not issued"));
        let other = Seal::new("pay", None).unwrap().seal(&subject, &state(), now).unwrap();
        assert!(refused(&other, &subject, now).contains("not issued"));

        // The same call in other bytes.
        let same = digest("pay.refund", "{ \"amount\":1.0 }", "g", None).unwrap();
        let subject = Subject { principal: "alice", digest: &same };
        assert_eq!(seal.open(&sealed, &subject, now).unwrap(), state());
        assert!(refused(&sealed, &subject, now).contains("used before"));
    }

    #[test]
    fn processes_with_one_key_open_the_same_state() {
        let now = SystemTime::now();
        let subject = Subject { principal: "", digest: "d" };
        let sealed = Seal::new("a", Some([7; 32])).unwrap().seal(&subject, &state(), now).unwrap();
        assert_eq!(Seal::new("a", Some([7; 32])).unwrap().open(&sealed, &subject, now).unwrap(), state());
        assert!(!Seal::new("b", Some([7; 32])).unwrap().is_own(&sealed));
    }
}
