//! A scripted gateway for tests of programs that use the SDK. It needs no network; the guard is the
//! real one.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actpass_core::json::parse_argument;
use actpass_core::transport::{Request, Response, SendFuture, Transport, TransportError};
use actpass_core::{Error, ErrorKind, Json, Operation, hash_payload};

use crate::error::NativeError;
use crate::runtime::catch_panic;

/// Interval at which a held poll of an approval checks for a decision.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A scripted response to a preflight.
#[derive(Clone, Debug, uniffi::Record)]
pub(crate) struct NativeAnswer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The JSON text of the decision; `None` simulates an unreachable gateway.
    pub(crate) decision: Option<String>,
}

/// A script that replaces the gateway.
#[derive(Debug, Default, uniffi::Object)]
pub(crate) struct NativeScript(Mutex<Script>);

#[derive(Debug, Default)]
struct Script {
    next: VecDeque<NativeAnswer>,
    by_tool: HashMap<String, NativeAnswer>,
    otherwise: Option<NativeAnswer>,
    approvals: HashMap<String, &'static str>,
    requests: Vec<(String, String)>,
}

/// A request that the script received.
#[derive(Debug, uniffi::Record)]
pub(crate) struct NativeRequest {
    /// The path and the query.
    pub(crate) path: String,
    /// The JSON text of the body; empty for requests that only read.
    pub(crate) body: String,
}

#[uniffi::export]
impl NativeScript {
    /// Creates a script that denies every action.
    #[uniffi::constructor]
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Sets the response to preflights about a tool; about every other tool if none is named.
    pub(crate) fn answer(&self, answer: NativeAnswer, tool: Option<String>) -> Result<(), NativeError> {
        catch_panic(|| {
            check(&answer)?;
            match tool {
                Some(tool) => drop(self.script().by_tool.insert(tool, answer)),
                None => self.script().otherwise = Some(answer),
            }
            Ok(())
        })
    }

    /// Queues a one-time response for the next preflight.
    pub(crate) fn answer_next(&self, answer: NativeAnswer) -> Result<(), NativeError> {
        catch_panic(|| {
            check(&answer)?;
            self.script().next.push_back(answer);
            Ok(())
        })
    }

    /// Decides an approval.
    pub(crate) fn decide(&self, id: String, approved: bool) {
        self.script().approvals.insert(id, if approved { "approved" } else { "rejected" });
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<NativeRequest> {
        let requests = self.script().requests.clone();
        requests.into_iter().map(|(path, body)| NativeRequest { path, body }).collect()
    }
}

impl NativeScript {
    pub(crate) fn transport(self: Arc<Self>) -> impl Transport {
        Scripted(self)
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn reply(&self, request: Request) -> Result<Response, TransportError> {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let count = {
            let mut script = self.script();
            script.requests.push((request.path(), body.clone()));
            script.requests.len()
        };
        let known = |text: String| Ok(Response::new(200, text));
        match request.operation {
            Operation::Preflight => self.decision(&body, count),
            Operation::Approval => Ok(self.approval(&request.path_suffix).await),
            Operation::IssuePassport => {
                known(format!(r#"{{"token":"test.passport.{count}","jti":"ap_{count}"}}"#))
            }
            Operation::Jwks => known(r#"{"keys":[]}"#.to_owned()),
            Operation::RecordEvidence => {
                known(format!(r#"{{"event_id":"ev_{count}","current_event_hash":"{count:064x}"}}"#))
            }
            Operation::RevokePassport => known(r#"{"revoked":true}"#.to_owned()),
            Operation::VerifyPassport => known(r#"{"valid":true,"errors":[]}"#.to_owned()),
        }
    }

    fn decision(&self, request: &str, count: usize) -> Result<Response, TransportError> {
        let request = Json::parse(request.as_bytes()).unwrap_or(Json::Null);
        let tool = request.member("tool").and_then(Json::as_str).unwrap_or_default();
        let mut script = self.script();
        let answer = script.next.pop_front();
        let answer =
            answer.or_else(|| script.by_tool.get(tool).cloned()).or_else(|| script.otherwise.clone());
        let answer = answer.unwrap_or_else(|| NativeAnswer {
            status: 200,
            decision: Some(
                r#"{"decision":"deny","reason_code":"test.unscripted","explain":{"summary":"the script has no answer for this tool"}}"#
                    .to_owned(),
            ),
        });
        let Some(decision) = answer.decision else {
            let error = Error::new(ErrorKind::Connection, "cannot reach the scripted gateway");
            return Err(TransportError { error, is_pre_send: true });
        };
        Ok(Response::new(answer.status, recorded(&decision, &request, count)))
    }

    /// The state of an approval. Holds the poll until a decision, like a gateway.
    async fn approval(&self, path_suffix: &str) -> Response {
        let (id, query) = path_suffix.split_once('?').unwrap_or((path_suffix, ""));
        let id = id.trim_matches('/');
        let wait = query.split_once("wait=").and_then(|(_, wait)| wait.split('&').next()?.parse().ok());
        let until = Instant::now() + Duration::from_secs(wait.unwrap_or(0).min(25));
        loop {
            let status = self.script().approvals.get(id).copied();
            if status.is_none() && Instant::now() < until {
                tokio::time::sleep(POLL_INTERVAL).await;
                continue;
            }
            let members = [
                ("id", Json::from(id)),
                ("status", Json::from(status.unwrap_or("pending"))),
                ("decided_by", status.map_or(Json::Null, |_| Json::from("test"))),
            ];
            let answer = Json::Object(members.map(|(name, value)| (name.to_owned(), value)).into());
            return Response::new(200, answer.to_string());
        }
    }
}

/// The decision as a gateway with a ledger sends it: with its ledger entry and the hash of its
/// request.
fn recorded(decision: &str, request: &Json, count: usize) -> String {
    let Ok(Json::Object(mut members)) = Json::parse(decision.as_bytes()) else {
        return decision.to_owned();
    };
    let event = Json::String(format!("ev_{count}"));
    let bound = hash_payload(request).ok().map(Json::String);
    for (name, value) in [("evidence_event_id", Some(event)), ("request_hash", bound)] {
        if let Some(value) = value.filter(|_| members.iter().all(|(member, _)| member != name)) {
            members.push((name.to_owned(), value));
        }
    }
    Json::Object(members).to_string()
}

fn check(answer: &NativeAnswer) -> Result<(), Error> {
    match &answer.decision {
        Some(decision) => Ok(parse_argument("decision", decision).map(drop)?),
        None => Ok(()),
    }
}

#[derive(Debug)]
struct Scripted(Arc<NativeScript>);

impl Transport for Scripted {
    fn send(&self, request: Request) -> SendFuture<'_> {
        Box::pin(self.0.reply(request))
    }
}
