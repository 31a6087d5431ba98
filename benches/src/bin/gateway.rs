//! What a gateway decides and records in a second, with its data in SQLite and in PostgreSQL, side by side: real programs,
//! real disks, a new idempotency key each call, in interleaved rounds. `make bench-gateway` runs it.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use actpass_core::sha256_hex;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(4);
const CONNECTIONS: [usize; 3] = [1, 16, 64];
const KEY: &str = "apk_bench";

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let program = std::env::args().nth(1).ok_or("expected the path of actpass-gateway")?;
    let policy = std::env::args().nth(2).ok_or("expected the path of a policy")?;
    let mut gateways = vec![Gateway::start(&program, &policy, "SQLite", "data = \"data.db\"")?];
    if let Some(server) = actpass_test_postgres::server()? {
        let data = format!("database_url = \"{}\"", server.database()?);
        gateways.push(Gateway::start(&program, &policy, "PostgreSQL", &data)?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("{ROUNDS} rounds of {} s interleaved, medians; milliseconds", ROUND.as_secs());
    println!(
        "{:<12}{:>12}{:>14}{:>10}{:>10}  preflights/s min..max",
        "", "connections", "preflights/s", "p50", "p99"
    );
    for connections in CONNECTIONS {
        let mut measured = vec![Vec::new(); gateways.len()];
        for round in 0..ROUNDS {
            for (gateway, rounds) in gateways.iter().zip(&mut measured) {
                let prefix = format!("{connections}-{round}");
                rounds.push(runtime.block_on(measure(gateway.address, connections, &prefix))?);
            }
        }
        for (gateway, rounds) in gateways.iter().zip(&measured) {
            let median = |pick: fn(&Measured) -> f64| {
                let mut values: Vec<f64> = rounds.iter().map(pick).collect();
                values.sort_by(f64::total_cmp);
                let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
                (at(values.len() / 2), at(0), at(values.len().saturating_sub(1)))
            };
            let (rate, low, high) = median(|round| round.rate);
            println!(
                "{:<12}{connections:>12}{rate:>14.0}{:>10.2}{:>10.2}  {low:.0}..{high:.0}",
                gateway.store,
                median(|round| round.p50).0,
                median(|round| round.p99).0,
            );
        }
    }
    Ok(())
}

/// A running gateway, which ends with this.
struct Gateway {
    store: &'static str,
    address: SocketAddr,
    child: Child,
    _folder: TempDir,
}

impl Gateway {
    fn start(program: &str, policy: &str, store: &'static str, data: &str) -> Result<Self, Failure> {
        let folder = TempDir::new()?;
        let policy = Path::new(policy).canonicalize()?;
        let hash = sha256_hex(KEY.as_bytes());
        let settings = format!(
            "listen = \"127.0.0.1:0\"\n{data}\n[[tenants]]\nid = \"t\"\npolicy = \"{}\"\n\
             [[keys]]\nname = \"k\"\nhash = \"sha256:{hash}\"\ntenant = \"t\"\nrole = \"agent\"\n",
            policy.display()
        );
        let file = folder.path().join("gateway.toml");
        std::fs::write(&file, settings)?;
        let mut child = Command::new(program)
            .args(["serve", "--config"])
            .arg(file)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let address =
            line.trim_end().strip_prefix("listening on http://").ok_or("the gateway did not start")?;
        Ok(Self { store, address: address.parse()?, child, _folder: folder })
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, Copy)]
struct Measured {
    rate: f64,
    p50: f64,
    p99: f64,
}

async fn measure(gateway: SocketAddr, connections: usize, prefix: &str) -> Result<Measured, Failure> {
    let mut senders = Vec::new();
    for _ in 0..connections {
        let stream = tokio::net::TcpStream::connect(gateway).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        senders.push(sender);
    }
    let started = Instant::now();
    let callers: Vec<_> = senders
        .into_iter()
        .enumerate()
        .map(|(number, sender)| tokio::spawn(call(sender, gateway, format!("{prefix}-{number}"), started)))
        .collect();
    let mut times = Vec::new();
    for caller in callers {
        times.extend(caller.await??);
    }
    let elapsed = started.elapsed().as_secs_f64();
    times.sort();
    let at = |part: usize| times.get(times.len() * part / 100).map_or(f64::NAN, Duration::as_secs_f64) * 1e3;
    let count = u32::try_from(times.len()).map_or(f64::NAN, f64::from);
    Ok(Measured { rate: count / elapsed, p50: at(50), p99: at(99) })
}

async fn call(
    mut sender: SendRequest<String>,
    gateway: SocketAddr,
    prefix: String,
    started: Instant,
) -> Result<Vec<Duration>, Failure> {
    let mut times = Vec::new();
    while started.elapsed() < ROUND {
        let body = format!(
            r#"{{"agent_id": "sdk", "goal": "refund an order", "tool": "refunds.create", "resource": "stripe:charge:ch_1", "args": {{"amount": 4900, "currency": "usd"}}, "mode": "enforce", "idempotency_key": "{prefix}-{}"}}"#,
            times.len()
        );
        let request = http::Request::post("/api/v1/actions/preflight")
            .header("host", gateway.to_string())
            .header("authorization", format!("Bearer {KEY}"))
            .header("content-type", "application/json")
            .body(body)?;
        let begun = Instant::now();
        let mut response = sender.send_request(request).await?;
        let mut answer = Vec::new();
        while let Some(frame) = next_frame(&mut response).await {
            answer.extend_from_slice(&frame?.into_data().unwrap_or_default());
        }
        times.push(begun.elapsed());
        if !answer.starts_with(br#"{"decision":"allow""#) {
            return Err(String::from_utf8_lossy(&answer).into());
        }
    }
    Ok(times)
}

async fn next_frame(
    response: &mut http::Response<hyper::body::Incoming>,
) -> Option<Result<hyper::body::Frame<bytes::Bytes>, hyper::Error>> {
    std::future::poll_fn(|context| {
        hyper::body::Body::poll_frame(std::pin::Pin::new(response.body_mut()), context)
    })
    .await
}
