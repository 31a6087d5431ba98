//! Use cases for passports: issue, verify, revoke, public keys.

use std::sync::Arc;

use actpass_protocol::Json;
use actpass_protocol::json::Number;
use actpass_protocol::signed_approval::MEMBER;
use actpass_protocol::token::{MAX_BYTES, Presentation, TokenType};

use super::{Service, ServiceError};
use crate::approvals::{Approval, Status};
use crate::auth::{ApiKey, Role};
use crate::decide::MANIFEST_CHANGED;
use crate::events;
use crate::halts::{HALTED, HaltSubject};
use crate::object_writer::object;
use crate::passport::keys::SigningKeyError;
use crate::passport::{self, Claims, PassportError, SigningKeyStore, SigningKeys};
use crate::request::{InvalidMember, Issue, Revoke, VerifyPassport};
use crate::store::{
    Change, Mutation, PassportState, Record, StoreError, Subject, Transition, TransitionOutcome,
};

/// The passport use cases of a gateway with signing keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passports<'s> {
    pub(super) service: &'s Service,
    keys: &'s SigningKeyStore,
}

/// A passport that was issued.
#[derive(Clone, Debug)]
pub(crate) struct IssuedPassport {
    /// A compact JWS; a secret.
    pub(crate) token: String,
    pub(crate) jti: String,
    /// In seconds since 1970.
    pub(crate) expires_at: i64,
    /// The epoch of the halts that permit it.
    pub(crate) halt_epoch: u64,
}

/// The result of verifying a passport.
#[derive(Clone, Debug)]
pub(crate) struct VerifiedPassport {
    /// Codes of all problems.
    pub(crate) errors: Vec<&'static str>,
    /// The claims, if there are no problems.
    pub(crate) claims: Option<Json>,
    /// The epoch of the halts that it was verified with.
    pub(crate) halt_epoch: u64,
}

impl Service {
    /// Returns the state of a tenant's passport; `None` if it was not issued. The passport is revoked
    /// if one that was exchanged for it is.
    pub(super) async fn passport_standing(
        &self,
        tenant_id: &str,
        claims: &Claims,
    ) -> Result<Option<PassportState>, ServiceError> {
        let standing = self.with_timeout(self.store.passport(tenant_id, claims.jti())).await?;
        let Some(mut standing) = standing else { return Ok(None) };
        for ancestor in passport::ancestors(claims) {
            let found = self.with_timeout(self.store.passport(tenant_id, &ancestor)).await?;
            standing.revoked |= found.is_none_or(|found| found.revoked);
        }
        Ok(Some(standing))
    }

    /// Returns the passport use cases.
    pub(crate) fn passports(&self) -> Result<Passports<'_>, ServiceError> {
        let keys = self.keys.as_ref().ok_or(ServiceError::NoMasterKey)?;
        Ok(Passports { service: self, keys })
    }
}

