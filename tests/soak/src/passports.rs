//! Revokes passports in use: none may allow anything after its revocation was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actpass_core::{ActPass, Action, PassportRequest};
use serde_json::json;

use crate::Result;
use crate::call::{AGENT, Endpoint, KEY, TOOL};

/// Resource prefix of these requests, which distinguishes them from the workers'.
pub const RESOURCE: &str = "passport:";

const AUDIENCE: &str = "mcp://soak";
/// Maximum number of attempts to revoke a passport.
const ATTEMPTS: u32 = 40;

/// Results of the revocations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Passports whose revocation was acknowledged.
    pub revoked: u64,
    /// The subset of these that had been used.
    pub used: u64,
    /// Requests decided afterwards; none allowed.
    pub denied: u64,
    /// Requests that failed afterwards.
    pub failed: u64,
    /// Requests allowed afterwards: violations.
    pub violations: Vec<String>,
}

/// Issues, uses and revokes passports at `gateway` until `ended`.
///
/// # Errors
///
/// Returns an error if a client cannot be created or a task ends early.
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
        // The same request again by the same and another client, and a new request.
        let mut later = vec![];
        for (who, key) in [(&client, "first"), (&other, "first"), (&other, "second")] {
            later.push(who.preflight(&action(key)).await);
        }
        found.used += u64::from(in_use.await?.is_ok_and(|decision| decision.word().as_str() == "allow"));
        for response in later {
            match response {
                Ok(decision) if decision.word().as_str() == "allow" => found.violations.push(format!(
                    "passport {jti}: allowed after its revocation was acknowledged: {}",
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
