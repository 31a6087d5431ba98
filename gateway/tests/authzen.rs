//! The `AuthZEN` Authorization API: published vectors, the same decisions as preflights, failures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use actpass_gateway::clock::Clock;
use actpass_gateway::config::{MasterKeySource, Settings};
use actpass_gateway::seal::MasterKey;
#[cfg(unix)]
use actpass_gateway::store::{Database, Location, TlsTrust};
use actpass_gateway::vault::{self, Vault};
use actpass_protocol::{Json, Secret};
use common::{Gateway, PREFLIGHT, config_with, json, refund, text};
use reqwest::StatusCode;

const EVALUATION: &str = "/access/v1/evaluation";
const EVALUATIONS: &str = "/access/v1/evaluations";

/// A gateway with the policy in this file.
async fn with_policy(policy: &Path) -> Gateway {
    let policy = policy.display().to_string();
    Gateway::start_with("", |settings| {
        let data = settings.data.clone();
        *settings = Settings::parse(&config_with("", &policy), Path::new(".")).unwrap();
        settings.data = data;
    })
    .await
}

fn vectors(name: &str) -> (std::path::PathBuf, Json) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/authzen");
    let vectors = std::fs::read(folder.join(format!("{name}.json"))).unwrap();
    (folder.join(format!("{name}.policy.json")), Json::parse(&vectors).unwrap())
}

fn items(list: Option<&Json>) -> &[Json] {
    match list {
        Some(Json::Array(items)) => items,
        other => panic!("{other:?}"),
    }
}

async fn ask(gateway: &Gateway, path: &str, body: &str) -> (StatusCode, Json) {
    json(gateway.post(path, "apk_one").body(body.to_owned()).send().await.unwrap()).await
}

async fn decide(gateway: &Gateway, body: &str) -> Json {
    let (status, response) = ask(gateway, EVALUATION, body).await;
    assert_eq!(status, 200, "{response}");
    response
}

#[track_caller]
fn assert_decision(response: &Json, expected: bool, place: &str) {
    assert_eq!(response.member("decision"), Some(&Json::Bool(expected)), "{place}: {response}");
    let word = text(response, "context.decision");
    assert_eq!(word == Some("allow"), expected, "{place}: {response}");
}

/// An evaluation of a refund of this many cents.
fn evaluation(amount: &str, context: &str) -> String {
    format!(
        r#"{{"subject": {{"type": "agent", "id": "sdk"}},
            "action": {{"name": "refunds.create", "properties": {{"amount": {amount}, "currency": "usd"}}}},
            "resource": {{"type": "order", "id": "7"}}, "context": {{"goal": "refund an order"{context}}}}}"#
    )
}

