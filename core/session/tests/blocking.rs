//! `BlockingClient`: blocking programs, many threads, stale connections, and interrupted waits.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

#[path = "../../tests/common/mod.rs"]
mod common;

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use actpass_core::transport::FixedResponse;
use actpass_core::{ActPass, Circuit, Error, ErrorKind, EvidenceEvent, Mode, PreparedAction, Verdict};
use actpass_hostile_gateway::HostileGateway;
use actpass_session::BlockingClient;
use common::{KEY, action, allow, block_on, body, builder, gateway, respond, scripted, wait_until};
use serde_json::json;

#[test]
fn idle_connection_closed_by_server_fails_no_call() {
    closed_while_idle("none");
}

#[test]
fn idle_tls_connection_closed_by_server_fails_no_call() {
    closed_while_idle("trusted");
}

/// Evidence events are not retried, so only a live connection succeeds.
fn closed_while_idle(tls: &str) {
    let calls = 40;
    let recorded = respond(json!({"event_id": "ev_1"}));
    let gateway = scripted(json!({"tls": tls, "steps": [recorded]}));
    let client = host(&gateway);
    for call in 0..calls {
        record(&client, "event").unwrap_or_else(|error| panic!("call {call}: {error}"));
        gateway.close_connections();
    }
    let connections: HashSet<_> = gateway.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(
        (gateway.seen().len(), connections.len()),
        (calls, calls),
        "every connection was closed and every call was sent once"
    );
}

#[test]
fn idle_connections_of_some_threads_fail_no_call() {
    idle_connections(16, 0);
}

/// More threads than runtimes. Only one of the threads that share a runtime polls; the others must not
/// take a connection before closed ones are detected.
#[test]
fn idle_connections_of_many_threads_fail_no_call() {
    // All calls overlap.
    idle_connections(80, 200);
}

fn idle_connections(threads: usize, delay_ms: u64) {
    let recorded = json!({"do": "respond", "json": {"event_id": "ev_1"}, "delay_ms": delay_ms});
    let gateway = gateway(json!([recorded]));
    let client = host(&gateway);
    for round in 0..12 {
        let start = Barrier::new(threads);
        thread::scope(|scope| {
            for at in 0..threads {
                let (client, start) = (&client, &start);
                scope.spawn(move || {
                    start.wait();
                    record(client, &format!("{round} {at}")).unwrap();
                });
            }
        });
        gateway.close_connections();
    }
    let connections: HashSet<_> = gateway.seen().iter().map(|seen| seen.connection).collect();
    assert!(connections.len() >= 12, "the server closed no connection");
}

#[test]
fn reuses_open_connections() {
    let gateway = gateway(json!([respond(json!({"event_id": "ev_1"}))]));
    let client = host(&gateway);
    for _ in 0..10 {
        record(&client, "event").unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    let connections: HashSet<_> = gateway.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections.len(), 1);
}

#[test]
fn discards_bytes_after_a_response() {
    let deny = json!({"decision": "deny"}).to_string();
    let allowed = allow().to_string();
    let more = format!("{deny}HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{allowed}", allowed.len());
    let smuggled =
        json!({"do": "respond", "headers": {"content-length": deny.len().to_string()}, "body": more});
    for pause in [0, 20] {
        for _ in 0..20 {
            let gateway = gateway(json!([smuggled, {"do": "respond", "body": deny}]));
            let client = host(&gateway);
            for call in 0..3 {
                let ask = |client: ActPass| async move { client.preflight(&action()).await };
                let decision = client.wait(ask, || Ok::<_, Infallible>(())).unwrap();
                assert!(
                    !decision.as_ref().is_ok_and(|d| d.word().as_str() == "allow"),
                    "call {call}: {decision:?}"
                );
                thread::sleep(Duration::from_millis(pause));
            }
        }
    }
}

