//! Budgets over HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use actpass_gateway::clock::Clock;
use actpass_gateway::config::{MasterKeySource, Settings};
use actpass_gateway::seal::MasterKey;
use actpass_protocol::Json;
use common::{EVIDENCE, Gateway, config_with, json, text};
use futures_util::future::join_all;
use tempfile::TempDir;

const START: u64 = 1_800_000_000_000;

/// Allows payments of up to 10000, requires an approval above, and has these budgets.
fn policy(budgets: &str) -> String {
    format!(
        r#"{{"id": "payments", "version": 1, "budgets": {budgets}, "rules": [
            {{"name": "small", "when": [{{"path": "args.amount", "operator": "<=", "value": 10000}}],
              "decision": "allow", "reason": "payment.small"}},
            {{"name": "unmeasured", "when": [{{"path": "args.amount", "operator": "exists", "value": false}}],
              "decision": "allow", "reason": "payment.unmeasured"}},
            {{"name": "text", "when": [{{"path": "args.amount", "operator": "==", "value": "100"}}],
              "decision": "allow", "reason": "payment.text"}},
            {{"name": "large", "when": [], "decision": "require_approval", "reason": "payment.large"}}
        ]}}"#
    )
}

/// A daily limit of 500 per agent.
fn daily(on_exceed: &str, more: &str) -> String {
    format!(
        r#"[{{"name": "daily", "when": [{{"path": "tool", "operator": "==", "value": "pay"}}],
            "per": ["agent_id"], "sum": "args.amount", "limit": 500, "window": "24h",
            "on_exceed": "{on_exceed}", "reason": "payment.daily_limit"{more}}}]"#
    )
}

