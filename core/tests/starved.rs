//! A client that is starved of CPU must not accept the replay of another call.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

use std::future::{Future, poll_fn};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::pin::pin;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use actpass_core::{ActPass, Action, Outcome};

/// Time for which the caller's thread is blocked after each poll.
const STARVED: Duration = Duration::from_millis(100);
/// Time from the recording of the other call to this call.
const BEFORE: Duration = Duration::from_millis(5);

/// Reads one request; the client sends head and body together.
fn read(connection: &mut TcpStream) -> Instant {
    let mut bytes = [0; 16 * 1024];
    assert!(connection.read(&mut bytes).unwrap() > 0);
    Instant::now()
}

#[test]
fn starved_caller_rejects_replay_of_earlier_call() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let recorded = Instant::now().checked_sub(BEFORE).unwrap();
    let gateway = thread::spawn(move || {
        // The first attempt gets no response.
        let (mut first, _) = listener.accept().unwrap();
        read(&mut first);
        drop(first);
        let (mut second, _) = listener.accept().unwrap();
        let age = read(&mut second).saturating_duration_since(recorded).as_millis();
        let body = format!(r#"{{"decision": "allow", "replayed": true, "replay_age_ms": {age}}}"#);
        write!(second, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    });

    // The worker drives the connections, this thread the call.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let actpass = ActPass::builder().api_key("apk_test").base_url(url).build().unwrap();
    let action = Action::new("demo", "demo.tool").idempotency_key("k");
    let outcome = runtime.block_on(async {
        let mut guard = pin!(actpass.guard(&action, async |_| Ok::<(), ()>(())));
        poll_fn(|context| {
            let polled = guard.as_mut().poll(context);
            if polled.is_pending() {
                thread::sleep(STARVED);
            }
            match polled {
                Poll::Ready(outcome) => Poll::Ready(outcome.unwrap()),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    });
    gateway.join().unwrap();
    let Outcome::Blocked(blocked) = outcome else {
        panic!("the action ran under the replay of another call")
    };
    assert_eq!(blocked.decision().reason_code(), "actpass.replayed");
}
