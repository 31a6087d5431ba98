//! The preflight use case: load the context, decide, record, respond.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actpass_protocol::json::RawObject;
use actpass_protocol::{Json, Secret};
use bytes::Bytes;

use super::measure::explained_budgets;
use super::{Service, ServiceError};
use crate::access_log::{self, StageTimer};
use crate::auth::ApiKey;
use crate::capture::{CapturedRequest, SealedRequest};
use crate::decide::{
    self, DecisionContext, DecisionResult, ManifestState, PresentedPassport, ToolCredential,
};
use crate::dpop::Thumbprint;
use crate::history::Truth;
use crate::metrics::Stages;
use crate::passport::PassportError;
use crate::policy::{Answer, Budget, RecordedDecision};
use crate::request::Preflight;
use crate::shadow::ShadowTask;
use crate::store::{Author, DecisionOutcome, DecisionRecord, EarlierResponse, ManifestPin, SealedCredential};
use crate::{ledger, vault};

/// Maximum number of attempts if the decision's basis changes concurrently.
const MAX_ATTEMPTS: usize = 8;

/// Time after the first `allow` during which a replay includes the credential. At most the lifetime
/// of the caller's permit.
const CREDENTIAL_REPLAY_MS: i64 = 300_000;

/// Factor of the pending limit per key over the limit per agent.
const AGENTS_PER_KEY: u64 = 10;

/// A preflight in progress.
#[derive(Debug)]
pub(crate) struct PendingPreflight {
    pub(crate) key: Arc<ApiKey>,
    pub(crate) request: Preflight,
    /// Size of the body, in bytes.
    pub(crate) bytes: usize,
    /// When it was received, in milliseconds since 1970. With it, the client distinguishes its own
    /// retry from another call.
    pub(crate) received: i64,
    /// Time from the headers to the complete body.
    pub(crate) took: Duration,
    /// When the body was complete.
    pub(crate) begun: Instant,
    /// The key that signed the request's DPoP proof.
    pub(crate) proven_key: Option<Thumbprint>,
}

/// Data found by failed attempts to record a decision.
///
/// Most requests are new, most tools have no credential, and most actions no open approval. The
/// attempt to record reveals exceptions, which saves lookups beforehand.
#[derive(Default)]
struct Lookups {
    /// The earlier response under the idempotency key.
    earlier: Option<EarlierResponse>,
    credential: Option<SealedCredential>,
    /// Hash of the action, if there may be a live approval.
    action_hash: Option<String>,
    /// The budget that requires an approval because the action would exceed it.
    over_budget: Option<String>,
    /// The history conditions whose truth is known.
    history: Vec<Truth>,
}

impl PendingPreflight {
    /// The hash of the action, to find its live approval.
    fn action_hash(&self) -> Option<String> {
        let named = self.request.agent_id.as_ref().map(|agent| agent.as_str());
        self.request.action_hash(self.key.bound_agent().or(named))
    }
}

