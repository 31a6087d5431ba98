//! `BackgroundClient`: calls on the background thread, and their cancellation.

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
use std::future::Future;
use std::io::Read;
use std::net::TcpListener;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use actpass_core::{ActPass, Error, ErrorKind, EvidenceEvent, Mode, Verdict};
use actpass_session::{BackgroundClient, BackgroundRuntime, BlockingClient};
use common::{KEY, action, allow, body, builder, gateway, header, respond};
use serde_json::json;

const LONG: Duration = Duration::from_secs(20);

/// Makes a call and waits for it.
fn ask<T: Send + 'static, F>(client: &BackgroundClient, call: impl FnOnce(ActPass) -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>> + Send + 'static,
{
    let (done, answer) = mpsc::channel();
    let _call = client.start(call, move |answer| done.send((answer, thread::current().id())).unwrap());
    let (answer, on) = answer.recv_timeout(LONG).unwrap();
    assert_ne!(on, thread::current().id(), "ran on the calling thread");
    answer
}

fn record(client: &BackgroundClient, event: &str) -> Result<(), Error> {
    let event = EvidenceEvent::new(event, "chain");
    ask(client, |actpass| async move { actpass.record_evidence(&event).await.map(drop) })
}

#[test]
fn calls_share_connections_and_one_thread() {
    let gateway = gateway(json!([respond(json!({"event_id": "ev_1"}))]));
    let client = BackgroundClient::new(builder(&gateway)).unwrap();
    let other = BackgroundClient::from_blocking(&BlockingClient::new(builder(&gateway)).unwrap()).unwrap();
    let name = |client: &BackgroundClient| {
        ask(client, |_| async { Ok(thread::current().name().map(str::to_owned)) }).unwrap()
    };
    assert_eq!((name(&client).as_deref(), name(&other).as_deref()), (Some("actpass"), Some("actpass")));
    let id = |client: &BackgroundClient| ask(client, |_| async { Ok(thread::current().id()) }).unwrap();
    assert_eq!(id(&client), id(&other));
    for _ in 0..10 {
        record(&client, "event").unwrap();
    }
    let connections: HashSet<_> = gateway.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!((gateway.seen().len(), connections.len()), (10, 1));
    assert_eq!((client.base_url(), client.agent_id()), (other.base_url(), other.agent_id()));
}

#[test]
fn tasks_run_on_the_background_thread() {
    let gateway = gateway(json!([]));
    let client = BackgroundClient::new(builder(&gateway)).unwrap();
    let of_calls = ask(&client, |_| async { Ok(thread::current().id()) }).unwrap();
    let task = BackgroundRuntime::current().unwrap().spawn(async { thread::current().id() });
    assert_eq!(common::block_on(task).unwrap(), of_calls);
}

/// Resolver threads of the runtime must not be ended by SIGPIPE either.
#[cfg(unix)]
#[test]
fn blocks_sigpipe_on_background_thread_only() {
    use nix::sys::signal::{SigSet, Signal};

    let is_blocked = || SigSet::thread_get_mask().unwrap().contains(Signal::SIGPIPE);
    let background = BackgroundRuntime::current().unwrap();
    let task = background.spawn(async move { (is_blocked(), tokio::task::spawn_blocking(is_blocked).await) });
    let (worker, resolver) = common::block_on(task).unwrap();
    assert_eq!((worker, resolver.unwrap(), is_blocked()), (true, true, false));
}

#[test]
fn idle_connection_closed_by_server_fails_no_call() {
    let gateway = gateway(json!([respond(json!({"event_id": "ev_1"}))]));
    let client = BackgroundClient::new(builder(&gateway)).unwrap();
    for call in 0..12 {
        record(&client, "event").unwrap_or_else(|error| panic!("call {call}: {error}"));
        gateway.close_connections();
    }
    assert_eq!(gateway.seen().len(), 12, "each call was sent once");
}

