//! Use case of the exchange of a passport for a narrower one.

use std::cmp::Ordering;

use actpass_protocol::Json;
use actpass_protocol::json::Number;
use actpass_protocol::token::{MAX_BYTES, Presentation, TokenType};

use super::ServiceError;
use super::passports::Passports;
use crate::auth::ApiKey;
use crate::dpop::Thumbprint;
use crate::events::{self, ExchangedPassport};
use crate::halts::HaltSubject;
use crate::object_writer::object;
use crate::passport::coverage::bound;
use crate::passport::keys::SigningKeyError;
use crate::passport::{self, ANCESTORS, Claims, MAX_EXCHANGES, PassportError};
use crate::request::exchange::{Exchange, OAuthError};
use crate::store::{Change, Mutation, PassportState, Transition, TransitionOutcome};

/// Error of an exchange.
#[derive(Clone, Debug)]
pub(crate) enum ExchangeError {
    OAuth(OAuthError),
    Service(ServiceError),
}

impl From<OAuthError> for ExchangeError {
    fn from(error: OAuthError) -> Self {
        Self::OAuth(error)
    }
}

impl From<ServiceError> for ExchangeError {
    fn from(error: ServiceError) -> Self {
        Self::Service(error)
    }
}

impl From<SigningKeyError> for ExchangeError {
    fn from(error: SigningKeyError) -> Self {
        Self::Service(error.into())
    }
}

/// The caller of an exchange, as it was authenticated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchanger<'a> {
    pub(crate) key: &'a ApiKey,
    /// The SPIFFE id of the client certificate.
    pub(crate) workload: Option<&'a str>,
    /// The key that signed the request's DPoP proof.
    pub(crate) proven_key: Option<&'a Thumbprint>,
}

/// A passport that was issued in exchange.
#[derive(Clone, Debug)]
pub(crate) struct ExchangedToken {
    /// A compact JWS; a secret.
    pub(crate) token: String,
    /// Lifetime in seconds.
    pub(crate) expires_in: i64,
    /// The permitted tools.
    pub(crate) tools: Vec<String>,
}