fn with(budgets: &str, time: &Arc<AtomicU64>) -> impl FnOnce(&mut Settings) + use<> {
    let (policy, time) = (policy(budgets), Arc::clone(time));
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

async fn start(budgets: &str) -> (Gateway, Arc<AtomicU64>) {
    let time = Arc::new(AtomicU64::new(START));
    (Gateway::start_with("", with(budgets, &time)).await, time)
}

fn pay(amount: &str, more: &str) -> String {
    format!(
        r#"{{"agent_id": "sdk", "goal": "pay an invoice", "tool": "pay", "args": {{"amount": {amount}}}{more}}}"#
    )
}

async fn ask(gateway: &Gateway, amount: &str) -> Json {
    gateway.decide("apk_one", &pay(amount, "")).await
}

#[track_caller]
fn assert_is(response: &Json, decision: &str, reason: &str) {
    let found = (text(response, "decision"), text(response, "reason_code"));
    assert_eq!(found, (Some(decision), Some(reason)), "{response}");
}

/// The budgets in a response.
fn budgets(response: &Json) -> String {
    let explain = response.member("explain").unwrap();
    explain.member("budgets").map(Json::to_string).unwrap_or_default()
}

fn daily_use(used: u32) -> String {
    let remaining = 500_u32.saturating_sub(used);
    format!(
        r#"[{{"name":"daily","account":{{"agent_id":"sdk"}},"limit":500,"used":{used},"remaining":{remaining},"window":"24h"}}]"#
    )
}

#[tokio::test]
async fn allowed_sum_stays_within_limit() {
    let (gateway, time) = start(&daily("deny", "")).await;
    for payment in 1..=5 {
        let allowed = ask(&gateway, "100").await;
        assert_is(&allowed, "allow", "payment.small");
        assert_eq!(budgets(&allowed), daily_use(payment * 100));
    }
    for _ in 0..4 {
        let denied = ask(&gateway, "100").await;
        assert_is(&denied, "deny", "payment.daily_limit");
        assert_eq!(budgets(&denied), daily_use(500));
        assert_eq!(denied.member("risk_tier").map(Json::to_string).as_deref(), Some(r#""medium""#));
    }
    // Another agent and another tool do not share the account.
    let other = pay("100", "").replace("\"sdk\"", "\"other\"");
    assert_is(&gateway.decide("apk_one", &other).await, "allow", "payment.small");
    let tool = pay("100", "").replace("\"pay\"", "\"transfer\"");
    let free = gateway.decide("apk_one", &tool).await;
    assert_eq!((text(&free, "decision"), budgets(&free)), (Some("allow"), String::new()));
    // The agent of a bound key is the key's, not the one that the request names.
    let bound = gateway.decide("apk_bound", &pay("100", "")).await;
    assert!(budgets(&bound).contains(r#"{"agent_id":"support"},"limit":500,"used":100"#), "{bound}");
    // Each tenant has its accounts.
    assert_eq!(budgets(&gateway.decide("apk_two", &pay("100", "")).await), daily_use(100));

    time.fetch_add(86_400_000 - 1, Ordering::SeqCst);
    assert_is(&ask(&gateway, "100").await, "deny", "payment.daily_limit");
    time.fetch_add(1, Ordering::SeqCst);
    assert_is(&ask(&gateway, "500").await, "allow", "payment.small");
    gateway.stop().await;
}

#[tokio::test]
async fn event_records_the_claim() {
    let (gateway, _) = start(&daily("deny", "")).await;
    ask(&gateway, "400.50").await;
    ask(&gateway, "100").await;
    let events = gateway.events("apdv_one", "decisions").await;
    let claim = |amount: &str| {
        format!(
            r#"[{{"account":"{{\"agent_id\":\"sdk\"}}","amount":"{amount}","limit":"500","name":"daily","window":"24h"}}]"#
        )
    };
    let found: Vec<_> = events
        .iter()
        .map(|event| (text(event, "decision").unwrap(), event.member("budgets").unwrap().to_string()))
        .collect();
    assert_eq!(found, [("allow", claim("400.5")), ("deny", claim("100"))]);
    gateway.stop().await;
}

#[tokio::test]
async fn smaller_amount_fits_after_denial() {
    let (gateway, _) = start(&daily("deny", "")).await;
    assert_is(&ask(&gateway, "499.999999999").await, "allow", "payment.small");
    assert_is(&ask(&gateway, "0.000000002").await, "deny", "payment.daily_limit");
    assert_is(&ask(&gateway, "0.000000001").await, "allow", "payment.small");
    assert_is(&ask(&gateway, "0").await, "allow", "payment.small");
    assert_is(&ask(&gateway, "1e-9").await, "deny", "payment.daily_limit");
    gateway.stop().await;
}

#[tokio::test]
async fn denies_amounts_that_cannot_be_measured() {
    let (gateway, _) = start(&daily("deny", "")).await;
    for amount in ["-1", "1e-10", "0.12345678901", "-1e300"] {
        assert_is(&ask(&gateway, amount).await, "deny", "budget.not_measurable");
    }
    assert_is(&ask(&gateway, "\"100\"").await, "deny", "budget.not_measurable");
    let missing = pay("100", "").replace("\"amount\"", "\"cents\"");
    let denied = gateway.decide("apk_one", &missing).await;
    assert_is(&denied, "deny", "budget.not_measurable");
    let summary = text(&denied, "explain.summary").unwrap();
    assert!(summary.contains("args.amount is not a number of at least 0"), "{summary}");
    // Nothing of it was claimed.
    assert_is(&ask(&gateway, "500").await, "allow", "payment.small");
    gateway.stop().await;
}

#[tokio::test]
async fn denies_accounts_that_are_too_long() {
    let (gateway, _) = start(&daily("deny", "").replace("agent_id", "args.note")).await;
    for (length, decision, reason) in
        [(1000, "allow", "payment.small"), (1100, "deny", "budget.not_measurable")]
    {
        let body = pay(&format!("1, \"note\": \"{}\"", "x".repeat(length)), "");
        assert_is(&gateway.decide("apk_one", &body).await, decision, reason);
    }
    gateway.stop().await;
}

#[tokio::test]
async fn replay_claims_nothing() {
    let (gateway, _) = start(&daily("deny", "")).await;
    let body = pay("300", r#", "idempotency_key": "once""#);
    let first = gateway.decide("apk_one", &body).await;
    assert_eq!(budgets(&first), daily_use(300));
    for _ in 0..3 {
        let again = gateway.decide("apk_one", &body).await;
        assert_eq!(again.member("replayed"), Some(&Json::Bool(true)));
        assert_eq!((text(&again, "decision"), budgets(&again)), (Some("allow"), daily_use(300)));
    }
    assert_is(&ask(&gateway, "200").await, "allow", "payment.small");
    // A denial is decided again under its key.
    let late = pay("100", r#", "idempotency_key": "late""#);
    assert_is(&gateway.decide("apk_one", &late).await, "deny", "payment.daily_limit");
    assert_is(&gateway.decide("apk_one", &late).await, "deny", "payment.daily_limit");
    gateway.stop().await;
}

#[tokio::test]
async fn observing_modes_claim_nothing() {
    for on_exceed in ["deny", "require_approval"] {
        let (gateway, _) = start(&daily(on_exceed, "")).await;
        let observe = async |amount: &str, mode: &str| {
            gateway.decide("apk_one", &pay(amount, &format!(r#", "mode": "{mode}""#))).await
        };
        for mode in ["monitor", "warn"] {
            for _ in 0..3 {
                let allowed = observe("500", mode).await;
                assert_is(&allowed, "allow", "payment.small");
                assert_eq!(budgets(&allowed), daily_use(0));
            }
        }
        assert_is(&ask(&gateway, "500").await, "allow", "payment.small");
        let monitored = observe("1", "monitor").await;
        assert_is(&monitored, on_exceed, "payment.daily_limit");
        assert_eq!(monitored.member("approval_request_id"), None);
        let warned = observe("1", "warn").await;
        assert_is(&warned, "warn", "payment.daily_limit");
        assert_eq!(text(&warned, "would_be"), Some(on_exceed));
        gateway.stop().await;
    }
}

async fn approve(gateway: &Gateway, id: &str) {
    let request = gateway.post(&format!("/api/v1/approvals/{id}/approve"), "apdv_one").body("{}");
    let (status, response) = json(request.send().await.unwrap()).await;
    assert_eq!(status, 200, "{response}");
}

#[tokio::test]
async fn person_approves_what_exceeds_the_budget() {
    let (gateway, _) = start(&daily("require_approval", "")).await;
    assert_is(&ask(&gateway, "500").await, "allow", "payment.small");
    let waiting = ask(&gateway, "100").await;
    assert_is(&waiting, "require_approval", "payment.daily_limit");
    assert_eq!(budgets(&waiting), daily_use(500));
    let id = text(&waiting, "approval_request_id").unwrap();
    let summary = text(&waiting, "explain.summary").unwrap();
    assert!(summary.contains(r#"would exceed the budget "daily" of 500 in 24h"#), "{summary}");
    // The same action meets the same request.
    assert_eq!(text(&ask(&gateway, "100").await, "approval_request_id"), Some(id));
    let (_, listed) = json(gateway.get("/api/v1/approvals", "apdv_one").send().await.unwrap()).await;
    assert!(listed.to_string().contains("payment.daily_limit"), "{listed}");

    approve(&gateway, id).await;
    let other = ask(&gateway, "99").await;
    assert_is(&other, "require_approval", "payment.daily_limit");
    let allowed = ask(&gateway, "100").await;
    assert_is(&allowed, "allow", "approval.approved");
    assert_eq!(budgets(&allowed), daily_use(600));
    assert_is(&ask(&gateway, "100").await, "require_approval", "payment.daily_limit");
    // Named: spent.
    let named = pay("100", &format!(r#", "approval_request_id": "{id}""#));
    assert_is(&gateway.decide("apk_one", &named).await, "deny", "approval.spent");
    gateway.stop().await;
}

#[tokio::test]
async fn approval_is_not_spent_while_the_budget_suffices() {
    let (gateway, time) = start(&daily("require_approval", "")).await;
    ask(&gateway, "500").await;
    let waiting = ask(&gateway, "100").await;
    let id = text(&waiting, "approval_request_id").unwrap();
    approve(&gateway, id).await;
    // The window passes, though the approval is still valid.
    time.fetch_add(86_400_000, Ordering::SeqCst);
    assert_is(&ask(&gateway, "100").await, "allow", "payment.small");
    gateway.stop().await;
}

#[tokio::test]
async fn approved_action_is_denied_beyond_a_denying_budget() {
    let limit = daily("deny", "").replace("500", "20000");
    let (gateway, _) = start(&limit).await;
    for expected in [("allow", "approval.approved"), ("deny", "payment.daily_limit")] {
        let waiting = ask(&gateway, "15000").await;
        assert_is(&waiting, "require_approval", "payment.large");
        approve(&gateway, text(&waiting, "approval_request_id").unwrap()).await;
        assert_is(&ask(&gateway, "15000").await, expected.0, expected.1);
    }
    // The approval of the denied action is not spent.
    assert_is(&ask(&gateway, "15000").await, "deny", "payment.daily_limit");
    gateway.stop().await;
}

async fn issue(gateway: &Gateway) -> String {
    let body = r#"{"audience": "mcp://bank", "agent_id": "sdk", "goal": "pay an invoice", "allowed_tools": ["pay"]}"#;
    let request = gateway.post("/api/v1/passports/issue", "apk_one").body(body);
    let (status, response) = json(request.send().await.unwrap()).await;
    assert_eq!(status, 200, "{response}");
    text(&response, "token").unwrap().to_owned()
}

#[tokio::test]
async fn passport_is_not_used_if_the_budget_denies() {
    let (gateway, _) = start(&daily("deny", "")).await;
    let token = issue(&gateway).await;
    let presented =
        |amount: &str| pay(amount, &format!(r#", "passport": "{token}", "audience": "mcp://bank""#));
    assert_is(&gateway.decide("apk_one", &presented("501")).await, "deny", "payment.daily_limit");
    let allowed = gateway.decide("apk_one", &presented("500")).await;
    assert_is(&allowed, "allow", "payment.small");
    assert_eq!(budgets(&allowed), daily_use(500));
    // A used passport claims nothing.
    assert_is(&gateway.decide("apk_one", &presented("0")).await, "deny", "passport.replayed");
    gateway.stop().await;
}

#[tokio::test]
async fn several_budgets_claim_all_or_nothing() {
    let both = r#"[
        {"name": "sum", "when": [], "per": [], "sum": "args.amount", "limit": 300, "window": "1h",
         "on_exceed": "require_approval", "reason": "payment.sum"},
        {"name": "count", "when": [], "per": ["tool", "args.currency"], "count": true, "limit": 2, "window": "1m",
         "on_exceed": "deny", "reason": "payment.count"}]"#;
    let (gateway, time) = start(both).await;
    assert_is(&ask(&gateway, "100").await, "allow", "payment.small");
    // The sum does not suffice, so the count is not claimed.
    for _ in 0..3 {
        assert_is(&ask(&gateway, "201").await, "require_approval", "payment.sum");
    }
    let second = ask(&gateway, "100").await;
    assert!(
        budgets(&second).ends_with(
            r#"{"name":"count","account":{"args.currency":null,"tool":"pay"},"limit":2,"used":2,"remaining":0,"window":"1m"}]"#
        ),
        "{second}"
    );
    // If both are exceeded, the denial decides.
    assert_is(&ask(&gateway, "500").await, "deny", "payment.count");
    time.fetch_add(60_000, Ordering::SeqCst);
    assert_is(&ask(&gateway, "100").await, "allow", "payment.small");
    gateway.stop().await;
}

#[tokio::test]
async fn operator_lists_accounts() {
    let (mut gateway, time) = start(&daily("deny", "")).await;
    let list = async |gateway: &Gateway, key: &str, query: &str| {
        let (status, body) =
            json(gateway.get(&format!("/api/v1/budgets{query}"), key).send().await.unwrap()).await;
        (status.as_u16(), body.to_string())
    };
    assert_eq!(list(&gateway, "apdv_one", "").await, (200, r#"{"budgets":[]}"#.to_owned()));
    for agent in ["a", "b", "c"] {
        gateway.decide("apk_one", &pay("100", "").replace("\"sdk\"", &format!("\"{agent}\""))).await;
    }
    time.fetch_add(3_600_000, Ordering::SeqCst);
    gateway.decide("apk_one", &pay("50.5", "").replace("\"sdk\"", "\"a\"")).await;
    let (_, first) = list(&gateway, "apdv_one", "?limit=2").await;
    let next = text(&Json::parse(first.as_bytes()).unwrap(), "next").unwrap().to_owned();
    let of = |agent: &str, used: &str, remaining: &str| {
        format!(
            r#"{{"name":"daily","account":{{"agent_id":"{agent}"}},"limit":500,"used":{used},"remaining":{remaining},"window":"24h"}}"#
        )
    };
    let page =
        format!(r#"{{"budgets":[{},{}],"next":"{next}"}}"#, of("a", "150.5", "349.5"), of("b", "100", "400"));
    assert_eq!(first, page);
    let rest = format!(r#"{{"budgets":[{}]}}"#, of("c", "100", "400"));
    assert_eq!(list(&gateway, "apdv_one", &format!("?after={next}")).await, (200, rest));
    // Expired claims do not count, also before they are removed.
    time.fetch_add(86_400_000 - 3_600_000, Ordering::SeqCst);
    assert!(list(&gateway, "apdv_one", "").await.1.contains(&of("a", "50.5", "449.5")));
    for query in ["?limit=0", "?limit=1001", "?after=x", "?after=-1", "?limit=1&limit=1", "?tool=pay"] {
        assert_eq!(list(&gateway, "apdv_one", query).await.0, 422, "{query}");
    }
    assert_eq!(list(&gateway, "apk_one", "").await.0, 403);
    // A budget that the policy no longer has.
    gateway.restart(with("[]", &time)).await;
    let (_, all) = list(&gateway, "apdv_one", "").await;
    assert!(all.contains(r#""limit":null,"used":50.5,"remaining":null,"window":null"#), "{all}");
    gateway.stop().await;
}

async fn report(gateway: &Gateway, key: &str, response: &Json, ended: &str) {
    let hash = text(response, "request_hash").unwrap();
    let body = format!(
        r#"{{"event_type": "action.outcome", "chain_id": "decisions", "request_hash": "{hash}",
            "metadata": {{"ended": "{ended}"}}}}"#
    );
    gateway.post(EVIDENCE, key).body(body).send().await.unwrap();
}

#[tokio::test]
async fn failed_action_returns_its_amount_once() {
    let (gateway, _) = start(&daily("deny", r#", "release_on_failure": true"#)).await;
    let first = ask(&gateway, "300").await;
    let second = ask(&gateway, "200").await;
    // The first outcome other than `suspended` is final.
    for (action, ended) in [(&first, "suspended"), (&second, "returned"), (&second, "failed")] {
        report(&gateway, "apk_one", action, ended).await;
    }
    // Another key does not own the decision.
    report(&gateway, "apk_bound", &first, "failed").await;
    assert_is(&ask(&gateway, "1").await, "deny", "payment.daily_limit");
    report(&gateway, "apk_one", &first, "failed").await;
    report(&gateway, "apk_one", &first, "failed").await;
    let again = ask(&gateway, "300").await;
    assert_is(&again, "allow", "payment.small");
    assert_eq!(budgets(&again), daily_use(500));
    assert_is(&ask(&gateway, "1").await, "deny", "payment.daily_limit");
    gateway.stop().await;

    let (gateway, _) = start(&daily("deny", "")).await;
    let kept = ask(&gateway, "500").await;
    report(&gateway, "apk_one", &kept, "failed").await;
    assert_is(&ask(&gateway, "1").await, "deny", "payment.daily_limit");
    gateway.stop().await;
}

#[tokio::test]
async fn claims_survive_restart() {
    let (mut gateway, time) = start(&daily("deny", "")).await;
    ask(&gateway, "400").await;
    gateway.restart(with(&daily("deny", ""), &time)).await;
    assert_is(&ask(&gateway, "101").await, "deny", "payment.daily_limit");
    // A lower limit applies immediately to earlier claims.
    gateway.restart(with(&daily("deny", "").replace("500", "300"), &time)).await;
    assert_is(&ask(&gateway, "1").await, "deny", "payment.daily_limit");
    // A clock that runs backwards does not reset the window.
    time.fetch_sub(3_600_000, Ordering::SeqCst);
    gateway.restart(with(&daily("deny", ""), &time)).await;
    assert_is(&ask(&gateway, "101").await, "deny", "payment.daily_limit");
    gateway.stop().await;
}

/// Races requests of random size while the clock advances, then checks every window in the ledger.
#[tokio::test]
async fn races_never_exceed_any_window() {
    let (gateway, time) = start(&daily("deny", "").replace("24h", "10s").replace("500", "1000")).await;
    let mut random = common::random(7);
    for _ in 0..60 {
        let amounts: Vec<String> = (0..16).map(|_| random(200).to_string()).collect();
        join_all(amounts.iter().map(|amount| ask(&gateway, amount))).await;
        time.fetch_add(random(2_500), Ordering::SeqCst);
    }
    let events = gateway.events("apdv_one", "decisions").await;
    assert_eq!(events.len(), 60 * 16);
    let (allowed, denied) = common::assert_windows(&events, 10_000, 1000);
    assert!(allowed > 100 && denied > 100, "{allowed} allowed, {denied} denied");
    gateway.stop().await;
}
