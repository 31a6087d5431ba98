//! The history conditions that matter for a request, and the histories that it is part of.

use actpass_protocol::{Json, canonical_json};
use rust_decimal::Decimal;

use super::Policy;
use super::evaluate::Values;
use super::load::carries_exactly;
use super::model::Tracker;
use crate::budget::{Account, Charge, MAX_ACCOUNT_BYTES};
use crate::history::{Check, Truth};

/// A history that cannot be read or written for a request; with the explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmeasured(pub String);

impl Policy {
    /// Returns the history conditions that the decision depends on: those of rules whose other
    /// conditions all hold, up to the first such rule without history conditions. The history of a
    /// condition that is not among the `known` ones is assumed empty. A condition whose `same` values
    /// are missing is false and therefore not returned.
    ///
    /// # Errors
    ///
    /// Returns an error if the values of `same` have no exact canonical form of at most
    /// [`MAX_ACCOUNT_BYTES`].
    pub fn history_checks(
        &self,
        values: &mut Values<'_, '_>,
        known: &[Truth],
    ) -> Result<Vec<Check>, Unmeasured> {
        if self.histories.is_empty() {
            return Ok(Vec::new());
        }
        let mut wanted = self.relevant_histories(values);
        wanted.sort_unstable();
        wanted.dedup();
        let mut checks = Vec::with_capacity(wanted.len());
        for condition in wanted {
            let Some(history) = self.histories.get(condition) else { continue };
            let Some(tracker) = self.trackers.get(history.tracker) else { continue };
            let Some(account) = self.tracked_account(tracker, values)? else { continue };
            let found = known.iter().find(|truth| truth.condition == condition);
            let assumed = found.map_or_else(|| history.bound.holds(Decimal::ZERO), |truth| truth.holds);
            checks.push(Check { condition, account, bound: history.bound, assumed });
        }
        Ok(checks)
    }

    /// Returns the charges of an `allow` of this request on the histories that it is part of.
    ///
    /// # Errors
    ///
    /// Returns an error if the number to sum is missing or no valid amount, or the values of `same`
    /// have no exact canonical form of at most [`MAX_ACCOUNT_BYTES`].
    pub fn tracked(&self, values: &mut Values<'_, '_>) -> Result<Vec<Charge>, Unmeasured> {
        if self.trackers.is_empty() {
            return Ok(Vec::new());
        }
        let mut wanted = Vec::new();
        self.tracker_index.visit(values, |candidates, _| wanted.extend(candidates));
        wanted.sort_unstable();
        wanted.dedup();
        let mut charges = Vec::with_capacity(wanted.len());
        for tracker in wanted.into_iter().filter_map(|index: usize| self.trackers.get(index)) {
            if !tracker.of.iter().all(|condition| condition.holds(values)) {
                continue;
            }
            let Some(account) = self.tracked_account(tracker, values)? else { continue };
            let amount = self.measured(tracker.measure, values).map_err(|path| {
                Unmeasured(format!("{path} is not a number of at least 0 with at most 9 decimal places"))
            })?;
            charges.push(Charge {
                account,
                amount,
                limit: None,
                window: tracker.window.clone(),
                outcomes: tracker.outcomes,
            });
        }
        Ok(charges)
    }

    /// Returns the account of a request; `None` if a value of `same` is missing.
    fn tracked_account(
        &self,
        tracker: &Tracker,
        values: &mut Values<'_, '_>,
    ) -> Result<Option<Account>, Unmeasured> {
        let mut members = Vec::with_capacity(tracker.same.len());
        for index in &tracker.same {
            let (Some(path), Some(value)) = (self.paths.get(*index), values.at(*index)) else {
                return Ok(None);
            };
            members.push((path.to_string(), value.clone()));
        }
        let values = Json::Object(members);
        // Rounding would merge the histories of different values.
        let key = Some(&values).filter(|values| carries_exactly(values)).map(canonical_json);
        let key = key.and_then(Result::ok).filter(|key| key.len() <= MAX_ACCOUNT_BYTES);
        match key.and_then(|key| String::from_utf8(key).ok()) {
            Some(key) => Ok(Some(Account { budget: tracker.account.clone(), key })),
            None => {
                let paths = tracker.same.iter().filter_map(|index| self.paths.get(*index));
                let paths = paths.map(ToString::to_string).collect::<Vec<_>>().join(", ");
                Err(Unmeasured(format!(
                    "the values of {paths} have no exact canonical JSON of at most {MAX_ACCOUNT_BYTES} bytes"
                )))
            }
        }
    }
}