impl Passports<'_> {
    /// Exchanges a passport, which is spent, for one with the same or less authority.
    pub(crate) async fn exchange(
        &self,
        caller: Exchanger<'_>,
        request: Exchange,
    ) -> Result<ExchangedToken, ExchangeError> {
        let (service, key) = (self.service, caller.key);
        let now = service.clock.seconds();
        let subject = self.subject(caller, &request, now).await?;
        let agent = key.bound_agent().or(request.agent_id.as_deref());
        let agent = agent.filter(|agent| !agent.is_empty()).ok_or_else(|| {
            OAuthError::request(
                "agent_id: missing; expected the acting agent, because the API key is not bound to one",
            )
        })?;
        let tools = narrowed_tools(&subject, request.tools, key)?;
        let resources = narrowed_resources(&subject, request.resources)?;
        let constraints = narrowed_constraints(&subject, request.constraints)?;
        let expires_at = narrowed_expiry(&subject, request.ttl_seconds, now, key)?;
        if request.audience.as_deref().is_some_and(|audience| Some(audience) != subject.text("aud")) {
            return Err(OAuthError::target("audience: expected that of subject_token").into());
        }
        let jti = format!("ap_{}", uuid::Uuid::now_v7().simple());
        let txn = subject.text("txn").unwrap_or_else(|| subject.jti());
        let ancestors: Vec<_> =
            [subject.jti().to_owned()].into_iter().chain(passport::ancestors(&subject)).collect();
        let confirmation = request.confirmation.map(|key| object([("jkt", Some(Json::from(key.as_str())))]));
        let kept = |name: &str| subject.as_json().member(name).cloned();
        let time = |seconds| Some(Json::Number(Number::from(seconds)));
        let list =
            |texts: &[String]| Some(Json::Array(texts.iter().map(|text| Json::from(&**text)).collect()));
        let claims = object([
            ("iss", kept("iss")),
            ("aud", kept("aud")),
            ("tenant_id", kept("tenant_id")),
            ("agent_id", Some(Json::from(agent))),
            ("user_id", kept("user_id")),
            ("goal", kept("goal")),
            ("allowed_tools", list(&tools)),
            ("allowed_resources", list(&resources)),
            ("resource_constraints", Some(Json::Object(constraints))),
            ("risk_tier", kept("risk_tier")),
            ("iat", time(now)),
            ("exp", time(expires_at)),
            ("jti", Some(Json::from(&*jti))),
            ("cnf", confirmation.or_else(|| kept("cnf"))),
            ("txn", Some(Json::from(txn))),
            ("tctx", kept("tctx")),
            ("req_wl", caller.workload.or(key.bound_agent()).map(Json::from)),
            ("act", Some(actor(agent, &subject))),
            (ANCESTORS, list(&ancestors)),
        ]);
        let (token, kid) = self.read().await?.sign(TokenType::Passport, &claims)?;
        if token.len() > MAX_BYTES {
            return Err(
                OAuthError::request(format_args!("the passport would exceed {MAX_BYTES} bytes")).into()
            );
        }
        let exchanged = ExchangedPassport {
            agent,
            goal: subject.text("goal"),
            user_id: subject.text("user_id"),
            subject: subject.jti(),
            jti: &jti,
            txn,
        };
        let [exchanged, issued] = events::passport_exchanged(key, exchanged);
        let record = |halt_epoch| {
            let (jti, kid) = (jti.clone(), kid.clone());
            let change = Change::ExchangePassport {
                subject: subject.jti().to_owned(),
                ancestors: passport::ancestors(&subject),
                exchanged: Box::new(exchanged.clone()),
                issue: Box::new(Mutation::IssuePassport { jti, kid, expires_at, halt_epoch }),
            };
            service.store.change(Transition { event: issued.clone(), change })
        };
        let stopped: Vec<_> = tools.iter().map(String::as_str).collect();
        // A halt of the agent that hands on its authority stops it, too.
        let halts = [Some(agent), subject.text("agent_id")].map(|agent_id| HaltSubject {
            tenant_id: &key.tenant.id,
            agent_id,
            tools: &stopped,
            user_id: subject.text("user_id"),
        });
        match service.unless_halted(&halts, record).await? {
            (TransitionOutcome::Recorded, _) => {
                Ok(ExchangedToken { token, expires_in: expires_at.saturating_sub(now), tools })
            }
            (TransitionOutcome::Stale | TransitionOutcome::Refused(_), _) => {
                Err(unusable(PassportError::Replayed))
            }
        }
    }

    /// Returns the claims of the passport to exchange, if it is valid and its holder presents it.
    async fn subject(
        &self,
        caller: Exchanger<'_>,
        request: &Exchange,
        now: i64,
    ) -> Result<Claims, ExchangeError> {
        let (service, tenant_id) = (self.service, &caller.key.tenant.id);
        let claims = self.open(request.subject_token.expose()).await?.map_err(unusable)?;
        let presentation = Presentation {
            issuer: &service.issuer,
            audience: None,
            tenant_id: Some(tenant_id),
            agent_id: None,
            user_id: None,
        };
        if let Some(refusal) = claims.validate(&presentation, &passport::at(now)).first() {
            return Err(unusable(*refusal));
        }
        if !claims.is_held_by(caller.proven_key.map(Thumbprint::as_str)) {
            return Err(unusable(PassportError::Key));
        }
        match service.passport_standing(tenant_id, &claims).await? {
            None | Some(PassportState { revoked: true, .. }) => return Err(unusable(PassportError::Revoked)),
            Some(PassportState { used: true, .. }) => return Err(unusable(PassportError::Replayed)),
            Some(PassportState { revoked: false, used: false }) => {}
        }
        // The approved action includes the agent.
        if claims.approval_hash().is_some() {
            return Err(OAuthError::grant(
                "subject_token: a passport that carries an approval is not exchanged",
            )
            .into());
        }
        if passport::ancestors(&claims).len() >= MAX_EXCHANGES {
            let problem = format_args!("subject_token: exchanged {MAX_EXCHANGES} times, which is the limit");
            return Err(OAuthError::grant(problem).into());
        }
        Ok(claims)
    }
}

