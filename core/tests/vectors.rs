//! Runs each vector of `tests/vectors` in each of its modes against its own gateway.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use actpass_core::engine::{Begun, Stage};
use actpass_core::{
    ActPass, ActPassBuilder, Action, ActionEnd, Blocked, Error, ExecutionContext, Json, Mode, Outcome,
    TokioClock, canonical_json,
};
use actpass_hostile_gateway::{HostileGateway, Script, Seen};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;

const KEY: &str = "apk_vector_secret";
/// Every secret in a vector contains this word, and no other shown text does.
const MARK: &str = "secret";
/// The default idempotency key, so that every language sends the same request.
const IDEMPOTENCY_KEY: &str = "vector_key";
const WORKERS: usize = 8;

#[test]
fn all_vectors_pass() {
    play_all(Sender::Shipped);
    // One test, because log output is process-wide.
    #[cfg(feature = "reqwest")]
    {
        rustls::crypto::ring::default_provider().install_default().unwrap();
        play_all(Sender::Reqwest);
    }
}

/// The HTTP client under test.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sender {
    Shipped,
    #[cfg(feature = "reqwest")]
    Reqwest,
}

fn play_all(sender: Sender) {
    let log = Log::installed();
    let paths = files();
    let vectors: Vec<_> = paths.iter().map(|path| Vector::read(path)).collect();
    assert!(!vectors.is_empty(), "no vectors");
    for area in [
        "changes", "circuit", "dpop", "failures", "halts", "lost", "outcomes", "replays", "retries",
        "signed", "table", "texts", "unmapped",
    ] {
        assert!(vectors.iter().any(|vector| vector.name.starts_with(area)), "no vectors in {area}");
    }

    let runs: Vec<_> = vectors.iter().flat_map(Vector::runs).collect();
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let outcomes = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(run) = runs.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let name = format!("{} in {}", run.vector.name, run.mode);
                    let played = catch_unwind(AssertUnwindSafe(|| play(run, sender)));
                    let problems = match played {
                        Ok((problems, outcome)) => {
                            outcomes.lock().unwrap().insert(run.key(), outcome);
                            problems
                        }
                        Err(panic) => vec![describe(panic.as_ref())],
                    };
                    for problem in problems {
                        eprintln!("{name}: {problem}");
                        failures.lock().unwrap().push(format!("{name}: {problem}"));
                    }
                }
            });
        }
    });

    if let Some(folder) = std::env::var_os("ACTPASS_OUTCOMES").filter(|_| sender == Sender::Shipped) {
        std::fs::create_dir_all(&folder).unwrap();
        let lines: Vec<String> = outcomes.into_inner().unwrap().into_values().collect();
        std::fs::write(Path::new(&folder).join("rust.jsonl"), lines.concat()).unwrap();
    }

    let logged = log.text();
    assert!(logged.contains("actpass.call"), "nothing was logged");
    let secrets: BTreeSet<_> = vectors.iter().flat_map(|vector| vector.secrets.iter()).collect();
    assert!(secrets.len() > 10 && secrets.iter().any(|secret| *secret == KEY));
    for secret in secrets {
        // Split into lines only on failure: there are a million lines.
        if logged.contains(secret) {
            panic!("{secret} was logged: {:?}", logged.lines().find(|line| line.contains(secret)));
        }
    }

    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    assert_eq!(vectors.len(), paths.len());
    assert!(next.into_inner() >= runs.len());
    println!("{} vectors, {} runs passed ({sender:?})", vectors.len(), runs.len());
}

/// A vector in one of its modes.
struct Run<'v> {
    vector: &'v Vector,
    mode: &'v str,
    expected: &'v Expected,
    /// Runs without a circuit breaker, even if the vector sets one.
    circuit_off: bool,
}

impl<'v> Run<'v> {
    fn key(&self) -> (&'v str, &'v str, bool) {
        (&self.vector.name, self.mode, self.circuit_off)
    }
}

