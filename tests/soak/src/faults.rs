//! Network faults, drawn from a seeded generator.

use std::sync::atomic::{AtomicU64, Ordering};

use fastrand::Rng;

/// A network fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection is closed after a response, like an idle one.
    CloseAfterAnswer,
    /// Only the beginning of a response arrives, then EOF.
    CutAnswer,
    /// Only the beginning of a request arrives, then EOF.
    CutRequest,
    /// A pause.
    Delay,
    /// Bytes of a response arrive twice.
    DuplicateAnswer,
    /// Bytes of a request arrive twice.
    DuplicateRequest,
    /// A flipped bit of a request turns a denied amount into an allowed one.
    FlipAmount,
    /// A flipped bit of a response.
    FlipAnswer,
    /// A flipped bit of a request.
    FlipRequest,
    /// The connection is reset when it is opened.
    Refuse,
    /// The connection is reset after the request arrived, before the response.
    ResetAfterRequest,
    /// The connection is reset instead of the response.
    ResetAnswer,
    /// The connection is reset before the request arrives.
    ResetBeforeRequest,
    /// A pause longer than the client timeout.
    Stall,
    /// Bytes arrive one at a time.
    Trickle,
}

impl Fault {
    /// All faults, in report order.
    pub const ALL: [Self; 15] = [
        Self::Refuse,
        Self::ResetBeforeRequest,
        Self::ResetAfterRequest,
        Self::ResetAnswer,
        Self::CloseAfterAnswer,
        Self::CutRequest,
        Self::CutAnswer,
        Self::Delay,
        Self::Stall,
        Self::Trickle,
        Self::FlipRequest,
        Self::FlipAmount,
        Self::FlipAnswer,
        Self::DuplicateRequest,
        Self::DuplicateAnswer,
    ];

    /// Name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CloseAfterAnswer => "closed after a response",
            Self::CutAnswer => "response truncated",
            Self::CutRequest => "request truncated",
            Self::Delay => "delayed",
            Self::DuplicateAnswer => "duplicate response bytes",
            Self::DuplicateRequest => "duplicate request bytes",
            Self::FlipAmount => "denied amount changed to allowed",
            Self::FlipAnswer => "bit flipped in response",
            Self::FlipRequest => "bit flipped in request",
            Self::Refuse => "reset on connect",
            Self::ResetAfterRequest => "reset after the request arrived",
            Self::ResetAnswer => "reset instead of response",
            Self::ResetBeforeRequest => "reset before the request arrived",
            Self::Stall => "stalled",
            Self::Trickle => "one byte at a time",
        }
    }
}

/// Probability of each fault at one event, in thousandths.
#[derive(Clone, Copy, Debug)]
pub struct FaultRates(&'static [(Fault, u32)]);

/// For each new connection.
pub const NEW_CONNECTION: FaultRates =
    FaultRates(&[(Fault::Refuse, 40), (Fault::Delay, 30), (Fault::Stall, 3)]);

/// For each chunk of client data.
pub const REQUEST: FaultRates = FaultRates(&[
    (Fault::ResetBeforeRequest, 8),
    (Fault::ResetAfterRequest, 8),
    (Fault::CutRequest, 6),
    (Fault::Delay, 15),
    (Fault::Stall, 2),
    (Fault::Trickle, 10),
    (Fault::FlipRequest, 12),
    (Fault::FlipAmount, 20),
    (Fault::DuplicateRequest, 6),
]);

/// For each chunk of gateway data.
pub const ANSWER: FaultRates = FaultRates(&[
    (Fault::ResetAnswer, 8),
    (Fault::CloseAfterAnswer, 10),
    (Fault::CutAnswer, 8),
    (Fault::Delay, 15),
    (Fault::Stall, 2),
    (Fault::Trickle, 8),
    (Fault::FlipAnswer, 15),
    (Fault::DuplicateAnswer, 6),
]);

impl FaultRates {
    /// Draws a fault; usually none.
    pub fn draw(self, rng: &mut Rng) -> Option<Fault> {
        let mut drawn = rng.u32(0..1000);
        for (fault, odds) in self.0 {
            match drawn.checked_sub(*odds) {
                None => return Some(*fault),
                Some(left) => drawn = left,
            }
        }
        None
    }
}

/// Number of occurrences of each fault.
#[derive(Debug, Default)]
pub struct Counts([AtomicU64; Fault::ALL.len()]);

impl Counts {
    /// Counts a fault.
    pub fn add(&self, fault: Fault) {
        if let Some(count) = self.0.get(fault as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Number of occurrences of a fault.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0.get(fault as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Total number of faults.
    pub fn total(&self) -> u64 {
        Fault::ALL.into_iter().map(|fault| self.of(fault)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeded_faults_are_reproducible_and_complete() {
        let mut all = Vec::new();
        for odds in [NEW_CONNECTION, REQUEST, ANSWER] {
            let draw = || {
                let mut rng = Rng::with_seed(7);
                (0..20_000).filter_map(|_| odds.draw(&mut rng)).collect::<Vec<_>>()
            };
            assert_eq!(draw(), draw());
            all.extend(draw());
        }
        for fault in Fault::ALL {
            assert!(all.contains(&fault), "{fault:?}");
        }
    }
}
