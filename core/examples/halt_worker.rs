//! The Rust clients of `tests/halts/run.py`: see `tests/halts/worker.py`.
//!
//! usage: `halt_worker FIRST COUNT URL...`

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actpass_core::{ActPass, Action, Error, Outcome};
use serde_json::json;

/// Between the calls of a client.
const PAUSE: Duration = Duration::from_millis(100);
static ENDED: AtomicBool = AtomicBool::new(false);

fn say(client: usize, event: &str, evidence: Option<&str>) {
    let ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1e3;
    let line = json!({"client": client, "event": event, "ms": ms, "evidence": evidence});
    let mut out = std::io::stdout().lock();
    // If the reader is gone, the test has ended.
    drop(out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()));
}

fn action() -> Action {
    Action::new("load", "load.step").args(json!({"amount": 1}))
}

async fn run(number: usize, url: &str) -> Result<(), Error> {
    let builder = ActPass::builder().api_key("apk_load").agent_id(format!("load_{number}")).base_url(url);
    let actpass = Arc::new(builder.timeout(Duration::from_secs(60)).build()?);
    let client = Arc::clone(&actpass);
    let long = tokio::spawn(async move {
        let action = action();
        loop {
            tokio::time::sleep(PAUSE).await;
            let outcome = client.guard(&action, async |context| {
                say(number, "running", context.decision().evidence_event_id().as_deref());
                context.halt().halted().await;
                say(number, "told", None);
                Ok::<_, ()>(())
            });
            drop(outcome.await);
        }
    });
    while !ENDED.load(Ordering::SeqCst) {
        tokio::time::sleep(PAUSE).await;
        let action = action();
        let step = actpass.guard(&action, async |context| {
            say(number, "ran", context.decision().evidence_event_id().as_deref());
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok::<_, ()>(())
        });
        if let Outcome::Blocked(blocked) = step.await? {
            say(number, &blocked.decision().reason_code(), None);
        }
    }
    long.abort();
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = || arguments.next().unwrap_or_default().parse::<usize>();
    let (first, count) = (number()?, number()?);
    let urls: Vec<String> = arguments.collect();
    std::thread::spawn(|| {
        drop(std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
        ENDED.store(true, Ordering::SeqCst);
    });
    let runs = (first..first + count).filter_map(|at| Some(run(at, urls.get(at % urls.len())?)));
    for ended in futures_util::future::join_all(runs).await {
        ended?;
    }
    Ok(())
}
