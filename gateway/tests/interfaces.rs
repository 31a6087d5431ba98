//! The same actions through every interface concurrently: one approval, one passport and one budget.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "common/acs_client.rs"]
mod acs_client;
mod common;

use std::io::{self, Cursor, Write};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use acs_client::{SECRET, parse, refund_payload, request_at, secret_folder, sign, verified};
use actpass_core::ActPass;
use actpass_gateway::config::{MasterKeySource, Settings};
use actpass_gateway::seal::MasterKey;
use actpass_gateway::server::Server;
use actpass_gateway::store::Location;
use actpass_hook::acs::{Bridge, PATH};
use actpass_protocol::{Json, Secret};
use common::{Gateway, PREFLIGHT, json, shipped_policy, text};
use futures_util::future::join_all;
use tempfile::TempDir;

/// LIMIT actions a day, of which those about 25000 need an approval.
const POLICY: &str = r#"{"id": "race", "version": "1",
    "budgets": [{"name": "daily", "when": [], "per": ["agent_id"], "count": true, "limit": LIMIT, "window": "24h",
        "on_exceed": "deny", "reason": "budget.spent"}],
    "rules": [
        {"name": "refund", "when": [{"path": "args.amount", "operator": "==", "value": 25000}],
            "decision": "require_approval", "reason": "needs_approval"},
        {"name": "http", "when": [{"path": "args.body.amount", "operator": "==", "value": 25000}],
            "decision": "require_approval", "reason": "needs_approval"},
        {"name": "other", "when": [], "decision": "allow", "reason": "other"}]}"#;

/// An interface that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interface {
    Acs,
    AcsStdio,
    AuthZen,
    EnvoyGrpc,
    EnvoyHttp,
    ExtMcp,
    Preflight,
}

impl Interface {
    const ALL: [Self; 7] = [
        Self::Acs,
        Self::AcsStdio,
        Self::AuthZen,
        Self::EnvoyGrpc,
        Self::EnvoyHttp,
        Self::ExtMcp,
        Self::Preflight,
    ];

    /// The interfaces that can describe a call of the tool `refunds.create`. A check of Envoy has the
    /// parts of an HTTP request.
    const OF_TOOLS: [Self; 5] = [Self::Acs, Self::AcsStdio, Self::AuthZen, Self::ExtMcp, Self::Preflight];

    /// The interfaces that can describe an HTTP request. ACS and ExtMcp have no resource.
    const OF_HTTP: [Self; 4] = [Self::AuthZen, Self::EnvoyGrpc, Self::EnvoyHttp, Self::Preflight];

    /// The word in the ledger.
    fn protocol(self) -> Option<&'static str> {
        match self {
            Self::Acs | Self::AcsStdio => Some("acs"),
            Self::AuthZen => Some("authzen"),
            Self::EnvoyGrpc | Self::EnvoyHttp => Some("ext_authz"),
            Self::ExtMcp => Some("ext_mcp"),
            Self::Preflight => None,
        }
    }
}

/// A description of the action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// `POST http://h/r` with the amount in the body.
    Http,
    /// The tool `refunds.create`.
    Tool,
}

/// One gateway on SQLite, or two on one database.
struct Race {
    gateways: Vec<Gateway>,
    grpc: reqwest::Client,
    _folder: TempDir,
}

impl Race {
    /// `limit` is the number of actions that are allowed.
    async fn start(limit: u32) -> Self {
        let folder = secret_folder();
        let policy = POLICY.replace("LIMIT", &limit.to_string());
        std::fs::write(folder.path().join("policy.json"), policy).unwrap();
        let config = acs_client::config("agent = \"sdk\"");
        let config = config.replace(&shipped_policy("refunds.json"), "policy.json");
        let settings = |data: Location| {
            let mut settings = Settings::parse(&config, folder.path()).unwrap_or_else(|p| panic!("{p}"));
            settings.data = data;
            settings.master_key = MasterKeySource::Given(MasterKey::parse(&"07".repeat(32)).unwrap());
            settings
        };
        let first = Gateway::start_with("", |given| *given = settings(given.data.clone())).await;
        let mut gateways = vec![first];
        if matches!(gateways[0].data, Location::Database(_)) {
            let data = gateways[0].data.clone();
            let server = Server::start(settings(data.clone())).await.unwrap();
            let url = server.url();
            let (folder, client) = (TempDir::new().unwrap(), common::client());
            gateways.push(Gateway { folder, data, server: Some(server), url, client });
        }
        let grpc = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
        Self { gateways, grpc, _folder: folder }
    }