/// The preflight to which [`evaluation`] maps.
fn mapped(amount: &str, more: &str) -> String {
    refund(amount, more).replace(r#""resource": """#, r#""resource": "order:7""#)
}

#[tokio::test]
async fn certification_scenario() {
    let (policy, vectors) = vectors("certification");
    let gateway = with_policy(&policy).await;
    let vectors = items(Some(&vectors));
    for vector in vectors {
        let section = text(vector, "section").unwrap();
        let path = format!("/access/v1/{}", text(vector, "endpoint").unwrap());
        let body = vector.member("request").unwrap().to_string();
        let (status, response) = ask(&gateway, &path, &body).await;
        assert_eq!(status.as_str(), vector.member("status").unwrap().to_string(), "{section}: {response}");
        if status != 200 {
            assert!(response.as_str().is_some_and(|message| !message.is_empty()), "{section}: {response}");
        } else if let Some(decision) = vector.member("decision") {
            assert_eq!(response.member("decision"), Some(decision), "{section}: {response}");
            // The same request has the same decision.
            let (_, again) = ask(&gateway, &path, &body).await;
            assert_eq!(again.member("decision"), Some(decision), "{section}");
        } else {
            let (found, expected) =
                (items(response.member("evaluations")), items(vector.member("decisions")));
            assert_eq!((found.len(), response.member("decision")), (expected.len(), None), "{section}");
            for (found, expected) in found.iter().zip(expected) {
                let decision = found.member("decision").unwrap();
                assert!(matches!(decision, Json::Bool(_)), "{section}: {found}");
                assert!(*expected == Json::Null || decision == expected, "{section}: {found}");
            }
        }
    }
    assert_eq!(vectors.len(), 31);

    // 2.4.3 to 2.4.5, 2.5: content type, bodies, request ids.
    let valid = vectors[0].member("request").unwrap().to_string();
    let send = |kind: &str, body: &str| {
        let request = gateway.client.post(format!("{}{EVALUATION}", gateway.url)).bearer_auth("apk_one");
        request.header("content-type", kind).header("x-request-id", "bfe9 eb29").body(body.to_owned()).send()
    };
    for (kind, body, expected) in [
        ("application/json", &*valid, 200),
        ("text/plain", &valid, 400),
        ("application/json", "{", 400),
        ("application/json", "", 400),
        ("application/json", r#"{"subject": {}, "subject": {}}"#, 400),
    ] {
        let response = send(kind, body).await.unwrap();
        assert_eq!(response.status(), expected, "{kind} {body}");
        assert_eq!(response.headers()["x-request-id"], "bfe9 eb29");
        assert_eq!(response.headers()["content-type"], "application/json");
        // The gateway's own id finds the line in its log.
        assert_eq!(response.headers()["x-actpass-request-id"].len(), 32);
    }
    let response = gateway.post(EVALUATION, "apk_one").body(valid).send().await.unwrap();
    assert_eq!(response.headers()["x-request-id"].len(), 32);
    gateway.stop().await;
}

#[tokio::test]
async fn interoperability_scenarios() {
    let mut compared = 0;
    for name in ["todo", "api-gateway"] {
        let (policy, vectors) = vectors(name);
        let gateway = with_policy(&policy).await;
        for vector in items(vectors.member("evaluation")) {
            let request = vector.member("request").unwrap().to_string();
            let response = decide(&gateway, &request).await;
            let expected = vector.member("expected") == Some(&Json::Bool(true));
            assert_decision(&response, expected, &request);
            compared += 1;
        }
        for vector in vectors.member("evaluations").map_or(&[][..], |list| items(Some(list))) {
            let request = vector.member("request").unwrap().to_string();
            let (status, response) = ask(&gateway, EVALUATIONS, &request).await;
            assert_eq!(status, 200, "{response}");
            let (found, expected) = (items(response.member("evaluations")), items(vector.member("expected")));
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                assert_eq!(found.member("decision"), expected.member("decision"), "{request}");
                compared += 1;
            }
        }
        gateway.stop().await;
    }
    assert_eq!(compared, 40 + 6 + 25);
}

/// Returns the evaluation that maps to a preflight of this input; `None` without one. Without a
/// resource, it is a tool call as the MCP binding of COAZ maps it.
fn expressed(input: &Json) -> Option<String> {
    let given = |name: &str| input.member(name).filter(|value| **value != Json::Null);
    let tool = given("tool")?.as_str()?;
    if given("passport").is_some() || given("risk_tier").is_some() {
        return None;
    }
    let (name, resource) = match given("resource").map(Json::as_str) {
        None => ("tools/call", format!(r#"{{"type": "tool", "id": {}}}"#, Json::from(tool))),
        Some(resource) => {
            let (kind, id) =
                resource?.split_once(':').filter(|(kind, id)| !kind.is_empty() && !id.is_empty())?;
            let (kind, id) = (Json::from(kind), Json::from(id));
            (tool, format!(r#"{{"type": {kind}, "id": {id}}}"#))
        }
    };
    let goal = given("goal").cloned().unwrap_or_else(|| Json::from("g"));
    let subject = match (given("user_id"), given("agent_id")) {
        (Some(user), agent) => {
            let agent = agent.map(|agent| format!(r#", "actpass": {{"agent_id": {agent}}}"#));
            (format!(r#"{{"type": "user", "id": {user}}}"#), agent.unwrap_or_default())
        }
        (None, Some(agent)) => (format!(r#"{{"type": "agent", "id": {agent}}}"#), String::new()),
        // A subject is required; one of another type is in the arguments.
        (None, None) => return None,
    };
    let (subject, more) = subject;
    let more = match given("mode") {
        None => more,
        Some(mode) if more.is_empty() => format!(r#", "actpass": {{"mode": {mode}}}"#),
        Some(mode) => more.replace("}", &format!(r#", "mode": {mode}}}"#)),
    };
    let args = given("args").cloned().unwrap_or_else(|| Json::Object(Vec::new()));
    Some(format!(
        r#"{{"subject": {subject}, "action": {{"name": {}, "properties": {args}}}, "resource": {resource},
            "context": {{"goal": {goal}{more}}}}}"#,
        Json::from(name)
    ))
}

/// The body of a preflight of this input.
fn preflight(input: &Json) -> String {
    let given = |name: &str| input.member(name).filter(|value| **value != Json::Null).cloned();
    let mut members: Vec<_> = ["agent_id", "mode", "resource", "tool", "user_id"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), given(name)?)))
        .collect();
    members.push(("args".to_owned(), given("args").unwrap_or_else(|| Json::Object(Vec::new()))));
    members.push(("goal".to_owned(), given("goal").unwrap_or_else(|| Json::from("g"))));
    Json::Object(members).to_string()
}

/// Compares the decision of an input through both interfaces.
async fn compare(gateway: &Gateway, input: &Json) -> bool {
    let Some(evaluation) = expressed(input) else { return false };
    let (status, expected) = ask(gateway, PREFLIGHT, &preflight(input)).await;
    assert_eq!(status, 200, "{input}: {expected}");
    let found = decide(gateway, &evaluation).await;
    assert_decision(&found, text(&expected, "decision") == Some("allow"), &evaluation);
    let found = found.member("context").unwrap();
    for member in [
        "decision",
        "reason_code",
        "risk_tier",
        "explain",
        "approval_request_id",
        "request_hash",
        "policy_hash",
    ] {
        assert_eq!(found.member(member), expected.member(member), "{member} of {evaluation}");
    }
    assert_eq!(found.member("reason"), expected.member("reason_code"));
    assert_eq!(found.member("evaluation_id"), found.member("evidence_event_id"));
    true
}

#[tokio::test]
async fn policy_cases_have_the_same_decision_as_preflights() {
    let mut compared = 0;
    let mut left = 0;
    for name in ["crm", "deploys", "email", "refunds"] {
        let gateway = with_policy(Path::new(&common::shipped_policy(&format!("{name}.json")))).await;
        let cases = std::fs::read(common::shipped_policy(&format!("{name}.cases.json"))).unwrap();
        let cases = Json::parse(&cases).unwrap();
        for case in items(cases.member("cases")) {
            let mut input = case.member("input").unwrap().clone();
            let Json::Object(members) = &mut input else { panic!("{input}") };
            if !members.iter().any(|(name, _)| name == "agent_id") {
                members.push(("agent_id".to_owned(), Json::from("sdk")));
            }
            // In the mode monitor, no decision depends on an earlier one.
            members.push(("mode".to_owned(), Json::from("monitor")));
            if compare(&gateway, &input).await { compared += 1 } else { left += 1 }
        }
        gateway.stop().await;
    }
    assert_eq!((compared, left), (156, 0));
}

#[tokio::test]
async fn guard_vectors_have_the_same_decision_as_preflights() {
    let gateway = Gateway::start().await;
    let (mut compared, mut left) = (0, 0);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .flat_map(|path| std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    let defaults = r#"{"agent_id": "vectors", "goal": "resolve_refund_request", "tool": "stripe.refund.create",
        "resource": "stripe:charge:ch_123", "args": {"amount": 4900, "currency": "usd"}}"#;
    let defaults = Json::parse(defaults.as_bytes()).unwrap();
    for file in &files {
        let vector = Json::parse(&std::fs::read(file).unwrap()).unwrap();
        let action = vector.member("action");
        let members = defaults.as_object().unwrap().iter().map(|(name, value)| {
            let changed = action.and_then(|action| action.member(name));
            (name.clone(), changed.unwrap_or(value).clone())
        });
        let user = action.and_then(|action| action.member("user_id")).cloned();
        let input = Json::Object(members.chain(user.map(|user| ("user_id".to_owned(), user))).collect());
        if compare(&gateway, &input).await { compared += 1 } else { left += 1 }
    }
    assert_eq!((compared, left), (files.len(), 0));
    assert!(compared > 0);
    gateway.stop().await;
}

#[tokio::test]
async fn semantics_stop_at_the_deciding_evaluation() {
    let gateway = Gateway::start().await;
    decide(&gateway, &evaluation("1", "")).await;
    for (semantic, amounts, expected) in [
        (None, [1, 90000, 2], &[true, false, true][..]),
        (Some("execute_all"), [1, 90000, 2], &[true, false, true]),
        (Some("deny_on_first_deny"), [1, 90000, 2], &[true, false]),
        (Some("deny_on_first_deny"), [1, 2, 3], &[true, true, true]),
        (Some("permit_on_first_permit"), [90000, 1, 2], &[false, true]),
        (Some("permit_on_first_permit"), [90000, 90001, 90002], &[false, false, false]),
    ] {
        let before = gateway.events("apk_one", "decisions").await.len();
        let options = semantic
            .map(|word| format!(r#""options": {{"evaluations_semantic": "{word}", "another": 1}}, "#))
            .unwrap_or_default();
        let evaluations = amounts.map(|amount| evaluation(&amount.to_string(), "")).join(",");
        let body = format!(r#"{{{options}"evaluations": [{evaluations}]}}"#);
        let (status, response) = ask(&gateway, EVALUATIONS, &body).await;
        assert_eq!(status, 200, "{response}");
        let found: Vec<_> = items(response.member("evaluations"))
            .iter()
            .map(|decision| decision.member("decision") == Some(&Json::Bool(true)))
            .collect();
        assert_eq!(found, expected, "{semantic:?}");
        // Evaluations that were not executed are not recorded.
        let after = gateway.events("apk_one", "decisions").await.len();
        assert_eq!(after - before, expected.len());
    }
    for invalid in [
        r#"{"options": {"evaluations_semantic": "first"}, "evaluations": [{}]}"#,
        r#"{"options": {"evaluations_semantic": null}, "evaluations": [{}]}"#,
        r#"{"options": [], "evaluations": [{}]}"#,
        r#"{"evaluations": {}}"#,
        r#"{"subject": "alice", "evaluations": [{}]}"#,
        "{}",
        &format!(r#"{{"evaluations": [{}]}}"#, vec!["{}"; 101].join(",")),
    ] {
        let (status, response) = ask(&gateway, EVALUATIONS, invalid).await;
        assert_eq!(status, 400, "{invalid}: {response}");
    }
    // An invalid evaluation is denied, and the others are decided.
    let body = format!(r#"{{"evaluations": [null, {{"action": 7}}, {{}}, {}]}}"#, evaluation("1", ""));
    let (status, response) = ask(&gateway, EVALUATIONS, &body).await;
    assert_eq!(status, 200);
    let [null, wrong, empty, valid] = items(response.member("evaluations")) else { panic!("{response}") };
    assert_decision(valid, true, "valid");
    for (denied, message) in [
        (null, "evaluations[0].body: expected an object, found null"),
        (wrong, "evaluations[1].action: expected an object, found a number"),
        (empty, "evaluations[2].subject: missing; expected an object"),
    ] {
        assert_eq!(denied.member("decision"), Some(&Json::Bool(false)));
        let error = denied.member("context").unwrap().member("error").unwrap();
        assert_eq!(error.member("status").unwrap().to_string(), "400");
        assert_eq!(text(error, "message"), Some(message));
    }
    gateway.stop().await;
}

#[tokio::test]
async fn evaluations_are_counted_against_the_rate_limit() {
    let gateway = Gateway::start_with("requests_per_second = 1\nburst = 3", |_| {}).await;
    let body = format!(r#"{{"evaluations": [{}]}}"#, vec![evaluation("1", ""); 5].join(","));
    let (status, response) = ask(&gateway, EVALUATIONS, &body).await;
    assert_eq!(status, 200);
    let decisions = items(response.member("evaluations"));
    let last = &decisions[4];
    assert_eq!(last.member("decision"), Some(&Json::Bool(false)), "{last}");
    assert_eq!(text(last, "context.error.code"), Some("rate_limited"));
    gateway.stop().await;
}

#[tokio::test]
async fn events_name_the_protocol() {
    let gateway = Gateway::start().await;
    let decided =
        decide(&gateway, &evaluation("1", r#", "actpass": {"user_id": "u7", "mode": "strict"}"#)).await;
    gateway.decide("apk_one", &mapped("1", "")).await;
    let events = gateway.events("apk_one", "decisions").await;
    let [evaluated, preflighted] = events.as_slice() else { panic!("{events:?}") };
    for (member, expected) in [
        ("event_id", text(&decided, "context.evaluation_id").unwrap()),
        ("protocol", "authzen"),
        ("agent_id", "sdk"),
        ("user_id", "u7"),
        ("tool_id", "refunds.create"),
        ("resource", "order:7"),
        ("goal", "refund an order"),
        ("mode", "strict"),
        ("decision", "allow"),
    ] {
        assert_eq!(text(evaluated, member), Some(expected), "{member}");
    }
    assert_eq!(preflighted.member("protocol"), None);
    gateway.stop().await;
}

#[tokio::test]
async fn subject_is_a_claim_like_the_agent_of_a_preflight() {
    let gateway = Gateway::start().await;
    let request = gateway.post(EVALUATION, "apk_bound").body(evaluation("1", ""));
    // No header is an identity.
    let request = request.header("x-forwarded-user", "root").header("x-actpass-tenant", "two");
    assert_eq!(request.send().await.unwrap().status(), 200);
    let events = gateway.events("apk_one", "decisions").await;
    let [event] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((text(event, "agent_id"), text(event, "claimed_agent_id")), (Some("support"), Some("sdk")));
    assert_eq!(event.member("user_id"), None);
    for (key, status) in [("apk_none", 401), ("", 401)] {
        let response = gateway.post(EVALUATION, key).body(evaluation("1", "")).send().await.unwrap();
        let (found, message) = json(response).await;
        assert_eq!(found, status);
        assert!(message.as_str().unwrap().contains("API key"), "{message}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn only_allow_is_permitted() {
    let gateway = Gateway::start().await;
    for (amount, mode, expected, word) in [
        ("1", "enforce", true, "allow"),
        ("25000", "enforce", false, "require_approval"),
        ("90000", "enforce", false, "deny"),
        ("90000", "warn", false, "warn"),
        ("90000", "monitor", false, "deny"),
        ("1", "warn", true, "allow"),
    ] {
        let mode = format!(r#", "actpass": {{"mode": "{mode}"}}"#);
        let response = decide(&gateway, &evaluation(amount, &mode)).await;
        assert_eq!(response.member("decision"), Some(&Json::Bool(expected)), "{response}");
        assert_eq!(text(&response, "context.decision"), Some(word));
    }
    gateway.stop().await;
}

#[tokio::test]
async fn an_approval_of_one_interface_is_spent_through_the_other() {
    let gateway = Gateway::start().await;
    let opened = decide(&gateway, &evaluation("25000", "")).await;
    let id = text(&opened, "context.approval_request_id").unwrap();
    // The same action through the other interface joins the approval.
    let joined = gateway.decide("apk_one", &mapped("25000", "")).await;
    assert_eq!(text(&joined, "approval_request_id"), Some(id));
    let approve = gateway.post(&format!("/api/v1/approvals/{id}/approve"), "apdv_one").body("{}");
    assert_eq!(approve.send().await.unwrap().status(), 200);
    let named = format!(r#", "actpass": {{"approval_request_id": "{id}"}}"#);
    assert_decision(&decide(&gateway, &evaluation("25001", &named)).await, false, "another action");
    assert_decision(&decide(&gateway, &evaluation("25000", &named)).await, true, "approved");
    let again =
        gateway.decide("apk_one", &mapped("25000", &format!(r#", "approval_request_id": "{id}""#))).await;
    assert_eq!(text(&again, "reason_code"), Some("approval.spent"), "{again}");
    gateway.stop().await;
}

#[tokio::test]
async fn responses_have_no_credential() {
    let master = MasterKey::parse(&"07".repeat(32)).unwrap();
    let source = MasterKeySource::Given(master.clone());
    let gateway = Gateway::start_with("", |settings| settings.master_key = source).await;
    let beside = gateway.data.open_existing().await.unwrap();
    let vault = Vault::new(&master).unwrap();
    let sealed = vault.seal("one", "refunds.create", &Secret::from("vault_secret"), 0, None).unwrap();
    beside.record(vault::set("one", sealed)).await.unwrap();

    let with_key = r#", "actpass": {"idempotency_key": "k"}"#;
    for body in [evaluation("1", ""), evaluation("2", with_key), evaluation("2", with_key)] {
        let response = decide(&gateway, &body).await;
        assert_decision(&response, true, &body);
        assert!(
            !response.to_string().contains("credential") && !response.to_string().contains("vault_secret")
        );
    }
    // Under a key whose first response had it, too.
    let first = gateway.decide("apk_one", &mapped("3", r#", "idempotency_key": "p""#)).await;
    assert!(first.to_string().contains("vault_secret"));
    let replayed = decide(&gateway, &evaluation("3", r#", "actpass": {"idempotency_key": "p"}"#)).await;
    assert_eq!(replayed.member("context").unwrap().member("replayed"), Some(&Json::Bool(true)), "{replayed}");
    assert!(!replayed.to_string().contains("vault_secret"), "{replayed}");
    let events = gateway.events("apk_one", "decisions").await;
    assert_eq!(events[0].member("credential_id"), None);
    gateway.stop().await;
}

#[tokio::test]
async fn configuration_names_the_endpoints() {
    let gateway = Gateway::start_with("", |settings| {
        settings.issuer = Some("https://pdp.example".to_owned());
    })
    .await;
    let url = format!("{}/.well-known/authzen-configuration", gateway.url);
    let response = gateway.client.get(url).header("x-request-id", "r1").send().await.unwrap();
    assert_eq!(response.headers()["x-request-id"], "r1");
    let (status, found) = json(response).await;
    assert_eq!(status, 200);
    for (member, expected) in [
        ("policy_decision_point", "https://pdp.example"),
        ("access_evaluation_endpoint", "https://pdp.example/access/v1/evaluation"),
        ("access_evaluations_endpoint", "https://pdp.example/access/v1/evaluations"),
    ] {
        assert_eq!(text(&found, member), Some(expected));
    }
    gateway.stop().await;
}

const REQUESTS: &str = "/access/v1/requests";

/// A submission for the denial of [`evaluation`] with this context.
fn submission(denied: &Json, amount: &str, context: &str) -> String {
    let denial = format!(
        r#", "denial": {{"evaluation_id": "{}", "expires_at": "{}", "reason": "r"}}}}"#,
        text(denied, "context.evaluation_id").unwrap(),
        text(denied, "context.access_request.expires_at").unwrap()
    );
    let evaluation = evaluation(amount, context);
    format!("{}{denial}", evaluation.rsplit_once('}').unwrap().0)
}

#[tokio::test]
async fn denial_is_requested_approved_and_evaluated_again() {
    let gateway = Gateway::start().await;
    let context = r#", "ticket": {"id": 7}"#;
    let denied = decide(&gateway, &evaluation("25000", context)).await;
    assert_eq!(denied.member("decision"), Some(&Json::Bool(false)));
    let endpoint = format!("{}{REQUESTS}", gateway.url);
    assert_eq!(text(&denied, "context.access_request.endpoint"), Some(&*endpoint));
    // Only a denial that a person can approve is requestable.
    for amount in ["1", "90000"] {
        let decided = decide(&gateway, &evaluation(amount, context)).await;
        let found = decided.member("context").unwrap();
        assert_eq!((found.member("access_request"), found.member("next_action")), (None, None), "{decided}");
    }

    // A reason that is added with the submission is not part of the evaluation.
    let added = format!(r#"{context}, "business_justification": "a customer waits""#);
    let response =
        gateway.post(REQUESTS, "apk_one").body(submission(&denied, "25000", &added)).send().await.unwrap();
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let (status, submitted) = json(response).await;
    assert_eq!(status, 202, "{submitted}");
    assert_eq!(text(&submitted, "task.status"), Some("pending"));
    assert_eq!(text(&submitted, "task.status_endpoint"), Some(&*location));
    assert_eq!(submitted.member("result"), None);
    let id = text(&submitted, "task.id").unwrap();
    assert_eq!(location, format!("{endpoint}/{id}"));
    let review = format!("{}/approvals/{id}", gateway.url);
    assert_eq!(text(&submitted, "task.links.review"), Some(&*review));

    let read = |key: &'static str| gateway.get(&format!("{REQUESTS}/{id}"), key).send();
    let (status, other) = json(read("apk_bound").await.unwrap()).await;
    assert_eq!(status, 404);
    assert_eq!(text(&other, "type"), Some("urn:openid:authzen:access-request:error:unknown_task"));
    let presented = format!(r#"{context}, "approval": {{"id": "{id}", "approved_until": "x"}}"#);
    let early = decide(&gateway, &evaluation("25000", &presented)).await;
    assert_eq!(text(&early, "context.next_action"), Some("retry"), "{early}");
    assert!(early.member("context").unwrap().member("retry_after").is_some());

    let approve = gateway.post(&format!("/api/v1/approvals/{id}/approve"), "apdv_one").body("{}");
    assert_eq!(approve.send().await.unwrap().status(), 200);
    let (status, done) = json(read("apk_one").await.unwrap()).await;
    assert_eq!((status.as_u16(), text(&done, "task.status")), (200, Some("approved")), "{done}");
    assert_eq!(text(&done, "result.mode"), Some("reevaluate"));
    assert_eq!(text(&done, "result.approval.id"), Some(id));
    assert!(text(&done, "result.approval.approved_until") > text(&done, "result.approval.approved_at"));
    // A submission of an approved request has its result.
    let again = gateway.post(REQUESTS, "apk_one").body(submission(&denied, "25000", context));
    let (status, again) = json(again.send().await.unwrap()).await;
    assert_eq!(status, 201);
    assert_eq!(again, done);

    // The approval is for the same action, with the same context, once.
    let approval = done.member("result").unwrap().member("approval").unwrap();
    let presented = format!(r#"{context}, "approval": {approval}"#);
    let others = [
        evaluation("25001", &presented),
        evaluation("25000", &presented.replace('7', "8")),
        evaluation("25000", &format!(r#", "approval": {approval}"#)),
    ];
    for other in others {
        let denied = decide(&gateway, &other).await;
        assert_eq!(denied.member("decision"), Some(&Json::Bool(false)), "{other}");
        assert_eq!(text(&denied, "context.next_action"), Some("none"), "{denied}");
    }
    assert_decision(&decide(&gateway, &evaluation("25000", &presented)).await, true, "approved");
    let spent = decide(&gateway, &evaluation("25000", &presented)).await;
    assert_eq!(text(&spent, "context.reason"), Some("approval.spent"));
    assert_eq!(text(&spent, "context.next_action"), Some("none"));
    gateway.stop().await;
}

#[tokio::test]
async fn submission_must_belong_to_the_denial() {
    let gateway = Gateway::start().await;
    let context = r#", "ticket": 7"#;
    let denied = decide(&gateway, &evaluation("25000", context)).await;
    let other = decide(&gateway, &evaluation("25001", context)).await;
    let valid = submission(&denied, "25000", context);
    let event = |denied: &Json| text(denied, "context.evidence_event_id").unwrap().to_owned();
    let approval = |denied: &Json| text(denied, "context.approval_request_id").unwrap().to_owned();
    for (key, body, kind) in [
        ("apk_one", valid.replace("25000", "25001"), "invalid_denial_binding"),
        ("apk_one", valid.replace("\"order\"", "\"orders\""), "invalid_denial_binding"),
        ("apk_one", valid.replace("\"sdk\"", "\"other\""), "invalid_denial_binding"),
        ("apk_one", valid.replace("refund an order", "another goal"), "invalid_denial_binding"),
        ("apk_one", valid.replace("\"ticket\": 7", "\"ticket\": 8"), "invalid_denial_binding"),
        ("apk_one", valid.replace(", \"ticket\": 7", ""), "invalid_denial_binding"),
        ("apk_one", valid.replace(&event(&denied), &event(&other)), "invalid_denial_binding"),
        ("apk_one", valid.replace(&approval(&denied), &approval(&other)), "invalid_denial_binding"),
        ("apk_one", valid.replace(&approval(&denied), "apr_none"), "invalid_denial_binding"),
        ("apk_one", valid.replace(&format!(".{}", approval(&denied)), ""), "invalid_denial_binding"),
        ("apk_bound", valid.clone(), "invalid_denial_binding"),
        ("apk_two", valid.clone(), "invalid_denial_binding"),
        (
            "apk_one",
            valid
                .replace(text(&denied, "context.access_request.expires_at").unwrap(), "2020-01-01T00:00:00Z"),
            "expired_denial",
        ),
    ] {
        let response = gateway.post(REQUESTS, key).body(body.clone()).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{body}");
        let (status, problem) = json(response).await;
        let expected = format!("urn:openid:authzen:access-request:error:{kind}");
        assert_eq!(text(&problem, "type"), Some(&*expected), "{body}");
        assert_eq!(status, if kind == "expired_denial" { 410 } else { 400 });
    }
    for (body, member) in [
        ("{}".to_owned(), "denial"),
        (valid.replace("\"denial\"", "\"items\": [], \"denial\""), "items"),
        (valid.replace("\"evaluation_id\"", "\"id\""), "denial.evaluation_id"),
        (valid.replace("\"expires_at\"", "\"expires\""), "denial.expires_at"),
    ] {
        let (status, message) = ask(&gateway, REQUESTS, &body).await;
        assert_eq!(status, 400);
        assert!(message.as_str().is_some_and(|message| message.starts_with(member)), "{message}");
    }
    let (status, _) = ask(&gateway, REQUESTS, &valid).await;
    assert_eq!(status, 202);
    gateway.stop().await;
}

/// Submits with an `Idempotency-Key`; returns the status and the problem's type or the task's id.
async fn submit(gateway: &Gateway, key: &str, name: &str, body: &str) -> (u16, String) {
    let request = gateway.post(REQUESTS, key).header("idempotency-key", name).body(body.to_owned());
    let (status, response) = json(request.send().await.unwrap()).await;
    let kind = text(&response, "type").and_then(|kind| kind.rsplit(':').next());
    let found = kind.or_else(|| text(&response, "task.id")).or_else(|| response.as_str());
    (status.as_u16(), found.unwrap_or_else(|| panic!("{response}")).to_owned())
}

#[tokio::test]
async fn idempotency_key_is_bound_to_the_body_of_a_submission() {
    let time = Arc::new(AtomicU64::new(1_800_000_000));
    let clock = |time: &Arc<AtomicU64>| {
        let time = Arc::clone(time);
        Clock::new(move || UNIX_EPOCH + Duration::from_secs(time.load(Ordering::SeqCst)))
    };
    let own = clock(&time);
    let mut gateway = Gateway::start_with("", |settings| settings.clock = own).await;
    let denied = decide(&gateway, &evaluation("25000", "")).await;
    let first = submission(&denied, "25000", r#", "why": "a customer waits""#);
    let other = submission(&denied, "25000", r#", "why": "another reason""#);
    // A submission that is refused binds no key.
    assert_eq!(submit(&gateway, "apk_one", "k", &first.replace("25000", "1")).await.0, 400);
    let (status, task) = submit(&gateway, "apk_one", "k", &first).await;
    assert_eq!(status, 202);
    // The same members in another order, and the name in quotes.
    let reordered =
        first.replacen(r#""amount": 25000, "currency": "usd""#, r#""currency": "usd", "amount": 25000"#, 1);
    assert_ne!(reordered, first);
    for (name, body) in [("k", &first), ("k", &reordered), ("\"k\"", &first)] {
        assert_eq!(submit(&gateway, "apk_one", name, body).await, (202, task.clone()), "{name}");
    }
    let conflict = (409, "duplicate_request".to_owned());
    assert_eq!(submit(&gateway, "apk_one", "k", &other).await, conflict);
    assert_eq!(submit(&gateway, "apk_one", "K", &other).await, (202, task.clone()));
    // Another API key has other idempotency keys, also for the same name.
    assert_eq!(submit(&gateway, "apk_bound", "k", &other).await, (400, "invalid_denial_binding".to_owned()));
    assert_eq!(submit(&gateway, "apdv_one", "k", &other).await, (202, task.clone()));

    // The denial has expired at its deadline. A gateway removes expired records when it starts.
    let deadline = text(&denied, "context.access_request.expires_at").unwrap();
    let deadline = humantime::parse_rfc3339(deadline).unwrap().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let expired = (410, "expired_denial".to_owned());
    for (after, other_body) in [(24 * 60 * 60 - 1, &conflict), (24 * 60 * 60, &expired)] {
        time.store(deadline + after, Ordering::SeqCst);
        let own = clock(&time);
        gateway.restart(|settings| settings.clock = own).await;
        let begun = Instant::now();
        let patience = Duration::from_secs(if other_body == &conflict { 1 } else { 30 });
        let mut found = submit(&gateway, "apk_one", "k", &other).await;
        while found == conflict && begun.elapsed() < patience {
            tokio::time::sleep(Duration::from_millis(50)).await;
            found = submit(&gateway, "apk_one", "k", &other).await;
        }
        assert_eq!(&found, other_body);
        let same = if other_body == &conflict { (202, task.clone()) } else { expired.clone() };
        assert_eq!(submit(&gateway, "apk_one", "k", &first).await, same);
        assert_eq!(submit(&gateway, "apk_one", "new", &first).await, expired);
    }
    gateway.stop().await;
}

#[tokio::test]
async fn malformed_idempotency_key_is_an_error() {
    let gateway = Gateway::start().await;
    let denied = decide(&gateway, &evaluation("25000", "")).await;
    let body = submission(&denied, "25000", "");
    let long = "x".repeat(257);
    for name in ["", "\"\"", "\"k", "k\"", "\"k\\x\"", "\"k\";a=1", "a b", "a,b", "a;b", "a\\b", &long] {
        let (status, problem) = submit(&gateway, "apk_one", name, &body).await;
        assert_eq!(status, 400, "{name}");
        assert!(problem.starts_with("Idempotency-Key: expected one string"), "{problem}");
    }
    let not_text =
        gateway.post(REQUESTS, "apk_one").header("idempotency-key", &b"k\xff"[..]).body(body.clone());
    assert_eq!(not_text.send().await.unwrap().status(), 400);
    let twice =
        gateway.post(REQUESTS, "apk_one").header("idempotency-key", "a").header("idempotency-key", "a");
    assert_eq!(twice.body(body.clone()).send().await.unwrap().status(), 400);
    for name in ["\"a b, c; \\\"\\\\\"", &"x".repeat(256)] {
        assert_eq!(submit(&gateway, "apk_one", name, &body).await.0, 202, "{name}");
    }
    gateway.stop().await;
}

#[cfg(unix)]
#[tokio::test]
async fn gateways_of_one_database_bind_an_idempotency_key_once() {
    use std::collections::HashSet;

    let Some(url) = common::database_url() else { return };
    let mut gateways = Vec::new();
    for _ in 0..2 {
        let data = Location::Database(Database::parse(&url, TlsTrust::default()).unwrap());
        gateways.push(Gateway::start_with("", |settings| settings.data = data).await);
    }
    let denied = decide(&gateways[0], &evaluation("25000", "")).await;
    let bodies: Vec<_> =
        (0..24).map(|number| submission(&denied, "25000", &format!(r#", "why": {}"#, number % 4))).collect();
    let submitting =
        bodies.iter().enumerate().map(|(at, body)| submit(&gateways[at % 2], "apk_one", "k", body));
    let answers = futures_util::future::join_all(submitting).await;
    let accepted: HashSet<_> =
        answers.iter().zip(&bodies).filter(|((status, _), _)| *status == 202).map(|(_, body)| body).collect();
    assert_eq!(accepted.len(), 1, "one body");
    assert_eq!(answers.iter().filter(|(status, _)| *status == 202).count(), 6);
    assert_eq!(answers.iter().filter(|(status, _)| *status == 409).count(), 18);
    for gateway in gateways {
        gateway.stop().await;
    }
}
