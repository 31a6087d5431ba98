//! What goes wrong on a connection, and when: drawn from generators with a seed.

use std::sync::atomic::{AtomicU64, Ordering};

use fastrand::Rng;

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection is closed after an answer, as an idle one is.
    CloseAfterAnswer,
    /// Only the beginning of an answer arrives, and then the end of the stream.
    CutAnswer,
    /// Only the beginning of a request arrives, and then the end of the stream.
    CutRequest,
    /// Nothing happens for a while, and then all goes on.
    Delay,
    /// Bytes of an answer arrive twice.
    DuplicateAnswer,
    /// Bytes of a request arrive twice.
    DuplicateRequest,
    /// The bit of a request that makes an allowed amount of a denied one is another.
    FlipAmount,
    /// A bit of an answer is another.
    FlipAnswer,
    /// A bit of a request is another.
    FlipRequest,
    /// The connection is reset as soon as it is made.
    Refuse,
    /// The connection is reset after the request arrived, before the answer.
    ResetAfterRequest,
    /// The connection is reset when the answer comes.
    ResetAnswer,
    /// The connection is reset when the request comes, which does not arrive.
    ResetBeforeRequest,
    /// Nothing happens for longer than clients wait.
    Stall,
    /// Bytes arrive one at a time.
    Trickle,
}

impl Fault {
    /// All of them, in the order in which they are told.
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

    /// What it is called in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CloseAfterAnswer => "closed after an answer",
            Self::CutAnswer => "answer cut short",
            Self::CutRequest => "request cut short",
            Self::Delay => "delayed",
            Self::DuplicateAnswer => "bytes of an answer twice",
            Self::DuplicateRequest => "bytes of a request twice",
            Self::FlipAmount => "denied amount made an allowed one",
            Self::FlipAnswer => "bit of an answer flipped",
            Self::FlipRequest => "bit of a request flipped",
            Self::Refuse => "reset when connected",
            Self::ResetAfterRequest => "reset after the request arrived",
            Self::ResetAnswer => "reset instead of the answer",
            Self::ResetBeforeRequest => "reset before the request arrived",
            Self::Stall => "stalled",
            Self::Trickle => "one byte at a time",
        }
    }
}

/// When something is drawn, and how likely each fault is then, in thousandths.
#[derive(Clone, Copy, Debug)]
pub struct FaultRates(&'static [(Fault, u32)]);

/// For each new connection.
pub const NEW_CONNECTION: FaultRates =
    FaultRates(&[(Fault::Refuse, 40), (Fault::Delay, 30), (Fault::Stall, 3)]);

/// For each piece of what a client sends.
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

/// For each piece of what a gateway sends.
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
    /// What goes wrong now; mostly nothing.
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

/// How often each fault happened.
#[derive(Debug, Default)]
pub struct Counts([AtomicU64; Fault::ALL.len()]);

impl Counts {
    /// One more.
    pub fn add(&self, fault: Fault) {
        if let Some(count) = self.0.get(fault as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often it happened.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0.get(fault as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// How often anything happened.
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
