//! Passports that are revoked while they are in use: none of them allows anything after the revocation was answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actpass_core::{ActPass, Action, PassportRequest};
use serde_json::json;

use crate::Result;
use crate::call::{AGENT, Endpoint, KEY, TOOL};

/// The resources of these requests begin with it, so that the judge tells them from those of the workers.
pub const RESOURCE: &str = "passport:";

const AUDIENCE: &str = "mcp://soak";
/// How often a revocation is asked for until it is answered.
const ATTEMPTS: u32 = 40;

/// What the revocations of a run showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Passports whose revocation was answered.
    pub revoked: u64,
    /// Of these, passports that were used once before.
    pub used: u64,
    /// Requests after that answer that were decided: none of them allowed.
    pub denied: u64,
    /// Requests after that answer that were answered with no decision.
    pub failed: u64,
    /// Allowed requests after that answer, each as a sentence.
    pub violations: Vec<String>,
}

/// Issues, uses and revokes passports at `gateway` until `ended`.
///
/// # Errors
///
/// If no client can be made, or a task ends early.
pub async fn revoke_until(gateway: Endpoint, ended: Arc<AtomicBool>) -> Result<Revocations> {
    let (client, other) = (client(&gateway)?, client(&gateway)?);
    let mut found = Revocations::default();
    let mut number = 0_u64;
    while !ended.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..200))).await;
        number += 1;
        let mut wanted = PassportRequest::new(AUDIENCE, AGENT, [TOOL]);
        wanted.allowed_resources = vec![format!("{RESOURCE}{number}")];
        let Ok(passport) = client.issue_passport(&wanted).await else { continue };
        let Some(jti) = passport.member("jti").as_ref().and_then(|jti| jti.as_str().map(str::to_owned))
        else {
            return Err("a passport without a jti".into());
        };
        let action = |key: &str| {
            Action::new(AGENT, TOOL)
                .resource(format!("{RESOURCE}{number}"))
                .args(json!({"amount": 4900, "currency": "usd"}))
                .passport(passport.token())
                .audience(AUDIENCE)
                .idempotency_key(format!("{RESOURCE}{number}-{key}"))
        };
        let (first, user) = (action("first"), client.clone());
        let in_use = tokio::spawn(async move { user.preflight(&first).await });
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..30))).await;
        if !revoked(&client, &jti).await {
            in_use.await?.ok();
            continue;
        }
        found.revoked += 1;
        // The same request once more, by the same and by another client, and a new one.
        let mut later = vec![];
        for (who, key) in [(&client, "first"), (&other, "first"), (&other, "second")] {
            later.push(who.preflight(&action(key)).await);
        }
        found.used += u64::from(in_use.await?.is_ok_and(|decision| decision.word().as_str() == "allow"));
        for response in later {
            match response {
                Ok(decision) if decision.word().as_str() == "allow" => found.violations.push(format!(
                    "passport {jti}: allowed after its revocation was answered: {}",
                    decision.as_json()
                )),
                Ok(_) => found.denied += 1,
                Err(_) => found.failed += 1,
            }
        }
    }
    Ok(found)
}

async fn revoked(client: &ActPass, jti: &str) -> bool {
    for _ in 0..ATTEMPTS {
        if client.revoke_passport(jti, Some("soak")).await.is_ok_and(|response| response.is_revoked()) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    false
}

fn client(gateway: &Endpoint) -> Result<ActPass> {
    let builder = ActPass::builder().api_key(KEY).agent_id(AGENT).base_url(gateway.url.as_str());
    let builder = builder.timeout(Duration::from_millis(2_500)).circuit_failures(0);
    Ok(match &gateway.ca {
        Some(ca) => builder.ca(ca.as_str()),
        None => builder,
    }
    .build()?)
}
