//! A panicking subscriber does not affect calls. In its own test binary, because the subscriber is
//! process-wide.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod common;

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use actpass_core::{ActPass, Outcome, Verdict};
use common::{action, allow, block_on, builder, gateway, respond, scripted};
use serde::{Serialize, Serializer};
use serde_json::json;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

thread_local!(static BREAKS: Cell<At> = const { Cell::new(At::PendingTransport) });

/// The place where the subscriber panics on this thread.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    PendingTransport,
    Enabled,
    NewSpan,
    Record,
    Event,
    Enter,
    Exit,
    CloneSpan,
    Close,
    Everywhere,
}

const PLACES: [At; 9] = [
    At::Enabled,
    At::NewSpan,
    At::Record,
    At::Event,
    At::Enter,
    At::Exit,
    At::CloneSpan,
    At::Close,
    At::Everywhere,
];

struct Breaking;

fn at(place: At) {
    let breaks = BREAKS.get();
    assert!(breaks != place && breaks != At::Everywhere, "the subscriber panics at {place:?}");
}

impl Subscriber for Breaking {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> tracing::subscriber::Interest {
        // So that `enabled` is called each time.
        tracing::subscriber::Interest::sometimes()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        at(At::Enabled);
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        at(At::NewSpan);
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {
        at(At::Record);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        at(At::Event);
    }

    fn enter(&self, _: &Id) {
        at(At::Enter);
    }

    fn exit(&self, _: &Id) {
        at(At::Exit);
    }

    fn clone_span(&self, id: &Id) -> Id {
        at(At::CloneSpan);
        id.clone()
    }

    fn try_close(&self, _: Id) -> bool {
        at(At::Close);
        true
    }
}

fn breaking() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        tracing::subscriber::set_global_default(Breaking).unwrap();
        let shown = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| match panic.payload_as_str() {
            Some(text) if text.starts_with("the subscriber panics") => {}
            Some(_) | None => shown(panic),
        }));
    });
}

/// A result whose serialization panics.
#[derive(Debug)]
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("the value cannot be serialized")
    }
}

async fn guarded(client: &ActPass) -> Outcome<&'static str, fmt::Error> {
    client.guard(&action(), async |_| Ok("refunded")).await.unwrap()
}

#[test]
fn panicking_subscriber_changes_no_outcome() {
    breaking();
    for place in PLACES {
        let gateway = gateway(json!([
            respond(allow()),
            {"do": "respond", "status": 503, "json": {}},
            respond(allow()),
            respond(json!({"decision": "deny", "reason_code": "refund.over_limit"})),
            {"do": "respond", "status": 500, "json": {}},
            respond(allow()),
            respond(json!({"event_id": "ev_2"})),
        ]));
        let client = builder(&gateway).max_retries(1).build().unwrap();
        BREAKS.set(place);
        block_on(async {
            assert!(
                matches!(guarded(&client).await, Outcome::Returned { result: "refunded", .. }),
                "{place:?}"
            );
            assert!(guarded(&client).await.executed(), "{place:?}: after a retry");
            let denied = guarded(&client).await;
            assert_eq!(denied.decision().reason_code(), "refund.over_limit", "{place:?}");
            let failed = guarded(&client).await;
            assert_eq!(failed.decision().reason_code(), "actpass.gateway_error", "{place:?}");
            let recorded =
                client.guard_and_record(&action(), async |_| Ok::<_, fmt::Error>("refunded")).await;
            let (outcome, recorded) = recorded.unwrap();
            assert!(outcome.executed(), "{place:?}");
            assert_eq!(recorded.unwrap().unwrap().event_id(), "ev_2", "{place:?}");
        });
        BREAKS.set(At::PendingTransport);
        assert_eq!(gateway.seen().len(), 7, "{place:?}");
    }
}

#[test]
fn panicking_subscriber_changes_no_http2_outcome() {
    breaking();
    for place in PLACES {
        let gateway = scripted(json!({"tls": "trusted", "http2": true, "steps": [respond(allow())]}));
        let client = builder(&gateway).ca(gateway.ca_pem().unwrap()).build().unwrap();
        BREAKS.set(place);
        assert!(block_on(guarded(&client)).executed(), "{place:?}");
        BREAKS.set(At::PendingTransport);
    }
}

#[test]
fn dropped_call_does_not_panic() {
    breaking();
    let hang = json!([{"do": "hang", "at": "request"}]);
    for place in PLACES {
        for script in
            [json!({"steps": hang.clone()}), json!({"tls": "trusted", "http2": true, "steps": hang.clone()})]
        {
            let gateway = scripted(script);
            let mut builder = builder(&gateway);
            if let Some(pem) = gateway.ca_pem() {
                builder = builder.ca(pem);
            }
            let client = builder.build().unwrap();
            let asked = async {
                while gateway.seen().is_empty() {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            BREAKS.set(place);
            block_on(async {
                tokio::select! {
                    outcome = guarded(&client) => panic!("{outcome:?}"),
                    () = asked => {}
                }
            });
            BREAKS.set(At::PendingTransport);
        }
    }
}

#[test]
fn panicking_subscriber_changes_no_verdict() {
    breaking();
    let gateway = gateway(json!([{"do": "reset", "at": "request"}]));
    let client = builder(&gateway).build().unwrap();
    BREAKS.set(At::Everywhere);
    let verdict = block_on(client.authorize(&action())).unwrap();
    BREAKS.set(At::PendingTransport);
    let Verdict::Blocked(blocked) = verdict else { panic!("allowed") };
    assert_eq!(blocked.decision().reason_code(), "actpass.unreachable");
}

#[test]
fn panicking_serializer_keeps_the_result() {
    breaking();
    let gateway = gateway(json!([respond(allow()), respond(json!({"event_id": "ev_2"}))]));
    let client = builder(&gateway).build().unwrap();
    let run = async |_| Ok::<_, fmt::Error>(Unwritable);
    let (outcome, recorded) = block_on(client.guard_and_record(&action(), run)).unwrap();
    assert!(matches!(outcome, Outcome::Returned { result: Unwritable, .. }));
    assert_eq!(recorded.unwrap().unwrap().event_id(), "ev_2");
    let sent: serde_json::Value = serde_json::from_str(&gateway.seen()[1].body).unwrap();
    assert_eq!((&sent["response_hash"], &sent["metadata"]["ended"]), (&json!(null), &json!("returned")));
}
