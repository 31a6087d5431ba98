//! Makes one kind of call a given number of times and exits, so that valgrind can count its
//! instructions: `actpass-instructions CASE CALLS`. The difference between two counts is the cost
//! of the calls between them. `scripts/instructions` runs it. `actpass-instructions serve` is the
//! server of the cases of the Python package, until its standard input ends.
//!
//! Everything else, including the server, runs in one thread, so that the scheduler has no influence.
//!
//! The policies are compiled from the gateway's sources, because an optimised build of the whole
//! gateway takes five times as long as all counted cases.

#[allow(dead_code, unreachable_pub, reason = "included from the gateway, used in part")]
#[path = "../../../gateway/src/budget.rs"]
mod budget;
#[allow(dead_code, unreachable_pub, reason = "included from the gateway, used in part")]
#[path = "../../../gateway/src/clock.rs"]
mod clock;
#[allow(dead_code, unreachable_pub, reason = "included from the gateway, used in part")]
#[path = "../../../gateway/src/history.rs"]
mod history;
#[allow(dead_code, unreachable_pub, reason = "included from the gateway, used in part")]
#[path = "../../../gateway/src/object_writer.rs"]
mod object_writer;
#[expect(dead_code, unreachable_pub, unused_imports, reason = "included from the gateway, used in part")]
#[path = "../../../gateway/src/policy/mod.rs"]
mod policy;
#[expect(dead_code, unreachable_pub, reason = "included from the gateway, used in part")]
#[path = "../../../gateway/src/problems.rs"]
mod problems;
#[allow(dead_code, unreachable_pub, reason = "included from the gateway, used in part")]
#[path = "../../../gateway/src/quorum.rs"]
mod quorum;
#[expect(dead_code, unreachable_pub, reason = "included from the benchmarks, used in part")]
#[path = "../../src/samples.rs"]
mod samples;
mod server;
/// Codes of modules that are not included. No counted call compares them.
mod approvals {
    pub(crate) mod reason {
        pub(crate) const APPROVED: &str = "approval.approved";
    }
}
mod vault {
    pub(crate) const EXPIRED: &str = "credential.expired";
}

use std::hint::black_box;
use std::net::SocketAddr;

use actpass_core::transport::FixedResponse;
use actpass_core::{ActPass, Action, Json, hash_payload};
use tokio::runtime::{Builder, Runtime};

use crate::policy::Policy;
use crate::samples::{ANSWER, Asked, KEY, action, action_of, arguments};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const LARGE: usize = 100_000;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let (case, calls) = match (arguments.next(), arguments.next()) {
        (Some(case), None) if case == "serve" => return serve(),
        (Some(case), Some(calls)) => (case, calls),
        (None, _) | (Some(_), None) => return Err("usage: actpass-instructions CASE CALLS".into()),
    };
    let calls = calls.parse()?;
    match case.as_str() {
        "guard" => in_memory(&action(), calls),
        "guard_100_kb" => in_memory(&action_of(LARGE), calls),
        "guard_http" => over_http(&action(), calls),
        "guard_http_100_kb" => over_http(&action_of(LARGE), calls),
        "hash_payload_100_kb" => hash(calls),
        "policy_3_rules" => evaluate(3, calls),
        "policy_100_rules" => evaluate(100, calls),
        "policy_10000_rules" => evaluate(10_000, calls),
        _ => Err(format!("no case is called {case}").into()),
    }
}

/// The guard alone, without a network.
fn in_memory(action: &Action, calls: usize) -> Result<(), Failure> {
    let answer = FixedResponse::new(200, ANSWER);
    let actpass = ActPass::builder().api_key(KEY).transport(answer).build()?;
    guard(&runtime()?, &actpass, action, calls)
}

/// The guard over a kept-alive connection, including the small cost of the server.
fn over_http(action: &Action, calls: usize) -> Result<(), Failure> {
    let runtime = runtime()?;
    let server: SocketAddr = runtime.block_on(server::in_this_thread())?;
    let actpass = ActPass::builder().api_key(KEY).base_url(format!("http://{server}")).build()?;
    guard(&runtime, &actpass, action, calls)
}

/// Serves clients in other processes.
fn serve() -> Result<(), Failure> {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    runtime()?.block_on(async {
        println!("http://{}", server::in_this_thread().await?);
        std::future::pending().await
    })
}

fn guard(runtime: &Runtime, actpass: &ActPass, action: &Action, calls: usize) -> Result<(), Failure> {
    runtime.block_on(async {
        for _ in 0..calls {
            let outcome = actpass.guard(action, async |_| Ok::<_, ()>(())).await?;
            if !outcome.executed() {
                return Err(outcome.decision().as_json().into());
            }
        }
        Ok(())
    })
}

fn hash(calls: usize) -> Result<(), Failure> {
    let payload = Json::parse(arguments(LARGE).as_bytes())?;
    for _ in 0..calls {
        black_box(hash_payload(black_box(&payload))?);
    }
    Ok(())
}

fn evaluate(rules: usize, calls: usize) -> Result<(), Failure> {
    let policy = Policy::parse(samples::policy(rules)?.as_bytes())?;
    let asked = Asked::new()?;
    // Loading leaves the allocator in a state that depends on random seeds; the first evaluations
    // level it.
    for _ in 0..8 {
        black_box(policy.first_match(black_box(&asked.input())));
    }
    counted_evaluations(&policy, &asked, calls)
}

/// The counted part of the policy cases. Loading is excluded: it costs a thousand times more than
/// an evaluation and uses maps with random seeds.
#[inline(never)]
fn counted_evaluations(policy: &Policy, asked: &Asked, calls: usize) -> Result<(), Failure> {
    for _ in 0..calls {
        let rule = policy.first_match(black_box(&asked.input()));
        if rule.is_none_or(|rule| rule.name() != "small_refund_auto_approve") {
            return Err("another rule decided".into());
        }
    }
    Ok(())
}

fn runtime() -> Result<Runtime, std::io::Error> {
    Builder::new_current_thread().enable_all().build()
}
