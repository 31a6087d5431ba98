//! Which calls are retried, and the backoff.

use std::time::Duration;

use crate::clock::Clock;
use crate::transport::{Response, TransportError};
use actpass_protocol::{ErrorKind, Operation};

/// The maximum backoff before the first retry. It doubles with each retry.
const INITIAL_BACKOFF: Duration = Duration::from_millis(100);
/// The maximum backoff, unless the gateway sends `Retry-After`.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Whether to retry after this attempt.
///
/// An idempotent operation is retried on any transient failure. Another operation is retried only
/// if the gateway certainly did not process the attempt.
pub(crate) fn should_retry(operation: Operation, attempt: &Result<Response, TransportError>) -> bool {
    let transient = match attempt {
        Ok(answer) => matches!(answer.status, 429 | 502..=504),
        Err(failure) => match failure.error.kind() {
            ErrorKind::Connection | ErrorKind::Timeout => true,
            ErrorKind::Argument
            | ErrorKind::Authentication
            | ErrorKind::Config
            | ErrorKind::Internal
            | ErrorKind::Permission
            | ErrorKind::RateLimit
            | ErrorKind::Response
            | ErrorKind::Status => false,
        },
    };
    transient && (operation.is_idempotent() || !may_have_been_processed(attempt))
}

/// Whether the gateway may have processed an attempt without a usable response: true unless no
/// connection was established or the status is 429, or 503 with `Retry-After`.
pub(crate) fn may_have_been_processed(attempt: &Result<Response, TransportError>) -> bool {
    match attempt {
        Ok(answer) => match answer.status {
            429 => false,
            503 => answer.retry_after.is_none(),
            _ => true,
        },
        Err(failure) => !failure.is_pre_send,
    }
}

/// The backoff before retry number `retry` (from 0): `Retry-After`, else exponential backoff with
/// jitter.
pub(crate) fn backoff(retry: u32, retry_after: Option<Duration>, clock: &dyn Clock) -> Duration {
    retry_after.unwrap_or_else(|| jittered(INITIAL_BACKOFF, retry, MAX_BACKOFF, clock))
}

/// A random duration between half of a bound and the bound: `first` doubled `times` times, at most
/// `longest`.
pub(crate) fn jittered(first: Duration, times: u32, longest: Duration, clock: &dyn Clock) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(longest).mul_f64(0.5 + 0.5 * random_fraction(clock))
}

/// Random for each wait, so that a forked child does not wait exactly as long as its parent.
fn random_fraction(clock: &dyn Clock) -> f64 {
    clock
        .random()
        .map_or(1.0, |[a, b, c, d, ..]| f64::from(u32::from_ne_bytes([a, b, c, d])) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TokioClock;
    use crate::error::Error;

    fn answered(status: u16, retry_after: Option<&str>) -> Result<Response, TransportError> {
        Ok(Response { retry_after: retry_after.map(str::to_owned), ..Response::new(status, "") })
    }

    fn failed(kind: ErrorKind, is_pre_send: bool) -> Result<Response, TransportError> {
        Err(TransportError { error: Error::new(kind, "test"), is_pre_send })
    }

    #[test]
    fn retries_only_transient_failures() {
        for operation in Operation::ALL {
            let safe = matches!(
                operation,
                Operation::AcknowledgeHalt
                    | Operation::Approval
                    | Operation::Jwks
                    | Operation::Preflight
                    | Operation::VerifyPassport
                    | Operation::RevokePassport
                    | Operation::WatchHalts
            );
            assert!(should_retry(operation, &answered(429, None)));
            assert!(should_retry(operation, &answered(503, Some("1"))));
            assert!(should_retry(operation, &failed(ErrorKind::Connection, true)));
            for status in [502, 503, 504] {
                assert_eq!(should_retry(operation, &answered(status, None)), safe);
            }
            assert_eq!(should_retry(operation, &failed(ErrorKind::Connection, false)), safe);
            for status in [200, 204, 301, 400, 401, 403, 404, 409, 422, 500, 501] {
                assert!(!should_retry(operation, &answered(status, Some("1"))), "{operation:?} {status}");
            }
            for kind in [ErrorKind::Response, ErrorKind::Internal, ErrorKind::Config] {
                assert!(!should_retry(operation, &failed(kind, false)));
            }
        }
    }

    #[test]
    fn detects_possibly_processed_attempts() {
        for (attempt, taken) in [
            (answered(429, None), false),
            (answered(429, Some("1")), false),
            (answered(503, Some("1")), false),
            (answered(503, None), true),
            (answered(502, Some("1")), true),
            (answered(504, None), true),
            (failed(ErrorKind::Connection, true), false),
            (failed(ErrorKind::Connection, false), true),
            (failed(ErrorKind::Timeout, true), false),
            (failed(ErrorKind::Timeout, false), true),
        ] {
            assert_eq!(may_have_been_processed(&attempt), taken, "{attempt:?}");
        }
    }

    #[test]
    fn backoff_grows_is_bounded_and_honors_retry_after() {
        for retry in 0..20 {
            let wait = backoff(retry, None, &TokioClock);
            assert!(wait >= INITIAL_BACKOFF / 2 && wait <= MAX_BACKOFF, "{retry}: {wait:?}");
        }
        assert_eq!(backoff(0, Some(Duration::from_secs(7)), &TokioClock), Duration::from_secs(7));
    }

    #[test]
    fn backoff_jitter_spans_the_upper_half() {
        let waits: Vec<_> = (0..256).map(|_| backoff(0, None, &TokioClock)).collect();
        // 256 draws miss a given quarter of the range with a probability of 10^-32.
        assert!(waits.iter().any(|wait| *wait < INITIAL_BACKOFF.mul_f64(0.625)));
        assert!(waits.iter().any(|wait| *wait > INITIAL_BACKOFF.mul_f64(0.875)));
        assert!(waits.iter().all(|wait| *wait >= INITIAL_BACKOFF / 2 && *wait <= INITIAL_BACKOFF));
    }
}
