//! Shared test utilities: clients, gateways, fake transports and child processes.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
#![allow(clippy::needless_pass_by_value, reason = "callers pass json! values")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actpass_core::transport::{Request, Response, SendFuture, Transport, TransportError};
use actpass_core::{ActPass, ActPassBuilder, Action, ErrorKind, Json, Mode, Outcome, hash_payload};
use actpass_hostile_gateway::{HostileGateway, Script, Seen};
use serde_json::{Value, json};

pub const KEY: &str = "apk_test_secret";
pub const MODES: [Mode; 4] = [Mode::Enforce, Mode::Strict, Mode::Warn, Mode::Monitor];
/// The modes in which a failed gate blocks.
pub const GUARDING: [Mode; 3] = [Mode::Enforce, Mode::Strict, Mode::Warn];

/// A gateway that answers the n-th request with the n-th step.
pub fn gateway(steps: Value) -> HostileGateway {
    scripted(json!({"steps": steps}))
}

pub fn scripted(script: Value) -> HostileGateway {
    HostileGateway::start(Script::from_json(script).unwrap()).unwrap()
}

pub fn respond(answer: Value) -> Value {
    json!({"do": "respond", "json": answer})
}

pub fn allow() -> Value {
    json!({
        "decision": "allow", "reason_code": "test.allow", "evidence_event_id": "ev_1",
        "request_hash": "{{request_hash}}",
    })
}

/// A client of `gateway` without retries.
pub fn client(gateway: &HostileGateway) -> ActPass {
    builder(gateway).build().unwrap()
}

pub fn builder(gateway: &HostileGateway) -> ActPassBuilder {
    ActPass::builder()
        .api_key(KEY)
        .agent_id("tests")
        .base_url(gateway.base_url())
        .timeout(Duration::from_secs(20))
        .max_retries(0)
}

/// A client over a fake transport.
pub fn over(transport: impl Transport) -> ActPass {
    ActPass::builder().api_key(KEY).transport(transport).max_retries(0).build().unwrap()
}

pub fn action() -> Action {
    Action::new("resolve_refund_request", "stripe.refund.create")
        .resource("stripe:charge:ch_123")
        .args(json!({"amount": 4900, "currency": "usd"}))
}

/// Guards `action` with a function that counts its runs.
pub async fn counted(client: &ActPass, action: &Action) -> (usize, Outcome<(), Infallible>) {
    let runs = AtomicUsize::new(0);
    let outcome = client
        .guard(action, |_| async {
            runs.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
        .await
        .unwrap();
    (runs.into_inner(), outcome)
}

/// The gate failure that `outcome` reports, if any.
pub fn gate_error<T, E>(outcome: &Outcome<T, E>) -> Option<&actpass_core::Error> {
    match outcome {
        Outcome::Blocked(blocked) => blocked.error(),
        Outcome::Failed { .. } => None,
        Outcome::Returned { gate_error, .. } => gate_error.as_ref(),
    }
}

/// Asserts that the gate failed with `kind`: blocked except in monitor, where it ran once.
#[track_caller]
pub fn assert_gate_failed(mode: Mode, kind: ErrorKind, (runs, outcome): &(usize, Outcome<(), Infallible>)) {
    let expected = usize::from(mode == Mode::Monitor);
    assert_eq!(*runs, expected, "{mode}: {outcome:?}");
    assert_eq!(outcome.executed(), expected == 1, "{mode}: {outcome:?}");
    assert_eq!(outcome.decision().word().as_str(), "deny", "{mode}: {outcome:?}");
    assert_eq!(outcome.decision().reason_code(), kind.code(), "{mode}: {outcome:?}");
    assert_eq!(gate_error(outcome).map(actpass_core::Error::kind), Some(kind), "{mode}: {outcome:?}");
}

/// Runs `future` on a new runtime in this thread; panics on timeout.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(30), future)
            .await
            .expect("this call should have ended long ago")
    })
}

/// Waits until `condition` is true; panics on timeout.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(25), holds).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Waits on a thread until `condition` is true.
pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    block_on(eventually(what, condition));
}

/// Returns the header `name` of a request.
pub fn header<'s>(seen: &'s Seen, name: &str) -> Option<&'s str> {
    seen.headers.iter().find_map(|(n, value)| (n == name).then_some(value.as_str()))
}

pub fn body(seen: &Seen) -> Value {
    serde_json::from_str(&seen.body).unwrap()
}

/// Runs `child` in its own process: restarts the test `test` with `environment`, where `child` runs
/// instead.
pub fn in_child(test: &str, environment: &[(&str, &str)], child: impl FnOnce()) {
    const MARK: &str = "ACTPASS_TEST_CHILD";
    if std::env::var(MARK).is_ok_and(|name| name == test) {
        return child();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    for name in ["ACTPASS_API_KEY", "ACTPASS_API_BASE_URL", "ACTPASS_DPOP_KEY_FILE"] {
        command.env_remove(name);
    }
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_ascii_lowercase());
    }
    for name in ["SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE"] {
        command.env_remove(name);
    }
    let output = command.envs(environment.iter().copied()).env(MARK, test).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "the child of {test} failed:\n{said}");
}

/// Answers the n-th attempt with the n-th response, and later ones with the last.
#[derive(Clone, Debug)]
pub struct ScriptedTransport(Arc<Mutex<ScriptState>>);

#[derive(Debug)]
struct ScriptState {
    answers: VecDeque<Result<Response, TransportError>>,
    requests: Vec<Request>,
}

impl ScriptedTransport {
    pub fn new(answers: impl IntoIterator<Item = Result<Response, TransportError>>) -> Self {
        let answers = answers.into_iter().collect();
        Self(Arc::new(Mutex::new(ScriptState { answers, requests: Vec::new() })))
    }

    pub fn answer(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::new([Ok(Response::new(status, body))])
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.0.lock().unwrap().requests.clone()
    }
}

impl Transport for ScriptedTransport {
    fn send(&self, request: Request) -> SendFuture<'_> {
        let mut state = self.0.lock().unwrap();
        let hash =
            Json::parse(&request.body).ok().and_then(|body| hash_payload(&body).ok()).unwrap_or_default();
        state.requests.push(request);
        let mut answer = match state.answers.len() {
            0 | 1 => state.answers.front().cloned().unwrap(),
            _ => state.answers.pop_front().unwrap(),
        };
        if let Ok(Response { body: Ok(body), .. }) = &mut answer
            && let Ok(text) = std::str::from_utf8(body)
        {
            *body = text.replace("{{request_hash}}", &hash).into_bytes();
        }
        Box::pin(async move { answer })
    }
}

/// Never responds.
#[derive(Debug)]
pub struct PendingTransport;

impl Transport for PendingTransport {
    fn send(&self, _: Request) -> SendFuture<'_> {
        Box::pin(std::future::pending())
    }
}

/// Panics immediately, or when first polled.
#[derive(Clone, Copy, Debug)]
pub enum PanickingTransport {
    Immediately,
    WhenPolled,
}

impl Transport for PanickingTransport {
    fn send(&self, _: Request) -> SendFuture<'_> {
        match self {
            Self::Immediately => panic!("a transport that panics immediately"),
            Self::WhenPolled => Box::pin(async { panic!("a transport that panics when polled") }),
        }
    }
}