fn unusable(refusal: PassportError) -> ExchangeError {
    OAuthError::grant(format_args!("subject_token: the passport {refusal} ({})", refusal.code())).into()
}

/// Returns the actor claim (RFC 8693): the acting agent, and within it those before.
fn actor(agent: &str, subject: &Claims) -> Json {
    let earlier = subject.as_json().member("act").cloned();
    let first = || subject.text("agent_id").map(|agent| object([("sub", Some(Json::from(agent)))]));
    object([("sub", Some(Json::from(agent))), ("act", earlier.or_else(first))])
}

fn narrowed_tools(
    subject: &Claims,
    requested: Option<Vec<String>>,
    key: &ApiKey,
) -> Result<Vec<String>, OAuthError> {
    let permitted: Vec<_> = subject.texts("allowed_tools").map(str::to_owned).collect();
    let tools = requested.unwrap_or_else(|| permitted.clone());
    if let Some(tool) = tools.iter().find(|tool| !permitted.contains(tool)) {
        return Err(OAuthError::scope(format_args!(
            "scope: subject_token does not permit the tool {tool:?}"
        )));
    }
    if let Some(tool) = tools.iter().find(|tool| !key.grants.passport_tools.matches(tool)) {
        return Err(OAuthError::scope(format_args!("scope: the API key is not permitted the tool {tool:?}")));
    }
    Ok(tools)
}

/// An empty list permits any resource.
fn narrowed_resources(subject: &Claims, requested: Option<Vec<String>>) -> Result<Vec<String>, OAuthError> {
    let permitted: Vec<_> = subject.texts("allowed_resources").map(str::to_owned).collect();
    let resources = requested.unwrap_or_else(|| permitted.clone());
    let exceeds = resources.is_empty() || resources.iter().any(|resource| !permitted.contains(resource));
    match !permitted.is_empty() && exceeds {
        true => Err(OAuthError::scope("allowed_resources: expected some of those of subject_token")),
        false => Ok(resources),
    }
}

fn narrowed_constraints(
    subject: &Claims,
    requested: Vec<(String, Json)>,
) -> Result<Vec<(String, Json)>, OAuthError> {
    let permitted = subject.as_json().member("resource_constraints").and_then(Json::as_object);
    let mut constraints = permitted.unwrap_or_default().to_vec();
    for (name, value) in requested {
        match constraints.iter_mut().find(|(known, _)| *known == name) {
            None => constraints.push((name, value)),
            Some((_, known)) if is_narrower(&name, &value, known) => *known = value,
            Some(_) => {
                let problem = format_args!("resource_constraints: {name:?} exceeds that of subject_token");
                return Err(OAuthError::scope(problem));
            }
        }
    }
    Ok(constraints)
}

/// Returns whether a constraint permits at most what `known` does.
fn is_narrower(name: &str, value: &Json, known: &Json) -> bool {
    match (bound(name), value, known) {
        (None, value, known) => value.same_value(known),
        (Some((_, order)), Json::Number(value), Json::Number(known)) => {
            let found = value.compare(known);
            found == Ordering::Equal || found == order
        }
        (Some(_), _, _) => false,
    }
}

fn narrowed_expiry(
    subject: &Claims,
    requested: Option<i64>,
    now: i64,
    key: &ApiKey,
) -> Result<i64, OAuthError> {
    let until = subject.expires_at();
    let most = until.saturating_sub(now).min(key.grants.max_ttl_seconds);
    match requested {
        Some(seconds) if seconds > most => {
            Err(OAuthError::scope(format_args!("ttl_seconds: expected at most {most}")))
        }
        Some(seconds) => Ok(now.saturating_add(seconds)),
        None => Ok(now.saturating_add(most.min(passport::DEFAULT_TTL))),
    }
}
