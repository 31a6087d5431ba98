//! The Rust worker.

#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actpass_core::{ActPass, Action, Decision, ExecutionContext, Outcome};
use actpass_soak::Result;
use actpass_soak::call::{AGENT, Call, Endpoint, KEY, Line, Ran, Reported, TOOL, WorkerConfig, resource};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> Result<()> {
    let path = std::env::args_os().nth(1).ok_or("usage: actpass-soak-worker ORDERS")?;
    let orders: WorkerConfig = serde_json::from_slice(&std::fs::read(path)?)?;
    let worker = Arc::new(Worker::new(orders)?);
    let mut load = JoinSet::new();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    println!("ready");
    while let Some(line) = lines.next_line().await? {
        match line.as_str() {
            "go" => worker.go(&mut load),
            "rest" => {
                worker.rest(&mut load).await?;
                println!("resting");
            }
            "call" => {
                worker.call_with_each().await?;
                println!("called");
            }
            "end" => return Ok(()),
            other => return Err(format!("unknown order {other:?}").into()),
        }
    }
    Err("standard input ended".into())
}

struct Worker {
    orders: WorkerConfig,
    clients: Vec<ActPass>,
    journal: Mutex<File>,
    last: AtomicU64,
    loaded: AtomicBool,
}

impl Worker {
    fn new(orders: WorkerConfig) -> Result<Self> {
        let journal = OpenOptions::new().append(true).open(&orders.journal)?;
        let clients =
            orders.gateways.iter().map(|gateway| client(gateway, &orders)).collect::<Result<_>>()?;
        Ok(Self {
            orders,
            clients,
            journal: Mutex::new(journal),
            last: AtomicU64::new(0),
            loaded: AtomicBool::new(false),
        })
    }

    fn go(self: &Arc<Self>, load: &mut JoinSet<Result<()>>) {
        self.loaded.store(true, Ordering::Relaxed);
        for at in 0..self.clients.len() {
            for _ in 0..self.orders.tasks {
                let worker = Arc::clone(self);
                load.spawn(async move {
                    while worker.loaded.load(Ordering::Relaxed) {
                        let pause = fastrand::u64(..=2 * worker.orders.pause_ms);
                        tokio::time::sleep(Duration::from_millis(pause)).await;
                        worker.call(at).await?;
                    }
                    Ok(())
                });
            }
        }
    }

    async fn rest(&self, load: &mut JoinSet<Result<()>>) -> Result<()> {
        self.loaded.store(false, Ordering::Relaxed);
        while let Some(ended) = load.join_next().await {
            ended??;
        }
        Ok(())
    }

    async fn call_with_each(&self) -> Result<()> {
        for at in 0..self.clients.len() {
            self.call(at).await?;
            self.call(at).await?;
        }
        Ok(())
    }

    async fn call(&self, at: usize) -> Result<()> {
        let (Some(shared), Some(gateway)) = (self.clients.get(at), self.orders.gateways.get(at)) else {
            return Err("unknown gateway".into());
        };
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let fresh = number.is_multiple_of(self.orders.fresh_client_each);
        let client = if fresh { client(gateway, &self.orders)? } else { shared.clone() };
        let (id, call) = (format!("rust-{number}"), Call::numbered(number));
        self.guard(&client, gateway, &id, call).await?;
        if call.repeats && gateway.ca.is_some() {
            self.guard(&client, gateway, &id, call).await?;
            self.guard(&self::client(gateway, &self.orders)?, gateway, &id, call).await?;
        }
        Ok(())
    }

    async fn guard(&self, client: &ActPass, gateway: &Endpoint, id: &str, call: Call) -> Result<()> {
        let action = Action::new(AGENT, TOOL)
            .resource(resource(id))
            .args(json!({"amount": call.amount, "currency": "usd"}))
            .mode(call.mode.as_str().parse()?)
            .idempotency_key(id);
        let execute = async |context: ExecutionContext| {
            let (evidence, hash) = (text(context.decision(), "evidence_event_id"), hash(context.decision()));
            self.write(&Line::Ran(Ran { id: id.to_owned(), evidence, hash }))
                .map_err(|error| error.to_string())?;
            if call.fails { Err("the action failed".to_owned()) } else { Ok(()) }
        };
        let outcome = client.guard(&action, execute).await?;
        let decision = outcome.decision();
        let kind = match &outcome {
            Outcome::Blocked(blocked) => blocked.error().map(|error| error.kind().name()),
            Outcome::Failed { .. } => Some("action"),
            Outcome::Returned { gate_error, .. } => gate_error.as_ref().map(|error| error.kind().name()),
        };
        self.write(&Line::Call(Reported {
            id: id.to_owned(),
            gateway: gateway.name.clone(),
            executed: outcome.executed(),
            word: decision.word().as_str().to_owned(),
            reason: text(decision, "reason_code"),
            kind: kind.map(str::to_owned),
            evidence: text(decision, "evidence_event_id"),
            hash: hash(decision),
        }))
    }

    fn write(&self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        Ok(self.journal.lock().unwrap_or_else(PoisonError::into_inner).write_all(&text)?)
    }
}

fn client(gateway: &Endpoint, orders: &WorkerConfig) -> Result<ActPass> {
    let mut builder = ActPass::builder()
        .api_key(KEY)
        .agent_id(AGENT)
        .base_url(gateway.url.as_str())
        .timeout(Duration::from_millis(orders.timeout_ms));
    if let Some(ca) = &gateway.ca {
        builder = builder.ca(ca.as_str());
    }
    Ok(builder.build()?)
}

fn hash(decision: &Decision) -> Option<String> {
    text(decision, "request_hash")
}

fn text(decision: &Decision, member: &str) -> Option<String> {
    decision.member(member)?.as_str().map(str::to_owned)
}
