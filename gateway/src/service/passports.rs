//! Passports: issued, verified, revoked, and the keys to verify them with.

use std::sync::Arc;

use actpass_protocol::Json;
use actpass_protocol::json::Number;
use actpass_protocol::token::{MAX_BYTES, Presentation, TokenType};

use super::{Service, ServiceError};
use crate::approvals::{Approval, Status};
use crate::auth::{ApiKey, Role};
use crate::decide::MANIFEST_CHANGED;
use crate::events;
use crate::object_writer::object;
use crate::passport::keys::SigningKeyError;
use crate::passport::{self, Claims, PassportError, SigningKeyStore, SigningKeys};
use crate::request::{InvalidMember, Issue, Revoke, VerifyPassport};
use crate::store::{Change, Mutation, Record, StoreError, Subject, Transition, TransitionOutcome};

/// The use cases about passports, of a gateway that has keys to sign them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passports<'s> {
    service: &'s Service,
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
}

/// A passport that was looked at.
#[derive(Clone, Debug)]
pub(crate) struct VerifiedPassport {
    /// The codes of all that is wrong with it.
    pub(crate) errors: Vec<&'static str>,
    /// What it claims, if nothing is wrong with it.
    pub(crate) claims: Option<Json>,
}

impl Service {
    /// The use cases about passports, if there are keys.
    pub(crate) fn passports(&self) -> Result<Passports<'_>, ServiceError> {
        let keys = self.keys.as_ref().ok_or(ServiceError::NoMasterKey)?;
        Ok(Passports { service: self, keys })
    }
}

impl Passports<'_> {
    /// Issues a passport.
    pub(crate) async fn issue(&self, key: &ApiKey, request: Issue) -> Result<IssuedPassport, ServiceError> {
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
            ("iat", time(issued_at)),
            ("exp", time(expires_at)),
            ("jti", Some(Json::from(&*jti))),
        ]);
        let (token, kid) = ring.sign(TokenType::Passport, &claims)?;
        if token.len() > MAX_BYTES {
            let problem = format!("makes a passport larger than {MAX_BYTES} bytes");
            return Err(InvalidMember { member: "body".to_owned(), problem }.into());
        }
        let mutation = Some(Mutation::IssuePassport { jti: jti.clone(), kid, expires_at });
        service.with_timeout(service.store.record(Record { event, mutation })).await?;
        Ok(IssuedPassport { token, jti, expires_at })
    }

    /// Looks at a passport, without using it up.
    pub(crate) async fn verify(
        &self,
        key: &ApiKey,
        request: &VerifyPassport,
    ) -> Result<VerifiedPassport, ServiceError> {
        let service = self.service;
        let claims = match self.open(request.token.expose()).await? {
            Ok(claims) => claims,
            Err(refusal) => return Ok(VerifiedPassport { errors: vec![refusal.code()], claims: None }),
        };
        // A client that is not asked for its agent says a name of its own; the key knows better.
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
        let standing = service.with_timeout(service.store.passport(&key.tenant.id, claims.jti())).await?;
        // What is another tenant's is not known to have been issued either; that is no second error.
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
        Ok(VerifiedPassport { errors, claims })
    }

    /// Revokes a passport: whether it is revoked now; `false` if there is none.
    pub(crate) async fn revoke(&self, key: &ApiKey, request: &Revoke) -> Result<bool, ServiceError> {
        let service = self.service;
        let jti = &request.jti;
        match service.with_timeout(service.store.passport(&key.tenant.id, jti)).await? {
            None => Ok(false),
            Some(_) if key.role == Role::Agent && !service.is_own(key, Subject::Passport, jti).await? => {
                Err(ServiceError::NotOwn(
                    "jti: this passport was issued by another key, and not to the agent of this one; expected one of \
                     its own, or an operator's key",
                ))
            }
            Some(standing) if standing.revoked => Ok(true),
            Some(_) => {
                let event = events::passport_revoked(key, jti, request.reason.as_deref());
                let change = Change::RevokePassport { jti: jti.clone() };
                // Whether this request revoked it, or another one just now.
                let (TransitionOutcome::Recorded | TransitionOutcome::Stale) =
                    service.with_timeout(service.store.change(Transition { event, change })).await?;
                Ok(true)
            }
        }
    }

    /// The keys to verify passports with, a JSON array.
    pub(crate) async fn jwks(&self) -> Result<Json, ServiceError> {
        let service = self.service;
        let jwks = self.keys.jwks(&*service.store, service.clock.seconds());
        Ok(service.with_timeout(async { on_store(jwks.await) }).await??)
    }

    /// What a token claims, or why it claims nothing.
    pub(super) async fn open(&self, token: &str) -> Result<Result<Claims, PassportError>, ServiceError> {
        match self.keys.cached().verify(token) {
            // Another process may have made this key.
            Err(PassportError::UnknownKey) => Ok(self.read().await?.verify(token)),
            found => Ok(found),
        }
    }

    async fn read(&self) -> Result<Arc<SigningKeys>, ServiceError> {
        let service = self.service;
        Ok(service.with_timeout(async { on_store(self.keys.read(&*service.store).await) }).await??)
    }

    /// The tenant's approval, if it could be used now. Whether it still can is looked at when it is.
    async fn approved(&self, key: &ApiKey, id: &str, now: i64) -> Result<Approval, ServiceError> {
        let approval = self.service.with_timeout(self.service.store.approval(&key.tenant.id, id)).await?;
        // Another agent's is none.
        let approval = approval.filter(|approval| {
            key.confined_to().is_none_or(|agent| approval.agent_id.as_deref() == Some(agent))
        });
        let found = match &approval {
            None => "unknown",
            Some(approval) if approval.spent => "used",
            Some(approval) => approval.status(now).as_str(),
        };
        approval.filter(|_| found == Status::Approved.as_str()).ok_or_else(|| {
            let problem =
                format!("expected an approval that is approved and not used, found one that is {found}");
            InvalidMember { member: "approval_request_id".to_owned(), problem }.into()
        })
    }

    /// Whether `hash` is the manifest that was approved last of one of these tools.
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

/// Whether the key may issue such a passport: what a passport claims, its issuer must be allowed to claim.
fn within_grants(key: &ApiKey, request: &Issue) -> Result<(), ServiceError> {
    let grants = &key.grants;
    let refused = |member: &str, found: &str, granted: &dyn std::fmt::Display| {
        Err(ServiceError::NotGranted(format!(
            "{member}: this key may not issue a passport with {found:?}; expected one of those in its settings: {granted}"
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

/// For how many seconds the passport holds. A request that does not say gets no more than the key may give.
fn ttl_within_grants(key: &ApiKey, request: &Issue) -> Result<i64, ServiceError> {
    let most = key.grants.max_ttl_seconds;
    match request.ttl_seconds {
        None => Ok(passport::DEFAULT_TTL.min(most)),
        Some(seconds) if seconds <= most => Ok(seconds),
        Some(_) => Err(ServiceError::NotGranted(format!(
            "ttl_seconds: this key may issue passports for {most} seconds at most"
        ))),
    }
}

/// Tells what is the store's fault from what is the keys'.
fn on_store<T>(found: Result<T, SigningKeyError>) -> Result<Result<T, SigningKeyError>, StoreError> {
    match found {
        Err(SigningKeyError::Store(error)) => Err(error),
        found => Ok(found),
    }
}
