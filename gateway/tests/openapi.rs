//! Compares the OpenAPI description with the gateway's responses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use actpass_gateway::config::{MasterKeySource, Settings};
use actpass_gateway::seal::MasterKey;
use actpass_gateway::server::Server;
use actpass_gateway::store::{SqliteStore, Store};
use actpass_gateway::vault::{self, Vault};
use actpass_protocol::{Json, Secret};
use common::{EVIDENCE, Gateway, PREFLIGHT, json, refund, text};
use regex::Regex;
use reqwest::RequestBuilder;
use tempfile::TempDir;

#[tokio::test]
async fn committed_openapi_is_current() {
    let gateway = Gateway::start().await;
    let response = gateway.client.get(format!("{}/openapi.json", gateway.url)).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/json");
    let served = response.text().await.unwrap();
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    assert!(
        std::fs::read_to_string(committed).unwrap() == served,
        "docs/openapi.json is outdated; run `make generate`"
    );
    let printed =
        std::process::Command::new(env!("CARGO_BIN_EXE_actpass-gateway")).arg("openapi").output().unwrap();
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), served);
    gateway.stop().await;
}

/// A gateway's description, and the responses compared with it.
struct Compared {
    document: Json,
    answers: BTreeSet<(String, String)>,
}

impl Compared {
    /// Sends a request and compares the response with the description of `path`.
    async fn ask(&mut self, path: &str, request: RequestBuilder, status: u16) -> Json {
        let method = request.try_clone().unwrap().build().unwrap().method().as_str().to_lowercase();
        let response = request.send().await.unwrap();
        let headers = response.headers().clone();
        assert_eq!(headers["content-type"], "application/json");
        let (found, response) = json(response).await;
        assert_eq!(found, status, "{method} {path}: {response}");
        let described = ["paths", path, &method, "responses", &status.to_string()]
            .iter()
            .try_fold(&self.document, |json, name| json.member(name))
            .unwrap_or_else(|| panic!("{method} {path}: {status} is not described"));
        for (name, _) in described.member("headers").and_then(Json::as_object).unwrap_or_default() {
            assert!(headers.contains_key(name), "{method} {path}: {status} without {name}");
        }
        let schema = ["content", "application/json", "schema"]
            .iter()
            .try_fold(described, |json, name| json.member(name))
            .unwrap();
        self.compare(schema, &response, &format!("{method} {path} {status}"));
        self.answers.insert((method, path.to_owned()));
        response
    }

    /// Stricter than the schema: undescribed members fail.
    fn compare(&self, schema: &Json, value: &Json, place: &str) {
        if let Some(name) = schema.member("$ref").and_then(Json::as_str) {
            let name = name.strip_prefix("#/components/schemas/").unwrap();
            let schemas = self.document.member("components").unwrap().member("schemas").unwrap();
            return self.compare(schemas.member(name).unwrap(), value, place);
        }
        let kind = match value {
            Json::Array(_) => "array",
            Json::Bool(_) => "boolean",
            Json::Null => "null",
            Json::Number(number) if number.is_integer() => "integer",
            Json::Number(_) => "number",
            Json::Object(_) => "object",
            Json::String(_) => "string",
        };
        let is_number = |kinds: &Json| kinds.to_string().contains("\"number\"");
        let kind = match schema.member("type") {
            Some(kinds) if kind == "integer" && is_number(kinds) => "number",
            Some(_) | None => kind,
        };
        match schema.member("type") {
            None => {}
            Some(Json::Array(kinds)) => assert!(kinds.contains(&Json::from(kind)), "{place}: {kind}"),
            Some(only) => assert_eq!(only.as_str(), Some(kind), "{place}"),
        }
        if let Some(Json::Array(words)) = schema.member("enum") {
            assert!(words.contains(value), "{place}: {value}");
        }
        if let (Some(pattern), Some(text)) = (schema.member("pattern").and_then(Json::as_str), value.as_str())
        {
            assert!(Regex::new(pattern).unwrap().is_match(text), "{place}: {text}");
        }
        if let (Some(schema), Json::Array(items)) = (schema.member("items"), value) {
            items.iter().for_each(|item| self.compare(schema, item, &format!("{place} item")));
        }
        let (Some(properties), Json::Object(members)) = (schema.member("properties"), value) else {
            return;
        };
        for (name, value) in members {
            let place = format!("{place}.{name}");
            let schema = properties.member(name).unwrap_or_else(|| panic!("{place} is not described"));
            self.compare(schema, value, &place);
        }
        if let Some(Json::Array(required)) = schema.member("required") {
            for name in required {
                assert!(value.member(name.as_str().unwrap()).is_some(), "{place}: {name} is missing");
            }
        }
    }
}