#[test]
fn many_threads_share_one_client() {
    const THREADS: usize = 16;
    const CALLS: usize = 25;
    let gateway = gateway(json!([respond(json!({"event_id": "ev_1"}))]));
    let client = host(&gateway);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let client = &client;
            scope.spawn(move || {
                for call in 0..CALLS {
                    record(client, &format!("event.{thread}.{call}")).unwrap();
                }
            });
        }
    });
    let events: HashSet<_> = gateway.seen().iter().map(|seen| body(seen)["event_type"].to_string()).collect();
    assert_eq!((gateway.seen().len(), events.len()), (THREADS * CALLS, THREADS * CALLS));
    let connections: HashSet<_> = gateway.seen().iter().map(|seen| seen.connection).collect();
    // A thread may return before its connection is back in the pool.
    assert!(connections.len() <= 4 * THREADS, "{}", connections.len());
}

#[test]
fn calls_of_many_threads_run_concurrently() {
    let slow = gateway(json!([{"do": "respond", "json": {"event_id": "ev_1"}, "delay_ms": 60_000}]));
    let client = host(&slow);
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| record(&client, "event").unwrap());
        }
        // No response is sent before all requests arrived.
        wait_until("16 requests at once", || slow.seen().len() == 16);
        slow.release();
    });
}

#[test]
fn circuit_breaker_counts_the_calls_of_all_threads() {
    const THREADS: u32 = 4;
    let gateway = gateway(json!([{"do": "reset", "at": "request"}]));
    let client = BlockingClient::new(builder(&gateway).max_retries(0).circuit_failures(THREADS)).unwrap();
    let start = Barrier::new(THREADS as usize);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                start.wait();
                record(&client, "event").unwrap_err()
            });
        }
    });
    assert!(matches!(client.circuit(), Circuit::Open { .. }), "{:?}", client.circuit());
}

#[test]
fn interrupt_abandons_hanging_call_and_runs_nothing() {
    for at in ["request", "headers", "body"] {
        for mode in [Mode::Enforce, Mode::Monitor] {
            let gateway = gateway(json!([{"do": "hang", "at": at}, respond(allow())]));
            let client = host(&gateway);
            let (runs, asked) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let guard = |client: ActPass| {
                let runs = &runs;
                async move {
                    let execute = |_| async {
                        runs.fetch_add(1, Ordering::SeqCst);
                        Ok::<_, Infallible>(())
                    };
                    client.guard(&action().mode(mode), execute).await.map(|outcome| outcome.executed())
                }
            };
            let interrupted = client.wait(guard, || match asked.fetch_add(1, Ordering::SeqCst) {
                0 | 1 => Ok(()),
                _ => Err("stop"),
            });
            assert_eq!(interrupted.unwrap_err(), "stop");
            assert_eq!((runs.load(Ordering::SeqCst), asked.load(Ordering::SeqCst)), (0, 3));

            // The client continues, and the abandoned call stays abandoned.
            assert!(client.wait(guard, || Ok::<_, Infallible>(())).unwrap().unwrap());
            assert_eq!(runs.load(Ordering::SeqCst), 1);
            assert_eq!(gateway.seen().len(), 2);
        }
    }
}

#[test]
fn panic_while_waiting_blocks_except_in_monitor() {
    let gateway = gateway(json!([{"do": "hang", "at": "request"}]));
    let client = host(&gateway);
    let broken = || -> Result<(), Infallible> { panic!("while waiting") };
    let prepared = |action| client.prepare(action).unwrap();
    // Like a binding: a call without a result was lost.
    let authorize = |request: &PreparedAction| {
        let ruled = client.wait(async |actpass| Ok(actpass.authorize_prepared(request).await), broken);
        ruled.map(|ruled| ruled.unwrap_or_else(|failure| Verdict::for_failure(request, failure)))
    };
    let Ok(Verdict::Blocked(blocked)) = authorize(&prepared(action())) else { panic!("not blocked") };
    assert_eq!(blocked.decision().reason_code(), "actpass.internal");
    assert_eq!(blocked.error().map(Error::kind), Some(ErrorKind::Internal));
    let monitored = authorize(&prepared(action().mode(Mode::Monitor)));
    assert!(matches!(monitored, Ok(Verdict::Proceed(_))), "{monitored:?}");
    let unsendable = client.prepare(action().args_text("[]").mode(Mode::Monitor));
    assert_eq!(unsendable.unwrap_err().kind(), ErrorKind::Argument);
}