impl Service {
    /// Decides a preflight, records the decision and returns the response.
    pub(crate) async fn preflight(&self, pending: PendingPreflight) -> Result<Bytes, ServiceError> {
        let pending = Arc::new(pending);
        let mut found = Lookups::default();
        let mut recorded = Duration::ZERO;
        for _ in 0..MAX_ATTEMPTS {
            let deciding = StageTimer::begin("decide");
            let context = Arc::new(self.load_context(&pending, &mut found).await?);
            // An unreadable credential must fail the call before anything is recorded.
            let secret = match &found.credential {
                Some(credential) if !credential.has_expired(context.now) => {
                    Some(self.open_credential(&pending, credential).await?)
                }
                Some(_) | None => None,
            };
            let mut decided = self.decide(&pending, &context).await?;
            // An observing mode opens nothing, so the attempt to record reveals no live approval.
            let observes = !pending.request.consumes() && self.reuse_approvals;
            if observes && !decided.allows && found.action_hash.is_none() {
                found.action_hash = pending.action_hash();
                if found.action_hash.is_some() {
                    found.earlier.clone_from(&context.earlier);
                    continue;
                }
            }
            let opens = decided.opens().map(str::to_owned);
            // Held until the decision is recorded, so that the pending limit is exact.
            let _opening = match &opens {
                Some(_) => Some(pending.key.opening.lock().await),
                None => None,
            };
            if opens.is_some() && self.is_pending_limit_reached(&pending, context.now).await? {
                // The action may already have an open approval.
                if self.reuse_approvals && found.action_hash.is_none() {
                    found.earlier.clone_from(&context.earlier);
                    found.action_hash = opens;
                    continue;
                }
                let pending_limit = Some(self.pending_approvals);
                let context = DecisionContext { pending_limit, ..DecisionContext::clone(&context) };
                decided = self.decide(&pending, &Arc::new(context)).await?;
            }
            let captured = decided.request.take();
            if let (Some(request), Some(keep_ms)) = (&captured, pending.key.tenant.capture_ms) {
                decided.record.capture = self.seal_request(&pending.key, request, keep_ms);
            }
            let shadowed = captured.and_then(|request| self.shadow_task(&pending, request, &decided.record));
            let halt_epoch = decided.record.halt_epoch;
            let announces = !decided.record.event.announces.is_empty();
            let request_hash = pending.request.request_hash.as_deref();
            let allowed = context.earlier.as_ref().and_then(|earlier| earlier.allowed.as_ref());
            let age = allowed.map(|allowed| pending.received.saturating_sub(allowed.at).max(0));
            drop(deciding);
            let mut stage = StageTimer::begin("record");
            decided.record.begun = stage.transaction();
            let recording = Instant::now();
            let outcome = self.with_timeout(self.store.decide(decided.record)).await;
            recorded += recording.elapsed();
            drop(stage);
            let outcome = match outcome {
                Err(ServiceError::HaltsChanged) => {
                    found.earlier.clone_from(&context.earlier);
                    continue;
                }
                outcome => outcome?,
            };
            let is_repeated = matches!(outcome, DecisionOutcome::Repeated(_));
            let (response, returns_credential) = match outcome {
                DecisionOutcome::Conflict => return Err(ServiceError::Conflict),
                DecisionOutcome::EarlierResponse(earlier) => {
                    found.earlier = Some(*earlier);
                    continue;
                }
                recorded @ (DecisionOutcome::Recorded | DecisionOutcome::Claimed(_)) => {
                    shadowed.into_iter().for_each(|task| self.shadows.submit(task));
                    let response = if let DecisionOutcome::Claimed(completed) = recorded {
                        completed
                    } else {
                        decided.response
                    };
                    // A replayed `allow` does not permit another execution.
                    let response = match age.filter(|_| decided.allows) {
                        Some(age) => replayed(&response, request_hash, age, halt_epoch)?,
                        None => response,
                    };
                    (response, decided.returns_credential)
                }
                DecisionOutcome::History(truths) => {
                    found.history = truths;
                    found.earlier.clone_from(&context.earlier);
                    continue;
                }
                DecisionOutcome::OverBudget(budget) => {
                    found.over_budget = Some(budget);
                    found.action_hash = pending.action_hash();
                    found.earlier.clone_from(&context.earlier);
                    continue;
                }
                DecisionOutcome::Refused(response) => {
                    let refused = shadowed.and_then(|task| task.refused(&response));
                    refused.into_iter().for_each(|task| self.shadows.submit(task));
                    (response, false)
                }
                DecisionOutcome::Repeated(response) => {
                    let age = age.unwrap_or(i64::MAX);
                    let earlier = context.earlier.as_ref();
                    let had_credential = earlier.is_some_and(|earlier| earlier.credential.is_some());
                    let returns_credential = had_credential && age < CREDENTIAL_REPLAY_MS;
                    (replayed(&response, request_hash, age, halt_epoch)?, returns_credential)
                }
                DecisionOutcome::Stale => {
                    let tenant_id = &pending.key.tenant.id;
                    let tool = pending.request.tool.as_str();
                    found.credential = self.with_timeout(self.store.credential(tenant_id, tool)).await?;
                    found.earlier.clone_from(&context.earlier);
                    found.action_hash = opens.or(found.action_hash);
                    found.over_budget = None;
                    continue;
                }
            };
            if announces {
                self.announced.notify_waiters();
            }
            self.observe(&pending, &response, is_repeated, recorded);
            let expires_at = found.credential.as_ref().and_then(|credential| credential.expires_at);
            let returns_credential = returns_credential && pending.request.protocol.carries_credentials();
            return match secret.filter(|_| returns_credential) {
                Some(secret) => {
                    vault::add_credential(&response, &secret, expires_at).ok_or(ServiceError::Internal)
                }
                None => Ok(response),
            };
        }
        Err(ServiceError::Busy)
    }

