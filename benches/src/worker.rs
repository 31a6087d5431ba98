//! The Rust clients, measured on command; the baseline for the clients of other languages.
//!
//! A worker reads one command per line and answers with one JSON object per line:
//!
//! - `measure NAME WIDTH CALLS SECONDS`: at most CALLS calls, WIDTH concurrently, for at most
//!   SECONDS.
//! - `clients NAME COUNT`: creates COUNT more clients that make one call each and stay open.
//! - `load ADDRESS WIDTH CALLS SECONDS PREFIX KEYS`: preflights with new idempotency keys; with
//!   several API keys, each connection uses the next.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actpass_core::{ActPass, ActPassBuilder, Outcome};
use actpass_session::BlockingClient;
use futures_util::future::try_join_all;
use hyper::client::conn::http1::SendRequest;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsConnector;

use crate::round::{Round, connect, exchange};
use crate::samples::{ANSWER, KEY, PATH, action, body};
use crate::{Failure, load, server};

/// Executes commands until the end of the input.
///
/// # Errors
///
/// If it cannot start.
pub fn run(url: &str, authority: Option<&[u8]>) -> Result<(), Failure> {
    let mut contenders = contenders(&Target::new(url, authority)?)?;
    let mut kept = Vec::new();
    let names: Vec<_> = contenders.iter().map(|(name, _)| *name).collect();
    say(&json!({"contenders": names}))?;
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words.as_slice() {
            ["measure", name, width, calls, seconds] => {
                let round = Round::new(width.parse()?, calls.parse()?, seconds.parse()?);
                contenders
                    .iter_mut()
                    .find(|(known, _)| known == name)
                    .ok_or_else(|| format!("no contender is called {name}").into())
                    .and_then(|(_, contender)| contender.measure(&round))
                    .map(|times| round.report(times))
            }
            ["clients", "guard", count] => more_clients(url, authority, count.parse()?).map(|clients| {
                kept.extend(clients);
                json!({"clients": kept.len()})
            }),
            ["load", address, width, calls, seconds, prefix, keys @ ..] => {
                let round = Round::new(width.parse()?, calls.parse()?, seconds.parse()?);
                load::preflights(address.parse()?, &round, prefix, keys).map(|times| round.report(times))
            }
            _ => Err(format!("no such command: {line}").into()),
        };
        say(&answer.unwrap_or_else(|failure| json!({"error": failure.to_string()})))?;
    }
    Ok(())
}

fn say(answer: &Value) -> Result<(), std::io::Error> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{answer}")?;
    output.flush()
}

/// The target of the calls.
#[derive(Clone)]
struct Target {
    url: String,
    address: SocketAddr,
    authority: Option<Vec<u8>>,
}

impl Target {
    fn new(url: &str, authority: Option<&[u8]>) -> Result<Self, Failure> {
        let (_, address) = url.split_once("://").ok_or("expected a URL")?;
        Ok(Self { url: url.to_owned(), address: address.parse()?, authority: authority.map(<[u8]>::to_vec) })
    }

    fn builder(&self) -> ActPassBuilder {
        let builder = ActPass::builder().api_key(KEY).base_url(self.url.as_str());
        match &self.authority {
            Some(pem) => builder.ca(pem.as_slice()),
            None => builder,
        }
    }

    fn tls(&self) -> Result<Option<TlsConnector>, Failure> {
        let Some(pem) = &self.authority else {
            return Ok(None);
        };
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pem)?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Some(TlsConnector::from(Arc::new(config))))
    }
}

/// A client that can be measured.
trait Contender {
    /// Makes the calls of a round and returns the duration of each.
    fn measure(&mut self, round: &Round) -> Result<Vec<Duration>, Failure>;
}

type Named = (&'static str, Box<dyn Contender>);

fn contenders(target: &Target) -> Result<Vec<Named>, Failure> {
    let background = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut contenders: Vec<Named> = vec![
        (
            "hyper",
            Box::new(Hyper { runtime: current_thread()?, senders: Vec::new(), target: target.clone() }),
        ),
        ("reqwest", Box::new(Reqwest::new(target)?)),
        ("guard", Box::new(Guard { runtime: current_thread()?, actpass: target.builder().build()? })),
        ("host", Box::new(BlockingGuard(BlockingClient::new(target.builder())?))),
        ("background", Box::new(Guard { runtime: background, actpass: target.builder().build()? })),
    ];
    if target.authority.is_none() {
        contenders.push(("socket", Box::new(RawSocket::new(target)?)));
    }
    Ok(contenders)
}

fn more_clients(url: &str, authority: Option<&[u8]>, count: usize) -> Result<Vec<Guard>, Failure> {
    let target = Target::new(url, authority)?;
    (0..count)
        .map(|_| {
            let mut client = Guard { runtime: current_thread()?, actpass: target.builder().build()? };
            client.measure(&Round::new(1, 1, 60.0))?;
            Ok(client)
        })
        .collect()
}

/// The guard as a Rust program uses it.
struct Guard {
    runtime: Runtime,
    actpass: ActPass,
}

impl Contender for Guard {
    fn measure(&mut self, round: &Round) -> Result<Vec<Duration>, Failure> {
        let caller = || {
            round.repeat(async || {
                let action = action();
                ran(&self.actpass.guard(&action, async |_| Ok::<_, ()>(())).await?)
            })
        };
        let times = self.runtime.block_on(try_join_all((0..round.width).map(|_| caller())))?;
        Ok(times.concat())
    }
}

/// The guard as a blocking binding uses it: the calling thread waits.
struct BlockingGuard(BlockingClient);

impl BlockingGuard {
    fn caller(&self, round: &Round) -> Result<Vec<Duration>, Failure> {
        let mut times = Vec::new();
        while round.goes_on() {
            let start = Instant::now();
            let action = action();
            let call = async |actpass: ActPass| actpass.guard(&action, async |_| Ok::<_, ()>(())).await;
            ran(&self.0.wait(call, || Ok::<_, std::convert::Infallible>(()))??)?;
            times.push(start.elapsed());
        }
        Ok(times)
    }
}

impl Contender for BlockingGuard {
    fn measure(&mut self, round: &Round) -> Result<Vec<Duration>, Failure> {
        if round.width == 1 {
            return self.caller(round);
        }
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..round.width).map(|_| scope.spawn(|| self.caller(round))).collect();
            let times: Result<Vec<_>, Failure> =
                callers.into_iter().map(|caller| caller.join().map_err(|_| "a panic")?).collect();
            Ok(times?.concat())
        })
    }
}

