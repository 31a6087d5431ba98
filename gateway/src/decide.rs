//! Decisions: from a checked request and a policy to an answer and the event that records it.
//!
//! All of it is a function of its input; only the event's id is new each time.

use std::sync::Arc;

use actpass_protocol::json::Number;
use actpass_protocol::token::Bearer;
use actpass_protocol::{Json, Mode, canonical_json};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::approvals::{self, Approval, Status, reason};
use crate::auth::{self, Key};
use crate::ledger::{self, Draft, PolicyRef};
use crate::members::Members;
use crate::passport::coverage::{Covered, uncovered};
use crate::passport::{self, Claims, Refusal};
use crate::policy::{Decision, Input, NO_MATCH, Policy, RiskTier, Rule};
use crate::request::Preflight;
use crate::store::{
    Basis, Considered, CredentialPin, DecisionRecord, Earlier, Fallback, Idempotency, ManifestPin, Opening,
    SingleUse, Standing,
};
use crate::vault;

/// A decision that was made, and may be answered once its event is durable.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The answer's body, without the credential that it may be sent with.
    pub answer: Bytes,
    /// Whether it is an `allow`, if nothing it claims is refused.
    pub allows: bool,
    /// The hash of the body, if it has a canonical form.
    pub request_hash: Option<String>,
    /// Whether the tool's credential goes out with it.
    pub hands_out: bool,
    /// What must be recorded before.
    pub record: DecisionRecord,
}

/// Why a tool whose manifest is another one than was approved may not be called.
pub const MANIFEST_CHANGED: &str = "tool.manifest_changed";

/// What a tool's manifest is, by the hash that a request names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manifest {
    /// The one that was approved, or the request names none.
    #[default]
    Approved,
    /// Another one than was approved.
    Changed,
    /// One of a tool of which none was approved.
    Unknown,
}

impl Manifest {
    /// What the manifest with `hash` is, if the one of its tool that was approved last has the hash `approved`.
    pub fn of(approved: Option<&str>, hash: &str) -> Self {
        match approved {
            None => Self::Unknown,
            Some(approved) if approved == hash => Self::Approved,
            Some(_) => Self::Changed,
        }
    }
}

/// What is known beside the request when it is decided.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The issuer that this gateway is.
    pub issuer: Arc<str>,
    /// The time, in seconds since 1970.
    pub now: i64,
    /// For how many seconds an approval may be decided.
    pub approval_seconds: i64,
    /// The approval that the request names or else its passport stands for, if there is one, or what an earlier answer
    /// under its idempotency key rested on; the inner `None` if there is no such.
    pub approval: Option<Option<Approval>>,
    /// The live request for the same action, where the request names no approval.
    pub live_approval: Option<Approval>,
    /// Whether approvals are found by their action.
    pub finds_approvals: bool,
    /// What was answered under the request's idempotency key before.
    pub earlier: Option<Earlier>,
    /// For how many seconds an answer is kept under its idempotency key.
    pub keep_seconds: i64,
    /// Which manifest of the tool is approved, if the request names one.
    pub pinned: Option<ManifestPin>,
    /// How many approval requests of one key may be pending, if this key has as many.
    pub crowded: Option<u32>,
    /// What the manifest is that the request names.
    pub manifest: Manifest,
    /// The credential of the tool, if it has one. Only an `allow` depends on it.
    pub credential: Option<Bound>,
    /// What came of verifying the passport that the request shows, if it shows one.
    pub passport: Option<Result<Shown, Refusal>>,
}

impl Decided {
    /// The hash of the action for which it opens an approval request.
    pub fn opens(&self) -> Option<&str> {
        self.record.opens.as_ref().map(|opening| &*opening.approval.action_hash)
    }
}

/// A credential of a tool.
#[derive(Clone, Debug)]
pub struct Bound {
    /// Its id.
    pub id: String,
    /// Whether it no longer holds.
    pub expired: bool,
    /// Until when it holds, in seconds since 1970; `None` if nobody said.
    pub expires_at: Option<i64>,
}

/// A passport whose signature is good.
#[derive(Clone, Debug)]
pub struct Shown {
    /// What it claims.
    pub claims: Claims,
    /// What became of it; `None` if it is not known to have been issued.
    pub standing: Option<Standing>,
}