impl Passports<'_> {
    /// Issues a passport. `workload` is the SPIFFE ID of the client's certificate.
    pub(crate) async fn issue(
        &self,
        key: &ApiKey,
        workload: Option<&str>,
        request: Issue,
    ) -> Result<IssuedPassport, ServiceError> {
        let service = self.service;
        let ring = self.read().await?;
        let ttl_seconds = ttl_within_grants(key, &request)?;
        within_grants(key, &request)?;
        let jti = format!("ap_{}", uuid::Uuid::now_v7().simple());
        let issued_at = service.clock.seconds();
        let approval = match &request.approval_request_id {
            None => None,
            Some(id) => Some(self.approved(key, id, issued_at).await?),
        };
        let event = events::passport_issued(key, &request, &jti, approval.as_ref());
        let expires_at = issued_at.saturating_add(ttl_seconds);
        let tools = request.allowed_tools.clone();
        let time = |seconds| Some(Json::Number(Number::from(seconds)));
        let or_null = |text: Option<&str>| Some(text.map_or(Json::Null, Json::from));
        let list = |texts: Vec<String>| Some(Json::Array(texts.into_iter().map(Json::String).collect()));
        let claims = object([
            ("iss", Some(Json::from(&*service.issuer))),
            ("aud", Some(Json::String(request.audience))),
            ("tenant_id", Some(Json::from(&*key.tenant.id))),
            ("agent_id", or_null(event.agent_id.as_deref())),
            ("user_id", or_null(event.user_id.as_deref())),
            ("goal", Some(Json::String(request.goal))),
            ("allowed_tools", list(request.allowed_tools)),
            ("allowed_resources", list(request.allowed_resources.unwrap_or_default())),
            ("resource_constraints", Some(request.resource_constraints.unwrap_or(Json::Object(Vec::new())))),
            ("risk_tier", Some(Json::from(request.risk_tier.as_str()))),
            ("approval_hash", approval.as_ref().map(|approval| Json::from(&*approval.action_hash))),
            ("approval_request_id", approval.as_ref().map(|approval| Json::from(&*approval.id))),
            (MEMBER, approval.as_ref().and_then(Approval::signatures)),
            ("iat", time(issued_at)),
            ("exp", time(expires_at)),
            ("jti", Some(Json::from(&*jti))),
            // The first passport of a transaction names it.
            ("txn", request.tctx.is_some().then(|| Json::from(&*jti))),
            ("req_wl", workload.or(key.bound_agent()).filter(|_| request.tctx.is_some()).map(Json::from)),
            ("tctx", request.tctx),
            (
                "cnf",
                request.confirmation.as_ref().map(|key| object([("jkt", Some(Json::from(key.as_str())))])),
            ),
        ]);
        let (token, kid) = ring.sign(TokenType::Passport, &claims)?;
        if token.len() > MAX_BYTES {
            let problem = format!("the passport would exceed {MAX_BYTES} bytes");
            return Err(InvalidMember { member: "body".to_owned(), problem }.into());
        }
        let record = |halt_epoch| {
            let (jti, kid) = (jti.clone(), kid.clone());
            let mutation = Some(Mutation::IssuePassport { jti, kid, expires_at, halt_epoch });
            service.store.record(Record { event: event.clone(), mutation })
        };
        let tools: Vec<_> = tools.iter().map(String::as_str).collect();
        let subject = HaltSubject {
            tenant_id: &key.tenant.id,
            agent_id: event.agent_id.as_deref(),
            tools: &tools,
            user_id: event.user_id.as_deref(),
        };
        let (_, halt_epoch) = service.unless_halted(&[subject], record).await?;
        Ok(IssuedPassport { token, jti, expires_at, halt_epoch })
    }

    /// Verifies a passport without using it.
    pub(crate) async fn verify(
        &self,
        key: &ApiKey,
        request: &VerifyPassport,
    ) -> Result<VerifiedPassport, ServiceError> {
        let service = self.service;
        let halts = service.with_timeout(service.store.halts()).await?;
        let halt_epoch = halts.epoch;
        let claims = match self.open(request.token.expose()).await? {
            Ok(claims) => claims,
            Err(refusal) => {
                return Ok(VerifiedPassport { errors: vec![refusal.code()], claims: None, halt_epoch });
            }
        };
        // A client may name any agent; the agent bound to the key takes precedence.
        let agent = request.agent_id.as_deref().map(|agent| key.bound_agent().or(Some(agent)));
        let presentation = Presentation {
            issuer: &service.issuer,
            audience: Some(&request.audience),
            tenant_id: Some(&key.tenant.id),
            agent_id: agent,
            user_id: request.user_id.as_deref().map(Some),
        };
        let refusals = claims.validate(&presentation, &passport::at(service.clock.seconds()));
        let mut errors: Vec<_> = refusals.into_iter().map(PassportError::code).collect();
        // The proof was made for a request to the caller, who has checked it.
        if let Some(key) = &request.dpop_jkt
            && !claims.is_held_by(Some(key.as_str()))
        {
            errors.push(PassportError::Key.code());
        }
        let tools: Vec<_> = claims.texts("allowed_tools").collect();
        let text = |name: &str| claims.as_json().member(name).and_then(Json::as_str);
        let subject = HaltSubject {
            tenant_id: &key.tenant.id,
            agent_id: text("agent_id"),
            tools: &tools,
            user_id: text("user_id"),
        };
        if halts.stopping(&subject).is_some() {
            errors.push(HALTED);
        }
        let standing = service.passport_standing(&key.tenant.id, &claims).await?;
        // A passport of another tenant has no record here either; report one error only.
        let revoked = standing.is_none_or(|standing| standing.revoked);
        if revoked && !errors.contains(&PassportError::Tenant.code()) {
            errors.push(PassportError::Revoked.code());
        }
        let policy = key.tenant.policy.hash();
        if request.policy_hash.as_ref().is_some_and(|hash| hash != policy) {
            errors.push(PassportError::Policy.code());
        }
        if let Some(hash) = &request.tool_manifest_hash
            && !self.is_approved(&key.tenant.id, claims.texts("allowed_tools"), hash).await?
        {
            errors.push(MANIFEST_CHANGED);
        }
        let claims = errors.is_empty().then(|| claims.as_json().clone());
        Ok(VerifiedPassport { errors, claims, halt_epoch })
    }

    /// Revokes a passport; returns `false` if it does not exist.
    pub(crate) async fn revoke(&self, key: &ApiKey, request: &Revoke) -> Result<bool, ServiceError> {
        let service = self.service;
        let jti = &request.jti;
        match service.with_timeout(service.store.passport(&key.tenant.id, jti)).await? {
            None => Ok(false),
            Some(_) if key.role == Role::Agent && !service.is_own(key, Subject::Passport, jti).await? => {
                Err(ServiceError::NotOwn(
                    "jti: the passport was not issued by this key or to its agent; use the issuing key or \
                    an operator key",
                ))
            }
            Some(standing) if standing.revoked => Ok(true),
            Some(_) => {
                let event = events::passport_revoked(key, jti, request.reason.as_deref());
                let change = Change::RevokePassport { jti: jti.clone() };
                // Another request may have revoked it concurrently.
                let _: TransitionOutcome =
                    service.with_timeout(service.store.change(Transition { event, change })).await?;
                Ok(true)
            }
        }
    }

    /// Returns the public keys as a JSON array.
    pub(crate) async fn jwks(&self) -> Result<Json, ServiceError> {
        let service = self.service;
        let jwks = self.keys.jwks(&*service.store, service.clock.seconds());
        Ok(service.with_timeout(async { split_store_error(jwks.await) }).await??)
    }

    /// Verifies a token's signature and returns its claims.
    pub(super) async fn open(&self, token: &str) -> Result<Result<Claims, PassportError>, ServiceError> {
        match self.keys.cached().verify(token) {
            // Another process may have created this key.
            Err(PassportError::UnknownKey) => Ok(self.read().await?.verify(token)),
            found => Ok(found),
        }
    }

    pub(super) async fn read(&self) -> Result<Arc<SigningKeys>, ServiceError> {
        let service = self.service;
        Ok(service.with_timeout(async { split_store_error(self.keys.read(&*service.store).await) }).await??)
    }

    /// Returns the tenant's approval if it is usable now. Its use checks it again.
    async fn approved(&self, key: &ApiKey, id: &str, now: i64) -> Result<Approval, ServiceError> {
        let approval = self.service.with_timeout(self.service.store.approval(&key.tenant.id, id)).await?;
        let approval = match approval {
            Some(found) => Some(self.service.with_verified_signatures(&key.tenant.id, found).await?),
            None => None,
        };
        // An approval of another agent counts as missing.
        let approval = approval.filter(|approval| {
            key.confined_to().is_none_or(|agent| approval.agent_id.as_deref() == Some(agent))
        });
        let found = match &approval {
            None => "unknown",
            Some(approval) if approval.spent => "used",
            Some(approval) => approval.status(now).as_str(),
        };
        approval.filter(|_| found == Status::Approved.as_str()).ok_or_else(|| {
            let problem = format!("expected an approved, unused approval, found status {found}");
            InvalidMember { member: "approval_request_id".to_owned(), problem }.into()
        })
    }

    /// Returns whether `hash` is the approved manifest of one of these tools.
    async fn is_approved(
        &self,
        tenant_id: &str,
        tools: impl Iterator<Item = &str>,
        hash: &str,
    ) -> Result<bool, ServiceError> {
        for tool in tools {
            let approved = self.service.store.approved_manifest(tenant_id, tool);
            if self.service.with_timeout(approved).await?.as_deref() == Some(hash) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Checks the requested claims against the key's grants.
fn within_grants(key: &ApiKey, request: &Issue) -> Result<(), ServiceError> {
    let grants = &key.grants;
    let refused = |member: &str, found: &str, granted: &dyn std::fmt::Display| {
        Err(ServiceError::NotGranted(format!(
            "{member}: this key is not permitted to issue a passport with {found:?}; its settings permit \
            {granted}"
        )))
    };
    if let Some(tool) = request.allowed_tools.iter().find(|tool| !grants.passport_tools.matches(tool)) {
        return refused("allowed_tools", tool, &grants.passport_tools);
    }
    if let Some(user) = &request.user_id
        && !grants.passport_users.matches(user)
    {
        return refused("user_id", user, &grants.passport_users);
    }
    if !grants.risk_tiers.contains(&request.risk_tier) {
        let tiers: Vec<_> = grants.risk_tiers.iter().map(|tier| tier.as_str()).collect();
        return refused("risk_tier", request.risk_tier.as_str(), &tiers.join(", "));
    }
    Ok(())
}

/// Returns the lifetime within the key's grants; the default is capped.
fn ttl_within_grants(key: &ApiKey, request: &Issue) -> Result<i64, ServiceError> {
    let most = key.grants.max_ttl_seconds;
    match request.ttl_seconds {
        None => Ok(passport::DEFAULT_TTL.min(most)),
        Some(seconds) if seconds <= most => Ok(seconds),
        Some(_) => {
            Err(ServiceError::NotGranted(format!("ttl_seconds: this key is limited to {most} seconds")))
        }
    }
}

/// Separates store errors from key errors.
fn split_store_error<T>(found: Result<T, SigningKeyError>) -> Result<Result<T, SigningKeyError>, StoreError> {
    match found {
        Err(SigningKeyError::Store(error)) => Err(error),
        found => Ok(found),
    }
}
