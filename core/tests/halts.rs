//! Stops: permits of an older epoch, waits that end, and running functions that are signalled.

#![cfg(feature = "testing")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actpass_core::testing::{Answer, ScriptedGateway};
use actpass_core::transport::{FixedResponse, Request, Response, SendFuture, Transport};
use actpass_core::{
    ActPass, Action, Blocked, Mode, Operation, Outcome, PassportRequest, TokioClock, Verdict, VerifyRequest,
};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

const REFUND: &str = "stripe.refund.create";

fn refund() -> Action {
    Action::new("resolve_refund_request", REFUND)
}

fn note() -> Action {
    Action::new("resolve_refund_request", "crm.note.add")
}

fn allowing() -> (ScriptedGateway, ActPass) {
    let gateway = ScriptedGateway::new();
    gateway.script_all(
        Answer::allow().member("credential", serde_json::json!({"token": "t", "expires_at": null})),
    );
    let actpass = gateway.client().unwrap();
    (gateway, actpass)
}

async fn permit(actpass: &ActPass, action: &Action) -> actpass_core::Permit {
    match actpass.authorize(action).await.unwrap() {
        Verdict::Proceed(permit) => permit,
        Verdict::Blocked(blocked) => panic!("{blocked:?}"),
    }
}

fn blocked<T>(outcome: Outcome<T, ()>) -> Blocked {
    match outcome {
        Outcome::Blocked(blocked) => blocked,
        Outcome::Failed { .. } | Outcome::Returned { .. } => panic!("it ran"),
    }
}

/// `(epoch, in_flight)` of each acknowledgement.
fn acknowledged(gateway: &ScriptedGateway) -> Vec<(String, String)> {
    let number = |body: &actpass_core::Json, name: &str| body.member(name).unwrap().to_string();
    gateway.acknowledgements().iter().map(|body| (number(body, "epoch"), number(body, "in_flight"))).collect()
}

fn acknowledgement(epoch: u64, in_flight: u64) -> (String, String) {
    (epoch.to_string(), in_flight.to_string())
}

