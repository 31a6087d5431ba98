//! History conditions over HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use actpass_gateway::clock::Clock;
use actpass_gateway::config::{MasterKeySource, Settings};
use actpass_gateway::seal::MasterKey;
use actpass_protocol::Json;
use common::{Gateway, config_with, json, text};
use futures_util::future::join_all;
use tempfile::TempDir;

const START: u64 = 1_800_000_000_000;
const HOUR: u64 = 3_600_000;

/// Rules that read histories. A refund needs a lookup of its order, and a charge is refunded once.
const RULES: &str = r#"
    {"name": "lookup", "when": [{"path": "tool", "operator": "==", "value": "orders.lookup"}],
     "decision": "allow", "reason": "order.read"},
    {"name": "secrets", "when": [{"path": "tool", "operator": "==", "value": "secrets.read"}],
     "decision": "allow", "reason": "secret.read"},
    {"name": "export_after_secrets", "when": [
        {"path": "tool", "operator": "==", "value": "data.export"},
        {"history": "after", "of": [{"path": "tool", "operator": "==", "value": "secrets.read"}],
         "within": "24h", "same": ["agent_id"]}],
     "decision": "deny", "reason": "export.after_secrets"},
    {"name": "export", "when": [{"path": "tool", "operator": "==", "value": "data.export"}],
     "decision": "allow", "reason": "export.clean"},
    {"name": "refund", "when": [
        {"path": "tool", "operator": "==", "value": "refunds.create"},
        {"history": "after", "of": [{"path": "tool", "operator": "==", "value": "orders.lookup"}],
         "within": "1h", "same": ["args.order_id"]},
        {"history": "never", "of": [{"path": "tool", "operator": "==", "value": "refunds.create"}],
         "within": "30d", "same": ["args.charge"]}],
     "decision": "allow", "reason": "refund.after_lookup"},
    {"name": "mail", "when": [
        {"path": "tool", "operator": "==", "value": "mail.send"},
        {"history": "count", "of": [{"path": "tool", "operator": "==", "value": "mail.send"}],
         "within": "24h", "same": ["args.to", "agent_id"], "operator": "<", "value": 2}],
     "decision": "allow", "reason": "mail.first_two"},
    {"name": "transfer", "when": [
        {"path": "tool", "operator": "==", "value": "transfers.create"},
        {"history": "sum", "path": "args.amount",
         "of": [{"path": "tool", "operator": "==", "value": "transfers.create"}],
         "within": "24h", "same": ["args.to"], "operator": "<=", "value": 100.5}],
     "decision": "allow", "reason": "transfer.known"},
    {"name": "large_transfer", "when": [{"path": "tool", "operator": "==", "value": "transfers.create"}],
     "decision": "require_approval", "reason": "transfer.much"}"#;

fn with(rules: &str, time: &Arc<AtomicU64>) -> impl FnOnce(&mut Settings) + use<> {
    let policy = format!(r#"{{"id": "orders", "version": 1, "rules": [{rules}]}}"#);
    let time = Arc::clone(time);
    move |settings| {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("policy.json"), policy).unwrap();
        let text = config_with("", "policy.json");
        let data = settings.data.clone();
        *settings = Settings::parse(&text, folder.path()).unwrap_or_else(|problems| panic!("{problems}"));
        settings.data = data;
        settings.master_key = MasterKeySource::Given(MasterKey::parse(&"07".repeat(32)).unwrap());
        settings.timeouts.stop = Duration::from_secs(60);
        settings.clock = Clock::new(move || UNIX_EPOCH + Duration::from_millis(time.load(Ordering::SeqCst)));
    }
}

async fn start() -> (Gateway, Arc<AtomicU64>) {
    let time = Arc::new(AtomicU64::new(START));
    (Gateway::start_with("", with(RULES, &time)).await, time)
}

fn call(tool: &str, args: &str, more: &str) -> String {
    format!(
        r#"{{"agent_id": "sdk", "goal": "serve a customer", "tool": "{tool}", "args": {{{args}}}{more}}}"#
    )
}

async fn ask(gateway: &Gateway, tool: &str, args: &str) -> Json {
    gateway.decide("apk_one", &call(tool, args, "")).await
}

async fn look_up(gateway: &Gateway, order: u64) {
    assert_is(&ask(gateway, "orders.lookup", &format!("\"order_id\": {order}")).await, "allow", "order.read");
}