    /// Counts the decision, and adds it to the log span without any other part of the response.
    fn observe(&self, pending: &PendingPreflight, response: &[u8], is_repeated: bool, record: Duration) {
        let PendingPreflight { key, request, took, begun, .. } = pending;
        let decide = begun.elapsed().saturating_sub(record);
        self.metrics.preflight(Stages { receive: *took, decide, record });
        let tool = request.tool.as_str();
        let Ok(response) = RawObject::parse(response) else { return };
        let [decision, reason, event_id] =
            ["decision", "reason_code", "evidence_event_id"].map(|member| response.string(member));
        tracing::record_all!(
            tracing::Span::current(),
            tool = tool,
            decision = decision.as_deref(),
            reason = reason.as_deref(),
            event_id = event_id.as_deref()
        );
        if let (Some(decision), Some(reason), Some(event_id)) = (&decision, &reason, &event_id) {
            access_log::note_decision(tool, decision, reason, event_id);
        }
        let tenant_id = &key.tenant.id;
        if is_repeated {
            self.metrics.replayed(tenant_id);
            return;
        }
        let (decision, reason) = (decision.unwrap_or_default(), reason.unwrap_or_default());
        self.metrics.decided(tenant_id, request.mode.as_str(), &decision, &reason);
        let of_reason = |budget: &&Budget| budget.reason() == &*reason;
        let mut budgets = key.tenant.policy.budgets().iter().filter(of_reason);
        if decision == "allow" || budgets.clone().next().is_none() {
            return;
        }
        let explain = response.member("explain").unwrap_or(Json::Null);
        if let Some(budget) =
            budgets.find(|budget| explained_budgets(&explain).any(|name| name == budget.name()))
        {
            self.metrics.exceeded(tenant_id, budget.name());
        }
    }

    async fn decide(
        &self,
        pending: &Arc<PendingPreflight>,
        context: &Arc<DecisionContext>,
    ) -> Result<DecisionResult, ServiceError> {
        let (asked, context) = (Arc::clone(pending), Arc::clone(context));
        self.run(pending.bytes, move || Ok(decide::decide(&asked.key, &asked.request, &context))).await
    }

    /// Seals a request for its capture. If that fails, the decision is recorded without it, and a replay
    /// reports it as missing.
    fn seal_request(&self, key: &ApiKey, request: &CapturedRequest, keep_ms: i64) -> Option<SealedRequest> {
        let sealed = self.captures.as_ref()?.seal(&key.tenant.id, request);
        let sealed = sealed.map_err(|error| tracing::error!(%error, "a request was not captured")).ok()?;
        Some(SealedRequest { sealed, keep_ms })
    }

    /// Returns the task that evaluates a decision with the shadow policy; `None` without one.
    fn shadow_task(
        &self,
        pending: &PendingPreflight,
        request: CapturedRequest,
        record: &DecisionRecord,
    ) -> Option<ShadowTask> {
        pending.key.tenant.shadow.as_ref()?;
        let event = &record.event;
        let claims = record.budgets.as_ref().filter(|budgets| budgets.are_recorded);
        let answer = Answer {
            decision: event.decision.clone()?,
            reason: event.reason_code.clone()?,
            rule: event.matched_rules.as_ref().and_then(|rules| rules.first().cloned()),
        };
        Some(ShadowTask {
            tenant: Arc::clone(&pending.key.tenant),
            decision: RecordedDecision {
                input: request.input,
                answer,
                enforces: pending.request.consumes(),
                repeats: request.repeats,
                approved: request.approved,
            },
            event_id: event.event_id.clone(),
            at: self.clock.millis(),
            agent_id: event.agent_id.clone(),
            claimed: claims.map_or_else(Vec::new, |budgets| {
                budgets.claims.iter().map(|claim| claim.charge.clone()).collect()
            }),
        })
    }

    /// Returns whether the limit of pending approvals of the agent or key is reached.
    async fn is_pending_limit_reached(
        &self,
        pending: &PendingPreflight,
        now: i64,
    ) -> Result<bool, ServiceError> {
        let PendingPreflight { key, request, .. } = pending;
        let named = request.agent_id.as_ref().map(|agent| agent.as_str());
        let asker = Author { key_name: &key.name, agent: key.bound_agent().or(named) };
        let pending = self.with_timeout(self.store.count_pending(&key.tenant.id, asker, now)).await?;
        let limit = u64::from(self.pending_approvals);
        Ok(pending.agent >= limit || pending.key >= limit.saturating_mul(AGENTS_PER_KEY))
    }

    async fn open_credential(
        &self,
        pending: &PendingPreflight,
        credential: &SealedCredential,
    ) -> Result<Secret, ServiceError> {
        let vault = self.vault.as_ref().ok_or(ServiceError::NoMasterKey)?;
        let (tenant_id, tool) = (&pending.key.tenant.id, pending.request.tool.as_str());
        let id = &*credential.id;
        // A restored older credential would open, but the ledger shows that it was replaced.
        let event = self.store.last_tool_event(tenant_id, ledger::VAULT, tool);
        if !self.with_timeout(event).await?.is_some_and(|event| vault::was_set(&event, id)) {
            tracing::error!(id, "the stored credential is not the last one set according to the ledger");
            return Err(ServiceError::Internal);
        }
        vault.open(tenant_id, tool, credential).ok_or_else(|| {
            tracing::error!(id, "the master key does not open this credential, or its record was changed");
            ServiceError::Internal
        })
    }

