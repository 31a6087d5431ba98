//! Credentials: included in allowed responses and nowhere else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use actpass_gateway::clock::Clock;
use actpass_gateway::config::MasterKeySource;
use actpass_gateway::seal::MasterKey;
use actpass_gateway::store::{SealedCredential, Store, TransitionOutcome};
use actpass_gateway::vault::{self, Vault};
use actpass_protocol::{Json, Secret};
use common::{Gateway, PREFLIGHT, json, refund, text};

const NOW: i64 = 2_000_000_000;
const TOKEN: &str = "gateway_vault_secret";

/// A gateway with a vault, a test clock, and direct access to its data.
struct Fixture {
    gateway: Gateway,
    beside: Arc<dyn Store>,
    now: Arc<AtomicI64>,
}

impl Fixture {
    async fn start() -> Self {
        Self::start_with(MasterKeySource::Given(master())).await
    }

    async fn start_with(source: MasterKeySource) -> Self {
        let now = Arc::new(AtomicI64::new(NOW));
        let shown = Arc::clone(&now);
        let gateway = Gateway::start_with("", |settings| {
            settings.master_key = source;
            settings.clock = Clock::new(move || {
                UNIX_EPOCH + Duration::from_secs(u64::try_from(shown.load(Ordering::SeqCst)).unwrap())
            });
        })
        .await;
        let beside = gateway.data.open_existing().await.unwrap();
        Self { gateway, beside, now }
    }

    async fn set(&self, tenant: &str, tool: &str, expires_at: Option<i64>) -> SealedCredential {
        let vault = Vault::new(&master()).unwrap();
        let sealed = vault.seal(tenant, tool, &Secret::from(TOKEN), NOW, expires_at).unwrap();
        self.beside.record(vault::set(tenant, sealed.clone())).await.unwrap();
        sealed
    }

    async fn decide(&self, more: &str) -> Json {
        self.gateway.decide("apk_one", &refund("4900", more)).await
    }

    async fn status(&self, body: &str) -> (u16, Json) {
        let response = self.gateway.post(PREFLIGHT, "apk_one").body(body.to_owned()).send().await.unwrap();
        let (status, body) = json(response).await;
        (status.as_u16(), body)
    }

