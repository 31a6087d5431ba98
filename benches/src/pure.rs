//! Measures calls without a network.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use actpass_core::token::{Algorithm, PublicKey, TokenType, Unverified, encode, signing_input};
use actpass_core::transport::FixedResponse;
use actpass_core::{ActPass, Json, canonical_json, hash_payload};
use actpass_gateway::policy::Policy;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use tokio::runtime::Builder;

use crate::Failure;
use crate::samples::{ANSWER, Asked, KEY, action, action_of, arguments, body, policy};

/// The number of batches per figure; the median counts.
const BATCHES: usize = 31;

/// The minimum duration of a batch.
const BATCH: Duration = Duration::from_millis(1);

/// Measures nanoseconds per call, by case.
///
/// # Errors
///
/// If a case fails.
pub fn measure() -> Result<BTreeMap<&'static str, f64>, Failure> {
    let mut costs = BTreeMap::new();
    policies(&mut costs)?;
    json(&mut costs)?;
    signatures(&mut costs)?;
    guard(&mut costs)?;
    Ok(costs)
}

type Costs = BTreeMap<&'static str, f64>;

fn policies(costs: &mut Costs) -> Result<(), Failure> {
    let asked = Asked::new()?;
    for (name, rules) in [
        ("policy_3_rules", 3),
        ("policy_100_rules", 100),
        ("policy_1000_rules", 1_000),
        ("policy_10000_rules", 10_000),
    ] {
        let policy = Policy::parse(policy(rules)?.as_bytes())?;
        costs.insert(name, nanoseconds(|| policy.first_match(black_box(&asked.input()))));
    }
    Ok(())
}

fn json(costs: &mut Costs) -> Result<(), Failure> {
    let request = Json::parse(body("0192f0c1-0000-7000-8000-000000000000").as_bytes())?;
    costs.insert("canonical_json_400_b", nanoseconds(|| canonical_json(black_box(&request))));
    for (parse, hash, bytes) in
        [("parse_1_kb", "hash_payload_1_kb", 1_000), ("parse_100_kb", "hash_payload_100_kb", 100_000)]
    {
        let text = arguments(bytes);
        let payload = Json::parse(text.as_bytes())?;
        costs.insert(parse, nanoseconds(|| Json::parse(black_box(text.as_bytes()))));
        costs.insert(hash, nanoseconds(|| hash_payload(black_box(&payload))));
    }
    Ok(())
}

fn signatures(costs: &mut Costs) -> Result<(), Failure> {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| "no key")?;
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|_| "no key")?;
    let key = PublicKey::new("k1", Algorithm::EdDsa, pair.public_key().as_ref()).ok_or("no public key")?;
    let claims = Json::parse(
        br#"{"iss":"https://gateway.example","sub":"agent:support_agent","aud":"mcp://stripe","exp":4102444800,"iat":1700000000,"jti":"0192f0c1-0000-7000-8000-000000000000","goal":"resolve_refund_request","allowed_tools":["stripe.refund.create"]}"#,
    )?;
    let input = signing_input(TokenType::Passport, &key, &claims);
    let token = format!("{input}.{}", encode(pair.sign(input.as_bytes())));
    Unverified::passport(&token)?.verify(&key)?;
    let verify = || Unverified::passport(black_box(&token)).and_then(|token| token.verify(&key));
    costs.insert("jws_verify", nanoseconds(verify));
    Ok(())
}

fn guard(costs: &mut Costs) -> Result<(), Failure> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let answer = FixedResponse::new(200, ANSWER);
    let actpass = ActPass::builder().api_key(KEY).transport(answer).build()?;
    for (name, action) in [("guard_in_memory", action()), ("guard_in_memory_100_kb", action_of(100_000))] {
        let guard = || runtime.block_on(actpass.guard(&action, async |_| Ok::<_, ()>(())));
        costs.insert(name, nanoseconds(guard));
    }
    Ok(())
}

fn nanoseconds<T>(mut call: impl FnMut() -> T) -> f64 {
    let mut calls = 1_u32;
    loop {
        let took = batch(calls, &mut call);
        if took >= BATCH || calls > 1 << 24 {
            break;
        }
        calls *= 2;
    }
    let mut batches: Vec<f64> =
        (0..BATCHES).map(|_| batch(calls, &mut call).as_secs_f64() * 1e9 / f64::from(calls)).collect();
    batches.sort_by(f64::total_cmp);
    batches.get(BATCHES / 2).copied().unwrap_or(f64::NAN)
}

fn batch<T>(calls: u32, call: &mut impl FnMut() -> T) -> Duration {
    let start = Instant::now();
    for _ in 0..calls {
        drop(black_box(call()));
    }
    start.elapsed()
}