/// Runs one case. Returns the differences, and the result as one line.
fn play(&Run { vector, mode, expected, circuit_off }: &Run<'_>, sender: Sender) -> (Vec<String>, String) {
    let script = Script::from_json(vector.gateway.clone()).unwrap();
    let gateway = HostileGateway::start(script).unwrap();
    let client = match vector.action.tool() {
        "actpass.test.panic" => {
            let builder = vector.client.builder(&gateway, circuit_off, Sender::Shipped).unwrap();
            builder.transport(common::PanickingTransport::WhenPolled).build().unwrap()
        }
        _ => vector.client.builder(&gateway, circuit_off, sender).unwrap().build().unwrap(),
    };
    let action = vector.action.build(mode.parse().unwrap());

    let runs = AtomicUsize::new(0);
    let mut credential = None;
    let mut shown = String::new();
    let mut given = None;
    let outcome = common::block_on(async {
        for _ in 0..vector.calls_before {
            drop(client.guard(&action, |_| async { Ok::<_, io::Error>(()) }).await.unwrap());
        }
        let run = |context: ExecutionContext| {
            runs.fetch_add(1, Ordering::SeqCst);
            credential = context.credential().map(|credential| credential.token().to_owned());
            shown = format!("{context:?}");
            given = Some(context.decision().clone());
        };
        vector.guard(&client, &action, run).await
    });
    let stopped = matches!(vector.ends, Ends::Cancelled | Ends::Suspended) && expected.executed;
    let decision = given.filter(|_| stopped).unwrap_or_else(|| outcome.decision().clone());

    let mut problems = Vec::new();
    let mut check = |what: &str, holds: bool, found: &dyn std::fmt::Debug| {
        if !holds {
            problems.push(format!("{what}: found {found:?}"));
        }
    };

    let runs = runs.into_inner();
    check(
        &format!("ran {} times", usize::from(expected.executed)),
        runs == usize::from(expected.executed),
        &runs,
    );
    check(&format!("executed is {}", expected.executed), outcome.executed() == expected.executed, &outcome);

    let decision = Json::parse(decision.as_json().as_bytes()).unwrap();
    for (name, value) in &expected.decision {
        let found = decision.member(name);
        let same = found.is_some_and(|found| found.same_value(&Json::from(value.clone())));
        check(&format!("decision.{name} is {value}"), same, &found);
    }

    let error = expected.error.as_ref().map_or_else(
        || "null".to_owned(),
        |expected| {
            let status = expected.status.map_or_else(|| "null".to_owned(), |status| status.to_string());
            format!(r#"{{"kind":"{}","status":{status}}}"#, expected.kind)
        },
    );
    let canonical = outcome.canonical().unwrap();
    let end = format!(r#","error":{error},"executed":{}}}"#, expected.executed);
    check(
        &format!("the canonical outcome ends with {end}"),
        stopped || canonical.ends_with(&end),
        &canonical,
    );
    let begin = format!(r#"{{"decision":{}"#, String::from_utf8(canonical_json(&decision).unwrap()).unwrap());
    check(
        "the canonical outcome begins with the decision",
        stopped || canonical.starts_with(&begin),
        &canonical,
    );

    check(
        &format!("credential is {:?}", expected.credential),
        credential == expected.credential,
        &credential,
    );

    let seen: Vec<_> = gateway.seen().into_iter().filter(|seen| seen.method != "?").collect();
    let requests_sent = seen.len();
    check(
        &format!("{} requests sent", expected.requests_sent),
        requests_sent == expected.requests_sent,
        &seen,
    );
    let (events, seen): (Vec<_>, Vec<_>) =
        seen.into_iter().partition(|seen| seen.path == "/api/v1/evidence/events");
    check("at most one event is recorded", events.len() <= 1, &events);
    let event = events.first().map(|event| Json::parse(event.body.as_bytes()).unwrap());
    check("an event is recorded as expected", expected.recorded.is_some() == event.is_some(), &event);
    for (name, value) in expected.recorded.iter().flatten() {
        let found = event.as_ref().and_then(|event| event.member(name));
        let same = found.is_some_and(|found| found.same_value(&Json::from(value.clone())));
        check(&format!("recorded.{name} is {value}"), same, &found);
    }
    let ours = seen.iter().all(|seen| is_ours(seen, vector));
    check("each request is a preflight with the keys", ours, &seen);
    // Without a given key, each call has its own.
    let repeats = (vector.calls_before > 0 && vector.action.given_key().is_none())
        || seen.windows(2).all(|pair| pair[0].body == pair[1].body);
    check("each retry repeats the request", repeats, &seen);
    check("the other host saw nothing", gateway.other_seen().is_empty(), &gateway.other_seen());

    let blocked = thrown(&outcome);
    let texts = blocked.as_ref().map(Value::to_string).unwrap_or_default();
    let shown = match vector.gateway_echoes {
        // The decision contains the secret and is reported as received.
        true => texts,
        false => format!("{shown}\n{texts}\n{}", everything_shown(&client, &action, &outcome)),
    };
    let leaks = shown.matches(MARK).count();
    check("no secret shows", leaks == 0, &shown);
    for (name, text) in &expected.blocked {
        let found = blocked.as_ref().map(|blocked| &blocked[name]);
        check(&format!("blocked.{name} is {text}"), found == Some(text), &found);
    }
    let canonical_or_null = |value: Option<Json>| {
        value.map_or_else(
            || "null".to_owned(),
            |value| String::from_utf8(canonical_json(&value).unwrap()).unwrap(),
        )
    };
    let mut blocked = blocked;
    if let (Some(Value::Object(blocked)), true) = (&mut blocked, expected.error.is_some()) {
        // The error text may depend on timing.
        blocked.insert("developer".to_owned(), Value::Null);
    }
    let blocked = canonical_or_null(blocked.map(Json::from));
    let outcome = if stopped { "null" } else { &canonical };
    let recorded = canonical_or_null(event);
    let name = &vector.name;
    let line = format!(
        r#"{{"blocked":{blocked},"circuit_off":{circuit_off},"leaks":{leaks},"mode":"{mode}","outcome":{outcome},"recorded":{recorded},"requests_sent":{requests_sent},"runs":{runs},"vector":"{name}"}}"#,
    );
    (problems, line + "\n")
}

/// The error thrown when a blocked outcome is unwrapped.
fn thrown(outcome: &Outcome<(), io::Error>) -> Option<Value> {
    let Outcome::Blocked(blocked) = outcome else { return None };
    let texts = blocked.texts();
    Some(serde_json::json!({
        "approval": blocked.approval().map(|approval| approval.id()),
        "code": blocked.decision().reason_code(),
        "developer": texts.developer,
        "message": texts.model,
        "retryable": blocked.is_retryable(),
        "tool": blocked.tool(),
    }))
}

fn is_ours(seen: &Seen, vector: &Vector) -> bool {
    // The gateway verifies the proof itself.
    let has_proof = vector.client.dpop_key.is_some();
    let scheme = if has_proof { "DPoP" } else { "Bearer" };
    let body: Value = serde_json::from_str(&seen.body).unwrap_or_default();
    let key = body["idempotency_key"].as_str().unwrap_or_default();
    seen.method == "POST"
        && seen.path == "/api/v1/actions/preflight"
        && common::header(seen, "authorization") == Some(&format!("{scheme} {KEY}"))
        && common::header(seen, "dpop").is_some() == has_proof
        && match vector.action.given_key() {
            Some(given) => key == given,
            None => key.len() == 36 && key != IDEMPOTENCY_KEY,
        }
}

/// Every text that a program could print about a call.
fn everything_shown(client: &ActPass, action: &Action, outcome: &Outcome<(), io::Error>) -> String {
    let mut shown =
        format!("{client:?}\n{action:?}\n{outcome:?}\n{outcome:#?}\n{}\n", outcome.canonical().unwrap());
    let Some(error) = common::gate_error(outcome) else {
        return shown;
    };
    shown.push_str(&format!(
        "{error}\n{error:?}\n{error:#?}\n{:?}\n{:?}\n",
        error.body(),
        error.request_id()
    ));
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        shown.push_str(&format!("{cause}\n{cause:?}\n"));
        source = cause.source();
    }
    shown
}

fn describe(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("a panic: {}", text.unwrap_or("of no text"))
}

fn files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors");
    let mut found = Vec::new();
    for area in root.read_dir().expect("tests/vectors").map(|entry| entry.unwrap().path()) {
        if area.is_dir() {
            found.extend(area.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found.sort();
    for path in &found {
        assert!(path.extension().is_some_and(|e| e == "json"), "{} is not a vector", path.display());
    }
    found
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    #[serde(skip)]
    name: String,
    description: String,
    #[serde(default)]
    client: Client,
    #[serde(default)]
    action: Overrides,
    /// The number of earlier calls of the same client about the same action.
    #[serde(default)]
    calls_before: u32,
    /// Whether the outcome is recorded.
    #[serde(default)]
    record_outcome: bool,
    /// The end of the action.
    #[serde(default)]
    ends: Ends,
    /// The arguments with which the action is about to run, if they differ from the evaluated ones.
    changed_args: Option<Map<String, Value>>,
    /// Whether no action is mapped to the tool.
    #[serde(default)]
    unmapped: bool,
    /// Whether the gateway's decision echoes a secret; then only the block texts are searched.
    #[serde(default)]
    gateway_echoes: bool,
    gateway: Value,
    expect: BTreeMap<String, Expected>,
    #[serde(skip)]
    secrets: BTreeSet<String>,
}

impl Vector {
    fn read(path: &Path) -> Self {
        let name = format!(
            "{}/{}",
            path.parent().unwrap().file_name().unwrap().display(),
            path.file_stem().unwrap().display()
        );
        let text = std::fs::read(path).unwrap();
        // This parser rejects duplicate members, which serde_json accepts.
        Json::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut vector: Self =
            serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!vector.description.is_empty(), "{name}: no description");
        assert!(!vector.expect.is_empty(), "{name}: nothing is expected");
        for mode in vector.expect.keys() {
            mode.parse::<Mode>().unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        if name.starts_with("failures/") {
            let [enforce, monitor] = ["enforce", "monitor"]
                .map(|mode| vector.expect.get(mode).unwrap_or_else(|| panic!("{name}: not run in {mode}")));
            assert!(!enforce.executed && monitor.executed, "{name}: a failure runs in monitor only");
            assert_eq!(enforce.decision, monitor.decision, "{name}: monitor reports the same decision");
        }
        if let Some(passport) = &vector.action.passport {
            assert!(passport.contains(MARK), "{name}: the passport must contain {MARK:?}");
        }
        vector.name = name;
        let text = String::from_utf8(text).unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        vector.secrets = words.filter(|word| word.ends_with("_secret")).map(str::to_owned).collect();
        vector.secrets.insert(KEY.to_owned());
        vector
    }

    /// Guards the action step by step.
    async fn guard(
        &self,
        client: &ActPass,
        action: &Action,
        run: impl FnOnce(ExecutionContext),
    ) -> Outcome<(), io::Error> {
        if self.unmapped {
            return Outcome::Blocked(Blocked::unmapped_tool(self.action.tool()));
        }
        let mut session = client.guard_session(client.prepare(action.clone()).unwrap(), self.record_outcome);
        if let Stage::Blocked(blocked) = client.drive(&mut session).await {
            return Outcome::Blocked(blocked);
        }
        let now = match &self.changed_args {
            Some(args) => action.clone().args(Value::Object(args.clone())),
            None => action.clone(),
        };
        match session.begin(Some(&now), &TokioClock).unwrap() {
            Begun::Blocked(blocked) => return Outcome::Blocked(blocked),
            Begun::Running(context) => run(context),
        }
        assert!(session.begin(Some(&now), &TokioClock).is_err(), "the permit was spent twice");
        let (ended, result) = match self.ends {
            Ends::Returned => (ActionEnd::Returned, Ok(())),
            Ends::Failed => (ActionEnd::Failed, Err(io::Error::other("the card is closed"))),
            Ends::Cancelled => (ActionEnd::Cancelled, Err(io::Error::other("stopped"))),
            Ends::Suspended => (ActionEnd::Suspended, Err(io::Error::other("suspended"))),
        };
        // Actions return null here.
        let response = (ended == ActionEnd::Returned).then_some(Json::Null);
        let (settlement, recording) = session.finish(ended, response.as_ref()).unwrap();
        if let Some(recording) = recording {
            client.record(&recording).await.unwrap();
        }
        settlement.settle(result)
    }

    /// All modes; for failure vectors, two modes again without a circuit breaker.
    fn runs(&self) -> impl Iterator<Item = Run<'_>> {
        self.expect.iter().flat_map(move |(mode, expected)| {
            let again = self.name.starts_with("failures/") && ["enforce", "monitor"].contains(&mode.as_str());
            let run = move |circuit_off| Run { vector: self, mode, expected, circuit_off };
            [false, true].into_iter().filter(move |off| !off || again).map(run)
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Client {
    timeout: Option<f64>,
    connect_timeout: Option<f64>,
    max_retries: Option<u32>,
    circuit_failures: Option<u32>,
    trust_ca: bool,
    approval_keys: Option<String>,
    dpop_key: Option<String>,
}

impl Client {
    fn builder(
        &self,
        gateway: &HostileGateway,
        circuit_off: bool,
        sender: Sender,
    ) -> Result<ActPassBuilder, Error> {
        let mut builder = ActPass::builder()
            .api_key(KEY)
            .agent_id("vectors")
            .base_url(gateway.base_url())
            .timeout(Duration::from_secs_f64(self.timeout.unwrap_or(5.0)))
            .max_retries(self.max_retries.unwrap_or(0));
        if let Some(seconds) = self.connect_timeout {
            builder = builder.connect_timeout(Duration::from_secs_f64(seconds));
        }
        if let Some(failures) = circuit_off.then_some(0).or(self.circuit_failures) {
            builder = builder.circuit_failures(failures);
        }
        if let Some(keys) = &self.approval_keys {
            builder = builder.approval_keys(keys);
        }
        if let Some(key) = &self.dpop_key {
            builder = builder.dpop_key(key.as_str());
        }
        let ca = self.trust_ca.then(|| gateway.ca_pem().expect("`trust_ca` needs a gateway with https"));
        builder = match (sender, ca) {
            (Sender::Shipped, None) => builder,
            (Sender::Shipped, Some(ca)) => builder.ca(ca),
            #[cfg(feature = "reqwest")]
            (Sender::Reqwest, ca) => {
                let trusted = ca.map(|pem| reqwest::Certificate::from_pem(pem.as_bytes()).unwrap());
                builder.reqwest(reqwest::Client::builder().tls_certs_only(trusted))
            }
        };
        Ok(builder)
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Overrides {
    goal: Option<String>,
    tool: Option<String>,
    resource: Option<String>,
    args: Option<Map<String, Value>>,
    user_id: Option<String>,
    passport: Option<String>,
    /// `null` requests a generated key.
    #[serde(deserialize_with = "given")]
    idempotency_key: Option<Option<String>>,
    audience: Option<String>,
    approval_request_id: Option<String>,
    tool_manifest_hash: Option<String>,
}

impl Overrides {
    fn given_key(&self) -> Option<&str> {
        self.idempotency_key.as_ref().map_or(Some(IDEMPOTENCY_KEY), Option::as_deref)
    }

    fn tool(&self) -> &str {
        self.tool.as_deref().unwrap_or("stripe.refund.create")
    }

    fn build(&self, mode: Mode) -> Action {
        let or = |given: &Option<String>, default: &str| given.clone().unwrap_or_else(|| default.to_owned());
        let args = self
            .args
            .clone()
            .map_or_else(|| serde_json::json!({"amount": 4900, "currency": "usd"}), Value::Object);
        let mut action = Action::new(or(&self.goal, "resolve_refund_request"), self.tool())
            .resource(or(&self.resource, "stripe:charge:ch_123"))
            .args(args)
            .mode(mode);
        if let Some(user_id) = &self.user_id {
            action = action.user_id(user_id);
        }
        if let Some(passport) = &self.passport {
            action = action.passport(passport.as_str());
        }
        if let Some(key) = self.given_key() {
            action = action.idempotency_key(key);
        }
        if let Some(audience) = &self.audience {
            action = action.audience(audience);
        }
        if let Some(id) = &self.approval_request_id {
            action = action.approval_request_id(id);
        }
        if let Some(hash) = &self.tool_manifest_hash {
            action = action.tool_manifest_hash(hash);
        }
        action
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    executed: bool,
    decision: Map<String, Value>,
    #[serde(deserialize_with = "required")]
    error: Option<ExpectedError>,
    requests_sent: usize,
    #[serde(default)]
    credential: Option<String>,
    /// Members of the event that records the outcome.
    #[serde(default)]
    recorded: Option<Map<String, Value>>,
    /// Members of the thrown error.
    #[serde(default)]
    blocked: Map<String, Value>,
}

/// The end of an action.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Ends {
    #[default]
    Returned,
    Failed,
    Cancelled,
    Suspended,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct ExpectedError {
    kind: String,
    #[serde(deserialize_with = "required")]
    status: Option<u16>,
}

/// Unlike a plain `Option`, distinguishes `null` from missing.
fn required<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}

/// Distinguishes an explicit `null` from missing.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// All log output of this process, at every level, of every library.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn installed() -> Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        LOG.get_or_init(Self::install).clone()
    }

    fn install() -> Self {
        let log = Self::default();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_span_events(FmtSpan::FULL)
            .with_ansi(false)
            .with_writer(log.clone())
            .init();
        log
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
