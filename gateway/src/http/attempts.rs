//! Rate limiting of invalid API keys per client address.
//!
//! Only invalid keys count, and valid keys are accepted first, so clients that share an address
//! with an attacker are not affected.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota};

use super::error::ApiError;
use crate::connections::origin;

/// Burst and sustained rate of invalid keys per address.
const BURST: NonZeroU32 = NonZeroU32::MIN.saturating_add(99);
const PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);

/// Maximum number of addresses tracked separately; all others share one limiter.
const MAX_ADDRESSES: usize = 10_000;

/// Minimum interval between cleanups of unneeded addresses.
const CLEAN_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Attempts {
    known: DefaultKeyedRateLimiter<IpAddr>,
    others: DefaultDirectRateLimiter,
    cleaned: Mutex<Option<Instant>>,
}

impl Default for Attempts {
    fn default() -> Self {
        let quota = Quota::per_second(PER_SECOND).allow_burst(BURST);
        Self {
            known: DefaultKeyedRateLimiter::keyed(quota),
            others: DefaultDirectRateLimiter::direct(quota),
            cleaned: Mutex::default(),
        }
    }
}

impl Attempts {
    /// Counts an invalid key; returns an error if the address exceeded its limit.
    pub(super) fn count(&self, client: Option<IpAddr>) -> Result<(), ApiError> {
        let has_room = self.known.len() < MAX_ADDRESSES || self.clean();
        let counted = match client.filter(|_| has_room) {
            Some(client) => self.known.check_key(&origin(client)),
            None => self.others.check(),
        };
        counted.map_err(|not_until| {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            ApiError::WrongKeys(wait.as_secs().saturating_add(1))
        })
    }

    /// Removes addresses with a full allowance; returns whether there is room for another address.
    fn clean(&self) -> bool {
        let mut cleaned = self.cleaned.lock().unwrap_or_else(PoisonError::into_inner);
        if cleaned.is_none_or(|cleaned| cleaned.elapsed() >= CLEAN_INTERVAL) {
            self.known.retain_recent();
            *cleaned = Some(Instant::now());
        }
        self.known.len() < MAX_ADDRESSES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_attempts_are_counted_per_address_with_bounded_memory() {
        let attempts = Attempts::default();
        let address = |number: u32| Some(IpAddr::from(number.to_be_bytes()));
        let refused = (0..=BURST.get()).filter(|_| attempts.count(address(1)).is_err()).count();
        assert!(refused >= 1, "requests beyond the burst fail");
        assert!(attempts.count(address(2)).is_ok(), "another address");
        for number in 0..2 * u32::try_from(MAX_ADDRESSES).unwrap() {
            let _ = attempts.count(address(number));
        }
        assert!(attempts.known.len() <= MAX_ADDRESSES);
        let network = ["2001:db8::1", "2001:db8::2"].map(|text| text.parse::<IpAddr>().ok());
        let attempts = Attempts::default();
        while attempts.count(network[0]).is_ok() {}
        assert!(attempts.count(network[1]).is_err(), "same /64 network");
    }
}
