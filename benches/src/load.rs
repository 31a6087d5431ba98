//! Measures how many preflights per second a gateway decides and records. Each call has a new
//! idempotency key, so each is decided.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::try_join_all;

use crate::Failure;
use crate::round::{Round, connect, exchange};
use crate::samples::{KEY, body};

/// Makes calls over new connections until the round ends. Returns the duration of each call.
///
/// # Errors
///
/// If a call is not allowed.
pub fn preflights(
    gateway: SocketAddr,
    round: &Round,
    prefix: &str,
    keys: &[&str],
) -> Result<Vec<Duration>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let callers = (0..round.width).map(async |number| {
            let key = keys.get(number % keys.len().max(1)).copied().unwrap_or(KEY);
            let mut sender = connect(gateway, None).await?;
            let mut count = 0;
            round
                .repeat(async || {
                    count += 1;
                    let body = body(&format!("{prefix}-{number}-{count}"));
                    let answer = exchange(&mut sender, gateway, key, body).await?;
                    match answer.starts_with(br#"{"decision":"allow""#) {
                        true => Ok(()),
                        false => Err(String::from_utf8_lossy(&answer).into()),
                    }
                })
                .await
        });
        Ok(try_join_all(callers).await?.concat())
    })
}
