//! Evaluation of one request.

use actpass_protocol::Json;
use actpass_protocol::token::Presentation;
use rust_decimal::Decimal;

use super::context::{DecisionContext, ManifestState, PresentedPassport, ToolCredential};
use super::response::{self, Attachments};
use super::ruling::{Demand, Grant, Ruling, Unapproved};
use crate::announcement::Announcement;
use crate::approvals::{self, Approval, Opening, Status};
use crate::auth::ApiKey;
use crate::budget::Charge;
use crate::capture::CapturedRequest;
use crate::dpop::Thumbprint;
use crate::events::{self, Decision};
use crate::halts::{Halt, HaltSubject};
use crate::history::Check;
use crate::passport::coverage::{Covered, uncovered};
use crate::passport::{self, Claims, PassportError};
use crate::policy::{self, Budget, Input, OnExceed, RecordedInput, Rule, Unmeasured, Values};
use crate::request::{Preflight, Text};
use crate::store::{AllowBasis, ApprovalOpening, Claim, EarlierResponse, Excess, Fallback, SingleUse};

/// The ruling and its effects.
pub(super) struct Evaluation<'a> {
    pub(super) ruling: Ruling<'a>,
    pub(super) uses: Vec<SingleUse>,
    pub(super) opens: Option<ApprovalOpening>,
    /// The history conditions that it depends on.
    pub(super) history: Vec<Check>,
    /// When the ruling expires, in seconds since 1970.
    pub(super) holds_until: Option<i64>,
    /// The claims of an `allow`.
    pub(super) claims: Vec<Claim>,
    /// The charge that must exceed its budget; otherwise the ruling no longer applies.
    pub(super) exceeds: Option<Charge>,
}

impl<'a> From<Ruling<'a>> for Evaluation<'a> {
    fn from(ruling: Ruling<'a>) -> Self {
        Self {
            ruling,
            uses: Vec::new(),
            opens: None,
            history: Vec::new(),
            holds_until: None,
            claims: Vec::new(),
            exceeds: None,
        }
    }
}

/// Returns the earlier of two optional times.
fn earliest(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    one.into_iter().chain(other).min()
}

/// A request with everything that its decision depends on.
pub(super) struct Case<'a> {
    key: &'a ApiKey,
    request: &'a Preflight,
    /// The acting agent: the one bound to the key, otherwise the one named in the request.
    agent: Option<&'a Json>,
    context: &'a DecisionContext,
    /// Whether this re-evaluates an earlier `allow`. The approval and passport that it consumed
    /// then count as available.
    is_replay: bool,
}

impl<'a> Case<'a> {
    pub(super) fn new(key: &'a ApiKey, request: &'a Preflight, context: &'a DecisionContext) -> Self {
        let agent = key.agent.as_ref().or(request.agent_id.as_ref().map(Text::as_json));
        Self { key, request, agent, context, is_replay: false }
    }