fn ran(outcome: &Outcome<(), ()>) -> Result<(), Failure> {
    match outcome.executed() {
        true => Ok(()),
        false => Err(outcome.decision().as_json().into()),
    }
}

/// The baseline: hyper on a current-thread runtime, one connection per caller, no parsing.
struct Hyper {
    runtime: Runtime,
    senders: Vec<SendRequest<String>>,
    target: Target,
}

impl Contender for Hyper {
    fn measure(&mut self, round: &Round) -> Result<Vec<Duration>, Failure> {
        let tls = self.target.tls()?;
        let address = self.target.address;
        while self.senders.len() < round.width {
            self.senders.push(self.runtime.block_on(connect(address, tls.as_ref()))?);
        }
        let callers = self.senders.iter_mut().take(round.width);
        let callers = callers.map(|sender| round.repeat(async || by_hyper(sender, address).await));
        Ok(self.runtime.block_on(try_join_all(callers))?.concat())
    }
}

async fn by_hyper(sender: &mut SendRequest<String>, address: SocketAddr) -> Result<(), Failure> {
    let body = body("0192f0c1-0000-7000-8000-000000000000");
    match exchange(sender, address, KEY, body).await? == ANSWER.as_bytes() {
        true => Ok(()),
        false => Err("another answer".into()),
    }
}

/// The same with reqwest.
struct Reqwest {
    runtime: Runtime,
    client: reqwest::Client,
    url: String,
}

impl Reqwest {
    fn new(target: &Target) -> Result<Self, Failure> {
        // reqwest requires a process-wide TLS provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder().no_proxy();
        if let Some(pem) = &target.authority {
            builder = builder.tls_certs_only([reqwest::Certificate::from_pem(pem)?]);
        }
        Ok(Self {
            runtime: current_thread()?,
            client: builder.build()?,
            url: format!("{}{PATH}", target.url),
        })
    }
}

impl Contender for Reqwest {
    fn measure(&mut self, round: &Round) -> Result<Vec<Duration>, Failure> {
        let caller = || {
            round.repeat(async || {
                let request = self.client.post(self.url.as_str()).bearer_auth(KEY);
                let request = request.header("content-type", "application/json");
                let answer = request.body(body("0192f0c1-0000-7000-8000-000000000000")).send().await?;
                match answer.bytes().await? == ANSWER.as_bytes() {
                    true => Ok(()),
                    false => Err("another answer".into()),
                }
            })
        };
        let times = self.runtime.block_on(try_join_all((0..round.width).map(|_| caller())))?;
        Ok(times.concat())
    }
}

/// The kernel's cost: bytes over a socket, one call at a time.
struct RawSocket {
    stream: BufReader<TcpStream>,
    request: String,
}

impl RawSocket {
    fn new(target: &Target) -> Result<Self, Failure> {
        let stream = TcpStream::connect(target.address)?;
        stream.set_nodelay(true)?;
        let body = body("0192f0c1-0000-7000-8000-000000000000");
        let request = format!(
            "POST {PATH} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {KEY}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            target.address,
            body.len()
        );
        Ok(Self { stream: BufReader::new(stream), request })
    }
}

impl Contender for RawSocket {
    fn measure(&mut self, round: &Round) -> Result<Vec<Duration>, Failure> {
        if round.width > 1 {
            return Err("one call at a time only".into());
        }
        let mut times = Vec::new();
        while round.goes_on() {
            let start = Instant::now();
            self.stream.get_mut().write_all(self.request.as_bytes())?;
            server::read_message(&mut self.stream)?;
            times.push(start.elapsed());
        }
        Ok(times)
    }
}

fn current_thread() -> Result<Runtime, std::io::Error> {
    Builder::new_current_thread().enable_all().build()
}