#[tokio::test]
async fn responses_match_openapi() {
    const APPROVAL: &str = "/api/v1/approvals/{id}";
    const CHAIN: &str = "/api/v1/evidence/chains/{chain_id}";
    let master = MasterKey::parse(&"07".repeat(32)).unwrap();
    let source = MasterKeySource::Given(master.clone());
    let gateway = Gateway::start_with("", |settings| settings.master_key = source).await;
    let url = gateway.url.clone();
    let beside = SqliteStore::open_existing(&gateway.folder.path().join("data.db")).unwrap();
    let document =
        gateway.client.get(format!("{url}/openapi.json")).send().await.unwrap().bytes().await.unwrap();
    let document = Json::parse(&document).unwrap();
    let mut compared = Compared { document, answers: BTreeSet::new() };
    let client = common::client();
    let post = |path: &str, key: &str, body: &str| {
        client
            .post(format!("{url}{path}"))
            .bearer_auth(key)
            .header("content-type", "application/json")
            .body(body.to_owned())
    };
    let get = |path: &str, key: &str| client.get(format!("{url}{path}")).bearer_auth(key);

    for mode in ["enforce", "warn"] {
        for amount in ["4900", "25000", "90000", "9007199254740993"] {
            let body = refund(amount, &format!(r#", "mode": "{mode}""#));
            compared.ask(PREFLIGHT, post(PREFLIGHT, "apk_one", &body), 200).await;
        }
    }
    let changed = refund("1", r#", "tool_manifest_hash": "x", "user_id": "u", "idempotency_key": "k""#);
    compared.ask(PREFLIGHT, post(PREFLIGHT, "apk_bound", &changed), 200).await;
    let other = refund("2", r#", "idempotency_key": "k""#);
    compared.ask(PREFLIGHT, post(PREFLIGHT, "apk_bound", &other), 409).await;
    for expires_at in [None, Some(4_000_000_000)] {
        let vault = Vault::new(&master).unwrap();
        let sealed =
            vault.seal("one", "refunds.create", &Secret::from("vault_secret"), 0, expires_at).unwrap();
        beside.record(vault::set("one", sealed)).await.unwrap();
        compared.ask(PREFLIGHT, post(PREFLIGHT, "apk_one", &refund("1", "")), 200).await;
    }

    let asked = compared.ask(PREFLIGHT, post(PREFLIGHT, "apk_one", &refund("25000", "")), 200).await;
    let id = text(&asked, "approval_request_id").unwrap();
    let approval = format!("/api/v1/approvals/{id}");
    compared.ask("/api/v1/approvals", get("/api/v1/approvals?status=pending", "apdv_one"), 200).await;
    compared.ask(APPROVAL, get(&approval, "apk_one"), 200).await;
    for (word, status) in [("approve", 200), ("reject", 409)] {
        let path = format!("{APPROVAL}/{word}");
        compared
            .ask(&path, post(&format!("{approval}/{word}"), "apdv_one", r#"{"note": "n"}"#), status)
            .await;
        compared.ask(&path, post(&format!("{approval}/{word}"), "apk_one", "{}"), 403).await;
        compared.ask(&path, post(&format!("/api/v1/approvals/x/{word}"), "apdv_one", "{}"), 404).await;
    }
    compared.ask(APPROVAL, get(&approval, "apk_one"), 200).await;
    compared.ask(APPROVAL, get("/api/v1/approvals/x", "apk_one"), 404).await;
    compared.ask(APPROVAL, get("/api/v1/approvals/x?wait=26", "apk_one"), 422).await;
    compared.ask(APPROVAL, get("/api/v1/approvals/%ff", "apk_one"), 400).await;
    compared.ask("/api/v1/approvals", get("/api/v1/approvals", "apk_one"), 403).await;
    compared.ask("/api/v1/approvals", get("/api/v1/approvals?status=x", "apdv_one"), 422).await;

    let webhooks = "/api/v1/webhooks";
    let letters = "/api/v1/webhooks/dead_letters";
    let redeliver = "/api/v1/webhooks/dead_letters/{id}/redeliver";
    let receiver = url.clone();
    // A receiver that refuses every message.
    let told = Gateway::start_with("", |settings| {
        let folder = TempDir::new().unwrap();
        let text = common::config("")
            + &format!(
                "[[webhooks]]\nname = \"w\"\nurl = \"{receiver}/none\"\nform = \"slack\"\nmax_retry_seconds = 1\n\
                 danger_allow_private_address = true\n\
                 [[people]]\nname = \"alice\"\ntenant = \"one\"\n[[people]]\nname = \"bob\"\ntenant = \"one\"\n"
            );
        let data = settings.data.clone();
        *settings = Settings::parse(&text, folder.path()).unwrap();
        settings.data = data;
    })
    .await;
    let (delegations, delegation) = ("/api/v1/delegations", "/api/v1/delegations/{id}");
    let tomorrow = std::time::SystemTime::now() + std::time::Duration::from_secs(86_400);
    let until = humantime::format_rfc3339_seconds(tomorrow);
    let body = &format!(r#"{{"person": "alice", "to": "bob", "until": "{until}"}}"#);
    let created = compared.ask(delegations, told.post(delegations, "apdv_one").body(body.clone()), 200).await;
    compared.ask(delegations, post(delegations, "apk_one", body), 403).await;
    compared.ask(delegations, post(delegations, "apdv_one", "{}"), 422).await;
    compared.ask(delegations, told.get(delegations, "apdv_one"), 200).await;
    compared.ask(delegations, get(delegations, "apk_one"), 403).await;
    let revoke = |id: &str, key: &str| {
        client.delete(format!("{}{}", told.url, delegation.replace("{id}", id))).bearer_auth(key)
    };
    let id = text(&created, "id").unwrap();
    compared.ask(delegation, revoke(id, "apk_one"), 403).await;
    compared.ask(delegation, revoke(id, "apdv_one"), 200).await;
    compared.ask(delegation, revoke("dlg_none", "apdv_one"), 404).await;
    compared.ask(webhooks, told.get(webhooks, "apdv_one"), 200).await;
    compared.ask(webhooks, get(webhooks, "apk_one"), 403).await;
    told.decide("apk_one", &refund("25000", "")).await;
    let dead = loop {
        let found = compared.ask(letters, told.get(letters, "apdv_one"), 200).await;
        match found.member("dead_letters") {
            Some(Json::Array(dead)) if !dead.is_empty() => break dead[0].clone(),
            _ => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    };
    compared.ask(letters, get(letters, "apk_one"), 403).await;
    let path = redeliver.replace("{id}", &dead.member("id").unwrap().to_string());
    compared.ask(redeliver, told.post(&path, "apdv_one"), 202).await;
    compared.ask(redeliver, told.post(&path, "apk_one"), 403).await;
    compared.ask(redeliver, told.post(&redeliver.replace("{id}", "9999"), "apdv_one"), 404).await;
    told.stop().await;
    let shadow = "/api/v1/shadow";
    compared.ask(shadow, get(shadow, "apdv_one"), 200).await;
    compared.ask(shadow, get(shadow, "apk_one"), 403).await;
    compared.ask(shadow, get("/api/v1/shadow?limit=0", "apdv_one"), 422).await;
    let budgets = "/api/v1/budgets";
    let budgeted = Gateway::start_with("", |settings| {
        let data = settings.data.clone();
        let text = common::config_with("", &common::shipped_policy("refunds.json"));
        *settings = Settings::parse(&text, Path::new(".")).unwrap();
        settings.data = data;
    })
    .await;
    for amount in ["10000", "10000", "10000", "10000", "10000", "1", "-1"] {
        let body = refund(amount, "");
        compared.ask(PREFLIGHT, budgeted.post(PREFLIGHT, "apk_one").body(body), 200).await;
    }
    compared.ask(budgets, budgeted.get(budgets, "apdv_one"), 200).await;
    compared.ask(budgets, get(budgets, "apdv_one"), 200).await;
    compared.ask(budgets, get(budgets, "apk_one"), 403).await;
    compared.ask(budgets, get("/api/v1/budgets?limit=0", "apdv_one"), 422).await;
    budgeted.stop().await;

    let (issue, verify, revoke) =
        ("/api/v1/passports/issue", "/api/v1/passports/verify", "/api/v1/passports/revoke");
    let body = r#"{"audience": "a", "goal": "refund an order", "allowed_tools": ["refunds.create"]}"#;
    let issued = compared.ask(issue, post(issue, "apk_one", body), 200).await;
    let shown = format!(r#"{{"token": "{}", "audience": "a"}}"#, text(&issued, "token").unwrap());
    compared.ask(verify, post(verify, "apk_one", &shown), 200).await;
    compared.ask(verify, post(verify, "apk_two", &shown), 200).await;
    let jti = format!(r#"{{"jti": "{}"}}"#, text(&issued, "jti").unwrap());
    compared.ask(revoke, post(revoke, "apk_one", &jti), 200).await;
    compared.ask("/.well-known/jwks.json", get("/.well-known/jwks.json", ""), 200).await;

    const HALT: &str = "/api/v1/halts/{id}";
    let (halts, ack, watch) = ("/api/v1/halts", "/api/v1/halts/ack", "/api/v1/halts/watch");
    let agent = r#"{"scope": "agent", "id": "sdk", "reason": "r"}"#;
    let stop = compared.ask(halts, post(halts, "apdv_one", agent), 201).await;
    compared.ask(halts, post(halts, "apdv_one", agent), 200).await;
    compared.ask(halts, post(halts, "apk_one", agent), 403).await;
    compared.ask(halts, post(halts, "apdv_one", r#"{"scope": "agent", "reason": "r"}"#), 422).await;
    compared.ask(watch, get("/api/v1/halts/watch?agent_id=sdk", "apk_one"), 200).await;
    compared.ask(watch, get("/api/v1/halts/watch?wait=26", "apk_one"), 422).await;
    compared.ask(ack, post(ack, "apk_one", r#"{"epoch": 1, "in_flight": 0}"#), 200).await;
    compared.ask(ack, post(ack, "apk_one", r#"{"epoch": 2, "in_flight": 0}"#), 422).await;
    let body = r#"{"audience": "a", "goal": "g", "agent_id": "sdk", "allowed_tools": ["t"]}"#;
    compared.ask(issue, post(issue, "apk_one", body), 409).await;
    let path = format!("{halts}/{}", text(&stop, "id").unwrap());
    let lift = |path: &str, key: &str| {
        let request = client.delete(format!("{url}{path}")).bearer_auth(key);
        request.header("content-type", "application/json").body(r#"{"reason": "r"}"#)
    };
    compared.ask(HALT, lift(&path, "apk_one"), 403).await;
    compared.ask(HALT, lift(&path, "apdv_one"), 200).await;
    compared.ask(HALT, lift(&path, "apdv_one"), 409).await;
    compared.ask(HALT, lift("/api/v1/halts/x", "apdv_one"), 404).await;
    compared.ask(halts, get("/api/v1/halts?status=all", "apdv_one"), 200).await;
    compared.ask(halts, get(halts, "apk_one"), 403).await;
    compared.ask(halts, get("/api/v1/halts?limit=0", "apdv_one"), 422).await;

    let tools = "/api/v1/tools";
    compared.ask(tools, post(tools, "apdv_one", r#"{"tool_id": "t", "manifest": {}}"#), 200).await;
    compared.ask(tools, get("/api/v1/tools?tool=t&tool=refunds.create", "apk_one"), 200).await;
    compared.ask(tools, get("/api/v1/tools?tool=", "apk_one"), 422).await;
    let note =
        r#"{"event_type": "e", "chain_id": "c", "metadata": {"a": 1}, "response_hash": "r", "tool_id": "t"}"#;
    compared.ask(EVIDENCE, post(EVIDENCE, "apk_one", note), 200).await;
    for chain in ["decisions", "tools", "vault", "c"] {
        let path = format!("/api/v1/evidence/chains/{chain}");
        compared.ask(CHAIN, get(&path, "apk_one"), 200).await;
        compared.ask(&format!("{CHAIN}/verify"), get(&format!("{path}/verify"), "apk_one"), 200).await;
    }
    compared.ask(CHAIN, get("/api/v1/evidence/chains/none", "apk_one"), 404).await;
    compared.ask(CHAIN, get("/api/v1/evidence/chains/c?limit=0", "apk_one"), 422).await;
    for (query, status) in
        [("after=9223372036854775807&limit=9223372036854775807", 200), ("limit=9223372036854775808", 422)]
    {
        compared.ask(CHAIN, get(&format!("/api/v1/evidence/chains/c?{query}"), "apk_one"), status).await;
    }
    let (one, many) = ("/access/v1/evaluation", "/access/v1/evaluations");
    let evaluation = |amount: &str| {
        format!(
            r#"{{"subject": {{"type": "agent", "id": "sdk"}}, "resource": {{"type": "order", "id": "7"}},
                "action": {{"name": "refunds.create", "properties": {{"amount": {amount}, "currency": "usd"}}}}}}"#
        )
    };
    for amount in ["1", "25001", "90000"] {
        compared.ask(one, post(one, "apk_one", &evaluation(amount)), 200).await;
        compared.ask(many, post(many, "apk_one", &evaluation(amount)), 200).await;
    }
    let list = format!(r#"{{"evaluations": [{{}}, {}, {}]}}"#, evaluation("1"), evaluation("25001"));
    compared.ask(many, post(many, "apk_one", &list), 200).await;
    for path in [one, many] {
        compared.ask(path, post(path, "apk_one", "{"), 400).await;
        compared.ask(path, post(path, "apk_one", "{}"), 400).await;
        compared.ask(path, post(path, "apk_none", "{}"), 401).await;
        compared.ask(path, post(path, "apk_one", &" ".repeat((1 << 20) + 1)), 413).await;
        compared.ask(path, client.post(format!("{url}{path}")).bearer_auth("apk_one").body("{}"), 400).await;
    }
    let denied = compared.ask(one, post(one, "apk_one", &evaluation("25001")), 200).await;
    let (requests, request) = ("/access/v1/requests", "/access/v1/requests/{id}");
    let body = evaluation("25001");
    let body = format!(
        r#"{}, "denial": {{"evaluation_id": "{}", "expires_at": "{}"}}}}"#,
        body.rsplit_once('}').unwrap().0,
        text(&denied, "context.evaluation_id").unwrap(),
        text(&denied, "context.access_request.expires_at").unwrap()
    );
    let task = compared.ask(requests, post(requests, "apk_one", &body), 202).await;
    compared.ask(requests, post(requests, "apk_one", "{}"), 400).await;
    let path = format!("{requests}/{}", text(&task, "task.id").unwrap());
    compared.ask(request, get(&path, "apk_one"), 200).await;
    let id = text(&task, "task.id").unwrap();
    let approve = post(&format!("/api/v1/approvals/{id}/approve"), "apdv_one", "{}");
    assert_eq!(approve.send().await.unwrap().status(), 200);
    compared.ask(request, get(&path, "apk_one"), 200).await;
    compared.ask(requests, post(requests, "apk_one", &body), 201).await;
    let token = "/oauth/token";
    let issued = r#"{"audience": "a", "agent_id": "sdk", "goal": "g", "allowed_tools": ["t"]}"#;
    let issued = post("/api/v1/passports/issue", "apk_one", issued).send().await.unwrap();
    let issued = json(issued).await.1;
    let form = format!(
        "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token={}&\
        subject_token_type=urn:ietf:params:oauth:token-type:jwt",
        text(&issued, "token").unwrap()
    );
    let exchange = |key: &str, body: &str| {
        let request = client.post(format!("{url}{token}")).bearer_auth(key).body(body.to_owned());
        request.header("content-type", "application/x-www-form-urlencoded")
    };
    compared.ask(token, exchange("apk_bound", &form), 200).await;
    compared.ask(token, exchange("apk_bound", &form), 400).await;
    compared.ask(token, exchange("apk_none", &form), 401).await;
    compared.ask(token, exchange("apk_bound", &" ".repeat((1 << 20) + 1)), 413).await;
    compared.ask(token, post(token, "apk_bound", "{}"), 400).await;
    let ping = r#"{"jsonrpc": "2.0", "id": 1, "method": "system/ping", "params": {}}"#;
    compared.ask("/acs", post("/acs", "", ping), 200).await;
    compared.ask("/acs", post("/acs", "", "{"), 200).await;
    let metadata = "/.well-known/authzen-configuration";
    compared.ask(metadata, get(metadata, ""), 200).await;
    for path in ["/healthz", "/livez", "/readyz"] {
        compared.ask(path, get(path, ""), 200).await;
    }
    let reload = "/api/v1/reload";
    compared.ask(reload, post(reload, "apk_one", ""), 403).await;
    compared.ask(reload, post(reload, "apdv_one", ""), 409).await;
    let folder = TempDir::new().unwrap();
    let settings = folder.path().join("gateway.toml");
    std::fs::write(&settings, common::config("")).unwrap();
    let reloading = Server::start(Settings::load(&settings).unwrap()).await.unwrap();
    let request = client.post(format!("{}{reload}", reloading.url())).bearer_auth("apdv_one");
    compared.ask(reload, request, 200).await;
    reloading.stop().await.unwrap();
    for (body, status) in [("{", 400), ("{}", 422)] {
        compared.ask(PREFLIGHT, post(PREFLIGHT, "apk_one", body), status).await;
    }
    compared.ask(PREFLIGHT, post(PREFLIGHT, "apk_other", "{}"), 401).await;
    compared.ask(PREFLIGHT, post(PREFLIGHT, "apk_one", &" ".repeat((1 << 20) + 1)), 413).await;
    let plain = client.post(format!("{url}{PREFLIGHT}")).bearer_auth("apk_one").body("{}");
    compared.ask(PREFLIGHT, plain, 415).await;

    let paths = compared.document.member("paths").and_then(Json::as_object).unwrap();
    let described: BTreeSet<_> = paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().iter();
            methods.map(|(method, _)| (method.clone(), path.clone()))
        })
        .collect();
    assert_eq!(compared.answers, described, "every route must be compared");
    gateway.stop().await;
}