    /// Preflight members with a new passport.
    async fn passport(&self) -> String {
        let body = r#"{"audience": "a", "agent_id": "sdk", "goal": "refund an order", "allowed_tools": ["refunds.create"]}"#;
        let issued = self.gateway.post("/api/v1/passports/issue", "apk_one").body(body).send().await.unwrap();
        let (_, issued) = json(issued).await;
        format!(r#", "audience": "a", "passport": "{}""#, text(&issued, "token").unwrap())
    }
}

fn master() -> MasterKey {
    MasterKey::parse(&"07".repeat(32)).unwrap()
}

fn has(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[tokio::test]
async fn allowed_call_returns_credential_without_storing_it() {
    let fixture = Fixture::start().await;
    assert_eq!(fixture.decide("").await.member("credential"), None);
    let sealed = fixture.set("one", "refunds.create", Some(NOW + 60)).await;
    for mode in ["enforce", "strict", "warn", "monitor"] {
        let response = fixture.decide(&format!(r#", "mode": "{mode}""#)).await;
        assert_eq!(text(&response, "decision"), Some("allow"));
        assert_eq!(text(&response, "credential.token"), Some(TOKEN), "{mode}");
        assert_eq!(text(&response, "credential.expires_at"), Some("2033-05-18T03:34:20Z"));
        assert_eq!(text(&response, "credential_id"), Some(&*sealed.id));
    }
    // No credential without an allow, for another tenant's tool of the same name, or for another
    // tool.
    for mode in ["enforce", "strict", "warn", "monitor"] {
        let denied =
            fixture.gateway.decide("apk_one", &refund("90000", &format!(r#", "mode": "{mode}""#))).await;
        assert_ne!(text(&denied, "decision"), Some("allow"));
        assert!(
            denied.member("credential").is_none() && denied.member("credential_id").is_none(),
            "{denied}"
        );
    }
    assert_eq!(fixture.gateway.decide("apk_two", &refund("4900", "")).await.member("credential"), None);

    let events = fixture.gateway.events("apk_one", "decisions").await;
    let ids: Vec<_> = events.iter().map(|event| text(event, "credential_id")).collect();
    let bound = Some(&*sealed.id);
    assert_eq!(ids, [None, bound, bound, bound, bound, None, None, None, None]);
    let events = fixture.gateway.events("apk_one", "vault").await;
    assert_eq!(events.len(), 1);
    for (member, value) in [
        ("event_type", "credential.set"),
        ("tool_id", "refunds.create"),
        ("credential_id", &sealed.id),
        ("key_name", "(command line)"),
        ("metadata.expires_at", "2033-05-18T03:34:20Z"),
    ] {
        assert_eq!(text(&events[0], member), Some(value), "{member}");
    }
    assert!(!events[0].to_string().contains(TOKEN));
    assert!(
        has(&fixture.gateway.everything_kept(), &sealed.id)
            && !has(&fixture.gateway.everything_kept(), TOKEN)
    );
}

#[tokio::test]
async fn replay_returns_same_credential() {
    let fixture = Fixture::start().await;
    fixture.set("one", "refunds.create", None).await;
    let first = fixture.decide(r#", "idempotency_key": "k""#).await;
    assert_eq!(text(&first, "credential.token"), Some(TOKEN));
    assert_eq!(first.member("credential").unwrap().member("expires_at"), Some(&Json::Null));
    common::assert_repeats(&fixture.decide(r#", "idempotency_key": "k""#).await, &first);
    assert_eq!(fixture.gateway.events("apk_one", "decisions").await.len(), 1);
    assert!(!has(&fixture.gateway.everything_kept(), TOKEN));
}

#[tokio::test]
async fn response_is_not_replayed_after_credential_removal() {
    let fixture = Fixture::start().await;
    fixture.set("one", "refunds.create", Some(NOW + 60)).await;
    let body = refund("4900", r#", "idempotency_key": "k""#);
    let (_, first) = fixture.status(&body).await;
    common::assert_repeats(&fixture.status(&body).await.1, &first);
    let anew = async |decision: &str, token: Option<&str>, why: &str| {
        let (status, response) = fixture.status(&body).await;
        assert_eq!((status, text(&response, "decision")), (200, Some(decision)), "{why}: {response}");
        assert_ne!(text(&response, "evidence_event_id"), text(&first, "evidence_event_id"), "{why}");
        assert_eq!(text(&response, "credential.token"), token, "{why}");
        // A replayed `allow` does not permit another execution.
        let marked = response.member("replayed") == Some(&Json::Bool(true));
        assert_eq!(marked, decision == "allow", "{why}: {response}");
        response
    };
    fixture.now.store(NOW + 60, Ordering::SeqCst);
    anew("deny", None, "expired").await;
    let next = fixture.set("one", "refunds.create", None).await;
    let replaced = anew("allow", Some(TOKEN), "replaced").await;
    assert_eq!(text(&replaced, "credential_id"), Some(&*next.id));
    let age = replaced.member("replay_age_ms").unwrap().to_string();
    assert!(age.parse::<i64>().unwrap() >= 60_000, "{age}");
    // That response is now the stored one.
    common::assert_repeats(&fixture.status(&body).await.1, &replaced);
    assert_eq!(fixture.beside.change(vault::remove("one", &next)).await, Ok(TransitionOutcome::Recorded));
    anew("allow", None, "removed").await;
    assert_eq!(fixture.gateway.events("apk_one", "decisions").await.len(), 4);

    // An allow without credential is replayed without one.
    let plain = refund("4900", r#", "idempotency_key": "plain""#);
    let (_, first) = fixture.status(&plain).await;
    let sealed = fixture.set("one", "refunds.create", None).await;
    common::assert_repeats(&fixture.status(&plain).await.1, &first);
    assert_eq!(first.member("credential"), None);
    // Removing a missing credential changes and records nothing.
    fixture.set("one", "refunds.create", None).await;
    assert_eq!(fixture.beside.change(vault::remove("one", &sealed)).await, Ok(TransitionOutcome::Stale));
    assert_eq!(fixture.gateway.events("apk_one", "vault").await.len(), 5);
}

#[tokio::test]
async fn late_replay_has_no_credential() {
    let fixture = Fixture::start().await;
    fixture.set("one", "refunds.create", None).await;
    let body = refund("4900", r#", "idempotency_key": "k""#);
    let (_, first) = fixture.status(&body).await;
    assert_eq!(text(&first, "credential.token"), Some(TOKEN));
    for (at, carries) in [(299, true), (300, false)] {
        fixture.now.store(NOW + at, Ordering::SeqCst);
        let (_, again) = fixture.status(&body).await;
        assert_eq!(text(&again, "evidence_event_id"), text(&first, "evidence_event_id"));
        assert_eq!(again.member("credential").is_some(), carries, "{at}");
    }
}

#[tokio::test]
async fn observing_modes_get_no_credential_for_passport_or_approval() {
    let fixture = Fixture::start().await;
    fixture.set("one", "refunds.create", None).await;
    let passport = fixture.passport().await;
    let asked = fixture.gateway.decide("apk_one", &refund("25000", "")).await;
    let id = text(&asked, "approval_request_id").unwrap();
    let approve = fixture.gateway.post(&format!("/api/v1/approvals/{id}/approve"), "apdv_one").body("{}");
    assert_eq!(approve.send().await.unwrap().status(), 200);
    for (amount, shown) in [("4900", passport), ("25000", format!(r#", "approval_request_id": "{id}""#))] {
        for mode in ["monitor", "warn"] {
            let body = refund(amount, &format!(r#"{shown}, "mode": "{mode}""#));
            let looked = fixture.gateway.decide("apk_one", &body).await;
            assert_eq!(text(&looked, "decision"), Some("allow"), "{looked}");
            assert_eq!((looked.member("credential"), looked.member("credential_id")), (None, None));
        }
        let spent = fixture.gateway.decide("apk_one", &refund(amount, &shown)).await;
        assert_eq!(text(&spent, "credential.token"), Some(TOKEN), "{spent}");
    }
    for event in fixture.gateway.events("apk_one", "decisions").await {
        let spends = text(&event, "mode") == Some("enforce") && text(&event, "decision") == Some("allow");
        assert_eq!(event.member("credential_id").is_some(), spends, "{event}");
    }
}

#[tokio::test]
async fn expired_credential_denies_without_spending() {
    let fixture = Fixture::start().await;
    let shown = fixture.passport().await;
    fixture.set("one", "refunds.create", Some(NOW)).await;
    for (mode, decision) in [("enforce", "deny"), ("strict", "deny"), ("monitor", "deny"), ("warn", "warn")] {
        let response = fixture.decide(&format!(r#"{shown}, "mode": "{mode}""#)).await;
        assert_eq!(text(&response, "decision"), Some(decision));
        assert_eq!(text(&response, "reason_code"), Some("credential.expired"));
        assert!(response.member("credential").is_none() && response.member("credential_id").is_none());
    }
    // The policy's denial takes precedence.
    let large = fixture.gateway.decide("apk_one", &refund("90000", "")).await;
    assert_eq!(text(&large, "reason_code"), Some("refund.over_limit"));
    let events = fixture.gateway.events("apk_one", "decisions").await;
    let reasons: Vec<_> = events.iter().filter_map(|event| text(event, "reason_code")).collect();
    assert_eq!(reasons[..4], ["credential.expired"; 4]);

    fixture.set("one", "refunds.create", Some(NOW + 1)).await;
    let response = fixture.decide(&shown).await;
    assert_eq!(text(&response, "credential.token"), Some(TOKEN), "{response}");
    let replayed = fixture.decide(&shown).await;
    assert_eq!(text(&replayed, "reason_code"), Some("passport.replayed"));
    assert_eq!(replayed.member("credential"), None);
}

#[tokio::test]
async fn concurrent_passport_uses_return_one_credential() {
    let fixture = Fixture::start().await;
    fixture.set("one", "refunds.create", None).await;
    for _ in 0..10 {
        let shown = fixture.passport().await;
        let answers = futures_util::future::join_all((0..16).map(|_| fixture.decide(&shown))).await;
        for response in &answers {
            assert_eq!(
                response.member("credential").is_some(),
                text(response, "decision") == Some("allow"),
                "{response}"
            );
        }
        assert_eq!(answers.iter().filter(|response| response.member("credential").is_some()).count(), 1);
    }
}

#[tokio::test]
async fn unreadable_credential_fails_before_recording() {
    let fixture = Fixture::start().await;
    let own = fixture.set("one", "refunds.create", Some(NOW + 1)).await;
    let other = Vault::new(&MasterKey::parse(&"08".repeat(32)).unwrap()).unwrap();
    let foreign = other.seal("one", "refunds.create", &Secret::from(TOKEN), NOW, None).unwrap();
    let elsewhere = Vault::new(&master()).unwrap();
    let elsewhere = elsewhere.seal("one", "mail.send", &Secret::from(TOKEN), NOW, None).unwrap();
    for wrong in [
        foreign,
        SealedCredential { tool_id: "refunds.create".to_owned(), ..elsewhere },
        SealedCredential { expires_at: None, ..own },
    ] {
        fixture.beside.record(vault::set("one", wrong)).await.unwrap();
        let (status, response) = fixture.status(&refund("4900", "")).await;
        assert_eq!((status, text(&response, "error.code")), (500, Some("internal")));
        assert!(!response.to_string().contains(TOKEN));
    }
    let (status, _) = fixture.status(&refund("90000", "")).await;
    assert_eq!(status, 200);
    assert_eq!(fixture.gateway.events("apk_one", "decisions").await.len(), 1);
}

#[tokio::test]
async fn tool_with_credential_requires_master_key() {
    let fixture = Fixture::start_with(MasterKeySource::Missing).await;
    fixture.set("one", "refunds.create", None).await;
    let (status, response) = fixture.status(&refund("4900", "")).await;
    assert_eq!((status, text(&response, "error.code")), (501, Some("not_implemented")));
    assert_eq!(fixture.gateway.decide("apk_two", &refund("4900", "")).await.member("credential"), None);
}

#[tokio::test]
async fn clients_cannot_write_vault_events() {
    let fixture = Fixture::start().await;
    for body in [
        r#"{"event_type": "note", "chain_id": "vault"}"#,
        r#"{"event_type": "credential.set", "chain_id": "c"}"#,
        r#"{"event_type": "credential.removed", "chain_id": "c"}"#,
    ] {
        let response = fixture.gateway.post(common::EVIDENCE, "apdv_one").body(body).send().await.unwrap();
        assert_eq!(response.status(), 422, "{body}");
    }
}
