//! What the client adds to a call, side by side: the same answer from the same server on loopback, one call at a time, in
//! interleaved rounds. `make bench` runs it. With the argument `serve` it is the server alone, for benchmarks in other
//! languages.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use actpass_core::runtime::Host;
use actpass_core::{ActPass, Action, Json, Outcome};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::runtime::{Builder, Runtime};

const ROUNDS: usize = 7;
const CALLS: usize = 2_000;
const KEY: &str = "apk_bench";
const ANSWER: &str = r#"{"decision":"allow","reason_code":"refund.small_in_scope","risk_tier":"high","explain":{"summary":"Small refund.","matched_rules":["small_refund_auto_approve"],"next_steps":[]},"evidence_event_id":"ev_0192f0c1"}"#;

fn main() -> Result<(), Box<dyn Error>> {
    let server = fixed_answer_server()?;
    if std::env::args().nth(1).as_deref() == Some("serve") {
        println!("http://{server}");
        // Until whoever started it closes its standard input.
        std::io::stdin().read_to_end(&mut Vec::new())?;
        return Ok(());
    }
    let mut contenders: Vec<Box<dyn Contender>> = vec![
        Box::new(RawSocket::new(server)?),
        Box::new(Hyper::new(server)?),
        Box::new(Guard::new(server)?),
        Box::new(HostGuard::new(server)?),
        Box::new(BackgroundGuard::new(server)?),
    ];
    let mut rounds = vec![Vec::new(); contenders.len()];
    for round in 0..=ROUNDS {
        for (contender, medians) in contenders.iter_mut().zip(&mut rounds) {
            let percentiles = measure(contender.as_mut())?;
            // The first round warms up.
            if round > 0 {
                medians.push(percentiles);
            }
        }
    }
    println!("{CALLS} calls a round, {ROUNDS} rounds interleaved, medians over rounds; microseconds");
    println!("{:<42} {:>8} {:>8} {:>8} {:>14}", "", "p50", "p99", "x hyper", "p50 min..max");
    let median = |rounds: &[(f64, f64)], pick: fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        (
            values.get(values.len() / 2).copied().unwrap_or(f64::NAN),
            values.first().copied(),
            values.last().copied(),
        )
    };
    let floor = rounds.get(1).map_or(f64::NAN, |hyper| median(hyper, |(p50, _)| *p50).0);
    for (contender, rounds) in contenders.iter().zip(&rounds) {
        let (p50, low, high) = median(rounds, |(p50, _)| *p50);
        let (p99, ..) = median(rounds, |(_, p99)| *p99);
        let spread = format!("{:.1}..{:.1}", low.unwrap_or(f64::NAN), high.unwrap_or(f64::NAN));
        println!("{:<42} {p50:>8.1} {p99:>8.1} {:>8.2} {spread:>14}", contender.name(), p50 / floor);
    }
    Ok(())
}

/// Something that can ask for one decision.
trait Contender {
    fn name(&self) -> &'static str;
    fn call(&mut self) -> Result<(), Box<dyn Error>>;
}

/// The 50th and 99th percentile of one round, in microseconds.
fn measure(contender: &mut dyn Contender) -> Result<(f64, f64), Box<dyn Error>> {
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let start = Instant::now();
        contender.call()?;
        times.push(start.elapsed());
    }
    times.sort();
    let at = |part: usize| times.get(CALLS * part / 100).map_or(f64::NAN, Duration::as_secs_f64) * 1e6;
    Ok((at(50), at(99)))
}

/// What the kernel costs: bytes over a socket.
struct RawSocket {
    stream: BufReader<TcpStream>,
    request: String,
}

impl RawSocket {
    fn new(server: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        let body = body();
        let request = format!(
            "POST /api/v1/actions/preflight HTTP/1.1\r\nhost: {server}\r\nauthorization: Bearer {KEY}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        Ok(Self { stream: BufReader::new(stream), request })
    }
}

impl Contender for RawSocket {
    fn name(&self) -> &'static str {
        "raw socket"
    }

    fn call(&mut self) -> Result<(), Box<dyn Error>> {
        self.stream.get_mut().write_all(self.request.as_bytes())?;
        read_message(&mut self.stream).map(|_| ())
    }
}

/// The floor: hyper on a current-thread runtime, nothing parsed.
struct Hyper {
    runtime: Runtime,
    sender: hyper::client::conn::http1::SendRequest<String>,
    server: SocketAddr,
}

impl Hyper {
    fn new(server: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let runtime = current_thread()?;
        let sender = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(server).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Ok::<_, Box<dyn Error>>(sender)
        })?;
        Ok(Self { runtime, sender, server })
    }
}

