//! A client without tokio: the host supplies transport and clock.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

use std::future::{Future, pending, ready};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use actpass_core::transport::{FixedResponse, Request, Response, SendFuture, Transport, TransportError};
use actpass_core::{
    ActPass, Action, ActionEnd, Clock, Error, ErrorKind, Mode, Moment, Outcome, PERMIT_VALIDITY, Sleep,
    Verdict,
};

/// A clock on which every wait elapses immediately.
#[derive(Clone, Debug, Default)]
struct Fast(Arc<Mutex<Moment>>);

impl Clock for Fast {
    fn now(&self) -> Moment {
        *self.0.lock().unwrap()
    }

    fn wall_clock(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.now().saturating_since(Moment::default())
    }

    fn random(&self) -> Result<[u8; 16], Error> {
        Ok([9; 16])
    }

    fn sleep_until(&self, until: Moment) -> Sleep<'_> {
        Box::pin(async move {
            // Pending at first, so that an available response wins.
            let mut polls = 0;
            std::future::poll_fn(move |context| {
                polls += 1;
                context.waker().wake_by_ref();
                if polls < 3 { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
            let mut now = self.0.lock().unwrap();
            *now = until.max(*now);
        })
    }
}

/// Unreachable a number of times, then allows; or never responds.
#[derive(Debug)]
struct Gateway {
    failures: u32,
    answers: bool,
    requests: AtomicU32,
}

impl Transport for &'static Gateway {
    fn send(&self, request: Request) -> SendFuture<'_> {
        let sent = self.requests.fetch_add(1, Ordering::SeqCst);
        assert_eq!(request.retry, sent);
        assert!(String::from_utf8_lossy(&request.body).contains("00000000-0000-7909-8909-090909090909"));
        match (self.answers, sent < self.failures) {
            (false, _) => Box::pin(pending()),
            (true, true) => {
                let error = Error::new(ErrorKind::Connection, "connection refused");
                Box::pin(ready(Err(TransportError { error, is_pre_send: true })))
            }
            (true, false) => Box::pin(ready(Ok(Response::new(200, r#"{"decision": "allow"}"#)))),
        }
    }
}

fn gateway(failures: u32, answers: bool) -> &'static Gateway {
    Box::leak(Box::new(Gateway { failures, answers, requests: AtomicU32::new(0) }))
}

fn client(gateway: &'static Gateway, clock: Fast) -> ActPass {
    let builder = ActPass::builder().api_key("apk_test").base_url("http://127.0.0.1:9").max_retries(2);
    builder.transport(gateway).clock(clock).build().unwrap()
}

/// Polls a future to completion on this thread, without a runtime.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    for _ in 0..1_000 {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
    }
    panic!("the future does not complete");
}

#[test]
fn guard_runs_without_tokio() {
    let (gateway, clock) = (gateway(2, true), Fast::default());
    let actpass = client(gateway, clock.clone());
    let outcome = block_on(actpass.guard(&Action::new("demo", "demo.tool"), async |_| Ok::<_, ()>("done")));
    assert!(matches!(outcome.unwrap(), Outcome::Returned { result: "done", .. }));
    assert_eq!(gateway.requests.load(Ordering::SeqCst), 3);
    // Two backoffs, of 50 to 100 ms and 100 to 200 ms.
    let waited = clock.now().saturating_since(Moment::default());
    assert!(waited >= Duration::from_millis(150) && waited <= Duration::from_millis(300), "{waited:?}");
}

#[test]
fn deadline_uses_the_given_clock() {
    let (gateway, clock) = (gateway(0, false), Fast::default());
    let actpass = client(gateway, clock.clone());
    let outcome = block_on(actpass.guard(&Action::new("demo", "demo.tool"), async |_| Ok::<(), ()>(())));
    let Outcome::Blocked(blocked) = outcome.unwrap() else { panic!("it ran") };
    assert_eq!(blocked.decision().reason_code(), "actpass.timeout");
    assert_eq!(clock.now().saturating_since(Moment::default()), Duration::from_secs(30));
    assert_eq!(gateway.requests.load(Ordering::SeqCst), 1);
}

/// Never responds.
#[derive(Debug)]
struct Silent;

impl Transport for Silent {
    fn send(&self, _: Request) -> SendFuture<'_> {
        Box::pin(pending())
    }
}