/// Decides about `request`, which is `body`.
pub fn decide(key: &Key, request: &Preflight<'_>, body: &Json, facts: &Facts) -> Decided {
    let policy = &key.tenant.policy;
    let agent = key.agent.as_ref().or(request.agent_id.map(|agent| agent.as_json()));
    // Not every body has a canonical form; then no hash is claimed, and only the same text is the same request.
    let digest = canonical_json(body).ok().map(|canonical| <[u8; 32]>::from(Sha256::digest(canonical)));
    let request_hash = digest.map(hex::encode);
    let fingerprint = request.idempotency_key.map(|_| match digest {
        Some(digest) if body.member(APPROVAL).is_none() => digest,
        Some(_) | None => fingerprint(body),
    });
    let bound = request.idempotency_key.zip(fingerprint.as_ref());
    let idempotency_hash = bound.map(|(name, print)| ledger::idempotency_hash(name.as_str(), print));
    let case = Case { key, request, agent, request_hash, idempotency_hash, facts, renews: false };

    let judgement = case.rule(policy);
    let repeats = facts.earlier.as_ref().and_then(|earlier| case.repeats(policy, earlier));
    let holds_until = match &repeats {
        Some((_, holds_until)) => *holds_until,
        None => judgement.holds_until,
    };
    let Judgement { ruling, uses, opens, .. } = judgement;
    let allows = ruling.allows();
    let Fallback { event, answer } = case.outcome(&ruling);
    let idempotency = request.idempotency_key.zip(fingerprint).map(|(name, fingerprint)| Idempotency {
        key: name.as_str().to_owned(),
        fingerprint,
        answer: answer.clone(),
        allows,
        keep_seconds: facts.keep_seconds,
        earlier: facts
            .earlier
            .as_ref()
            .map(|earlier| Considered { seq: earlier.seq, repeats: repeats.map(|(basis, _)| basis) }),
    });
    // What is handed out, or not, must be the tool's when it is recorded.
    let credential = allows.then(|| CredentialPin {
        tool_id: request.tool.as_str().to_owned(),
        credential_id: facts.credential.as_ref().map(|bound| bound.id.clone()),
    });
    let manifest = facts.pinned.clone();
    Decided {
        answer,
        allows,
        request_hash: case.request_hash.clone(),
        hands_out: case.hands_out(&ruling) && facts.credential.is_some(),
        record: DecisionRecord { event, idempotency, uses, credential, manifest, holds_until, opens },
    }
}

/// The member that names the approval that a request spends.
const APPROVAL: &str = "approval_request_id";

/// What makes two bodies under one idempotency key the same request. The approval that a request names is left out: a
/// request that was asked without one and then with the one that it opened is the same.
fn fingerprint(body: &Json) -> [u8; 32] {
    let body = match body {
        Json::Object(members) => {
            let named = |(name, _): &&(String, Json)| name != APPROVAL;
            Json::Object(members.iter().filter(named).cloned().collect())
        }
        Json::Array(_) | Json::Bool(_) | Json::Null | Json::Number(_) | Json::String(_) => body.clone(),
    };
    match canonical_json(&body) {
        Ok(canonical) => Sha256::digest(canonical).into(),
        Err(_) => Sha256::digest(body.to_string()).into(),
    }
}

/// An earlier answer under the same idempotency key, or an `allow` under a key that was answered `allow` before: the
/// answer says so, how old the first `allow` is, and which body it answers now.
pub fn mark_replayed(answer: &[u8], request_hash: Option<&str>, age_ms: i64) -> Option<Bytes> {
    let Json::Object(mut members) = Json::parse(answer).ok()? else {
        return None;
    };
    match (members.iter_mut().find(|(name, _)| name == "request_hash"), request_hash) {
        (Some((_, kept)), Some(hash)) => *kept = Json::from(hash),
        (Some(_), None) => members.retain(|(name, _)| name != "request_hash"),
        (None, Some(hash)) => members.push(("request_hash".to_owned(), Json::from(hash))),
        (None, None) => {}
    }
    members.push(("replayed".to_owned(), Json::Bool(true)));
    members.push(("replay_age_ms".to_owned(), Json::Number(Number::from(age_ms.max(0)))));
    Some(Bytes::from(Json::Object(members).to_string()))
}