impl Contender for Hyper {
    fn name(&self) -> &'static str {
        "hyper, current-thread runtime (the floor)"
    }

    fn call(&mut self) -> Result<(), Box<dyn Error>> {
        let request = http::Request::post("/api/v1/actions/preflight")
            .header("host", self.server.to_string())
            .header("authorization", format!("Bearer {KEY}"))
            .header("content-type", "application/json")
            .body(body())?;
        self.runtime.block_on(async {
            let mut response = self.sender.send_request(request).await?;
            let mut body = Vec::new();
            while let Some(frame) = next_frame(&mut response).await {
                body.extend_from_slice(&frame?);
            }
            match body == ANSWER.as_bytes() {
                true => Ok(()),
                false => Err("another answer".into()),
            }
        })
    }
}

async fn next_frame(
    response: &mut http::Response<hyper::body::Incoming>,
) -> Option<Result<Bytes, hyper::Error>> {
    let frame = std::future::poll_fn(|context| {
        hyper::body::Body::poll_frame(std::pin::Pin::new(response.body_mut()), context)
    });
    frame.await.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default()))
}

/// The guard as a Rust program uses it.
struct Guard {
    runtime: Runtime,
    actpass: ActPass,
}

impl Guard {
    fn new(server: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let actpass = ActPass::builder().api_key(KEY).base_url(format!("http://{server}")).build()?;
        Ok(Self { runtime: current_thread()?, actpass })
    }
}

impl Contender for Guard {
    fn name(&self) -> &'static str {
        "ActPass::guard, current-thread runtime"
    }

    fn call(&mut self) -> Result<(), Box<dyn Error>> {
        let action = action();
        let outcome = self.runtime.block_on(self.actpass.guard(&action, async |_| Ok::<_, ()>(())))?;
        ran(&outcome)
    }
}

/// The guard as a host language without a runtime uses it.
struct HostGuard(Host);

impl HostGuard {
    fn new(server: SocketAddr) -> Result<Self, Box<dyn Error>> {
        Ok(Self(Host::new(ActPass::builder().api_key(KEY).base_url(format!("http://{server}")))?))
    }
}

impl Contender for HostGuard {
    fn name(&self) -> &'static str {
        "runtime::Host, calling thread"
    }

    fn call(&mut self) -> Result<(), Box<dyn Error>> {
        let action = action();
        let call = async |actpass: ActPass| actpass.guard(&action, async |_| Ok::<_, ()>(())).await;
        let outcome = self.0.wait(call, || Ok::<_, std::convert::Infallible>(()))??;
        ran(&outcome)
    }
}

/// What [`Host`] does not do: a background thread drives the connections, the caller waits for it.
struct BackgroundGuard {
    runtime: Runtime,
    actpass: ActPass,
}

impl BackgroundGuard {
    fn new(server: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let actpass = ActPass::builder().api_key(KEY).base_url(format!("http://{server}")).build()?;
        Ok(Self { runtime: Builder::new_multi_thread().worker_threads(1).enable_all().build()?, actpass })
    }
}

impl Contender for BackgroundGuard {
    fn name(&self) -> &'static str {
        "the same on a background runtime"
    }

    fn call(&mut self) -> Result<(), Box<dyn Error>> {
        let action = action();
        let outcome = self.runtime.block_on(self.actpass.guard(&action, async |_| Ok::<_, ()>(())))?;
        ran(&outcome)
    }
}

fn ran(outcome: &Outcome<(), ()>) -> Result<(), Box<dyn Error>> {
    match outcome.executed() {
        true => Ok(()),
        false => Err(outcome.decision().as_json().into()),
    }
}

fn current_thread() -> Result<Runtime, std::io::Error> {
    Builder::new_current_thread().enable_all().build()
}

fn action() -> Action {
    Action::new("resolve_refund_request", "stripe.refund.create")
        .resource("stripe:charge:ch_123")
        .args_text(r#"{"amount": 4900, "currency": "usd"}"#)
}

/// As long as what the client sends.
fn body() -> String {
    let args =
        Json::parse(br#"{"amount":4900,"currency":"usd"}"#).map(|args| args.to_string()).unwrap_or_default();
    format!(
        r#"{{"agent_id": "sdk", "goal": "resolve_refund_request", "tool": "stripe.refund.create", "resource": "stripe:charge:ch_123", "args": {args}, "user_id": null, "passport": null, "mode": "enforce", "idempotency_key": "0192f0c1-0000-7000-8000-000000000000", "audience": null}}"#
    )
}

/// Answers every request alike, a thread for each connection.
fn fixed_answer_server() -> Result<SocketAddr, std::io::Error> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    Ok(address)
}

fn serve(stream: TcpStream) {
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{ANSWER}",
        ANSWER.len()
    );
    let _ = stream.set_nodelay(true);
    let mut stream = BufReader::new(stream);
    while read_message(&mut stream).is_ok_and(|length| length > 0) {
        if stream.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Reads a message's header section and its body; how long it was, 0 at the end.
fn read_message(stream: &mut BufReader<TcpStream>) -> Result<usize, Box<dyn Error>> {
    let (mut line, mut length, mut total) = (String::new(), 0, 0);
    loop {
        line.clear();
        let read = stream.read_line(&mut line)?;
        total += read;
        if read == 0 || line == "\r\n" {
            break;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(total + length)
}
