//! Halts over HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actpass_gateway::auth::ApiKeyHash;
use actpass_gateway::config::{MasterKeySource, Settings};
use actpass_gateway::halts::{Halt, Scope};
use actpass_gateway::seal::MasterKey;
use actpass_gateway::store::{HaltChange, HaltOutcome};
use actpass_gateway::vault::{self, Vault};
use actpass_protocol::{Json, Secret};
use common::{EVIDENCE, Gateway, PREFLIGHT, config_with, json, refund, shipped_policy, text};
use reqwest::StatusCode;
use tempfile::TempDir;

const HALTS: &str = "/api/v1/halts";
const ACK: &str = "/api/v1/halts/ack";
const ISSUE: &str = "/api/v1/passports/issue";
const VERIFY: &str = "/api/v1/passports/verify";

fn master() -> MasterKey {
    MasterKey::parse(&"07".repeat(32)).unwrap()
}

/// Adds keys to the common ones: operators of both tenants, an operator that stops every tenant, an
/// auditor, and an agent that may only enforce.
fn with(policy: &str, more: &str) -> impl FnOnce(&mut Settings) + use<> {
    let mut text = config_with("", &shipped_policy(policy));
    for (key, tenant, role, more) in [
        ("apdv_other", "one", "operator", ""),
        ("apdv_all", "one", "operator", "halt_all = true"),
        ("apdv_two", "two", "operator", ""),
        ("apdv_auditor", "one", "auditor", ""),
        ("apk_enforce", "one", "agent", "modes = [\"enforce\"]"),
    ] {
        let hash = ApiKeyHash::of(key);
        text += &format!(
            "[[keys]]\nname = \"name-of-{}\"\nhash = \"{hash}\"\ntenant = \"{tenant}\"\nrole = \"{role}\"\n{more}\n",
            key.replace('_', "-")
        );
    }
    text += more;
    move |settings| {
        let folder = TempDir::new().unwrap();
        let data = settings.data.clone();
        *settings = Settings::parse(&text, folder.path()).unwrap_or_else(|problems| panic!("{problems}"));
        settings.data = data;
        settings.master_key = MasterKeySource::Given(master());
        settings.timeouts.stop = Duration::from_secs(60);
    }
}

async fn start() -> Gateway {
    Gateway::start_with("", with("dev.json", "")).await
}

async fn post(gateway: &Gateway, path: &str, key: &str, body: &str) -> (StatusCode, Json) {
    json(gateway.post(path, key).body(body.to_owned()).send().await.unwrap()).await
}

async fn get(gateway: &Gateway, path: &str, key: &str) -> (StatusCode, Json) {
    json(gateway.get(path, key).send().await.unwrap()).await
}