/// What enforce decides, what must be claimed for it, and what changes with it.
struct Judgement<'a> {
    ruling: Ruling<'a>,
    uses: Vec<SingleUse>,
    opens: Option<Opening>,
    /// Until when it can be decided so, in seconds since 1970.
    holds_until: Option<i64>,
    /// The approval that it rests on.
    approval: Option<String>,
}

impl<'a> From<Ruling<'a>> for Judgement<'a> {
    fn from(ruling: Ruling<'a>) -> Self {
        Self { ruling, uses: Vec::new(), opens: None, holds_until: None, approval: None }
    }
}

/// The earlier of two times, of which either may be none.
fn earliest(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    one.into_iter().chain(other).min()
}

/// A request, and everything that its decision is made of.
struct Case<'a> {
    key: &'a Key,
    request: &'a Preflight<'a>,
    agent: Option<&'a Json>,
    request_hash: Option<String>,
    idempotency_hash: Option<String>,
    facts: &'a Facts,
    /// Whether it is asked if an earlier `allow` would hold now, which used up what it took.
    renews: bool,
}

impl<'a> Case<'a> {
    fn rule(&self, policy: &'a Policy) -> Judgement<'a> {
        let tool = self.request.tool.as_str();
        if let Some((reason, member, granted)) = self.outside_of_key() {
            return Ruling::outside_of_key(policy, tool, &self.key.name, reason, member, &granted).into();
        }
        match self.facts.manifest {
            Manifest::Approved => {}
            Manifest::Changed => {
                return Ruling::drifted(policy, tool, MANIFEST_CHANGED, "changed since it was approved")
                    .into();
            }
            Manifest::Unknown => {
                return Ruling::drifted(policy, tool, "tool.not_registered", "was never approved").into();
            }
        }
        let refused = |refusal| Ruling::refused(policy, refusal, tool);
        let shown = match self.shown() {
            Ok(shown) => shown,
            Err(refusal) => return refused(refusal).into(),
        };
        let rule = policy.first_match(&self.input(shown.map(|shown| &shown.claims)));
        let mut judgement = self.consent(Ruling::new(policy, rule, tool));
        if judgement.ruling.allows() {
            let expires_at = shown.and_then(|shown| expiry_of(&shown.claims));
            judgement.holds_until = earliest(judgement.holds_until, expires_at);
            let credential = self.facts.credential.as_ref().and_then(|bound| bound.expires_at);
            judgement.holds_until = earliest(judgement.holds_until, credential);
        }
        // Before anything is used up for it.
        if judgement.ruling.allows() && self.facts.credential.as_ref().is_some_and(|bound| bound.expired) {
            return judgement.ruling.without_credential(tool).into();
        }
        if let Some(shown) = shown
            && judgement.ruling.allows()
            && self.spends()
            && !self.renews
        {
            judgement.uses.push(SingleUse::Passport {
                jti: shown.claims.jti().to_owned(),
                replayed: Box::new(self.outcome(&refused(Refusal::Replayed))),
                revoked: Box::new(self.outcome(&refused(Refusal::Revoked))),
            });
        }
        judgement
    }

    /// Why the request is outside of what its key may ask for: the reason, the member, and what is granted.
    fn outside_of_key(&self) -> Option<(&'static str, &'static str, String)> {
        let (grants, request) = (&self.key.grants, self.request);
        if !grants.modes.contains(&request.mode) {
            let modes: Vec<_> = grants.modes.iter().map(|mode| mode.as_str()).collect();
            return Some((auth::reason::MODE, "mode", modes.join(", ")));
        }
        if !grants.tools.matches(request.tool.as_str()) {
            return Some((auth::reason::TOOL, "tool", grants.tools.to_string()));
        }
        let (users, user) = (grants.users.as_ref()?, request.user_id?.as_str());
        (!users.matches(user)).then(|| (auth::reason::USER, "user_id", users.to_string()))
    }

    /// What becomes of a ruling by a person's approval. Only what the policy leaves to a person is touched.
    fn consent(&self, ruling: Ruling<'a>) -> Judgement<'a> {
        if ruling.decision != Decision::RequireApproval.as_str() {
            return ruling.into();
        }
        let tool = self.request.tool.as_str();
        let Some(action_hash) = self.request.action_hash(self.agent) else {
            return ruling.unapproved(reason::NOT_HASHABLE, tool).into();
        };
        let approval = match &self.facts.approval {
            None => match &self.facts.live_approval {
                Some(live) => return self.meet(ruling, live),
                None => return self.open(ruling, action_hash),
            },
            Some(None) => return ruling.unapproved(reason::UNKNOWN, tool).into(),
            Some(Some(approval)) => approval,
        };
        let named = Ruling { approval: Some(approval.id.clone()), ..ruling };
        if approval.action_hash != action_hash || !self.may_use(approval) {
            return named.unapproved(reason::ACTION_MISMATCH, tool).into();
        }
        if approval.decided.is_some() && !approval.proven {
            return named.unapproved(reason::NOT_PROVEN, tool).into();
        }
        // An approval that an earlier answer under the same key spent counts by its time alone.
        let renews = self.renews && self.spends();
        if renews && approval.spent && !approval.is_leave(self.facts.now) {
            return named.unapproved(reason::EXPIRED, tool).into();
        }
        if approval.spent && !renews {
            return named.unapproved(reason::SPENT, tool).into();
        }
        match approval.status(self.facts.now) {
            Status::Expired => named.unapproved(reason::EXPIRED, tool).into(),
            Status::Pending => Ruling { reason: reason::PENDING, ..named }.into(),
            Status::Rejected => named.unapproved(reason::REJECTED, tool).into(),
            Status::Approved => {
                let spent = self.outcome(&named.clone().unapproved(reason::SPENT, tool));
                self.spend(named, approval, Some(Box::new(spent)))
            }
        }
    }

    /// An approval that holds; it is spent with the decision.
    fn spend(&self, ruling: Ruling<'a>, approval: &Approval, spent: Option<Box<Fallback>>) -> Judgement<'a> {
        let uses = match self.spends() && !self.renews {
            true => vec![SingleUse::Approval { id: approval.id.clone(), spent }],
            false => Vec::new(),
        };
        let ruling = Ruling { approval: Some(approval.id.clone()), ..ruling };
        Judgement {
            ruling: ruling.approved(self.request.tool.as_str()),
            uses,
            opens: None,
            holds_until: approval.decided.as_ref().map(|decided| approval.usable_until(decided)),
            approval: Some(approval.id.clone()),
        }
    }

    /// A live request for the same action: it is spent if it is approved, or else it is the one to wait for.
    fn meet(&self, ruling: Ruling<'a>, live: &Approval) -> Judgement<'a> {
        match live.status(self.facts.now) {
            Status::Approved => self.spend(ruling, live, None),
            Status::Expired | Status::Pending | Status::Rejected => {
                Ruling { approval: Some(live.id.clone()), ..ruling }.into()
            }
        }
    }

    /// Whether the caller is who asked, where the gateway knows which agent that was.
    fn may_use(&self, approval: &Approval) -> bool {
        !approval.asker.starts_with("agent:") || approval.asker == self.key.asker()
    }

    /// What the earlier answer under the same key rested on, and until when, if it is still what would be answered but
    /// for what it used up itself.
    fn repeats(&self, policy: &'a Policy, earlier: &Earlier) -> Option<(Basis, Option<i64>)> {
        let renewing = Case { request_hash: None, idempotency_hash: None, renews: true, ..*self };
        let renewed = Some(earlier).filter(|earlier| earlier.is_allow).map(|_| renewing.rule(policy))?;
        let passport = match &self.facts.passport {
            Some(Ok(shown)) => Some(shown.claims.jti().to_owned()),
            Some(Err(_)) | None => None,
        };
        let basis = Basis { approval: renewed.approval, passport };
        let credential = self.facts.credential.as_ref().map(|bound| &bound.id);
        let is_same = basis == earlier.basis && earlier.credential.iter().all(|id| Some(id) == credential);
        (renewed.ruling.allows() && is_same).then_some((basis, renewed.holds_until))
    }

    /// Whether an `allow` may carry the tool's credential: in a mode that spends nothing, only what no approval and no
    /// passport allows.
    fn hands_out(&self, ruling: &Ruling<'_>) -> bool {
        let rests_on_leave = ruling.approval.is_some() || self.facts.passport.is_some();
        ruling.allows() && (self.spends() || !rests_on_leave)
    }

    /// Asks a person, if the answer is meant to be acted on.
    fn open(&self, ruling: Ruling<'a>, action_hash: String) -> Judgement<'a> {
        if !self.spends() {
            return ruling.into();
        }
        let request = self.request;
        if let Some(limit) = self.facts.crowded {
            return ruling.crowded(limit, request.tool.as_str()).into();
        }
        let (id, now) = (approvals::new_id(), self.facts.now);
        let approval = Approval {
            id: id.clone(),
            action_hash,
            tool: request.tool.as_str().to_owned(),
            resource: request.resource.map(|resource| resource.as_str().to_owned()),
            args: request.args.to_string(),
            goal: request.goal.as_str().to_owned(),
            agent_id: self.agent.and_then(Json::as_str).map(str::to_owned),
            asker: self.key.asker(),
            user_id: request.user_id.map(|user| user.as_str().to_owned()),
            reason_code: ruling.reason.to_owned(),
            created_at: now,
            deadline: now.saturating_add(self.facts.approval_seconds),
            decided: None,
            spent: false,
            proven: true,
        };
        let opens = Some(Opening { approval: Box::new(approval), alone: self.facts.finds_approvals });
        Judgement { opens, ..Ruling { approval: Some(id), ..ruling }.into() }
    }

    /// The passport, if there is one, after everything about it was compared with the request.
    fn shown(&self) -> Result<Option<&'a Shown>, Refusal> {
        let shown = match &self.facts.passport {
            None => return Ok(None),
            Some(Err(refusal)) => return Err(*refusal),
            Some(Ok(shown)) => shown,
        };
        let request = self.request;
        let bearer = Bearer {
            issuer: &self.facts.issuer,
            audience: request.audience.map(|audience| audience.as_str()),
            tenant_id: Some(&self.key.tenant.id),
            agent_id: Some(self.agent.and_then(Json::as_str)),
            user_id: Some(request.user_id.map(|user| user.as_str())),
        };
        if let Some(refusal) = shown.claims.against(&bearer, &passport::at(self.facts.now)).first() {
            return Err(*refusal);
        }
        let standing = shown.standing.filter(|standing| !standing.revoked).ok_or(Refusal::Revoked)?;
        let covered = Covered {
            tool: request.tool.as_str(),
            resource: request.resource.map(|resource| resource.as_str()).unwrap_or_default(),
            goal: request.goal.as_str(),
            args: request.args,
        };
        match uncovered(&shown.claims, &covered) {
            Some(refusal) => Err(refusal),
            None if !self.is_approved_action(&shown.claims) => Err(Refusal::Approval),
            None if standing.used && !(self.renews && self.spends()) => Err(Refusal::Replayed),
            None => Ok(Some(shown)),
        }
    }

    /// Whether this is the action, and the approval the request's, that the passport stands for, if it stands for one.
    fn is_approved_action(&self, claims: &Claims) -> bool {
        let Some(hash) = claims.approval_hash() else {
            return true;
        };
        let named = self.request.approval_request_id.map(|id| id.as_str());
        (named.is_none() || named == claims.approval_request_id())
            && self.request.action_hash(self.agent).as_deref() == Some(hash)
    }

    /// Whether the answer is meant to be acted on, and so uses up what it takes.
    fn spends(&self) -> bool {
        match self.request.mode {
            Mode::Enforce | Mode::Strict => true,
            Mode::Monitor | Mode::Warn => false,
        }
    }

    fn input(&self, claims: Option<&'a Claims>) -> Input<'a> {
        let passport = claims.map(Claims::as_json);
        Input {
            agent_id: self.agent,
            args: Some(self.request.args),
            goal: Some(self.request.goal.as_json()),
            passport,
            resource: self.request.resource.map(|resource| resource.as_json()),
            risk_tier: passport.and_then(|claims| claims.member("risk_tier")),
            tool: Some(self.request.tool.as_json()),
            user_id: self.request.user_id.map(|user| user.as_json()),
        }
    }

    /// The event and the answer of a ruling.
    fn outcome(&self, ruling: &Ruling<'_>) -> Fallback {
        let request = self.request;
        let policy = ruling.policy;
        let event_id = ledger::new_event_id();
        let request_hash = self.request_hash.as_deref();
        let credential_id =
            self.facts.credential.as_ref().filter(|_| self.hands_out(ruling)).map(|bound| &*bound.id);
        let answer = ruling.answer(request.mode, &event_id, request_hash, credential_id);
        let answer = Bytes::from(answer);
        let shown = self.facts.passport.as_ref().and_then(|passport| passport.as_ref().ok());
        let claimed = request.agent_id.map(|agent| agent.as_str());
        let event = Draft {
            event_id,
            user_id: request.user_id.map(|user| user.as_str().to_owned()),
            tool_id: Some(request.tool.as_str().to_owned()),
            resource: request.resource.map(|resource| resource.as_str().to_owned()),
            goal: Some(request.goal.as_str().to_owned()),
            idempotency_hash: self.idempotency_hash.clone(),
            mode: Some(request.mode.as_str()),
            decision: Some(ruling.decision.to_owned()),
            reason_code: Some(ruling.reason.to_owned()),
            matched_rules: Some(ruling.matched_rules()),
            policy: Some(PolicyRef {
                id: policy.id().to_owned(),
                version: policy.version().clone(),
                hash: policy.hash().to_owned(),
            }),
            request_hash: self.request_hash.clone(),
            approval_request_id: ruling.approval.clone(),
            passport_jti: shown.map(|shown| shown.claims.jti().to_owned()),
            credential_id: credential_id.map(str::to_owned),
            ..crate::events::by_agent(self.key, claimed, ledger::DECISIONS, ledger::DECISION)
        };
        Fallback { event, answer }
    }
}

/// When a passport expires, in seconds since 1970.
fn expiry_of(claims: &Claims) -> Option<i64> {
    let Json::Number(number) = claims.as_json().member("exp")? else {
        return None;
    };
    number.as_str().parse().ok()
}

/// What enforce decides, and why.
#[derive(Clone)]
struct Ruling<'p> {
    decision: &'static str,
    reason: &'p str,
    risk_tier: RiskTier,
    rule: Option<&'p Rule>,
    summary: String,
    next_steps: Vec<String>,
    policy: &'p Policy,
    /// The approval that is asked for or named.
    approval: Option<String>,
}

impl<'p> Ruling<'p> {
    fn new(policy: &'p Policy, rule: Option<&'p Rule>, tool: &str) -> Self {
        let Some(rule) = rule else {
            return Self::no_match(policy, tool);
        };
        let (name, reason) = (rule.name(), rule.reason());
        let (verb, default_step) = match rule.decision() {
            Decision::Allow => ("allows", None),
            Decision::Deny => {
                ("denies", Some(format!("Do not run it. If it should be allowed, change the rule {name:?}.")))
            }
            Decision::RequireApproval => (
                "requires a person's approval for",
                Some("Do not run it before a person approved it.".to_owned()),
            ),
        };
        let next_steps = match rule.next_steps() {
            [] => default_step.into_iter().collect(),
            given => given.to_vec(),
        };
        Self {
            decision: rule.decision().as_str(),
            reason,
            risk_tier: rule.risk_tier().unwrap_or(RiskTier::Medium),
            rule: Some(rule),
            summary: format!("The rule {name:?} {verb} the tool {tool:?} ({reason})."),
            next_steps,
            policy,
            approval: None,
        }
    }

    fn no_match(policy: &'p Policy, tool: &str) -> Self {
        let id = policy.id();
        Self {
            decision: Decision::Deny.as_str(),
            reason: NO_MATCH,
            risk_tier: RiskTier::High,
            rule: None,
            summary: format!(
                "No rule of the policy {id:?} matches this call of the tool {tool:?}, so it is denied ({NO_MATCH})."
            ),
            next_steps: vec![
                format!("Check the names and types of the arguments against the rules of the policy {id:?}."),
                "If the action should be possible, add a rule for it to the policy.".to_owned(),
            ],
            policy,
            approval: None,
        }
    }

    fn refused(policy: &'p Policy, refusal: Refusal, tool: &str) -> Self {
        let reason = refusal.code();
        Self {
            decision: Decision::Deny.as_str(),
            reason,
            risk_tier: RiskTier::High,
            rule: None,
            summary: format!(
                "The passport {refusal}, so this call of the tool {tool:?} is denied ({reason})."
            ),
            next_steps: vec![
                "Do not run it. Ask for a passport that covers this action, and show it once.".to_owned(),
            ],
            policy,
            approval: None,
        }
    }

    fn unapproved(self, reason: &'static str, tool: &str) -> Self {
        Self {
            decision: Decision::Deny.as_str(),
            reason,
            summary: format!(
                "The call of the tool {tool:?} needs an approval and has none that holds ({reason})."
            ),
            next_steps: vec![
                "Do not run it. Ask again without an approval to open a new request.".to_owned(),
            ],
            ..self
        }
    }

    fn approved(self, tool: &str) -> Self {
        Self {
            decision: Decision::Allow.as_str(),
            reason: reason::APPROVED,
            summary: format!("A person approved this call of the tool {tool:?} ({}).", reason::APPROVED),
            next_steps: Vec::new(),
            ..self
        }
    }

    /// A tool that cannot work, because its credential no longer holds.
    fn without_credential(self, tool: &str) -> Self {
        Self {
            decision: Decision::Deny.as_str(),
            reason: vault::EXPIRED,
            summary: format!("The credential of the tool {tool:?} has expired ({}).", vault::EXPIRED),
            next_steps: vec![
                "Do not run it. An operator sets a new credential: actpass-gateway vault set.".to_owned(),
            ],
            ..self
        }
    }

    /// A request that its key may not make; no rule is asked about it.
    fn outside_of_key(
        policy: &'p Policy,
        tool: &str,
        key: &str,
        reason: &'p str,
        member: &str,
        granted: &str,
    ) -> Self {
        Self {
            decision: Decision::Deny.as_str(),
            reason,
            risk_tier: RiskTier::High,
            rule: None,
            summary: format!(
                "The API key {key:?} may not make this call of the tool {tool:?}: its {member} is not among those \
                 that the key may use ({reason})."
            ),
            next_steps: vec![format!(
                "Do not run it. Use a {member} that the key may use ({granted}), or ask the gateway's operator for a \
                 key that may."
            )],
            policy,
            approval: None,
        }
    }

    /// An approval request too many.
    fn crowded(self, limit: u32, tool: &str) -> Self {
        let reason = reason::TOO_MANY_PENDING;
        Self {
            decision: Decision::Deny.as_str(),
            reason,
            summary: format!(
                "The tool {tool:?} needs a person's approval, and {limit} requests of this agent, or ten times as \
                 many of this API key, wait for one already ({reason})."
            ),
            next_steps: vec![
                "Do not run it. Ask again after pending requests were decided, or have expired.".to_owned(),
            ],
            approval: None,
            ..self
        }
    }

    /// A tool whose manifest nobody approved; no rule is asked about it.
    fn drifted(policy: &'p Policy, tool: &str, reason: &'p str, what: &str) -> Self {
        Self {
            decision: "require_tool_reapproval",
            reason,
            risk_tier: RiskTier::High,
            rule: None,
            summary: format!("The definition of the tool {tool:?} {what} ({reason})."),
            next_steps: vec![
                "Do not run it before an operator looked at the tool's definition.".to_owned(),
                "An operator approves it with POST /api/v1/tools.".to_owned(),
            ],
            policy,
            approval: None,
        }
    }

    fn allows(&self) -> bool {
        self.decision == Decision::Allow.as_str()
    }

    fn matched_rules(&self) -> Vec<String> {
        self.rule.iter().map(|rule| rule.name().to_owned()).collect()
    }

    /// The approval that the caller may wait for.
    fn pending(&self) -> Option<&str> {
        self.approval.as_deref().filter(|_| self.decision == Decision::RequireApproval.as_str())
    }

    fn answer(
        &self,
        mode: Mode,
        event_id: &str,
        request_hash: Option<&str>,
        credential_id: Option<&str>,
    ) -> String {
        // A key that may not ask in this mode gets no softer answer by it.
        let warns = mode == Mode::Warn && !self.allows() && self.reason != auth::reason::MODE;
        let mut explain = Members::new();
        explain.string("summary", Some(&self.summary));
        explain.strings("matched_rules", self.rule.iter().map(|rule| rule.name()));
        explain.strings("next_steps", self.next_steps.iter().map(String::as_str));
        let mut answer = Members::new();
        answer.string("decision", Some(if warns { "warn" } else { self.decision }));
        answer.string("reason_code", Some(self.reason));
        answer.string("risk_tier", Some(self.risk_tier.as_str()));
        answer.raw("explain", &explain.finish());
        answer.string("evidence_event_id", Some(event_id));
        answer.string("evidence_chain_id", Some(ledger::DECISIONS));
        answer.string("approval_request_id", self.pending());
        answer.string("request_hash", request_hash);
        answer.string("policy_hash", Some(self.policy.hash()));
        answer.string("credential_id", credential_id);
        answer.string("would_be", warns.then_some(self.decision));
        answer.finish()
    }
}
