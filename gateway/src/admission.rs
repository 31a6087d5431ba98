//! Admission of decisions: a limit of the decisions in progress that adapts to their latency.
//!
//! Beyond its capacity, a server that admits everything answers everything late. The limit rises while
//! decisions are faster than a target, and falls by a part when one is slower. Further requests are
//! refused immediately, before they cost anything.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The limit never falls below this, so that one slow store operation does not stop everything.
const MIN_LIMIT: f64 = 64.0;

/// The limit of a new gateway.
const FIRST_LIMIT: f64 = 256.0;

/// Rise of the limit per decision that was fast while the limit was in use.
const RISE: f64 = 0.125;

/// Factor of a fall. There is at most one fall in the time of the target, because the decisions that
/// follow were admitted before it.
const FALL: f64 = 0.8;

/// Settings of the admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Maximum number of decisions in progress. Default: 1024.
    pub decisions: u32,
    /// Latency above which the limit falls. Default: 1 s.
    pub latency: Duration,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self { decisions: 1024, latency: Duration::from_secs(1) }
    }
}

/// The decisions in progress.
#[derive(Debug)]
pub(crate) struct DecisionAdmission(Mutex<State>);

#[derive(Debug)]
struct State {
    limit: f64,
    in_progress: u32,
    fell_at: Option<Instant>,
}

impl Default for DecisionAdmission {
    fn default() -> Self {
        Self(Mutex::new(State { limit: FIRST_LIMIT, in_progress: 0, fell_at: None }))
    }
}

impl DecisionAdmission {
    /// Admits a decision; `None` if the limit is reached.
    pub(crate) fn admit(self: &Arc<Self>, limits: AdmissionLimits) -> Option<AdmittedDecision> {
        self.admit_at(limits, Instant::now())
    }

    fn admit_at(self: &Arc<Self>, limits: AdmissionLimits, begun: Instant) -> Option<AdmittedDecision> {
        let mut state = self.lock();
        if f64::from(state.in_progress) + 1.0 > state.limit.min(f64::from(limits.decisions)) {
            return None;
        }
        state.in_progress += 1;
        drop(state);
        Some(AdmittedDecision { admission: Arc::clone(self), limits, begun })
    }

    /// Returns the number of decisions in progress and the limit.
    pub(crate) fn load(&self, limits: AdmissionLimits) -> [f64; 2] {
        let state = self.lock();
        [f64::from(state.in_progress), state.limit.min(f64::from(limits.decisions)).floor()]
    }

    fn end(&self, limits: AdmissionLimits, begun: Instant, now: Instant) {
        let mut state = self.lock();
        let is_used = f64::from(state.in_progress) * 2.0 >= state.limit;
        state.in_progress = state.in_progress.saturating_sub(1);
        let max = f64::from(limits.decisions);
        if now.saturating_duration_since(begun) > limits.latency {
            // Decisions that began before the fall do not show its effect.
            if state.fell_at.is_none_or(|fell_at| begun >= fell_at) {
                state.limit = (state.limit.min(max) * FALL).max(MIN_LIMIT);
                state.fell_at = Some(now);
            }
        } else if is_used {
            state.limit = (state.limit + RISE).min(max.max(MIN_LIMIT));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock leaves a partial update on panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An admitted decision; it is in progress until it is dropped.
#[derive(Debug)]
pub(crate) struct AdmittedDecision {
    admission: Arc<DecisionAdmission>,
    limits: AdmissionLimits,
    begun: Instant,
}

impl Drop for AdmittedDecision {
    fn drop(&mut self) {
        self.admission.end(self.limits, self.begun, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: AdmissionLimits = AdmissionLimits { decisions: 100, latency: Duration::from_millis(100) };

    /// Ends `count` decisions that took `took`, one after the other.
    fn end(admission: &Arc<DecisionAdmission>, now: Instant, took: Duration, count: u32) {
        for _ in 0..count {
            admission.lock().in_progress += 1;
            admission.end(LIMITS, now, now + took);
        }
    }

    #[test]
    fn refuses_beyond_the_limit() {
        let admission = Arc::new(DecisionAdmission::default());
        let mut admitted: Vec<_> = (0..100).map(|_| admission.admit(LIMITS).unwrap()).collect();
        assert!(admission.admit(LIMITS).is_none());
        assert!(admission.load(LIMITS) == [100.0, 100.0]);
        admitted.pop();
        assert!(admission.admit(LIMITS).is_some());
        drop(admitted);
        assert!(admission.load(LIMITS)[0] == 0.0);
        let one = AdmissionLimits { decisions: 1, ..LIMITS };
        let admitted = admission.admit(one);
        assert!(admitted.is_some() && admission.admit(one).is_none());
    }

    #[test]
    fn limit_falls_once_per_generation_of_slow_decisions() {
        let admission = Arc::new(DecisionAdmission::default());
        let start = Instant::now();
        end(&admission, start, Duration::from_millis(101), 50);
        assert!(admission.load(LIMITS)[1] == 80.0, "{:?}", admission.load(LIMITS));
        end(&admission, start + Duration::from_millis(101), Duration::from_millis(300), 50);
        assert!(admission.load(LIMITS)[1] == 64.0, "{:?}", admission.load(LIMITS));
        for generation in 1..100 {
            end(&admission, start + Duration::from_secs(generation), Duration::from_millis(300), 1);
        }
        assert!(admission.load(LIMITS)[1] == MIN_LIMIT);
    }

    #[test]
    fn limit_rises_only_while_it_is_used() {
        let admission = Arc::new(DecisionAdmission::default());
        let start = Instant::now();
        for generation in 0..20 {
            end(&admission, start + Duration::from_secs(generation), Duration::from_millis(300), 1);
        }
        assert!(admission.load(LIMITS)[1] == MIN_LIMIT);
        let later = start + Duration::from_secs(60);
        end(&admission, later, Duration::from_millis(1), 1000);
        assert!(admission.load(LIMITS)[1] == MIN_LIMIT, "one at a time");
        admission.lock().in_progress = 50;
        end(&admission, later, Duration::from_millis(1), 1000);
        assert!(admission.load(LIMITS)[1] == 100.0);
    }
}
