//! The budgets that apply to a request.

use actpass_protocol::{Json, canonical_json};
use rust_decimal::Decimal;

use super::Policy;
use super::evaluate::Values;
use super::model::{Budget, Measure};
use crate::budget::{Account, Charge, MAX_ACCOUNT_BYTES, Outcomes, amount};

/// A budget applies, but the amount or the account of the action cannot be determined.
#[derive(Clone, Debug)]
pub struct NotMeasurable<'p> {
    /// The budget.
    pub budget: &'p Budget,
    /// The path of the number to sum, unless the account is the problem.
    pub path: Option<String>,
}

impl Policy {
    /// Returns the charges of the budgets whose conditions hold, in the order of the policy.
    ///
    /// # Errors
    ///
    /// Returns the first budget that cannot measure the action: its `sum` is missing or no valid
    /// amount, or the values of `per` have no canonical form or exceed [`MAX_ACCOUNT_BYTES`].
    pub fn charges(&self, values: &mut Values<'_, '_>) -> Result<Vec<(&Budget, Charge)>, NotMeasurable<'_>> {
        if self.budgets.is_empty() {
            return Ok(Vec::new());
        }
        let mut charges = Vec::new();
        for budget in &self.budgets {
            if budget.when.iter().all(|condition| condition.holds(values)) {
                charges.push((budget, self.charge(budget, values)?));
            }
        }
        Ok(charges)
    }

    /// Returns the amount of the request, or the path at which there is no valid amount.
    pub(super) fn measured(&self, measure: Measure, values: &mut Values<'_, '_>) -> Result<Decimal, String> {
        let Measure::Sum(path) = measure else {
            return Ok(Decimal::ONE);
        };
        let amount = match values.at(path) {
            Some(Json::Number(number)) => amount(number),
            Some(_) | None => None,
        };
        amount.ok_or_else(|| self.paths.get(path).map(ToString::to_string).unwrap_or_default())
    }

    fn charge<'p>(
        &'p self,
        budget: &'p Budget,
        values: &mut Values<'_, '_>,
    ) -> Result<Charge, NotMeasurable<'p>> {
        let amount = self
            .measured(budget.measure, values)
            .map_err(|path| NotMeasurable { budget, path: Some(path) })?;
        let members = budget.per.iter().filter_map(|index| {
            let path = self.paths.get(*index)?;
            Some((path.to_string(), values.at(*index).cloned().unwrap_or(Json::Null)))
        });
        let key = canonical_json(&Json::Object(members.collect())).ok();
        let key =
            key.filter(|key| key.len() <= MAX_ACCOUNT_BYTES).and_then(|key| String::from_utf8(key).ok());
        let key = key.ok_or(NotMeasurable { budget, path: None })?;
        Ok(Charge {
            account: Account { budget: budget.name.clone(), key },
            amount,
            limit: Some(budget.limit),
            window: budget.window.clone(),
            outcomes: match budget.release_on_failure {
                true => Outcomes::unless_failed(),
                false => Outcomes::ALL,
            },
        })
    }
}