#[test]
fn cancellation_recording_times_out_after_one_second() {
    for (timeout, limit) in [(30_000, 1_000), (300, 300)].map(|pair| (ms(pair.0), ms(pair.1))) {
        let clock = Fast::default();
        let builder = ActPass::builder().api_key("apk_test").base_url("http://127.0.0.1:9").timeout(timeout);
        let actpass = builder.transport(Silent).clock(clock.clone()).build().unwrap();
        let prepared = actpass.prepare(Action::new("demo", "demo.tool").mode(Mode::Monitor)).unwrap();
        let Verdict::Proceed(permit) =
            Verdict::for_failure(&prepared, Error::new(ErrorKind::Internal, "lost"))
        else {
            panic!("monitor runs")
        };
        let (_, settlement) = permit.spend(&clock).unwrap();
        let error = block_on(actpass.record(&settlement.recording(ActionEnd::Cancelled, None))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert_eq!(clock.now().saturating_since(Moment::default()), limit);
    }
}

#[test]
fn permit_expires_after_five_minutes_or_with_its_credential() {
    let answer = |credential: &str| {
        FixedResponse::new(200, format!(r#"{{"decision":"allow","evidence_event_id":"ev_1"{credential}}}"#))
    };
    let credential = |until: &str| format!(r#","credential":{{"token":"tok","expires_at":{until}}}"#);
    // This clock starts in 1970.
    for (mode, credential, waited, is_void) in [
        (Mode::Enforce, String::new(), PERMIT_VALIDITY, false),
        (Mode::Enforce, String::new(), PERMIT_VALIDITY + ms(1), true),
        (Mode::Monitor, String::new(), PERMIT_VALIDITY + ms(1), true),
        (Mode::Enforce, credential("null"), PERMIT_VALIDITY, false),
        (Mode::Enforce, credential(r#""1970-01-01T00:01:00Z""#), ms(59_999), false),
        (Mode::Enforce, credential(r#""1970-01-01T00:01:00Z""#), ms(60_000), true),
        (Mode::Monitor, credential(r#""1970-01-01T01:01:00+01:00""#), ms(60_000), true),
        (Mode::Enforce, credential(r#""soon""#), ms(60_000), false),
    ] {
        let clock = Fast::default();
        let builder = ActPass::builder().api_key("apk_test").base_url("http://127.0.0.1:9").mode(mode);
        let actpass = builder.transport(answer(&credential)).clock(clock.clone()).build().unwrap();
        let verdict = block_on(actpass.authorize(&Action::new("demo", "demo.tool"))).unwrap();
        let Verdict::Proceed(permit) = verdict else { panic!("{verdict:?}") };
        block_on(clock.sleep_until(clock.now() + waited));
        match permit.spend(&clock) {
            Ok((context, settlement)) => {
                assert!(!is_void || mode == Mode::Monitor, "{credential} after {waited:?}");
                let has_token = !is_void && !credential.is_empty();
                assert_eq!(context.credential().is_some(), has_token, "{credential} after {waited:?}");
                let outcome = settlement.settle(Ok::<_, ()>(()));
                let reason = if is_void { "actpass.permit_expired" } else { "unspecified" };
                assert_eq!(outcome.decision().reason_code(), reason);
            }
            Err(blocked) => {
                assert!(is_void && mode != Mode::Monitor, "{credential} after {waited:?}");
                let decision = blocked.decision();
                assert_eq!(
                    (decision.word().as_str(), &*decision.reason_code()),
                    ("deny", "actpass.permit_expired")
                );
                assert_eq!(
                    decision.evidence_event_id().as_deref(),
                    Some("ev_1"),
                    "the event id of the allow is kept"
                );
            }
        }
    }
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[test]
fn custom_clock_requires_custom_transport() {
    let error = ActPass::builder().api_key("apk_test").clock(Fast::default()).build().unwrap_err();
    assert!(error.to_string().starts_with("clock: only supported"), "{error}");
}