    /// Loads the inputs of the decision.
    async fn load_context(
        &self,
        pending: &PendingPreflight,
        found: &mut Lookups,
    ) -> Result<DecisionContext, ServiceError> {
        let PendingPreflight { key, request, .. } = pending;
        let tenant_id = &key.tenant.id;
        let earlier = found.earlier.take();
        let passport = match &request.passport {
            None => None,
            Some(token) => Some(self.verify_passport(key, token).await?),
        };
        let stood_for = match &passport {
            Some(Ok(presented)) => presented.claims.approval_request_id(),
            Some(Err(_)) | None => None,
        };
        // A key that was allowed by an approval keeps that approval and does not spend another.
        let allowed_by = earlier.as_ref().and_then(|earlier| earlier.allowed.as_ref());
        let allowed_by = allowed_by.and_then(|allowed| allowed.basis.approval.as_deref());
        let now = self.clock.seconds();
        let named = allowed_by.or(request.approval_request_id.as_deref()).or(stood_for);
        let (mut approval, mut live_approval) = (None, None);
        match (named, found.action_hash.as_deref()) {
            (Some(id), _) => {
                let found = self.with_timeout(self.store.approval(tenant_id, id)).await?;
                approval = Some(match found {
                    Some(found) => Some(self.with_verified_signatures(tenant_id, found).await?),
                    None => None,
                });
            }
            (None, Some(hash)) if self.reuse_approvals => {
                let asker = key.asker();
                let live = self.store.live_approval(tenant_id, hash, &asker, now);
                live_approval = match self.with_timeout(live).await? {
                    Some(live) => Some(self.with_verified_signatures(tenant_id, live).await?),
                    None => None,
                };
            }
            (None, Some(_) | None) => {}
        }
        let (manifest, manifest_pin) = match &request.tool_manifest_hash {
            None => (ManifestState::Approved, None),
            Some(hash) => {
                let (state, approved) = self.manifest_state(key, request.tool.as_str(), hash).await?;
                (state, Some(ManifestPin { tool_id: request.tool.as_str().to_owned(), hash: approved }))
            }
        };
        let credential = found.credential.as_ref().map(|credential| ToolCredential {
            id: credential.id.clone(),
            expired: credential.has_expired(now),
            expires_at: credential.expires_at,
        });
        Ok(DecisionContext {
            halts: self.store.known_halts().latest(),
            issuer: Arc::clone(&self.issuer),
            now,
            approval_seconds: self.approval_seconds,
            approval,
            live_approval,
            reuse_approvals: self.reuse_approvals,
            earlier,
            retention_seconds: self.retention_seconds,
            pending_limit: None,
            keeps_request: key.tenant.capture_ms.is_some() || key.tenant.shadow.is_some(),
            manifest,
            manifest_pin,
            passport,
            proven_key: pending.proven_key.clone(),
            credential,
            over_budget: found.over_budget.clone(),
            history: found.history.clone(),
        })
    }

    /// Verifies the request's passport.
    async fn verify_passport(
        &self,
        key: &ApiKey,
        token: &Secret,
    ) -> Result<Result<PresentedPassport, PassportError>, ServiceError> {
        let claims = match self.passports()?.open(token.expose()).await? {
            Ok(claims) => claims,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let standing = self.passport_standing(&key.tenant.id, &claims).await?;
        Ok(Ok(PresentedPassport { claims, standing }))
    }

    /// Returns the state of the manifest `hash` and the tool's approved manifest.
    async fn manifest_state(
        &self,
        key: &ApiKey,
        tool: &str,
        hash: &str,
    ) -> Result<(ManifestState, Option<String>), ServiceError> {
        let tenant_id = &key.tenant.id;
        let approved = self.with_timeout(self.store.approved_manifest(tenant_id, tool)).await?;
        let state = ManifestState::of(approved.as_deref(), hash);
        if let (ManifestState::Approved, Some(approved)) = (state, &approved) {
            let event = self.with_timeout(self.store.last_tool_event(tenant_id, ledger::TOOLS, tool)).await?;
            if !event.is_some_and(|event| ledger::was_approved(&event, approved)) {
                tracing::error!(tool, "the approved manifest of this tool is not supported by the ledger");
                return Ok((ManifestState::Changed, Some(approved.clone())));
            }
        }
        Ok((state, approved))
    }
}

fn replayed(
    response: &[u8],
    request_hash: Option<&str>,
    age_ms: i64,
    halt_epoch: u64,
) -> Result<Bytes, ServiceError> {
    decide::mark_replayed(response, request_hash, age_ms, halt_epoch).ok_or(ServiceError::Internal)
}