#[test]
fn interrupt_of_one_thread_does_not_affect_others() {
    let steps = json!([{"do": "respond", "json": {"event_id": "ev_1"}, "delay_ms": 60_000}]);
    let gateway = gateway(steps);
    let client = host(&gateway);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // The first waiting thread drives all connections.
        let first = scope.spawn(|| {
            client.wait(
                |client: ActPass| async move {
                    client.record_evidence(&EvidenceEvent::new("first", "c")).await.map(drop)
                },
                || if stop.load(Ordering::SeqCst) { Err("stop") } else { Ok(()) },
            )
        });
        wait_until("the first request", || gateway.seen().len() == 1);
        let others: Vec<_> = (0..4).map(|_| scope.spawn(|| record(&client, "other"))).collect();
        wait_until("the others' requests", || gateway.seen().len() == 5);
        stop.store(true, Ordering::SeqCst);
        assert_eq!(first.join().unwrap().unwrap_err(), "stop");
        gateway.release();
        for other in others {
            other.join().unwrap().unwrap();
        }
    });
}

#[test]
fn deadline_applies_in_every_thread() {
    let gateway = gateway(json!([{"do": "hang", "at": "request"}]));
    let client = BlockingClient::new(builder(&gateway).timeout(Duration::from_millis(300))).unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(record(&client, "event").unwrap_err().kind(), ErrorKind::Timeout));
        }
    });
}

#[test]
fn client_can_be_dropped_anywhere() {
    let gateway = gateway(json!([respond(json!({"event_id": "ev_1"}))]));
    // Outside a runtime, unused and used.
    drop(host(&gateway));
    let used = host(&gateway);
    record(&used, "event").unwrap();
    drop(used);

    // Inside a runtime, where a plain drop would panic.
    let used = host(&gateway);
    record(&used, "event").unwrap();
    block_on(async move { drop(used) });
    let used = host(&gateway);
    record(&used, "event").unwrap();
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    threads.block_on(async move { tokio::spawn(async move { drop(used) }).await.unwrap() });

    // On another thread, and inside a call.
    let used = Arc::new(host(&gateway));
    record(&used, "event").unwrap();
    let inner = Arc::clone(&used);
    let ended = used.wait(
        |client: ActPass| async move {
            drop(inner);
            client.record_evidence(&EvidenceEvent::new("last", "chain")).await.map(drop)
        },
        || Ok::<_, Infallible>(()),
    );
    ended.unwrap().unwrap();
    thread::spawn(move || drop(used)).join().unwrap();
}

#[test]
fn constructor_rejects_invalid_settings() {
    let error = BlockingClient::new(ActPass::builder().api_key("")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let own = FixedResponse::new(200, r#"{"decision": "deny"}"#);
    let error = BlockingClient::new(ActPass::builder().api_key(KEY).transport(own)).unwrap_err();
    assert!(error.to_string().starts_with("transport: not supported by settings()"), "{error}");
    let client = BlockingClient::new(ActPass::builder().api_key(KEY).base_url("http://127.0.0.1:9")).unwrap();
    assert_eq!(
        format!("{client:?}"),
        r#"BlockingClient { base_url: "http://127.0.0.1:9", agent_id: "sdk", .. }"#
    );
    fn shared<T: Send + Sync>() {}
    shared::<BlockingClient>();
}

fn host(gateway: &HostileGateway) -> BlockingClient {
    let builder = builder(gateway);
    BlockingClient::new(match gateway.ca_pem() {
        Some(ca) => builder.ca(ca),
        None => builder,
    })
    .unwrap()
}

fn record(client: &BlockingClient, event_type: &str) -> Result<(), Error> {
    let event = EvidenceEvent::new(event_type, "chain");
    let call = |client: ActPass| async move { client.record_evidence(&event).await.map(drop) };
    client.wait(call, || Ok::<_, Infallible>(())).unwrap()
}