fn watches(gateway: &ScriptedGateway) -> Vec<String> {
    let requests = gateway.requests().into_iter().map(|request| request.path);
    requests.filter(|path| path.starts_with("/api/v1/halts/watch")).collect()
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn permit_older_than_seen_epoch_is_refused() {
    let (gateway, actpass) = allowing();
    for lifts in [false, true] {
        let older = permit(&actpass, &refund()).await;
        // A stop of another tool: the client cannot tell which actions it covers.
        if lifts {
            gateway.lift()
        } else {
            gateway.halt("tool", Some("crm.note.add"), "test").unwrap()
        };
        drop(actpass.preflight(&note()).await.unwrap());
        let refused = older.spend(&TokioClock).unwrap_err();
        assert_eq!(refused.decision().reason_code(), "actpass.halted");
        assert_eq!(refused.decision().evidence_event_id().map(|id| id.starts_with("ev_")), Some(true));
        assert!(refused.is_retryable() && refused.error().is_none());
        assert_eq!(
            refused.texts().model,
            "stripe.refund.create was not run: deny (actpass.halted). It was allowed, but a stop was issued or \
             lifted before it ran. Retry the same call."
        );
        // A new request for an unaffected action is allowed.
        assert!(actpass.guard(&refund(), async |_| Ok::<_, ()>(())).await.unwrap().executed());
    }
    gateway.assert_executed(REFUND, 2);
}

#[tokio::test(start_paused = true)]
async fn monitor_runs_permit_of_older_epoch_without_credential() {
    let (gateway, actpass) = allowing();
    let older = permit(&actpass, &refund().mode(Mode::Monitor)).await;
    gateway.halt("all", None, "test").unwrap();
    drop(actpass.preflight(&note()).await.unwrap());
    let (context, settlement) = older.spend(&TokioClock).unwrap();
    assert_eq!(context.decision().reason_code(), "actpass.halted");
    assert!(context.credential().is_none() && !context.halt().is_halted());
    assert!(settlement.settle(Ok::<_, ()>(())).executed());
}

#[tokio::test(start_paused = true)]
async fn permit_without_epoch_belongs_to_newest_seen_epoch() {
    let answers = Arc::new(Mutex::new(vec![
        r#"{"decision":"allow"}"#,
        r#"{"decision":"deny","halt_epoch":7}"#,
        r#"{"decision":"allow"}"#,
        r#"{"decision":"allow","halt_epoch":6}"#,
    ]));
    let actpass = ActPass::builder().api_key("apk_test").transport(Scripted(answers)).build().unwrap();
    let without = permit(&actpass, &refund()).await;
    drop(actpass.preflight(&refund()).await.unwrap());
    let reason = |permit: actpass_core::Permit| match permit.spend(&TokioClock) {
        Ok((context, _)) => context.decision().reason_code().into_owned(),
        Err(blocked) => blocked.decision().reason_code().into_owned(),
    };
    assert_eq!(reason(without), "actpass.halted", "unknown counts as older");
    assert_eq!(reason(permit(&actpass, &refund()).await), "unspecified");
    assert_eq!(
        reason(permit(&actpass, &refund()).await),
        "actpass.halted",
        "the client has seen a newer one"
    );
}

#[derive(Debug)]
struct Scripted(Arc<Mutex<Vec<&'static str>>>);

impl Transport for Scripted {
    fn send(&self, _: Request) -> SendFuture<'_> {
        let body = self.0.lock().unwrap().remove(0);
        Box::pin(async move { Ok(Response::new(200, body)) })
    }
}

#[tokio::test(start_paused = true)]
async fn rejects_invalid_epoch() {
    for invalid in ["-1", "1.5", "1e3", "\"1\"", "true", "[]", "9007199254740992", "99999999999999999999"] {
        let body = format!(r#"{{"decision":"allow","halt_epoch":{invalid}}}"#);
        let transport = FixedResponse::new(200, body);
        let actpass = ActPass::builder().api_key("apk_test").transport(transport).build().unwrap();
        let outcome = actpass.guard(&refund(), async |_| Ok::<_, ()>(())).await.unwrap();
        assert_eq!(outcome.decision().reason_code(), "actpass.invalid_response", "{invalid}");
        assert!(!outcome.executed());
    }
    for valid in ["null", "0", "9007199254740991"] {
        let body = format!(r#"{{"decision":"allow","halt_epoch":{valid}}}"#);
        let transport = FixedResponse::new(200, body);
        let actpass = ActPass::builder().api_key("apk_test").transport(transport).build().unwrap();
        assert!(actpass.guard(&refund(), async |_| Ok::<_, ()>(())).await.unwrap().executed(), "{valid}");
    }
}

#[tokio::test(start_paused = true)]
async fn stopped_action_is_denied_with_who_and_why() {
    let (gateway, actpass) = allowing();
    gateway.halt("agent", Some("tests"), "wrong amounts").unwrap();
    let stopped = blocked(actpass.guard(&refund(), async |_| Ok::<_, ()>(())).await.unwrap());
    let texts = stopped.texts();
    assert_eq!(
        texts.model,
        "stripe.refund.create was not run: deny (halted). Stopped by test: wrong amounts. Wait until the stop is \
         lifted. A person stopped it: do not call it again before the stop is lifted."
    );
    assert_eq!(
        texts.developer,
        "stripe.refund.create was not run: deny (halted). Stopped by test: wrong amounts. Wait until the stop is lifted."
    );
    assert!(!stopped.is_retryable());
    gateway.lift();
    assert!(actpass.guard(&refund(), async |_| Ok::<_, ()>(())).await.unwrap().executed());
}

#[tokio::test(start_paused = true)]
async fn stop_ends_held_guard_and_keeps_its_handle() {
    let gateway = ScriptedGateway::new();
    gateway.script_all(Answer::require_approval());
    let actpass = gateway.client().unwrap();
    let held = refund().wait_for_approval(Duration::from_secs(600));
    let waiting = actpass.guard(&held, async |_| Ok::<_, ()>(()));
    let stop = async {
        until(|| gateway.requests().len() == 1).await;
        sleep(Duration::from_secs(3)).await;
        gateway.halt("tool", Some(REFUND), "wrong amounts").unwrap();
        Instant::now()
    };
    let (outcome, stopped) = tokio::join!(waiting, stop);
    assert!(stopped.elapsed() < Duration::from_millis(50), "{:?}", stopped.elapsed());
    let outcome = blocked(outcome.unwrap());
    assert_eq!(outcome.decision().reason_code(), "halted");
    assert_eq!(outcome.decision().explain().summary, "Stopped by test: wrong amounts");
    assert_eq!(outcome.decision().evidence_event_id().as_deref(), Some("ev_1"));
    assert_eq!(outcome.approval().map(|pending| pending.id()), Some("apr_1"));

    // The approval is kept. It cannot be approved, and a resumed action is stopped with its handle.
    let again = outcome.approval().unwrap().action();
    assert!(gateway.approve("apr_1").unwrap_err().to_string().contains("is stopped"));
    let resumed = blocked(actpass.guard(&again, async |_| Ok::<_, ()>(())).await.unwrap());
    assert_eq!(resumed.decision().reason_code(), "halted");
    assert_eq!(resumed.approval().map(|pending| pending.id()), Some("apr_1"));
    let polled = actpass.wait_for_approval("apr_1", Duration::from_secs(60)).await.unwrap();
    assert!(polled.is_halted());

    gateway.lift();
    gateway.approve("apr_1").unwrap();
    assert!(actpass.guard(&again, async |_| Ok::<_, ()>(())).await.unwrap().executed());
}

/// Answers each request with the next body, and records the methods and paths.
#[derive(Debug)]
struct Recorded {
    bodies: Mutex<Vec<&'static str>>,
    operations: Arc<Mutex<Vec<Operation>>>,
}

impl Transport for Recorded {
    fn send(&self, request: Request) -> SendFuture<'_> {
        self.operations.lock().unwrap().push(request.operation);
        let body = self.bodies.lock().unwrap().remove(0);
        Box::pin(async move { Ok(Response::new(200, body)) })
    }
}

/// Guards a held action. Returns the outcome's reason code, whether it has the handle, and the
/// requests.
async fn held(bodies: &[&'static str]) -> (String, bool, Vec<Operation>) {
    let operations = Arc::new(Mutex::new(Vec::new()));
    let transport = Recorded { bodies: Mutex::new(bodies.to_vec()), operations: Arc::clone(&operations) };
    let actpass = ActPass::builder().api_key("apk_test").transport(transport).build().unwrap();
    let action = refund().wait_for_approval(Duration::from_secs(600));
    let outcome = actpass.guard(&action, async |_| Ok::<_, ()>(())).await.unwrap();
    let handle = match &outcome {
        Outcome::Blocked(blocked) => blocked.approval().is_some_and(|pending| pending.id() == "apr_1"),
        Outcome::Failed { .. } | Outcome::Returned { .. } => false,
    };
    let operations = operations.lock().unwrap().clone();
    (outcome.decision().reason_code().into_owned(), handle, operations)
}

#[tokio::test(start_paused = true)]
async fn rising_epoch_during_a_wait_requests_a_decision() {
    use Operation::{Approval, Preflight};
    let required = r#"{"decision":"require_approval","approval_request_id":"apr_1","halt_epoch":3}"#;
    let pending = r#"{"id":"apr_1","status":"pending","halt_epoch":3}"#;
    let risen = r#"{"id":"apr_1","status":"pending","halt_epoch":4}"#;
    let stopped = r#"{"decision":"deny","reason_code":"halted","halt_epoch":4}"#;
    let unaffected = r#"{"decision":"require_approval","approval_request_id":"apr_1","halt_epoch":4}"#;
    let approved = r#"{"id":"apr_1","status":"approved","halt_epoch":4}"#;
    let allowed = r#"{"decision":"allow","reason_code":"approval.approved","halt_epoch":4}"#;

    let found = held(&[required, pending, risen, stopped]).await;
    assert_eq!(found, ("halted".to_owned(), true, vec![Preflight, Approval, Approval, Preflight]));
    // The stop is of another action: the wait continues.
    let found = held(&[required, risen, unaffected, risen, approved, allowed]).await;
    let operations = vec![Preflight, Approval, Preflight, Approval, Approval, Preflight];
    assert_eq!(found, ("approval.approved".to_owned(), false, operations));
    // Approved between the poll and the request.
    let found = held(&[required, risen, allowed]).await;
    assert_eq!(found, ("approval.approved".to_owned(), false, vec![Preflight, Approval, Preflight]));
    // Another approval is not waited for.
    let another = r#"{"decision":"require_approval","reason_code":"r","approval_request_id":"apr_2"}"#;
    assert_eq!(held(&[required, risen, another]).await.0, "r");
}

#[tokio::test(start_paused = true)]
async fn stop_signals_running_functions_and_acknowledges() {
    let (gateway, actpass) = allowing();
    let release = Notify::new();
    let run = |action: Action| {
        let release = &release;
        let actpass = &actpass;
        async move {
            let guarded = actpass.guard(&action, async |context| {
                tokio::select! {
                    () = context.halt().halted() => {}
                    () = release.notified() => {}
                }
                Ok::<_, ()>(context.halt().is_halted())
            });
            match guarded.await.unwrap() {
                Outcome::Returned { result, decision, .. } => (result, decision.reason_code().into_owned()),
                other @ (Outcome::Blocked(_) | Outcome::Failed { .. }) => panic!("{other:?}"),
            }
        }
    };
    let control = async {
        until(|| !watches(&gateway).is_empty()).await;
        let [held] = &watches(&gateway)[..] else { panic!("{:?}", watches(&gateway)) };
        assert_eq!(held, "/api/v1/halts/watch?after=0&wait=24&agent_id=tests");
        gateway.halt("tool", Some(REFUND), "wrong amounts").unwrap();
        until(|| acknowledged(&gateway).len() == 1).await;
        sleep(Duration::from_secs(5)).await;
        release.notify_waiters();
        until(|| acknowledged(&gateway).len() == 2).await;
    };
    let (refunded, other_refund, noted, ()) =
        tokio::join!(run(refund()), run(refund().user_id("a b&c")), run(note()), control);
    assert_eq!(refunded, (true, "test.allow".to_owned()), "the outcome does not change");
    assert_eq!((other_refund.0, noted.0), (true, false));
    let questions: Vec<_> = watches(&gateway).into_iter().filter(|path| path.contains("tool=")).collect();
    assert_eq!(
        questions,
        [
            "/api/v1/halts/watch?after=0&wait=0&agent_id=tests&tool=stripe.refund.create",
            "/api/v1/halts/watch?after=0&wait=0&agent_id=tests&tool=stripe.refund.create&user_id=a%20b%26c",
            "/api/v1/halts/watch?after=0&wait=0&agent_id=tests&tool=crm.note.add",
        ]
    );
    assert_eq!(acknowledged(&gateway), [acknowledgement(1, 3), acknowledgement(1, 0)]);
    let instances: Vec<_> =
        gateway.acknowledgements().iter().map(|body| body.member("instance").unwrap().to_string()).collect();
    assert!(instances[0] == instances[1] && instances[0].len() == 34, "{instances:?}");
}

#[tokio::test(start_paused = true)]
async fn short_functions_cause_no_request() {
    let (gateway, actpass) = allowing();
    for _ in 0..20 {
        drop(
            actpass
                .guard(&refund(), async |_| {
                    sleep(Duration::from_millis(900)).await;
                    Ok::<_, ()>(())
                })
                .await
                .unwrap(),
        );
    }
    sleep(Duration::from_secs(60)).await;
    assert_eq!(gateway.requests().len(), 20, "{:?}", watches(&gateway));
}

#[tokio::test(start_paused = true)]
async fn watch_ends_with_the_last_function() {
    let polls = Arc::new(AtomicUsize::new(0));
    let is_open = Arc::new(AtomicBool::new(false));
    let transport = HeldWatch { polls: Arc::clone(&polls), is_open: Arc::clone(&is_open) };
    let actpass = ActPass::builder().api_key("apk_test").transport(transport).build().unwrap();
    let action = note();
    let later = async {
        sleep(Duration::from_secs(5)).await;
        assert!(is_open.load(Ordering::SeqCst));
        actpass
            .guard(&action, async |_| {
                sleep(Duration::from_secs(10)).await;
                Ok::<_, ()>(())
            })
            .await
    };
    let first = actpass.guard(&action, async |_| {
        sleep(Duration::from_secs(10)).await;
        Ok::<_, ()>(())
    });
    let (first, later) = tokio::join!(first, later);
    assert!(first.unwrap().executed() && later.unwrap().executed());
    until(|| !is_open.load(Ordering::SeqCst)).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(polls.load(Ordering::SeqCst), 1, "one watch for both functions");
}

/// Allows, and holds the watch until it is dropped.
#[derive(Debug)]
struct HeldWatch {
    polls: Arc<AtomicUsize>,
    is_open: Arc<AtomicBool>,
}

impl Transport for HeldWatch {
    fn send(&self, request: Request) -> SendFuture<'_> {
        Box::pin(async move {
            if request.operation != Operation::WatchHalts {
                return Ok(Response::new(200, r#"{"decision":"allow","halt_epoch":0}"#));
            }
            self.polls.fetch_add(1, Ordering::SeqCst);
            self.is_open.store(true, Ordering::SeqCst);
            let _closed = Closed(Arc::clone(&self.is_open));
            std::future::pending().await
        })
    }
}

struct Closed(Arc<AtomicBool>);

impl Drop for Closed {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn gateway_without_epoch_gets_no_further_request() {
    let requests = Arc::new(AtomicUsize::new(0));
    let transport = Counting(Arc::clone(&requests));
    let actpass = ActPass::builder().api_key("apk_test").transport(transport).build().unwrap();
    let action = refund();
    let outcome = actpass.guard(&action, async |context| {
        sleep(Duration::from_secs(60)).await;
        Ok::<_, ()>(context.halt().is_halted())
    });
    assert!(matches!(outcome.await.unwrap(), Outcome::Returned { result: false, .. }));
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[derive(Debug)]
struct Counting(Arc<AtomicUsize>);

impl Transport for Counting {
    fn send(&self, _: Request) -> SendFuture<'_> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Ok(Response::new(200, r#"{"decision":"allow"}"#)) })
    }
}

#[tokio::test(start_paused = true)]
async fn failing_watch_backs_off_and_changes_no_outcome() {
    let polls = Arc::new(AtomicUsize::new(0));
    let transport = FailingWatch(Arc::clone(&polls));
    let actpass =
        ActPass::builder().api_key("apk_test").circuit_failures(1).transport(transport).build().unwrap();
    let action = refund();
    let outcome = actpass.guard(&action, async |_| {
        sleep(Duration::from_secs(120)).await;
        Ok::<_, ()>(())
    });
    assert!(outcome.await.unwrap().executed());
    let polls = polls.load(Ordering::SeqCst);
    assert!((6..=16).contains(&polls), "1, 2, 4, 8, 16, 30, 30 s, jittered: {polls}");
    assert_eq!(actpass.circuit().as_str(), "closed");
}

#[derive(Debug)]
struct FailingWatch(Arc<AtomicUsize>);

impl Transport for FailingWatch {
    fn send(&self, request: Request) -> SendFuture<'_> {
        let watches = request.operation == Operation::WatchHalts;
        let asked = if watches { self.0.fetch_add(1, Ordering::SeqCst) } else { 0 };
        Box::pin(async move {
            match (watches, asked % 3) {
                (false, _) => Ok(Response::new(200, r#"{"decision":"allow","halt_epoch":0}"#)),
                (true, 0) => Ok(Response::new(500, "")),
                (true, 1) => panic!("a panic of the transport"),
                (true, _) => Ok(Response::new(200, r#"{"halt_epoch":"x","halted":true}"#)),
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn epoch_in_another_response_signals_young_function() {
    let (gateway, actpass) = allowing();
    let action = refund();
    let running = actpass.guard(&action, async |context| {
        let began = Instant::now();
        context.halt().halted().await;
        Ok::<_, ()>(began.elapsed())
    });
    let other = async {
        until(|| gateway.executions().len() == 1).await;
        gateway.halt("agent", Some("tests"), "test").unwrap();
        drop(actpass.preflight(&note()).await.unwrap());
    };
    let (outcome, ()) = tokio::join!(running, other);
    let Outcome::Returned { result, .. } = outcome.unwrap() else { panic!("it did not return") };
    assert!(result < Duration::from_millis(500), "{result:?}");
    until(|| acknowledged(&gateway).len() == 2).await;
    assert_eq!(acknowledged(&gateway), [acknowledgement(1, 1), acknowledgement(1, 0)]);
}

#[tokio::test(start_paused = true)]
async fn signal_calls_listeners_once() {
    let (gateway, actpass) = allowing();
    let calls = Arc::new(AtomicUsize::new(0));
    let action = refund();
    let running = actpass.guard(&action, async |context| {
        let count = |calls: &Arc<AtomicUsize>| {
            let calls = Arc::clone(calls);
            move || {
                calls.fetch_add(1, Ordering::SeqCst);
            }
        };
        context.halt().on_halt(|| panic!("a listener that panics"));
        context.halt().on_halt(count(&calls));
        context.halt().halted().await;
        context.halt().on_halt(count(&calls));
        Ok::<_, ()>(())
    });
    let stop = async {
        until(|| !watches(&gateway).is_empty()).await;
        gateway.halt("all", None, "test").unwrap();
        gateway.halt("all", None, "again").unwrap();
    };
    drop(tokio::join!(running, stop).0.unwrap());
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn stopped_passport_is_invalid() {
    let (gateway, actpass) = allowing();
    let request = PassportRequest::new("audience", "goal", [REFUND]);
    let passport = actpass.issue_passport(&request).await.unwrap();
    assert_eq!(passport.member("halt_epoch").unwrap().to_string(), "0");
    gateway.halt("tool", Some(REFUND), "test").unwrap();
    let verify = VerifyRequest::new(passport.token(), "audience");
    assert_eq!(actpass.verify_passport(&verify).await.unwrap().errors(), ["halted"]);
    let error = actpass.issue_passport(&request).await.unwrap_err();
    assert_eq!((error.status(), error.code()), (Some(409), "actpass.gateway_error"));
    gateway.lift();
    assert!(actpass.verify_passport(&verify).await.unwrap().is_valid());
}

#[test]
fn rejects_invalid_stop() {
    let gateway = ScriptedGateway::new();
    for (scope, id, problem) in [
        ("Agent", Some("a"), "scope: expected agent, tool, user, tenant or all, found \"Agent\""),
        ("tool", None, "id: expected a name, found nothing"),
        ("user", Some(""), "id: expected a name, found nothing"),
        ("all", Some("a"), "id: expected none, found \"a\""),
    ] {
        assert_eq!(gateway.halt(scope, id, "test").unwrap_err().to_string(), problem);
    }
}