    /// Returns whether an action is allowed.
    async fn ask(&self, asked: &Asked<'_>) -> bool {
        let Asked { interface, action, number, amount, passport } = *asked;
        let gateway = &self.gateways[usize::try_from(number).unwrap() / 7 % self.gateways.len()];
        let http_body = format!(r#"{{"amount": {amount}, "currency": "usd"}}"#);
        let http_args = format!(r#"{{"host": "h", "method": "POST", "path": "/r", "body": {http_body}}}"#);
        let passport = passport.map(|token| format!(r#""passport": "{token}""#)).unwrap_or_default();
        let goal =
            if action == Action::Http || !passport.is_empty() { "http.post" } else { "refund an order" };
        match interface {
            Interface::Acs | Interface::AcsStdio => {
                let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
                let request = request_at(&now, "steps/toolCallRequest", number, &refund_payload(amount));
                let response = if interface == Interface::AcsStdio {
                    over_stdio(&gateway.url, &sign(&request)).await
                } else {
                    let sent = gateway.post("/acs", "none").body(sign(&request));
                    json(sent.send().await.unwrap()).await.1
                };
                text(&verified(&request, &response), "decision") == Some("allow")
            }
            Interface::AuthZen => {
                let (action, resource) = match action {
                    Action::Tool => (
                        format!(r#"{{"name": "tools/call", "properties": {http_body}}}"#),
                        r#"{"type": "tool", "id": "refunds.create"}"#,
                    ),
                    Action::Http => (
                        format!(r#"{{"name": "http.post", "properties": {http_args}}}"#),
                        r#"{"type": "http", "id": "//h/r"}"#,
                    ),
                };
                let body = format!(
                    r#"{{"subject": {{"type": "agent", "id": "sdk"}}, "action": {action}, "resource": {resource},
                        "context": {{"goal": "{goal}", "actpass": {{{passport}}}}}}}"#
                );
                let request = gateway.post("/access/v1/evaluation", "apk_one").body(body);
                let (status, response) = json(request.send().await.unwrap()).await;
                // A race that is lost too often is reported as busy.
                assert!(status == 200 || status == 503, "{status} {response}");
                response.member("decision") == Some(&Json::Bool(true))
            }
            Interface::EnvoyGrpc => {
                let token = asked.passport.unwrap_or_default();
                let path = "/envoy.service.auth.v3.Authorization/Check";
                let answer = self.call(gateway, path, &check(http_body.as_bytes(), token)).await;
                // `status` is OK if it has no code.
                answer.starts_with(&[0x0a, 0])
            }
            Interface::EnvoyHttp => {
                let request = gateway
                    .post("/ext-authz/r", "apk_one")
                    .header("host", "h")
                    .header("x-envoy-auth-partial-body", "false");
                let request = match asked.passport {
                    Some(token) => request.header("x-actpass-passport", token),
                    None => request,
                };
                let status = request.body(http_body).send().await.unwrap().status();
                assert!(status == 200 || status == 403, "{status}");
                status == 200
            }
            Interface::ExtMcp => {
                let meta = passport.replace("\"passport\"", "\"actpass/passport\"");
                let params =
                    format!(r#"{{"name": "create", "arguments": {http_body}, "_meta": {{{meta}}}}}"#);
                let message = mcp_call(&params, &[("goal", goal), ("audience", "a"), ("agent_id", "sdk")]);
                let path = "/agentgateway.dev.ext_mcp.ExtMcp/CheckRequest";
                // `pass`.
                self.call(gateway, path, &message).await.starts_with(&[0x0a])
            }
            Interface::Preflight => {
                let described = match action {
                    Action::Tool => format!(r#""tool": "refunds.create", "args": {http_body}"#),
                    Action::Http => {
                        format!(r#""tool": "http.post", "resource": "http://h/r", "args": {http_args}"#)
                    }
                };
                let more = if passport.is_empty() { String::new() } else { format!(", {passport}") };
                let body = format!(r#"{{"agent_id": "sdk", "goal": "{goal}", {described}{more}}}"#);
                let request = gateway.post(PREFLIGHT, "apk_one").body(body);
                let (status, response) = json(request.send().await.unwrap()).await;
                assert!(status == 200 || status == 503, "{status} {response}");
                text(&response, "decision") == Some("allow")
            }
        }
    }

    /// Calls a method of gRPC and returns the message of the response.
    async fn call(&self, gateway: &Gateway, path: &str, message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let body = [&[0][..], &length, message].concat();
        let sent = self.grpc.post(format!("{}{path}", gateway.url)).bearer_auth("apk_one").body(body);
        sent.send().await.unwrap().bytes().await.unwrap()[5..].to_vec()
    }

    /// Sends an action concurrently through these interfaces and returns the ones that are allowed.
    async fn race(
        &self,
        interfaces: &[(Interface, Action)],
        first: u32,
        amount: u32,
        passport: Option<&str>,
    ) -> Vec<Interface> {
        let before = self.allowed().await.len();
        let contestants: Vec<_> = (0..42)
            .map(|place: u32| {
                let (interface, action) = interfaces[usize::try_from(place).unwrap() % interfaces.len()];
                Asked { interface, action, number: first + place, amount, passport }
            })
            .collect();
        let answers = join_all(contestants.iter().map(|asked| self.ask(asked))).await;
        let winners: Vec<_> = contestants
            .iter()
            .zip(answers)
            .filter_map(|(asked, is_allowed)| is_allowed.then_some(asked.interface))
            .collect();
        // The ledger has the interfaces that were answered with an allow, and no other.
        let mut expected: Vec<_> =
            winners.iter().map(|winner| winner.protocol().map(str::to_owned)).collect();
        let mut recorded = self.allowed().await.split_off(before);
        expected.sort_unstable();
        recorded.sort_unstable();
        assert_eq!(recorded, expected);
        winners
    }

    /// The interfaces of the allowed actions in the ledger, in order.
    async fn allowed(&self) -> Vec<Option<String>> {
        let path = "/api/v1/evidence/chains/decisions?limit=1000";
        let (status, found) = json(self.gateways[0].get(path, "apdv_one").send().await.unwrap()).await;
        if status == 404 {
            return Vec::new();
        }
        let Some(Json::Array(events)) = found.member("events") else { panic!("{found}") };
        let allowed = events.iter().filter(|event| text(event, "decision") == Some("allow"));
        allowed.map(|event| text(event, "protocol").map(str::to_owned)).collect()
    }

    /// Approves the only pending approval of an action.
    async fn approve(&self, action: Action) {
        let gateway = self.gateways.last().unwrap();
        let tool = if action == Action::Tool { "refunds.create" } else { "http.post" };
        let path = format!("/api/v1/approvals?status=pending&tool={tool}");
        let pending = gateway.get(&path, "apdv_one").send().await.unwrap();
        let (_, pending) = json(pending).await;
        let Some(Json::Array(approvals)) = pending.member("approvals") else { panic!("{pending}") };
        let [approval] = approvals.as_slice() else { panic!("{pending}") };
        let path = format!("/api/v1/approvals/{}/approve", text(approval, "id").unwrap());
        assert_eq!(gateway.post(&path, "apdv_one").body("{}").send().await.unwrap().status(), 200);
    }

    async fn stop(self) {
        for gateway in self.gateways {
            gateway.stop().await;
        }
    }
}

/// A contestant.
struct Asked<'a> {
    interface: Interface,
    action: Action,
    number: u32,
    amount: u32,
    passport: Option<&'a str>,
}

/// The output of a bridge.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends a request through a bridge for standard input and output.
async fn over_stdio(url: &str, request: &str) -> Json {
    let endpoint = ActPass::builder().base_url(url).endpoint(PATH).unwrap();
    let bridge = Arc::new(Bridge::new(endpoint, Secret::new(SECRET)));
    let output = Output::default();
    bridge.serve(Cursor::new(request.replace('\n', " ")), output.clone()).await.unwrap();
    let written = output.0.lock().unwrap().clone();
    parse(&String::from_utf8(written).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn approvals_passports_and_budgets_are_spent_once_over_all_interfaces() {
    let race = Race::start(10).await;
    let of = |interfaces: &[Interface], action: Action| -> Vec<(Interface, Action)> {
        interfaces.iter().map(|interface| (*interface, action)).collect()
    };
    // One approval: each interface joins it, and one request spends it.
    for (first, interfaces, action) in
        [(0, &Interface::OF_TOOLS[..], Action::Tool), (200, &Interface::OF_HTTP, Action::Http)]
    {
        let described = of(interfaces, action);
        assert_eq!(race.race(&described, first, 25000, None).await, []);
        race.approve(action).await;
        let winners = race.race(&described, first + 100, 25000, None).await;
        assert_eq!(winners.len(), 1, "{winners:?}");
    }

    // One passport, which ACS cannot carry.
    let body = r#"{"audience": "a", "goal": "http.post", "agent_id": "sdk",
        "allowed_tools": ["refunds.create", "http.post"]}"#;
    let issued = race.gateways[0].post("/api/v1/passports/issue", "apk_one").body(body);
    let (_, issued) = json(issued.send().await.unwrap()).await;
    let token = text(&issued, "token").unwrap_or_else(|| panic!("{issued}"));
    let mut described = of(&Interface::OF_HTTP, Action::Http);
    described.push((Interface::ExtMcp, Action::Tool));
    let winners = race.race(&described, 400, 1000, Some(token)).await;
    assert_eq!(winners.len(), 1, "{winners:?}");

    // One budget of ten actions, of which seven are left.
    let all: Vec<_> = Interface::ALL
        .into_iter()
        .map(|interface| match Interface::OF_TOOLS.contains(&interface) {
            true => (interface, Action::Tool),
            false => (interface, Action::Http),
        })
        .collect();
    let winners = race.race(&all, 500, 1, None).await;
    assert_eq!(winners.len(), 7, "{winners:?}");
    assert_eq!(race.allowed().await.len(), 10);
    race.stop().await;
}

/// Each interface reaches the approval, the passport and the budget: without it, a race proves less.
#[tokio::test(flavor = "multi_thread")]
async fn every_interface_can_spend() {
    let race = Race::start(10).await;
    let mut number = 0;
    for (interfaces, action) in
        [(&Interface::OF_TOOLS[..], Action::Tool), (&Interface::OF_HTTP, Action::Http)]
    {
        for interface in interfaces {
            number += 1;
            let asked = Asked { interface: *interface, action, number, amount: 25000, passport: None };
            assert!(!race.ask(&asked).await, "{interface:?}");
            race.approve(action).await;
            let asked = Asked { number: number + 1000, ..asked };
            assert!(race.ask(&asked).await, "{interface:?}");
            assert_eq!(race.allowed().await.last().unwrap().as_deref(), interface.protocol());
        }
    }
    // Nine of ten are spent.
    for (number, is_allowed) in [(2001, true), (2002, false)] {
        let (interface, action) = (Interface::EnvoyHttp, Action::Http);
        let asked = Asked { interface, action, number, amount: 1, passport: None };
        assert_eq!(race.ask(&asked).await, is_allowed);
    }
    race.stop().await;
}

/// A field of a message of Protocol Buffers that has a length.
fn field(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag << 3 | 2];
    let mut left = content.len();
    while left > 0x7f {
        bytes.push(u8::try_from(left & 0x7f).unwrap() | 0x80);
        left >>= 7;
    }
    bytes.push(u8::try_from(left).unwrap());
    bytes.extend_from_slice(content);
    bytes
}

/// A check of Envoy of `POST http://h/r` with this body and passport.
fn check(body: &[u8], passport: &str) -> Vec<u8> {
    let entry = |name: &[u8], value: &[u8]| field(3, &[field(1, name), field(2, value)].concat());
    let mut http = vec![
        field(2, b"POST"),
        entry(b"x-envoy-auth-partial-body", b"false"),
        entry(b"content-type", b"application/json"),
        field(4, b"/r"),
        field(5, b"h"),
        field(6, b"http"),
        field(12, body),
    ];
    if !passport.is_empty() {
        http.push(entry(b"x-actpass-passport", passport.as_bytes()));
    }
    field(1, &field(4, &field(2, &http.concat())))
}

/// A call of `refunds.create` as agentgateway describes it.
fn mcp_call(params: &str, metadata: &[(&str, &str)]) -> Vec<u8> {
    let entry = |(name, value): &(&str, &str)| {
        let value = field(3, value.as_bytes());
        field(1, &[field(1, name.as_bytes()), field(2, &value)].concat())
    };
    let metadata: Vec<u8> = metadata.iter().flat_map(entry).collect();
    [field(1, b"refunds"), field(2, b"tools/call"), field(3, &metadata), field(4, params.as_bytes())].concat()
}

/// Measures the time of a decision by each interface, one at a time:
/// `cargo test -p actpass-gateway --test interfaces measure_interfaces -- --ignored --nocapture`.
#[ignore = "measures; run with --ignored --nocapture"]
#[tokio::test(flavor = "multi_thread")]
async fn measure_interfaces() {
    const ROUNDS: u32 = 1000;
    let race = Race::start(1_000_000).await;
    let mut times: Vec<(Interface, Vec<f64>)> =
        Interface::ALL.into_iter().map(|interface| (interface, Vec::new())).collect();
    for round in 0..ROUNDS {
        for (place, (interface, times)) in times.iter_mut().enumerate() {
            let is_http = [Interface::EnvoyGrpc, Interface::EnvoyHttp].contains(interface);
            let action = if is_http { Action::Http } else { Action::Tool };
            let number = round * 10 + u32::try_from(place).unwrap();
            let begun = Instant::now();
            let asked = Asked { interface: *interface, action, number, amount: 1, passport: None };
            assert!(race.ask(&asked).await, "{interface:?}");
            times.push(begun.elapsed().as_secs_f64() * 1e6);
        }
    }
    let at = |times: &[f64], percent: usize| times[times.len() * percent / 100];
    for (interface, times) in &mut times {
        times.sort_by(f64::total_cmp);
        println!("{interface:?}: p50 {:.0} us, p99 {:.0} us", at(times, 50), at(times, 99));
    }
    race.stop().await;
}