#[test]
fn discards_bytes_after_a_response() {
    let deny = json!({"decision": "deny"}).to_string();
    let allowed = allow().to_string();
    let more = format!("{deny}HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{allowed}", allowed.len());
    let smuggled =
        json!({"do": "respond", "headers": {"content-length": deny.len().to_string()}, "body": more});
    for pause in [0, 20] {
        for _ in 0..10 {
            let gateway = gateway(json!([smuggled, {"do": "respond", "body": deny}]));
            let client = BackgroundClient::new(builder(&gateway)).unwrap();
            for call in 0..3 {
                let decision = ask(&client, |client| async move { client.preflight(&action()).await });
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
fn cancelled_call_closes_its_connection_silently() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let client = BackgroundClient::new(ActPass::builder().api_key(KEY).base_url(url).timeout(LONG)).unwrap();
    let (done, answer) = mpsc::channel();
    let call = client.start(
        |actpass| async move { actpass.preflight(&action()).await },
        move |answer| done.send(answer).unwrap(),
    );
    let (mut connection, _) = listener.accept().unwrap();
    connection.set_read_timeout(Some(LONG)).unwrap();
    let mut asked = [0; 4096];
    assert!(connection.read(&mut asked).unwrap() > 0);
    assert_eq!(answer.recv_timeout(Duration::from_millis(100)).unwrap_err(), RecvTimeoutError::Timeout);
    call.cancel();
    while connection.read(&mut asked).unwrap() > 0 {}
    assert_eq!(answer.recv_timeout(LONG).unwrap_err(), RecvTimeoutError::Disconnected);
    call.cancel();
}

#[test]
fn dropped_call_handle_does_not_cancel() {
    let gateway = gateway(json!([{"do": "respond", "json": {"event_id": "ev_1"}, "delay_ms": 200}]));
    let client = BackgroundClient::new(builder(&gateway)).unwrap();
    let (done, answer) = mpsc::channel();
    let event = EvidenceEvent::new("event", "chain");
    drop(client.start(
        |actpass| async move { actpass.record_evidence(&event).await },
        move |answer| done.send(answer).unwrap(),
    ));
    drop(client);
    assert!(answer.recv_timeout(LONG).unwrap().is_ok());
}

#[test]
fn panic_blocks_and_thread_survives() {
    let gateway = gateway(json!([respond(allow())]));
    let client = BackgroundClient::new(builder(&gateway)).unwrap();
    for mode in [Mode::Enforce, Mode::Strict, Mode::Warn, Mode::Monitor] {
        let failure = ask::<(), _>(&client, |_| async { panic!("in the call") }).unwrap_err();
        assert_eq!(failure.kind(), ErrorKind::Internal);
        match Verdict::for_failure(&client.prepare(action().mode(mode)).unwrap(), failure) {
            Verdict::Blocked(blocked) => {
                assert_ne!(mode, Mode::Monitor);
                assert_eq!(blocked.decision().reason_code(), "actpass.internal");
            }
            Verdict::Proceed(permit) => {
                assert_eq!(mode, Mode::Monitor);
                drop(permit);
            }
        }
    }
    let decision = ask(&client, |actpass| async move { actpass.preflight(&action()).await }).unwrap();
    assert_eq!(decision.word().as_str(), "allow");
}

#[test]
fn sends_traceparent_only_within_a_trace() {
    let gateway = gateway(json!([respond(allow())]));
    let client = BackgroundClient::new(builder(&gateway)).unwrap();
    let current = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    ask(&client, |actpass| async move {
        actpass.in_trace(current.parse()?).preflight(&action()).await?;
        actpass.preflight(&action()).await
    })
    .unwrap();
    let seen = gateway.seen();
    assert_eq!(header(&seen[0], "traceparent"), Some(current));
    assert_eq!(header(&seen[1], "traceparent"), None);
    assert_eq!(body(&seen[0])["goal"], body(&seen[1])["goal"]);
}