    pub(super) fn evaluate(&self) -> Evaluation<'a> {
        let missing = self.missing_grant();
        // Before halts: a key without the mode warn must not get a `warn`.
        if missing == Some(Grant::Mode) {
            return Ruling::NotGranted(Grant::Mode).into();
        }
        if let Some(halt) = self.halt() {
            return Ruling::Halted(halt).into();
        }
        if let Some(grant) = missing {
            return Ruling::NotGranted(grant).into();
        }
        match self.context.manifest {
            ManifestState::Approved => {}
            ManifestState::Changed => return Ruling::ManifestChanged.into(),
            ManifestState::Unknown => return Ruling::ManifestUnknown.into(),
        }
        let presented = match self.checked_passport() {
            Ok(presented) => presented,
            Err(refusal) => return Ruling::Passport(refusal).into(),
        };
        let (policy, input) = (&self.key.tenant.policy, self.input(presented.map(|found| &found.claims)));
        let values = &mut Values::of(policy, &input);
        if self.is_replay {
            // The histories of the first request apply, although they may have changed since.
            let decided = self.context.earlier.as_ref().and_then(|earlier| earlier.rule.as_deref());
            let rule = policy.first_match_if(values, |rule| decided == Some(rule.name()));
            return self.follow(rule, presented, values);
        }
        let history = match policy.history_checks(values, &self.context.history) {
            Ok(history) => history,
            Err(problem) => return Ruling::HistoryNotMeasurable { rule: None, problem }.into(),
        };
        let assumed =
            |condition: &usize| history.iter().any(|check| check.condition == *condition && check.assumed);
        let rule = policy.first_match_if(values, |rule| rule.histories().iter().all(assumed));
        let followed = self.follow(rule, presented, values);
        Evaluation { history, ..followed }
    }

    /// Applies the rule that matches.
    fn follow(
        &self,
        rule: Option<&'a Rule>,
        presented: Option<&'a PresentedPassport>,
        values: &mut Values<'_, '_>,
    ) -> Evaluation<'a> {
        let Some(rule) = rule else {
            return Ruling::NoMatch.into();
        };
        let mut evaluation = match rule.decision() {
            policy::Decision::RequireApproval => self.require_approval(Demand { rule, budget: None }),
            policy::Decision::Allow | policy::Decision::Deny => Ruling::ByRule(rule).into(),
        };
        if !evaluation.ruling.allows() {
            return evaluation;
        }
        if self.is_charged() {
            let charges = match self.key.tenant.policy.charges(values) {
                Ok(charges) => charges,
                Err(problem) => return Ruling::NotMeasurable { rule, problem }.into(),
            };
            let is_exceeded = |(budget, _): &&(&Budget, Charge)| {
                budget.on_exceed() == OnExceed::RequireApproval
                    && self.context.over_budget.as_deref() == Some(budget.name())
            };
            // A person who approved the action approved it for every budget.
            if let (Ruling::ByRule(_), Some((budget, charge))) =
                (&evaluation.ruling, charges.iter().find(is_exceeded))
            {
                evaluation = self.require_approval(Demand { rule, budget: Some(budget) });
                evaluation.exceeds = Some(charge.clone());
                if !evaluation.ruling.allows() {
                    return evaluation;
                }
            }
            let is_approved = matches!(evaluation.ruling, Ruling::Approved { .. });
            let claims =
                charges.into_iter().map(|(budget, charge)| self.claim(rule, budget, charge, is_approved));
            evaluation.claims = claims.collect();
            match self.key.tenant.policy.tracked(values) {
                Ok(tracked) if self.consumes() => {
                    evaluation.claims.extend(tracked.into_iter().map(|charge| self.track(rule, charge)));
                }
                Ok(_) => {}
                Err(problem) => return Ruling::HistoryNotMeasurable { rule: Some(rule), problem }.into(),
            }
        }
        let credential = self.context.credential.as_ref();
        // Check before anything is consumed.
        if credential.is_some_and(|credential| credential.expired) {
            return Ruling::CredentialExpired(Box::new(evaluation.ruling)).into();
        }
        let of_passport = presented.and_then(|presented| expiry_of(&presented.claims));
        let of_credential = credential.and_then(|credential| credential.expires_at);
        evaluation.holds_until = earliest(evaluation.holds_until, earliest(of_passport, of_credential));
        if let Some(presented) = presented
            && self.consumes()
            && !self.is_replay
        {
            evaluation.uses.push(SingleUse::Passport {
                jti: presented.claims.jti().to_owned(),
                ancestors: passport::ancestors(&presented.claims),
                replayed: Box::new(self.record(&Ruling::Passport(PassportError::Replayed))),
                revoked: Box::new(self.record(&Ruling::Passport(PassportError::Revoked))),
            });
        }
        evaluation
    }

    /// Returns whether budgets apply: a repetition claims nothing.
    fn is_charged(&self) -> bool {
        let is_repetition = self.context.earlier.as_ref().is_some_and(|earlier| earlier.allowed.is_some());
        !(self.is_replay || is_repetition && self.consumes())
    }

    fn claim(&self, rule: &'a Rule, budget: &'a Budget, charge: Charge, is_approved: bool) -> Claim {
        let on_excess = match budget.on_exceed() {
            OnExceed::Deny => Excess::Refuse(Box::new(self.charged_record(
                &Ruling::OverBudget { rule, budget },
                std::slice::from_ref(&charge),
                false,
            ))),
            OnExceed::RequireApproval if is_approved => Excess::Claim,
            OnExceed::RequireApproval => Excess::RequireApproval,
        };
        Claim { charge, on_excess }
    }

    /// Returns the claim of an `allow` on a history. It is denied if the sum would not stay exact, which
    /// numbers of actions and other small amounts cannot cause.
    fn track(&self, rule: &'a Rule, charge: Charge) -> Claim {
        let on_excess = match charge.amount <= Decimal::ONE {
            true => Excess::Claim,
            false => {
                let problem = Unmeasured("the sum of its history is 10^18 or more".to_owned());
                let ruling = Ruling::HistoryNotMeasurable { rule: Some(rule), problem };
                Excess::Refuse(Box::new(self.record(&ruling)))
            }
        };
        Claim { charge, on_excess }
    }

    /// Returns the halt that stops this request.
    fn halt(&self) -> Option<&'a Halt> {
        let subject = HaltSubject {
            tenant_id: &self.key.tenant.id,
            agent_id: self.agent_id(),
            tools: &[self.request.tool.as_str()],
            user_id: self.request.user_id.as_ref().map(Text::as_str),
        };
        self.context.halts.stopping(&subject).map(|halt| &**halt)
    }

    /// Returns the grant that the key lacks for this request.
    fn missing_grant(&self) -> Option<Grant> {
        let (grants, request) = (&self.key.grants, self.request);
        if !grants.modes.contains(&request.mode) {
            return Some(Grant::Mode);
        }
        if !grants.tools.matches(request.tool.as_str()) {
            return Some(Grant::Tool);
        }
        let (users, user) = (grants.users.as_ref()?, request.user_id.as_ref()?);
        (!users.matches(user.as_str())).then_some(Grant::User)
    }

    /// Handles a demand for an approval.
    fn require_approval(&self, demand: Demand<'a>) -> Evaluation<'a> {
        let unapproved = |problem| Ruling::Unapproved { demand, approval: None, problem };
        let Some(action_hash) = self.request.action_hash(self.agent_id()) else {
            return unapproved(Unapproved::NotHashable).into();
        };
        match (&self.context.approval, &self.context.live_approval) {
            (None, Some(live)) => self.use_live_approval(demand, live),
            (None, None) => self.open_approval(demand, action_hash),
            (Some(None), _) => unapproved(Unapproved::Unknown).into(),
            (Some(Some(approval)), _) => self.use_named_approval(demand, approval, &action_hash),
        }
    }

    /// Uses the approval named in the request: it is spent if it is approved for this action.
    fn use_named_approval(
        &self,
        demand: Demand<'a>,
        approval: &Approval,
        action_hash: &str,
    ) -> Evaluation<'a> {
        let id = || approval.id.clone();
        let unapproved = |problem| Ruling::Unapproved { demand, approval: Some(id()), problem };
        if approval.action_hash != action_hash || !self.is_asker(approval) {
            return unapproved(Unapproved::ActionMismatch).into();
        }
        if approval.decided.is_some() && !approval.proven {
            return unapproved(Unapproved::NotProven).into();
        }
        // If an earlier response under the same key spent the approval, only its expiry counts.
        let is_replay = self.is_replay && self.consumes();
        if is_replay && approval.spent && !approval.is_usable(self.context.now) {
            return unapproved(Unapproved::Expired).into();
        }
        if approval.spent && !is_replay {
            return unapproved(Unapproved::Spent).into();
        }
        match approval.status(self.context.now) {
            Status::Expired => unapproved(Unapproved::Expired).into(),
            Status::Pending => Ruling::Pending { demand, approval: id() }.into(),
            Status::Rejected => unapproved(Unapproved::Rejected).into(),
            Status::Approved => self.spend_approval(demand, approval, || {
                Some(Box::new(self.record(&unapproved(Unapproved::Spent))))
            }),
        }
    }

    /// Spends a usable approval together with the decision. `spent` is the fallback if another
    /// request spends it first.
    fn spend_approval(
        &self,
        demand: Demand<'a>,
        approval: &Approval,
        spent: impl FnOnce() -> Option<Box<Fallback>>,
    ) -> Evaluation<'a> {
        let uses = match self.consumes() && !self.is_replay {
            true => vec![SingleUse::Approval { id: approval.id.clone(), spent: spent() }],
            false => Vec::new(),
        };
        let holds_until = approval.decided.as_ref().map(|decided| approval.usable_until(decided));
        Evaluation { uses, holds_until, ..Ruling::Approved { demand, approval: approval.id.clone() }.into() }
    }

    /// Uses the live approval for the same action: spends it if it is approved, otherwise waits for
    /// it.
    fn use_live_approval(&self, demand: Demand<'a>, live: &Approval) -> Evaluation<'a> {
        match live.status(self.context.now) {
            Status::Approved => self.spend_approval(demand, live, || None),
            Status::Expired | Status::Pending | Status::Rejected => {
                Ruling::ApprovalRequested { demand, approval: live.id.clone() }.into()
            }
        }
    }

    /// Opens an approval if the mode enforces the decision.
    fn open_approval(&self, demand: Demand<'a>, action_hash: String) -> Evaluation<'a> {
        if !self.consumes() {
            return match demand.budget {
                None => Ruling::ByRule(demand.rule).into(),
                Some(budget) => Ruling::OverBudget { rule: demand.rule, budget }.into(),
            };
        }
        if let Some(limit) = self.context.pending_limit {
            return Ruling::TooManyPending { demand, limit }.into();
        }
        let (request, now) = (self.request, self.context.now);
        let requirement = demand.requirement();
        let owned = |text: &Option<Text>| text.as_ref().map(|text| text.as_str().to_owned());
        let approval = Approval {
            id: approvals::new_id(),
            action_hash,
            tool: request.tool.as_str().to_owned(),
            resource: owned(&request.resource),
            args: request.args.to_string(),
            goal: request.goal.as_str().to_owned(),
            agent_id: self.agent_id().map(str::to_owned),
            asker: self.key.asker(),
            user_id: owned(&request.user_id),
            reason_code: demand.reason().to_owned(),
            created_at: now,
            deadline: now
                .saturating_add(requirement.deadline_seconds().unwrap_or(self.context.approval_seconds)),
            decided: None,
            note: None,
            opening: Some(Opening { person: self.key.person().to_owned(), requirement, event: None }),
            votes: Vec::new(),
            spent: false,
            proven: true,
        };
        let ruling = Ruling::ApprovalRequested { demand, approval: approval.id.clone() };
        let opens =
            Some(ApprovalOpening { approval: Box::new(approval), exclusive: self.context.reuse_approvals });
        Evaluation { opens, ..ruling.into() }
    }

    /// Returns whether the caller may use the approval. If a bound agent asked, only keys of that
    /// agent may. If a person asked, only keys of that person may.
    fn is_asker(&self, approval: &Approval) -> bool {
        approval.asker.starts_with("key:") || approval.asker.is_empty() || approval.asker == self.key.asker()
    }

    /// Returns the basis and expiry of the earlier response if it would be given again now,
    /// ignoring that it consumed its approval and passport.
    pub(super) fn replay_basis(&self, earlier: &EarlierResponse) -> Option<(AllowBasis, Option<i64>)> {
        if !earlier.is_allow {
            return None;
        }
        let replayed = Case { is_replay: true, ..*self }.evaluate();
        let approval = match &replayed.ruling {
            Ruling::Approved { approval, .. } => Some(approval.clone()),
            Ruling::ByRule(_) => None,
            Ruling::CredentialExpired(_)
            | Ruling::Halted(_)
            | Ruling::HistoryNotMeasurable { .. }
            | Ruling::TooManyPending { .. }
            | Ruling::ManifestChanged
            | Ruling::ManifestUnknown
            | Ruling::NoMatch
            | Ruling::NotGranted(_)
            | Ruling::NotMeasurable { .. }
            | Ruling::OverBudget { .. }
            | Ruling::Passport(_)
            | Ruling::Pending { .. }
            | Ruling::Unapproved { .. }
            | Ruling::ApprovalRequested { .. } => return None,
        };
        let basis = AllowBasis { approval, passport: self.passport_jti().map(str::to_owned) };
        let credential = self.context.credential.as_ref().map(|credential| &credential.id);
        let is_same = basis == earlier.basis && earlier.credential.iter().all(|id| Some(id) == credential);
        (replayed.ruling.allows() && is_same).then_some((basis, replayed.holds_until))
    }

    /// Returns whether the response contains the tool's credential.
    pub(super) fn returns_credential(&self, ruling: &Ruling<'_>) -> bool {
        self.credential_for(ruling).is_some()
    }

    /// Returns the credential that the response may contain. In observing modes, that requires an
    /// `allow` without approval or passport.
    fn credential_for(&self, ruling: &Ruling<'_>) -> Option<&'a ToolCredential> {
        let is_authorized = ruling.approval().is_some() || self.context.passport.is_some();
        let may = ruling.allows()
            && (self.consumes() || !is_authorized)
            && self.request.protocol.carries_credentials();
        self.context.credential.as_ref().filter(|_| may)
    }

    /// Returns the passport after checking it against the request.
    fn checked_passport(&self) -> Result<Option<&'a PresentedPassport>, PassportError> {
        let presented = match &self.context.passport {
            None => return Ok(None),
            Some(Err(refusal)) => return Err(*refusal),
            Some(Ok(presented)) => presented,
        };
        let request = self.request;
        let presentation = Presentation {
            issuer: &self.context.issuer,
            audience: request.audience.as_deref(),
            tenant_id: Some(&self.key.tenant.id),
            agent_id: Some(self.agent_id()),
            user_id: Some(request.user_id.as_ref().map(Text::as_str)),
        };
        if let Some(refusal) =
            presented.claims.validate(&presentation, &passport::at(self.context.now)).first()
        {
            return Err(*refusal);
        }
        if !presented.claims.is_held_by(self.context.proven_key.as_ref().map(Thumbprint::as_str)) {
            return Err(PassportError::Key);
        }
        let standing =
            presented.standing.filter(|standing| !standing.revoked).ok_or(PassportError::Revoked)?;
        let covered = Covered {
            tool: request.tool.as_str(),
            resource: request.resource.as_ref().map(Text::as_str).unwrap_or_default(),
            goal: request.goal.as_str(),
            args: &request.args,
        };
        match uncovered(&presented.claims, &covered) {
            Some(refusal) => Err(refusal),
            None if !self.is_approved_action(&presented.claims) => Err(PassportError::Approval),
            None if standing.used && !(self.is_replay && self.consumes()) => Err(PassportError::Replayed),
            None => Ok(Some(presented)),
        }
    }

    /// Returns whether a passport that carries an approval is used for the approved action.
    fn is_approved_action(&self, claims: &Claims) -> bool {
        let Some(hash) = claims.approval_hash() else {
            return true;
        };
        let named = self.request.approval_request_id.as_deref();
        (named.is_none() || named == claims.approval_request_id())
            && self.request.action_hash(self.agent_id()).as_deref() == Some(hash)
    }

    /// Returns whether the mode enforces the decision and consumes single-use grants.
    pub(super) fn consumes(&self) -> bool {
        self.request.consumes()
    }

    /// Returns the signatures of the approval that allows the action.
    fn signatures(&self, ruling: &Ruling<'_>) -> Option<Json> {
        let id = ruling.approval().filter(|_| ruling.allows())?;
        let known = self.context.approval.iter().flatten().chain(&self.context.live_approval);
        known.into_iter().find(|approval| approval.id == id).and_then(Approval::signatures)
    }

    fn agent_id(&self) -> Option<&'a str> {
        self.agent.and_then(Json::as_str)
    }

    fn passport_jti(&self) -> Option<&'a str> {
        match &self.context.passport {
            Some(Ok(presented)) => Some(presented.claims.jti()),
            Some(Err(_)) | None => None,
        }
    }

    fn input(&self, claims: Option<&'a Claims>) -> Input<'a> {
        let passport = claims.map(Claims::as_json);
        Input {
            agent_id: self.agent,
            args: Some(&self.request.args),
            goal: Some(self.request.goal.as_json()),
            passport,
            resource: self.request.resource.as_ref().map(Text::as_json),
            risk_tier: passport.and_then(|claims| claims.member("risk_tier")),
            tool: Some(self.request.tool.as_json()),
            user_id: self.request.user_id.as_ref().map(Text::as_json),
        }
    }

    /// Copies the request as far as a policy reads it.
    pub(super) fn captured(&self, ruling: &Ruling<'_>) -> CapturedRequest {
        let presented = self.checked_passport().ok().flatten();
        CapturedRequest {
            input: RecordedInput::of(&self.input(presented.map(|found| &found.claims))),
            request_hash: self.request.request_hash.clone(),
            repeats: self.context.earlier.as_ref().is_some_and(|earlier| earlier.allowed.is_some()),
            approved: ruling.is_approved(),
        }
    }

    /// Creates the event and the response of a ruling without charges.
    pub(super) fn record(&self, ruling: &Ruling<'_>) -> Fallback {
        self.charged_record(ruling, &[], false)
    }

    /// Creates the event and the response of a ruling. With charges, the transaction completes the
    /// response with the state of the budgets. With `opens`, it opens an approval.
    pub(super) fn charged_record(&self, ruling: &Ruling<'_>, charges: &[Charge], opens: bool) -> Fallback {
        let credential_id = self.credential_for(ruling).map(|credential| &*credential.id);
        let event = events::decision(
            self.key,
            self.request,
            Decision {
                decision: ruling.decision().as_str(),
                reason_code: ruling.reason(),
                rule: ruling.rule().map(Rule::name),
                approval: ruling.approval(),
                passport_jti: self.passport_jti(),
                credential_id,
                charges,
                announces: if self.consumes() { announcements(ruling, opens) } else { Vec::new() },
            },
        );
        let attachments = Attachments {
            event_id: &event.event_id,
            credential_id,
            has_budgets: charges.iter().any(|charge| charge.limit.is_some()),
            signatures: self.signatures(ruling),
            halt_epoch: self.context.halts.epoch,
        };
        let response = response::write(ruling, self.key, self.request, &attachments);
        Fallback { event, response }
    }
}

/// Returns the announcements of a ruling to webhooks.
fn announcements(ruling: &Ruling<'_>, opens: bool) -> Vec<Announcement> {
    let by_budget =
        matches!(ruling, Ruling::ApprovalRequested { demand: Demand { budget: Some(_), .. }, .. });
    let exceeds = (opens && by_budget) || matches!(ruling, Ruling::OverBudget { .. });
    let exceeds = exceeds.then_some(Announcement::BudgetExceeded);
    exceeds.into_iter().chain(opens.then_some(Announcement::ApprovalRequested)).collect()
}

/// Returns the passport's expiry, in seconds since 1970.
fn expiry_of(claims: &Claims) -> Option<i64> {
    let Json::Number(number) = claims.as_json().member("exp")? else {
        return None;
    };
    number.as_str().parse().ok()
}