fn of(order: u64, charge: u64) -> String {
    format!(r#""order_id": {order}, "charge": "ch_{charge}""#)
}

async fn refund(gateway: &Gateway, order: u64, charge: u64) -> Json {
    ask(gateway, "refunds.create", &of(order, charge)).await
}

#[track_caller]
fn assert_is(response: &Json, decision: &str, reason: &str) {
    let found = (text(response, "decision"), text(response, "reason_code"));
    assert_eq!(found, (Some(decision), Some(reason)), "{response}");
}

#[tokio::test]
async fn refund_needs_lookup_of_the_same_order() {
    let (gateway, time) = start().await;
    assert_is(&refund(&gateway, 1, 1).await, "deny", "policy.no_match");
    look_up(&gateway, 1).await;
    assert_is(&refund(&gateway, 2, 2).await, "deny", "policy.no_match");
    // Equal numbers are the same order, other types are not.
    let text = ask(&gateway, "refunds.create", r#""order_id": "1", "charge": "ch_1""#).await;
    assert_is(&text, "deny", "policy.no_match");
    let allowed = ask(&gateway, "refunds.create", r#""order_id": 1.0, "charge": "ch_1""#).await;
    assert_is(&allowed, "allow", "refund.after_lookup");
    // Another tenant has another history.
    let other = gateway.decide("apk_two", &call("refunds.create", &of(1, 1), "")).await;
    assert_is(&other, "deny", "policy.no_match");

    time.fetch_add(HOUR - 1, Ordering::SeqCst);
    assert_is(&refund(&gateway, 1, 2).await, "allow", "refund.after_lookup");
    time.fetch_add(1, Ordering::SeqCst);
    assert_is(&refund(&gateway, 1, 3).await, "deny", "policy.no_match");
    look_up(&gateway, 1).await;
    assert_is(&refund(&gateway, 1, 3).await, "allow", "refund.after_lookup");
    gateway.stop().await;
}

#[tokio::test]
async fn charge_is_refunded_once() {
    let (gateway, time) = start().await;
    look_up(&gateway, 1).await;
    assert_is(&refund(&gateway, 1, 1).await, "allow", "refund.after_lookup");
    assert_is(&refund(&gateway, 1, 1).await, "deny", "policy.no_match");
    assert_is(&refund(&gateway, 1, 2).await, "allow", "refund.after_lookup");
    time.fetch_add(30 * 24 * HOUR - 1, Ordering::SeqCst);
    look_up(&gateway, 1).await;
    assert_is(&refund(&gateway, 1, 1).await, "deny", "policy.no_match");
    time.fetch_add(1, Ordering::SeqCst);
    assert_is(&refund(&gateway, 1, 1).await, "allow", "refund.after_lookup");
    gateway.stop().await;
}

#[tokio::test]
async fn missing_value_makes_every_history_false() {
    let (gateway, _) = start().await;
    // Actions without the value are ignored, and requests without it do not match.
    assert_is(&ask(&gateway, "orders.lookup", "").await, "allow", "order.read");
    assert_is(&ask(&gateway, "refunds.create", r#""charge": "ch_1""#).await, "deny", "policy.no_match");
    look_up(&gateway, 1).await;
    assert_is(&ask(&gateway, "refunds.create", r#""order_id": 1"#).await, "deny", "policy.no_match");
    // `null` is a value within the arguments.
    let null = r#""order_id": 1, "charge": null"#;
    assert_is(&ask(&gateway, "refunds.create", null).await, "allow", "refund.after_lookup");
    assert_is(&ask(&gateway, "refunds.create", null).await, "deny", "policy.no_match");
    assert_is(&ask(&gateway, "mail.send", "").await, "deny", "policy.no_match");
    gateway.stop().await;
}

#[tokio::test]
async fn no_export_after_secrets_of_the_same_agent() {
    let (gateway, time) = start().await;
    assert_is(&ask(&gateway, "data.export", "").await, "allow", "export.clean");
    assert_is(&ask(&gateway, "secrets.read", "").await, "allow", "secret.read");
    let denied = ask(&gateway, "data.export", "").await;
    assert_is(&denied, "deny", "export.after_secrets");
    assert!(text(&denied, "explain.summary").unwrap().contains("\"export_after_secrets\""), "{denied}");
    // The agent of a bound key is another one, although the request names the same.
    let bound = gateway.decide("apk_bound", &call("data.export", "", "")).await;
    assert_is(&bound, "allow", "export.clean");
    time.fetch_add(24 * HOUR, Ordering::SeqCst);
    assert_is(&ask(&gateway, "data.export", "").await, "allow", "export.clean");
    gateway.stop().await;
}

#[tokio::test]
async fn count_and_sum_compare_exactly() {
    let (gateway, _) = start().await;
    for (decision, reason) in
        [("allow", "mail.first_two"), ("allow", "mail.first_two"), ("deny", "policy.no_match")]
    {
        assert_is(&ask(&gateway, "mail.send", r#""to": "a""#).await, decision, reason);
    }
    assert_is(&ask(&gateway, "mail.send", r#""to": "b""#).await, "allow", "mail.first_two");

    let transfer = async |amount: &str| {
        ask(&gateway, "transfers.create", &format!(r#""to": "x", "amount": {amount}"#)).await
    };
    assert_is(&transfer("100.5").await, "allow", "transfer.known");
    assert_is(&transfer("0.000000001").await, "allow", "transfer.known");
    // Only the approved action counts, not the one that waits for a person.
    let waiting = transfer("1").await;
    assert_is(&waiting, "require_approval", "transfer.much");
    approve(&gateway, text(&waiting, "approval_request_id").unwrap()).await;
    assert_is(&transfer("1").await, "allow", "approval.approved");
    assert_is(&transfer("2").await, "require_approval", "transfer.much");
    let amounts: Vec<String> = allowed_claims(&gateway).await.into_iter().map(|claim| claim.amount).collect();
    assert_eq!(amounts, ["1", "1", "1", "100.5", "0.000000001", "1"]);
    gateway.stop().await;
}

#[tokio::test]
async fn denies_requests_that_cannot_be_measured() {
    let (rules, time) = (RULES.replace("100.5", "999999999999999999"), Arc::new(AtomicU64::new(START)));
    let gateway = Gateway::start_with("", with(&rules, &time)).await;
    for amount in ["-1", "1e-10", "\"5\"", "null"] {
        let denied = ask(&gateway, "transfers.create", &format!(r#""to": "x", "amount": {amount}"#)).await;
        assert_is(&denied, "deny", "history.not_measurable");
        let summary = text(&denied, "explain.summary").unwrap();
        assert!(summary.contains("args.amount is not a number of at least 0"), "{summary}");
    }
    assert_is(&ask(&gateway, "transfers.create", r#""to": "x""#).await, "deny", "history.not_measurable");
    // A sum must stay exact.
    for (amount, decision, reason) in [
        ("999999999999999998", "allow", "transfer.known"),
        ("2", "deny", "history.not_measurable"),
        ("1.5", "allow", "transfer.known"),
    ] {
        let found = ask(&gateway, "transfers.create", &format!(r#""to": "y", "amount": {amount}"#)).await;
        assert_is(&found, decision, reason);
    }
    // Canonical JSON would round this number to its neighbor's.
    for order in ["9007199254740993", "0.10000000000000000000001"] {
        let lookup = ask(&gateway, "orders.lookup", &format!("\"order_id\": {order}")).await;
        assert_is(&lookup, "deny", "history.not_measurable");
        let args = format!(r#""order_id": {order}, "charge": "ch_1""#);
        assert_is(&ask(&gateway, "refunds.create", &args).await, "deny", "history.not_measurable");
    }
    let long = format!(r#""order_id": "{}", "charge": "ch_1""#, "x".repeat(1100));
    assert_is(&ask(&gateway, "refunds.create", &long).await, "deny", "history.not_measurable");
    gateway.stop().await;
}

async fn approve(gateway: &Gateway, id: &str) {
    let request = gateway.post(&format!("/api/v1/approvals/{id}/approve"), "apdv_one").body("{}");
    let (status, response) = json(request.send().await.unwrap()).await;
    assert_eq!(status, 200, "{response}");
}

#[tokio::test]
async fn repetition_is_answered_as_the_first_request() {
    let (gateway, time) = start().await;
    look_up(&gateway, 1).await;
    let body = call("refunds.create", &of(1, 1), r#", "idempotency_key": "once""#);
    let first = gateway.decide("apk_one", &body).await;
    assert_is(&first, "allow", "refund.after_lookup");
    // Also after the lookup has left the window.
    for hours in [0, 2] {
        time.fetch_add(hours * HOUR, Ordering::SeqCst);
        let again = gateway.decide("apk_one", &body).await;
        assert_is(&again, "allow", "refund.after_lookup");
        common::assert_repeats(&again, &first);
    }
    let mail = call("mail.send", r#""to": "a""#, r#", "idempotency_key": "mail""#);
    for _ in 0..4 {
        assert_is(&gateway.decide("apk_one", &mail).await, "allow", "mail.first_two");
    }
    // The repetitions recorded nothing: there is room for one more.
    assert_is(&ask(&gateway, "mail.send", r#""to": "a""#).await, "allow", "mail.first_two");
    assert_is(&ask(&gateway, "mail.send", r#""to": "a""#).await, "deny", "policy.no_match");
    // A denial is decided again under its key.
    let late = call("refunds.create", &of(2, 2), r#", "idempotency_key": "late""#);
    assert_is(&gateway.decide("apk_one", &late).await, "deny", "policy.no_match");
    look_up(&gateway, 2).await;
    assert_is(&gateway.decide("apk_one", &late).await, "allow", "refund.after_lookup");
    gateway.stop().await;
}

#[tokio::test]
async fn observing_modes_read_and_do_not_record() {
    let (gateway, _) = start().await;
    let observe = async |tool: &str, args: &str, mode: &str| {
        gateway.decide("apk_one", &call(tool, args, &format!(r#", "mode": "{mode}""#))).await
    };
    for mode in ["monitor", "warn"] {
        assert_is(&observe("orders.lookup", r#""order_id": 1"#, mode).await, "allow", "order.read");
    }
    assert_is(&refund(&gateway, 1, 1).await, "deny", "policy.no_match");
    assert_is(&observe("refunds.create", &of(1, 1), "monitor").await, "deny", "policy.no_match");
    assert_is(&observe("orders.lookup", r#""order_id": 1"#, "strict").await, "allow", "order.read");
    for mode in ["monitor", "warn"] {
        assert_is(&observe("refunds.create", &of(1, 1), mode).await, "allow", "refund.after_lookup");
    }
    assert_is(&observe("refunds.create", &of(1, 1), "strict").await, "allow", "refund.after_lookup");
    assert_is(&observe("refunds.create", &of(1, 1), "monitor").await, "deny", "policy.no_match");
    let warned = observe("refunds.create", &of(1, 1), "warn").await;
    assert_is(&warned, "warn", "policy.no_match");
    assert_eq!(text(&warned, "would_be"), Some("deny"));
    gateway.stop().await;
}

#[tokio::test]
async fn passport_is_used_once_its_history_allows() {
    let (gateway, _) = start().await;
    let body = r#"{"audience": "mcp://shop", "agent_id": "sdk", "goal": "serve a customer", "allowed_tools": ["refunds.create"]}"#;
    let issued = gateway.post("/api/v1/passports/issue", "apk_one").body(body);
    let (status, issued) = json(issued.send().await.unwrap()).await;
    assert_eq!(status, 200, "{issued}");
    let token = text(&issued, "token").unwrap();
    let presented =
        call("refunds.create", &of(1, 1), &format!(r#", "passport": "{token}", "audience": "mcp://shop""#));
    assert_is(&gateway.decide("apk_one", &presented).await, "deny", "policy.no_match");
    look_up(&gateway, 1).await;
    assert_is(&gateway.decide("apk_one", &presented).await, "allow", "refund.after_lookup");
    assert_is(&gateway.decide("apk_one", &presented).await, "deny", "passport.replayed");
    assert_is(&refund(&gateway, 1, 1).await, "deny", "policy.no_match");
    gateway.stop().await;
}

#[tokio::test]
async fn approved_action_still_needs_its_history() {
    let rules = RULES.replace(
        r#""decision": "allow", "reason": "refund.after_lookup""#,
        r#""decision": "require_approval", "reason": "refund.review""#,
    );
    let time = Arc::new(AtomicU64::new(START));
    let gateway = Gateway::start_with("", with(&rules, &time)).await;
    look_up(&gateway, 1).await;
    let waiting = refund(&gateway, 1, 1).await;
    assert_is(&waiting, "require_approval", "refund.review");
    approve(&gateway, text(&waiting, "approval_request_id").unwrap()).await;
    time.fetch_add(HOUR, Ordering::SeqCst);
    assert_is(&refund(&gateway, 1, 1).await, "deny", "policy.no_match");
    look_up(&gateway, 1).await;
    let waiting = refund(&gateway, 1, 2).await;
    approve(&gateway, text(&waiting, "approval_request_id").unwrap()).await;
    assert_is(&refund(&gateway, 1, 2).await, "allow", "approval.approved");
    assert_is(&refund(&gateway, 1, 2).await, "deny", "policy.no_match");
    gateway.stop().await;
}

#[tokio::test]
async fn history_survives_restart_and_other_rules() {
    let (mut gateway, time) = start().await;
    look_up(&gateway, 1).await;
    assert_is(&refund(&gateway, 1, 1).await, "allow", "refund.after_lookup");
    // The same definition with equal windows, and another rule.
    let rules = format!(
        r#"{{"name": "ping", "when": [{{"path": "tool", "operator": "==", "value": "ping"}}], "decision": "allow",
            "reason": "ping"}}, {}"#,
        RULES.replace(r#""within": "1h""#, r#""within": "60m""#).replace("30d", "720h")
    );
    gateway.restart(with(&rules, &time)).await;
    assert_is(&refund(&gateway, 1, 1).await, "deny", "policy.no_match");
    assert_is(&refund(&gateway, 1, 2).await, "allow", "refund.after_lookup");
    // Another window is another history, which starts empty.
    gateway.restart(with(&RULES.replace("1h", "2h"), &time)).await;
    assert_is(&refund(&gateway, 1, 3).await, "deny", "policy.no_match");
    gateway.stop().await;
}

#[tokio::test]
async fn accounts_of_histories_are_not_listed() {
    let (gateway, _) = start().await;
    look_up(&gateway, 1).await;
    assert_is(&refund(&gateway, 1, 1).await, "allow", "refund.after_lookup");
    let (status, listed) = json(gateway.get("/api/v1/budgets", "apdv_one").send().await.unwrap()).await;
    assert_eq!((status.as_u16(), listed.to_string().as_str()), (200, r#"{"budgets":[]}"#));
    let response = ask(&gateway, "data.export", "").await;
    assert_eq!(response.member("explain").unwrap().member("budgets"), None);
    let claims = allowed_claims(&gateway).await;
    let found: Vec<_> =
        claims.iter().map(|claim| (&*claim.account, &*claim.amount, &*claim.window)).collect();
    assert_eq!(found, [(r#"{"args.order_id":1}"#, "1", "1h"), (r#"{"args.charge":"ch_1"}"#, "1", "30d")]);
    assert!(claims.iter().all(|claim| claim.name.len() == "history:".len() + 32), "{claims:?}");
    assert_ne!(claims[0].name, claims[1].name);
    gateway.stop().await;
}

/// A charge is refunded again only after the first refund failed, and a report counts only after one
/// returned.
const OUTCOME_RULES: &str = r#"
    {"name": "refund", "when": [
        {"path": "tool", "operator": "==", "value": "refunds.create"},
        {"history": "never", "of": [
            {"path": "tool", "operator": "==", "value": "refunds.create"},
            {"path": "outcome", "operator": "not_in", "value": ["failed", "cancelled"]}],
         "within": "24h", "same": ["args.charge"]}],
     "decision": "allow", "reason": "refund.once"},
    {"name": "receipt", "when": [
        {"path": "tool", "operator": "==", "value": "receipts.send"},
        {"history": "after", "of": [
            {"path": "tool", "operator": "==", "value": "refunds.create"},
            {"path": "outcome", "operator": "==", "value": "returned"}],
         "within": "24h", "same": ["args.charge"]}],
     "decision": "allow", "reason": "receipt.returned"}"#;

async fn report(gateway: &Gateway, key: &str, response: &Json, ended: &str) -> u16 {
    let hash = text(response, "request_hash").unwrap();
    let body = format!(
        r#"{{"event_type": "action.outcome", "chain_id": "decisions", "request_hash": "{hash}",
            "metadata": {{"ended": "{ended}"}}}}"#
    );
    gateway.post(common::EVIDENCE, key).body(body).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn outcomes_decide_whether_an_action_counts() {
    let time = Arc::new(AtomicU64::new(START));
    let mut gateway = Gateway::start_with("", with(OUTCOME_RULES, &time)).await;
    let receipt = async |gateway: &Gateway| ask(gateway, "receipts.send", r#""charge": "ch_1""#).await;
    let first = refund(&gateway, 1, 1).await;
    assert_is(&first, "allow", "refund.once");
    // Before an outcome, it is pending.
    assert_is(&refund(&gateway, 2, 1).await, "deny", "policy.no_match");
    assert_is(&receipt(&gateway).await, "deny", "policy.no_match");
    report(&gateway, "apk_one", &first, "suspended").await;
    assert_is(&refund(&gateway, 3, 1).await, "deny", "policy.no_match");
    // Another key does not own the decision.
    report(&gateway, "apk_bound", &first, "failed").await;
    assert_is(&refund(&gateway, 4, 1).await, "deny", "policy.no_match");
    report(&gateway, "apk_one", &first, "failed").await;
    assert_is(&receipt(&gateway).await, "deny", "policy.no_match");
    let second = refund(&gateway, 5, 1).await;
    assert_is(&second, "allow", "refund.once");
    // A report on the first action does not end the second one.
    report(&gateway, "apk_one", &first, "failed").await;
    assert_is(&refund(&gateway, 6, 1).await, "deny", "policy.no_match");
    gateway.restart(with(OUTCOME_RULES, &time)).await;
    report(&gateway, "apk_one", &second, "returned").await;
    // The first final outcome stays.
    report(&gateway, "apk_one", &second, "failed").await;
    assert_is(&receipt(&gateway).await, "allow", "receipt.returned");
    assert_is(&refund(&gateway, 7, 1).await, "deny", "policy.no_match");
    // The window is that of the decision, not of the report.
    time.fetch_add(24 * HOUR, Ordering::SeqCst);
    assert_is(&receipt(&gateway).await, "deny", "policy.no_match");
    let late = refund(&gateway, 8, 1).await;
    assert_is(&late, "allow", "refund.once");
    time.fetch_add(24 * HOUR, Ordering::SeqCst);
    report(&gateway, "apk_one", &late, "returned").await;
    assert_is(&receipt(&gateway).await, "deny", "policy.no_match");
    let events = gateway.events("apdv_one", "decisions").await;
    let claims = events[0].member("budgets").unwrap().to_string();
    assert!(claims.contains(r#""outcomes":"pending,returned,suspended""#), "{claims}");
    assert!(claims.contains(r#""outcomes":"returned""#), "{claims}");
    gateway.stop().await;
}

/// The claim of an `allow` on a history, from its event.
#[derive(Debug)]
struct Claim {
    event: String,
    tool: String,
    name: String,
    account: String,
    amount: String,
    window: String,
}

async fn allowed_claims(gateway: &Gateway) -> Vec<Claim> {
    let events = gateway.events("apdv_one", "decisions").await;
    let allowed = events.iter().filter(|event| text(event, "decision") == Some("allow"));
    allowed.flat_map(claims_of).collect()
}

fn claims_of(event: &Json) -> Vec<Claim> {
    let Some(Json::Array(claims)) = event.member("budgets") else { return Vec::new() };
    let of_event = |name: &str| text(event, name).unwrap().to_owned();
    claims
        .iter()
        .map(|claim| {
            let of_claim = |name: &str| text(claim, name).unwrap().to_owned();
            assert_eq!(claim.member("limit"), None);
            Claim {
                event: of_event("event_id"),
                tool: of_event("tool_id"),
                name: of_claim("name"),
                account: of_claim("account"),
                amount: of_claim("amount"),
                window: of_claim("window"),
            }
        })
        .collect()
}

/// Returns when an event was recorded, in milliseconds since 1970.
fn at(event: &Json) -> u128 {
    let created_at = humantime::parse_rfc3339(text(event, "created_at").unwrap()).unwrap();
    created_at.duration_since(UNIX_EPOCH).unwrap().as_millis()
}

/// 64 clients refund each charge concurrently.
#[tokio::test]
async fn races_allow_one_refund_of_a_charge() {
    let (gateway, time) = start().await;
    for charge in 1..=6 {
        look_up(&gateway, charge).await;
        let responses = join_all((0..64).map(|_| refund(&gateway, charge, charge))).await;
        let allowed = responses.iter().filter(|found| text(found, "decision") == Some("allow")).count();
        assert_eq!(allowed, 1, "charge {charge}");
        time.fetch_add(1, Ordering::SeqCst);
    }
    let mut refunds: HashMap<String, usize> = HashMap::new();
    for claim in allowed_claims(&gateway).await {
        if claim.tool == "refunds.create" && claim.window == "30d" {
            *refunds.entry(claim.account).or_default() += 1;
        }
    }
    assert_eq!(refunds.len(), 6);
    assert!(refunds.values().all(|count| *count == 1), "{refunds:?}");
    let events = gateway.events("apdv_one", "decisions").await;
    assert_eq!(events.len(), 6 * 65);
    gateway.stop().await;
}

/// Races lookups and refunds while the clock advances, then decides every refund again from the
/// ledger alone.
#[tokio::test]
async fn ledger_explains_every_decision() {
    let rules = RULES.replace("1h", "10s").replace("30d", "20s").replace("args.charge", "args.order_id");
    let time = Arc::new(AtomicU64::new(START));
    let gateway = Gateway::start_with("", with(&rules, &time)).await;
    let mut random = common::random(11);
    let mut orders: HashMap<String, String> = HashMap::new();
    for _ in 0..40 {
        let calls: Vec<(u64, u64)> = (0..16).map(|_| (random(6), random(3))).collect();
        let gateway = &gateway;
        let responses = join_all(calls.iter().map(|(order, kind)| async move {
            match kind {
                0 => ask(gateway, "orders.lookup", &format!("\"order_id\": {order}")).await,
                _ => refund(gateway, *order, 1).await,
            }
        }))
        .await;
        for ((order, _), response) in calls.iter().zip(&responses) {
            let event = text(response, "evidence_event_id").unwrap().to_owned();
            orders.insert(event, format!(r#"{{"args.order_id":{order}}}"#));
        }
        time.fetch_add(random(4_000), Ordering::SeqCst);
    }
    let (mut lookups, mut refunds) = (Vec::new(), Vec::new());
    let (mut allowed, mut denied) = (0, 0);
    for event in gateway.events("apdv_one", "decisions").await {
        let (now, order) = (at(&event), &orders[text(&event, "event_id").unwrap()]);
        let claims = claims_of(&event);
        if text(&event, "tool_id") == Some("orders.lookup") {
            assert_eq!(claims.len(), 1);
            lookups.push((now, claims[0].account.clone()));
            continue;
        }
        let recent = |history: &[(u128, String)], millis: u128| {
            history.iter().any(|(then, account)| account == order && then + millis > now)
        };
        let expected = recent(&lookups, 10_000) && !recent(&refunds, 20_000);
        assert_eq!(text(&event, "decision") == Some("allow"), expected, "{event}");
        match expected {
            true => {
                assert_eq!(claims.len(), 1);
                assert_eq!(
                    (&claims[0].account, &*claims[0].event),
                    (order, text(&event, "event_id").unwrap())
                );
                refunds.push((now, order.clone()));
                allowed += 1;
            }
            false => {
                assert!(claims.is_empty());
                denied += 1;
            }
        }
    }
    assert!(allowed > 10 && denied > 100, "{allowed} allowed, {denied} denied");
    gateway.stop().await;
}

/// Budgets and histories of one action are recorded together, or not at all.
#[tokio::test]
async fn denied_action_does_not_count() {
    let policy = |limit: u32| {
        format!(
            r#"{RULES}], "budgets": [{{"name": "lookups", "when": [{{"path": "tool", "operator": "==",
                "value": "orders.lookup"}}], "per": [], "count": true, "limit": {limit}, "window": "24h",
                "on_exceed": "deny", "reason": "order.many"}}"#
        )
    };
    let time = Arc::new(AtomicU64::new(START));
    let gateway = Gateway::start_with("", with(&policy(1), &time)).await;
    let first = ask(&gateway, "orders.lookup", r#""order_id": 1"#).await;
    let budgets = first.member("explain").unwrap().member("budgets").unwrap().to_string();
    let expected = r#"[{"name":"lookups","account":{},"limit":1,"used":1,"remaining":0,"window":"24h"}]"#;
    assert_eq!(budgets, expected);
    assert_is(&ask(&gateway, "orders.lookup", r#""order_id": 2"#).await, "deny", "order.many");
    assert_is(&refund(&gateway, 2, 2).await, "deny", "policy.no_match");
    assert_is(&refund(&gateway, 1, 1).await, "allow", "refund.after_lookup");
    gateway.stop().await;
}