/// Starts a halt and returns it.
async fn halt(gateway: &Gateway, key: &str, scope: &str, id: &str) -> Json {
    let id = if id.is_empty() { String::new() } else { format!(r#", "id": "{id}""#) };
    let body = format!(r#"{{"scope": "{scope}"{id}, "reason": "it pays twice"}}"#);
    let (status, halt) = post(gateway, HALTS, key, &body).await;
    assert_eq!(status, 201, "{halt}");
    halt
}

async fn lift(gateway: &Gateway, key: &str, id: &str) -> (StatusCode, Json) {
    let request = gateway.client.delete(format!("{}{HALTS}/{id}", gateway.url)).bearer_auth(key);
    let request = request.header("content-type", "application/json").body(r#"{"reason": "fixed"}"#);
    json(request.send().await.unwrap()).await
}

fn epoch(json: &Json) -> u64 {
    json.member("halt_epoch").unwrap_or_else(|| panic!("{json}")).to_string().parse().unwrap()
}

fn error(json: &Json) -> Option<&str> {
    text(json, "error.code")
}

#[track_caller]
fn assert_is(response: &Json, decision: &str, reason: &str) {
    let found = (text(response, "decision"), text(response, "reason_code"));
    assert_eq!(found, (Some(decision), Some(reason)), "{response}");
}

/// A small refund of an agent, which the policy allows.
fn small(agent: &str, tool: &str, user: &str) -> String {
    let user = if user.is_empty() { String::new() } else { format!(r#", "user_id": "{user}""#) };
    format!(
        r#"{{"agent_id": "{agent}", "goal": "refund an order", "tool": "{tool}",
            "args": {{"amount": 100, "currency": "usd"}}{user}}}"#
    )
}

/// The events about halts on the tenant's chain of decisions.
async fn halt_events(gateway: &Gateway, key: &str) -> Vec<Json> {
    let mut events = gateway.events(key, "decisions").await;
    events.retain(|event| text(event, "event_type").is_some_and(|kind| kind.starts_with("halt.")));
    events
}

#[tokio::test]
async fn halted_agent_is_denied_with_who_when_and_why() {
    let gateway = start().await;
    let allowed = gateway.decide("apk_one", &refund("100", "")).await;
    assert_is(&allowed, "allow", "refund.small_in_scope");
    assert_eq!(epoch(&allowed), 0);

    let halt = halt(&gateway, "apdv_one", "agent", "sdk").await;
    assert!(text(&halt, "id").unwrap().starts_with("halt_"), "{halt}");
    assert_eq!(
        (text(&halt, "scope"), text(&halt, "target"), text(&halt, "reason"), text(&halt, "by"), epoch(&halt)),
        (Some("agent"), Some("sdk"), Some("it pays twice"), Some("name-of-apdv-one"), 1)
    );
    let at = text(&halt, "at").unwrap();

    let denied = gateway.decide("apk_one", &refund("100", "")).await;
    assert_is(&denied, "deny", "halted");
    assert_eq!(epoch(&denied), 1);
    let summary = text(&denied, "explain.summary").unwrap();
    let expected = format!("name-of-apdv-one stopped the agent \"sdk\" at {at}: it pays twice.");
    assert!(summary.ends_with(&expected), "{summary}");
    assert_eq!(denied.member("approval_request_id"), None);
    let others = gateway.decide("apk_one", &small("other", "refunds.create", "")).await;
    assert_is(&others, "allow", "refund.small_in_scope");
    assert_eq!(epoch(&others), 1);

    let events = gateway.events("apdv_one", "decisions").await;
    let kinds: Vec<_> = events.iter().map(|event| text(event, "event_type").unwrap()).collect();
    assert_eq!(kinds, ["decision", "halt.started", "decision", "decision"]);
    let started = &events[1];
    assert_eq!(
        (text(started, "key_name"), text(started, "metadata.halt_id"), text(started, "metadata.reason")),
        (Some("name-of-apdv-one"), text(&halt, "id"), Some("it pays twice"))
    );
    assert_eq!(started.member("metadata").unwrap().member("halt_epoch").unwrap().to_string(), "1");
    assert_eq!(text(&events[2], "reason_code"), Some("halted"));
    assert_eq!(text(&events[2], "evidence_event_id"), None);
    let (_, verified) = get(&gateway, "/api/v1/evidence/chains/decisions/verify", "apdv_one").await;
    assert_eq!(verified.member("valid"), Some(&Json::Bool(true)), "{verified}");
}

#[tokio::test]
async fn each_scope_stops_its_target_only() {
    let gateway = start().await;
    for (scope, id, stopped, free) in [
        ("agent", "sdk", small("sdk", "refunds.create", ""), small("sd", "refunds.create", "")),
        ("tool", "refunds.create", small("a", "refunds.create", ""), small("a", "refunds.list", "")),
        ("tool", "refunds.*", small("a", "refunds.create", ""), small("a", "refund", "")),
        ("user", "u1", small("a", "refunds.create", "u1"), small("a", "refunds.create", "u2")),
        ("user", "u1", small("a", "refunds.create", "u1"), small("a", "refunds.create", "")),
    ] {
        let halt = halt(&gateway, "apdv_one", scope, id).await;
        assert_is(&gateway.decide("apk_one", &stopped).await, "deny", "halted");
        let free = gateway.decide("apk_one", &free).await;
        assert_ne!(text(&free, "reason_code"), Some("halted"), "{scope} {id}: {free}");
        assert_is(&gateway.decide("apk_two", &stopped).await, "allow", "refund.small_in_scope");
        assert_eq!(lift(&gateway, "apdv_one", text(&halt, "id").unwrap()).await.0, 200);
        assert_is(&gateway.decide("apk_one", &stopped).await, "allow", "refund.small_in_scope");
    }
    let body = small("a", "refunds.create", "");
    let tenant = halt(&gateway, "apdv_one", "tenant", "").await;
    assert_eq!(tenant.member("target"), Some(&Json::Null));
    assert_is(&gateway.decide("apk_one", &body).await, "deny", "halted");
    assert_is(&gateway.decide("apk_bound", &body).await, "deny", "halted");
    assert_is(&gateway.decide("apk_two", &body).await, "allow", "refund.small_in_scope");
    lift(&gateway, "apdv_one", text(&tenant, "id").unwrap()).await;
    let all = halt(&gateway, "apdv_all", "all", "").await;
    for key in ["apk_one", "apk_two"] {
        assert_is(&gateway.decide(key, &body).await, "deny", "halted");
    }
    assert_eq!(lift(&gateway, "apdv_all", text(&all, "id").unwrap()).await.0, 200);
    for key in ["apk_one", "apk_two"] {
        assert_is(&gateway.decide(key, &body).await, "allow", "refund.small_in_scope");
    }
}

/// A bound key acts for its agent, even if the request names another.
#[tokio::test]
async fn bound_key_cannot_evade_halt_by_naming_another_agent() {
    let gateway = start().await;
    halt(&gateway, "apdv_one", "agent", "support").await;
    for agent in ["support", "sdk"] {
        let body = small(agent, "refunds.create", "");
        assert_is(&gateway.decide("apk_bound", &body).await, "deny", "halted");
    }
    assert_is(&gateway.decide("apk_one", &refund("100", "")).await, "allow", "refund.small_in_scope");
}

#[tokio::test]
async fn lifting_is_recorded_with_its_reason() {
    let gateway = start().await;
    let halt = halt(&gateway, "apdv_one", "agent", "sdk").await;
    let id = text(&halt, "id").unwrap();
    for (body, member) in
        [("{}", "reason"), (r#"{"reason": ""}"#, "reason"), (r#"{"reason": "r", "x": 1}"#, "x")]
    {
        let request = gateway.client.delete(format!("{}{HALTS}/{id}", gateway.url)).bearer_auth("apdv_one");
        let request = request.header("content-type", "application/json").body(body);
        let (status, refused) = json(request.send().await.unwrap()).await;
        assert_eq!((status.as_u16(), error(&refused)), (422, Some("invalid_member")), "{refused}");
        assert!(text(&refused, "error.message").unwrap().starts_with(member), "{refused}");
    }
    assert_is(&gateway.decide("apk_one", &refund("100", "")).await, "deny", "halted");
    let (status, lifted) = lift(&gateway, "apdv_other", id).await;
    assert_eq!(status, 200, "{lifted}");
    assert_eq!(
        (text(&lifted, "id"), text(&lifted, "lifted_by"), text(&lifted, "lift_reason"), epoch(&lifted)),
        (Some(id), Some("name-of-apdv-other"), Some("fixed"), 2)
    );
    assert!(text(&lifted, "lifted_at").is_some());
    let allowed = gateway.decide("apk_one", &refund("100", "")).await;
    assert_is(&allowed, "allow", "refund.small_in_scope");
    assert_eq!(epoch(&allowed), 2);
    let (status, again) = lift(&gateway, "apdv_one", id).await;
    assert_eq!((status.as_u16(), error(&again)), (409, Some("already_lifted")));
    let (status, unknown) = lift(&gateway, "apdv_one", "halt_0").await;
    assert_eq!((status.as_u16(), error(&unknown)), (404, Some("not_found")));
    let events = halt_events(&gateway, "apdv_one").await;
    let kinds: Vec<_> = events.iter().map(|event| text(event, "event_type").unwrap()).collect();
    assert_eq!(kinds, ["halt.started", "halt.lifted"]);
    assert_eq!(
        (
            text(&events[1], "key_name"),
            text(&events[1], "metadata.halt_id"),
            text(&events[1], "metadata.reason")
        ),
        (Some("name-of-apdv-other"), Some(id), Some("fixed"))
    );
}

#[tokio::test]
async fn modes_report_halt_by_their_rules() {
    let gateway = start().await;
    halt(&gateway, "apdv_one", "tool", "refunds.*").await;
    for mode in ["enforce", "strict", "monitor"] {
        let body = refund("100", &format!(r#", "mode": "{mode}""#));
        assert_is(&gateway.decide("apk_one", &body).await, "deny", "halted");
    }
    let body = refund("100", r#", "mode": "warn""#);
    let warned = gateway.decide("apk_one", &body).await;
    assert_is(&warned, "warn", "halted");
    assert_eq!(text(&warned, "would_be"), Some("deny"));
    // Softened to a warning, it would run.
    assert_is(&gateway.decide("apk_enforce", &body).await, "deny", "key.mode_not_allowed");
    let events = gateway.events("apdv_one", "decisions").await;
    let halted = events.iter().filter(|event| text(event, "reason_code") == Some("halted"));
    assert!(halted.clone().all(|event| text(event, "decision") == Some("deny")));
    assert_eq!(halted.count(), 4);
}

#[tokio::test]
async fn halted_approval_can_be_rejected_only() {
    let gateway = start().await;
    let large = refund("25000", "");
    let asked = gateway.decide("apk_one", &large).await;
    let id = text(&asked, "approval_request_id").unwrap().to_owned();
    let other = gateway.decide("apk_one", &refund("26000", "")).await;
    let other = text(&other, "approval_request_id").unwrap().to_owned();
    let stop = halt(&gateway, "apdv_one", "agent", "sdk").await;

    let denied = gateway.decide("apk_one", &large).await;
    assert_is(&denied, "deny", "halted");
    assert_eq!(denied.member("approval_request_id"), None);
    let (status, refused) =
        post(&gateway, &format!("/api/v1/approvals/{id}/approve"), "apdv_one", "{}").await;
    assert_eq!((status.as_u16(), error(&refused), epoch(&refused)), (409, Some("halted"), 1), "{refused}");
    assert!(text(&refused, "error.message").unwrap().contains("it pays twice"), "{refused}");
    let (status, rejected) =
        post(&gateway, &format!("/api/v1/approvals/{other}/reject"), "apdv_one", "{}").await;
    assert_eq!((status.as_u16(), text(&rejected, "status")), (200, Some("rejected")));
    let (_, read) = get(&gateway, &format!("/api/v1/approvals/{id}"), "apk_one").await;
    assert_eq!((text(&read, "status"), epoch(&read)), (Some("pending"), 1));

    lift(&gateway, "apdv_one", text(&stop, "id").unwrap()).await;
    let (status, approved) =
        post(&gateway, &format!("/api/v1/approvals/{id}/approve"), "apdv_one", "{}").await;
    assert_eq!((status.as_u16(), epoch(&approved)), (200, 2), "{approved}");
    // An approval that was given before is not spent by a halted request.
    let stop = halt(&gateway, "apdv_one", "user", "u").await;
    assert_is(&gateway.decide("apk_one", &large).await, "allow", "approval.approved");
    lift(&gateway, "apdv_one", text(&stop, "id").unwrap()).await;
    assert_is(&gateway.decide("apk_one", &large).await, "require_approval", "refund.medium_needs_approval");
}

#[tokio::test]
async fn halted_request_spends_no_approval() {
    let gateway = start().await;
    let large = refund("25000", "");
    let asked = gateway.decide("apk_one", &large).await;
    let id = text(&asked, "approval_request_id").unwrap();
    post(&gateway, &format!("/api/v1/approvals/{id}/approve"), "apdv_one", "{}").await;
    let stop = halt(&gateway, "apdv_one", "agent", "sdk").await;
    for more in ["", &format!(r#", "approval_request_id": "{id}""#)] {
        assert_is(&gateway.decide("apk_one", &refund("25000", more)).await, "deny", "halted");
    }
    lift(&gateway, "apdv_one", text(&stop, "id").unwrap()).await;
    assert_is(&gateway.decide("apk_one", &large).await, "allow", "approval.approved");
}

#[tokio::test]
async fn halted_passport_is_neither_issued_nor_valid_nor_claimed() {
    let gateway = start().await;
    let wanted = r#"{"audience": "a", "goal": "refund an order", "agent_id": "sdk", "user_id": "u",
        "allowed_tools": ["refunds.create", "refunds.list"]}"#;
    let (status, issued) = post(&gateway, ISSUE, "apk_one", wanted).await;
    assert_eq!((status.as_u16(), epoch(&issued)), (200, 0), "{issued}");
    let token = text(&issued, "token").unwrap();
    let shown = format!(r#"{{"token": "{token}", "audience": "a"}}"#);
    let acting = refund("100", &format!(r#", "audience": "a", "user_id": "u", "passport": "{token}""#));
    let mut at = 0;
    for (scope, id) in [("agent", "sdk"), ("tool", "refunds.list"), ("user", "u"), ("tenant", "")] {
        let stop = halt(&gateway, "apdv_one", scope, id).await;
        at += 1;
        let (status, refused) = post(&gateway, ISSUE, "apk_one", wanted).await;
        assert_eq!((status.as_u16(), error(&refused), epoch(&refused)), (409, Some("halted"), at), "{scope}");
        let (_, verified) = post(&gateway, VERIFY, "apk_one", &shown).await;
        assert_eq!(verified.member("valid"), Some(&Json::Bool(false)), "{scope}: {verified}");
        assert_eq!(verified.member("errors").unwrap().to_string(), r#"["halted"]"#);
        assert_eq!((verified.member("claims"), epoch(&verified)), (None, at));
        // The halted tool is not the tool of this action.
        if scope != "tool" {
            assert_is(&gateway.decide("apk_one", &acting).await, "deny", "halted");
        }
        lift(&gateway, "apdv_one", text(&stop, "id").unwrap()).await;
        at += 1;
    }
    let (_, verified) = post(&gateway, VERIFY, "apk_one", &shown).await;
    assert_eq!((verified.member("valid"), epoch(&verified)), (Some(&Json::Bool(true)), at));
    assert_is(&gateway.decide("apk_one", &acting).await, "allow", "refund.small_in_scope");
    assert_is(&gateway.decide("apk_one", &acting).await, "deny", "passport.replayed");
}

#[tokio::test]
async fn halted_request_repeats_no_stored_answer() {
    let gateway = start().await;
    let body = refund("100", r#", "idempotency_key": "k""#);
    assert_is(&gateway.decide("apk_one", &body).await, "allow", "refund.small_in_scope");
    let stop = halt(&gateway, "apdv_one", "agent", "sdk").await;
    for _ in 0..2 {
        let denied = gateway.decide("apk_one", &body).await;
        assert_is(&denied, "deny", "halted");
        assert_eq!(denied.member("replayed"), None);
    }
    let fresh = refund("100", r#", "idempotency_key": "fresh""#);
    assert_is(&gateway.decide("apk_one", &fresh).await, "deny", "halted");
    lift(&gateway, "apdv_one", text(&stop, "id").unwrap()).await;
    // The action may have run before the halt.
    let again = gateway.decide("apk_one", &body).await;
    assert_is(&again, "allow", "refund.small_in_scope");
    assert_eq!((again.member("replayed"), epoch(&again)), (Some(&Json::Bool(true)), 2));
    let again = gateway.decide("apk_one", &body).await;
    assert_eq!((again.member("replayed"), epoch(&again)), (Some(&Json::Bool(true)), 2), "{again}");
    let allowed = gateway.decide("apk_one", &fresh).await;
    assert_is(&allowed, "allow", "refund.small_in_scope");
    assert_eq!(allowed.member("replayed"), None);
}

#[tokio::test]
async fn replayed_answer_has_current_epoch() {
    let gateway = start().await;
    let body = refund("100", r#", "idempotency_key": "k""#);
    assert_eq!(epoch(&gateway.decide("apk_one", &body).await), 0);
    halt(&gateway, "apdv_one", "agent", "another").await;
    let again = gateway.decide("apk_one", &body).await;
    assert_is(&again, "allow", "refund.small_in_scope");
    assert_eq!((again.member("replayed"), epoch(&again)), (Some(&Json::Bool(true)), 1));
}

#[tokio::test]
async fn halted_request_gets_no_credential() {
    let gateway = start().await;
    let beside = gateway.data.open_existing().await.unwrap();
    let vault = Vault::new(&master()).unwrap();
    let sealed = vault.seal("one", "refunds.create", &Secret::from("vault_secret"), 0, None).unwrap();
    beside.record(vault::set("one", sealed)).await.unwrap();
    beside.close().await;
    let body = refund("100", "");
    assert!(gateway.decide("apk_one", &body).await.member("credential").is_some());
    let stop = halt(&gateway, "apdv_one", "tool", "refunds.create").await;
    for mode in ["enforce", "strict", "warn", "monitor"] {
        let denied = gateway.decide("apk_one", &refund("100", &format!(r#", "mode": "{mode}""#))).await;
        assert!(!denied.to_string().contains("vault_secret"), "{mode}: {denied}");
        assert_eq!(denied.member("credential_id"), None);
    }
    lift(&gateway, "apdv_one", text(&stop, "id").unwrap()).await;
    assert!(gateway.decide("apk_one", &body).await.member("credential").is_some());
}

#[tokio::test]
async fn halted_request_claims_no_budget() {
    let gateway = Gateway::start_with("", with("refunds.json", "")).await;
    let use_of = async || get(&gateway, "/api/v1/budgets", "apdv_one").await.1.to_string();
    gateway.decide("apk_one", &refund("4000", "")).await;
    let before = use_of().await;
    assert!(before.contains("\"used\":"), "{before}");
    let stop = halt(&gateway, "apdv_one", "agent", "sdk").await;
    for _ in 0..3 {
        assert_is(&gateway.decide("apk_one", &refund("4000", "")).await, "deny", "halted");
    }
    assert_eq!(use_of().await, before);
    lift(&gateway, "apdv_one", text(&stop, "id").unwrap()).await;
    gateway.decide("apk_one", &refund("4000", "")).await;
    assert_ne!(use_of().await, before);
}

#[tokio::test]
async fn watch_answers_immediately_if_epoch_is_newer() {
    let gateway = start().await;
    let watch = async |query: &str, key: &str| {
        let (status, state) = get(&gateway, &format!("{HALTS}/watch{query}"), key).await;
        assert_eq!(status, 200, "{state}");
        (epoch(&state), state.member("halted") == Some(&Json::Bool(true)), state)
    };
    let seen = |state: &(u64, bool, Json)| (state.0, state.1);
    assert_eq!(seen(&watch("", "apk_one").await), (0, false));
    halt(&gateway, "apdv_one", "agent", "support").await;
    halt(&gateway, "apdv_one", "tool", "crm.*").await;
    halt(&gateway, "apdv_one", "user", "u1").await;
    let long = "after=2&wait=25";
    for (query, key, halted) in [
        ("", "apk_one", false),
        ("&agent_id=support", "apk_one", true),
        ("&agent_id=sdk", "apk_one", false),
        ("&agent_id=sdk", "apk_bound", true),
        ("", "apk_bound", true),
        ("&tool=crm.read", "apk_one", true),
        ("&tool=crm", "apk_one", false),
        ("&user_id=u1&tool=crm", "apk_one", true),
        ("&agent_id=support", "apk_two", false),
    ] {
        let state = watch(&format!("?{long}{query}"), key).await;
        assert_eq!(seen(&state), (3, halted), "{query} {key}");
        assert_eq!(state.2.member("halt").is_some(), halted);
    }
    let (_, _, state) = watch("?agent_id=support", "apk_one").await;
    assert_eq!(text(&state, "halt.reason"), Some("it pays twice"));
    for query in ["?after=x", "?wait=26", "?agent=a", "?after=1&after=2"] {
        assert_eq!(get(&gateway, &format!("{HALTS}/watch{query}"), "apk_one").await.0, 422, "{query}");
    }
    assert_eq!(get(&gateway, &format!("{HALTS}/watch"), "apk_unknown").await.0, 401);
}

/// The halt comes from another process on the same data.
#[tokio::test]
async fn halt_by_another_process_wakes_watch_and_approval() {
    let gateway = Arc::new(start().await);
    let asked = gateway.decide("apk_one", &refund("25000", "")).await;
    let approval = format!("/api/v1/approvals/{}?wait=25", text(&asked, "approval_request_id").unwrap());
    let waiting: Vec<_> = [format!("{HALTS}/watch?wait=25&agent_id=sdk"), approval]
        .into_iter()
        .map(|path| {
            let gateway = Arc::clone(&gateway);
            tokio::spawn(async move { get(&gateway, &path, "apk_one").await })
        })
        .collect();
    let beside = gateway.data.open_existing().await.unwrap();
    let stop = Halt::new(Some("one".into()), Scope::Agent, Some("sdk".into()), "r".into(), "(command line)");
    let changed = beside.change_halts(HaltChange::Start(Box::new(stop))).await.unwrap();
    let HaltOutcome::Changed(stop) = changed else { panic!("{changed:?}") };
    assert_is(&gateway.decide("apk_one", &refund("100", "")).await, "deny", "halted");
    for (index, waiting) in waiting.into_iter().enumerate() {
        let (status, answer) = waiting.await.unwrap();
        assert_eq!((status.as_u16(), epoch(&answer)), (200, 1), "{answer}");
        match index {
            0 => assert_eq!(answer.member("halted"), Some(&Json::Bool(true))),
            _ => assert_eq!(text(&answer, "status"), Some("pending")),
        }
    }
    let lift = HaltChange::Lift { id: stop.id.clone(), by: "(command line)".into(), reason: "fixed".into() };
    assert!(matches!(beside.change_halts(lift.clone()).await, Ok(HaltOutcome::Changed(_))));
    assert_eq!(beside.change_halts(lift).await, Ok(HaltOutcome::NotActive));
    beside.close().await;
    assert_is(&gateway.decide("apk_one", &refund("100", "")).await, "allow", "refund.small_in_scope");
    let events = halt_events(&gateway, "apdv_one").await;
    assert!(events.iter().all(|event| text(event, "key_name") == Some("(command line)")), "{events:?}");
    assert_eq!(events.len(), 2);
}

#[tokio::test]
async fn acknowledgement_is_recorded_once_per_client_epoch_and_number() {
    let gateway = start().await;
    let (status, early) = post(&gateway, ACK, "apk_one", r#"{"epoch": 1, "in_flight": 0}"#).await;
    assert_eq!((status.as_u16(), error(&early)), (422, Some("invalid_member")), "{early}");
    halt(&gateway, "apdv_one", "agent", "sdk").await;
    for (key, body) in [
        ("apk_one", r#"{"epoch": 1, "in_flight": 3, "agent_id": "sdk", "instance": "pod-1"}"#),
        ("apk_one", r#"{"epoch": 1, "in_flight": 3, "agent_id": "sdk", "instance": "pod-1"}"#),
        ("apk_one", r#"{"epoch": 1, "in_flight": 0, "agent_id": "sdk", "instance": "pod-1"}"#),
        ("apk_one", r#"{"epoch": 1, "in_flight": 3, "agent_id": "sdk", "instance": "pod-1"}"#),
        ("apk_one", r#"{"epoch": 1, "in_flight": 0, "agent_id": "sdk", "instance": "pod-2"}"#),
        ("apk_bound", r#"{"epoch": 1, "in_flight": 0, "agent_id": "sdk"}"#),
        ("apk_two", r#"{"epoch": 1, "in_flight": 0, "agent_id": "sdk"}"#),
    ] {
        let (status, answer) = post(&gateway, ACK, key, body).await;
        assert_eq!((status.as_u16(), epoch(&answer)), (200, 1), "{answer}");
    }
    for body in [
        r#"{"epoch": 0, "in_flight": 0}"#,
        r#"{"epoch": 2, "in_flight": 0}"#,
        r#"{"epoch": 1}"#,
        r#"{"epoch": 1, "in_flight": -1}"#,
        r#"{"epoch": "1", "in_flight": 0}"#,
    ] {
        assert_eq!(post(&gateway, ACK, "apk_one", body).await.0, 422, "{body}");
    }
    let (_, listed) = get(&gateway, HALTS, "apdv_auditor").await;
    let Some(Json::Array(confirmations)) = listed.member("confirmations") else { panic!("{listed}") };
    let shown: Vec<_> = confirmations
        .iter()
        .map(|confirmation| {
            let client = |name: &str| text(confirmation, &format!("client.{name}")).unwrap_or("-").to_owned();
            let in_flight = confirmation.member("in_flight").unwrap().to_string();
            format!("{} {} {} {in_flight}", client("key_name"), client("agent_id"), client("instance"))
        })
        .collect();
    assert_eq!(
        shown,
        [
            "name-of-apk-bound support - 0",
            "name-of-apk-one sdk pod-2 0",
            "name-of-apk-one sdk pod-1 0",
            "name-of-apk-one sdk pod-1 3"
        ]
    );
    let events = halt_events(&gateway, "apdv_one").await;
    let acknowledged: Vec<_> =
        events.iter().filter(|event| text(event, "event_type") == Some("halt.acknowledged")).collect();
    assert_eq!(acknowledged.len(), 4);
    assert_eq!(
        acknowledged[0].member("metadata").unwrap().to_string(),
        r#"{"halt_epoch":1,"in_flight":3,"instance":"pod-1"}"#
    );
    assert_eq!(text(acknowledged[3], "agent_id"), Some("support"));

    let (_, page) = get(&gateway, &format!("{HALTS}?limit=1"), "apdv_one").await;
    let next = text(&page, "confirmations_next").unwrap();
    let (_, page) =
        get(&gateway, &format!("{HALTS}?limit=100&confirmations_before={next}"), "apdv_one").await;
    let Some(Json::Array(rest)) = page.member("confirmations") else { panic!("{page}") };
    assert_eq!((rest.len(), page.member("confirmations_next")), (3, None));
}

#[tokio::test]
async fn only_entitled_keys_stop_and_lift() {
    let gateway = start().await;
    let of_agent = r#"{"scope": "agent", "id": "support", "reason": "r"}"#;
    for (key, body, status, code) in [
        ("apk_one", of_agent, 403, "forbidden"),
        ("apk_one", r#"{"scope": "tenant", "reason": "r"}"#, 403, "forbidden"),
        ("apk_bound", r#"{"scope": "agent", "id": "sdk", "reason": "r"}"#, 403, "forbidden"),
        ("apk_bound", r#"{"scope": "tool", "id": "support", "reason": "r"}"#, 403, "forbidden"),
        ("apk_bound", r#"{"scope": "all", "reason": "r"}"#, 403, "forbidden"),
        ("apdv_auditor", of_agent, 403, "forbidden"),
        ("apdv_one", r#"{"scope": "all", "reason": "r"}"#, 403, "not_granted"),
        ("apdv_one", r#"{"scope": "agents", "id": "x", "reason": "r"}"#, 422, "invalid_member"),
        ("apdv_one", r#"{"scope": "tenant", "id": "x", "reason": "r"}"#, 422, "invalid_member"),
        ("apdv_one", r#"{"scope": "agent", "id": "x"}"#, 422, "invalid_member"),
        ("apk_unknown", of_agent, 401, "unauthenticated"),
    ] {
        let (found, refused) = post(&gateway, HALTS, key, body).await;
        assert_eq!((found.as_u16(), error(&refused)), (status, Some(code)), "{key} {body}: {refused}");
    }
    assert_eq!(epoch(&gateway.decide("apk_one", &refund("100", "")).await), 0);

    // An agent stops itself, and cannot go on by itself.
    let (status, own) = post(&gateway, HALTS, "apk_bound", of_agent).await;
    assert_eq!((status.as_u16(), text(&own, "by")), (201, Some("name-of-apk-bound")), "{own}");
    let id = text(&own, "id").unwrap();
    assert_is(&gateway.decide("apk_bound", &refund("100", "")).await, "deny", "halted");
    for key in ["apk_bound", "apk_one", "apdv_auditor"] {
        assert_eq!(lift(&gateway, key, id).await.0, 403, "{key}");
    }
    let (status, foreign) = lift(&gateway, "apdv_two", id).await;
    assert_eq!((status.as_u16(), error(&foreign)), (404, Some("not_found")));
    let (_, listed) = get(&gateway, HALTS, "apdv_two").await;
    assert_eq!(listed.member("halts").unwrap().to_string(), "[]");
    assert_eq!(get(&gateway, HALTS, "apk_one").await.0, 403);
    assert_eq!(lift(&gateway, "apdv_one", id).await.0, 200);

    let all = halt(&gateway, "apdv_all", "all", "").await;
    for key in ["apdv_one", "apdv_two"] {
        let (status, refused) = lift(&gateway, key, text(&all, "id").unwrap()).await;
        assert_eq!((status.as_u16(), error(&refused)), (403, Some("not_granted")), "{key}");
        let (_, listed) = get(&gateway, HALTS, key).await;
        assert!(listed.to_string().contains(text(&all, "id").unwrap()), "{listed}");
    }
}

#[tokio::test]
async fn lifting_can_be_confined_to_other_keys() {
    let more = "[halts]\nlift_by = [\"name-of-apdv-other\"]\n";
    let gateway = Gateway::start_with("", with("dev.json", more)).await;
    let stop = halt(&gateway, "apdv_one", "agent", "sdk").await;
    let id = text(&stop, "id").unwrap();
    for key in ["apdv_one", "apdv_all"] {
        let (status, refused) = lift(&gateway, key, id).await;
        assert_eq!((status.as_u16(), error(&refused)), (403, Some("not_granted")), "{refused}");
    }
    assert_is(&gateway.decide("apk_one", &refund("100", "")).await, "deny", "halted");
    assert_eq!(lift(&gateway, "apdv_other", id).await.0, 200);
}

#[tokio::test]
async fn repeated_halt_is_one_halt_and_two_people_lift_two() {
    let gateway = start().await;
    let first = halt(&gateway, "apdv_one", "agent", "sdk").await;
    let body = r#"{"scope": "agent", "id": "sdk", "reason": "again"}"#;
    let (status, again) = post(&gateway, HALTS, "apdv_one", body).await;
    assert_eq!((status.as_u16(), text(&again, "id"), epoch(&again)), (200, text(&first, "id"), 1));
    let second = halt(&gateway, "apdv_other", "agent", "sdk").await;
    assert_eq!(epoch(&second), 2);
    lift(&gateway, "apdv_one", text(&first, "id").unwrap()).await;
    assert_is(&gateway.decide("apk_one", &refund("100", "")).await, "deny", "halted");
    lift(&gateway, "apdv_one", text(&second, "id").unwrap()).await;
    assert_is(&gateway.decide("apk_one", &refund("100", "")).await, "allow", "refund.small_in_scope");
    assert_eq!(halt_events(&gateway, "apdv_one").await.len(), 4);
}

#[tokio::test]
async fn halts_are_listed_in_pages() {
    let gateway = start().await;
    let mut ids = Vec::new();
    for agent in ["a", "b", "c", "d"] {
        ids.push(text(&halt(&gateway, "apdv_one", "agent", agent).await, "id").unwrap().to_owned());
    }
    lift(&gateway, "apdv_one", &ids[1]).await;
    let list = async |query: &str| {
        let (status, page) = get(&gateway, &format!("{HALTS}{query}"), "apdv_one").await;
        assert_eq!(status, 200, "{page}");
        let Some(Json::Array(halts)) = page.member("halts") else { panic!("{page}") };
        let found: Vec<_> = halts.iter().map(|halt| text(halt, "id").unwrap().to_owned()).collect();
        (found, text(&page, "next").map(str::to_owned), epoch(&page), page)
    };
    let (active, next, at, _) = list("").await;
    assert_eq!((active, next, at), (vec![ids[0].clone(), ids[2].clone(), ids[3].clone()], None, 5));
    let (all, _, _, page) = list("?status=all").await;
    assert_eq!(all, ids);
    assert!(page.to_string().contains(r#""lift_reason":"fixed""#), "{page}");
    let (first, next, ..) = list("?status=all&limit=3").await;
    assert_eq!(first, ids[..3]);
    let (rest, next, ..) = list(&format!("?status=all&limit=3&after={}", next.unwrap())).await;
    assert_eq!((rest, next), (vec![ids[3].clone()], None));
    for query in ["?limit=0", "?limit=1001", "?status=lifted", "?after=-1", "?x=1", "?limit=1&limit=2"] {
        assert_eq!(get(&gateway, &format!("{HALTS}{query}"), "apdv_one").await.0, 422, "{query}");
    }
}

#[tokio::test]
async fn halt_of_all_tenants_is_on_every_chain() {
    let gateway = start().await;
    gateway.decide("apk_one", &refund("100", "")).await;
    // The tenant two has no chain of decisions yet.
    let all = halt(&gateway, "apdv_all", "all", "").await;
    assert_is(&gateway.decide("apk_two", &refund("100", "")).await, "deny", "halted");
    assert_eq!(lift(&gateway, "apdv_all", text(&all, "id").unwrap()).await.0, 200);
    for key in ["apdv_one", "apdv_two"] {
        let events = halt_events(&gateway, key).await;
        let kinds: Vec<_> = events.iter().map(|event| text(event, "event_type").unwrap()).collect();
        assert_eq!(kinds, ["halt.started", "halt.lifted"], "{key}");
        let (_, verified) = get(&gateway, "/api/v1/evidence/chains/decisions/verify", key).await;
        assert_eq!(verified.member("valid"), Some(&Json::Bool(true)), "{verified}");
    }
    let first = &gateway.events("apdv_two", "decisions").await[0];
    assert_eq!(text(first, "event_type"), Some("halt.started"));
}

#[tokio::test]
async fn halt_survives_restart() {
    let mut gateway = start().await;
    halt(&gateway, "apdv_one", "agent", "sdk").await;
    gateway.restart(with("dev.json", "")).await;
    let denied = gateway.decide("apk_one", &refund("100", "")).await;
    assert_is(&denied, "deny", "halted");
    assert_eq!(epoch(&denied), 1);
}

#[tokio::test]
async fn clients_cannot_forge_halt_events() {
    let gateway = start().await;
    for kind in ["halt.started", "halt.lifted", "halt.acknowledged"] {
        let body = format!(r#"{{"event_type": "{kind}", "chain_id": "c"}}"#);
        assert_eq!(post(&gateway, EVIDENCE, "apk_one", &body).await.0, 422, "{kind}");
    }
}

/// 64 clients act while a halt starts: nothing is allowed after the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_allowed_after_halt_under_load() {
    const CLIENTS: usize = 64;

    let gateway = start().await;
    let url = format!("{}{PREFLIGHT}", gateway.url);
    let allowed = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    // Nanoseconds since `began`; 0 before the halt.
    let answered = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (url, allowed, answered) = (url.clone(), Arc::clone(&allowed), Arc::clone(&answered));
            tokio::spawn(async move {
                let http = common::client();
                let (mut after, mut late) = (0, 0);
                while after < 4 {
                    let is_after = answered.load(Ordering::SeqCst) != 0;
                    let request = http.post(&url).bearer_auth("apk_one");
                    let request = request.header("content-type", "application/json").body(refund("100", ""));
                    let (_, decision) = json(request.send().await.unwrap()).await;
                    let allows = text(&decision, "decision") == Some("allow");
                    allowed.fetch_add(usize::from(allows), Ordering::SeqCst);
                    after += usize::from(is_after);
                    late += usize::from(is_after && allows);
                }
                late
            })
        })
        .collect();
    while allowed.load(Ordering::SeqCst) < 2 * CLIENTS {
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    halt(&gateway, "apdv_one", "agent", "sdk").await;
    answered.store(usize::try_from(began.elapsed().as_nanos()).unwrap(), Ordering::SeqCst);
    for client in clients {
        assert_eq!(client.await.unwrap(), 0, "allowed after the halt");
    }
    let events = gateway.events("apdv_one", "decisions").await;
    let at = events.iter().position(|event| text(event, "event_type") == Some("halt.started")).unwrap();
    let allows =
        |events: &[Json]| events.iter().filter(|event| text(event, "decision") == Some("allow")).count();
    assert!(allows(&events[..at]) >= 2 * CLIENTS);
    assert_eq!(allows(&events[at..]), 0);
    assert!(events.len() - at > 4 * CLIENTS);
}
