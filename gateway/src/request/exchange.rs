//! Requests to exchange a passport for a narrower one (RFC 8693), form-encoded.

use std::fmt;

use actpass_protocol::{Json, Secret};

use super::body::{BodyMembers, InvalidMember};
use crate::dpop::Thumbprint;

/// The grant type of a token exchange.
pub(crate) const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// The type of passports.
pub(crate) const TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:jwt";

/// A request to exchange a passport.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    /// The passport.
    pub(crate) subject_token: Secret,
    /// The acting agent, as claimed by the client.
    pub(crate) agent_id: Option<String>,
    /// Permitted tools; `None` for those of the passport.
    pub(crate) tools: Option<Vec<String>>,
    /// Permitted resources; `None` for those of the passport.
    pub(crate) resources: Option<Vec<String>>,
    /// Constraints in addition to those of the passport, or narrower.
    pub(crate) constraints: Vec<(String, Json)>,
    /// The audience; `None` for that of the passport.
    pub(crate) audience: Option<String>,
    /// The DPoP key of the new passport; `None` for that of the passport.
    pub(crate) confirmation: Option<Thumbprint>,
    /// Requested lifetime in seconds.
    pub(crate) ttl_seconds: Option<i64>,
}

/// An error response of OAuth 2.0 (RFC 6749, section 5.2; RFC 8693, section 2.2.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OAuthError {
    /// The error code.
    pub(crate) code: &'static str,
    /// The description, which names the parameter or the claim.
    pub(crate) description: String,
}

impl OAuthError {
    pub(crate) fn request(problem: impl fmt::Display) -> Self {
        Self { code: "invalid_request", description: problem.to_string() }
    }

    /// The subject token is not accepted.
    pub(crate) fn grant(problem: impl fmt::Display) -> Self {
        Self { code: "invalid_grant", description: problem.to_string() }
    }

    /// The request exceeds the subject token.
    pub(crate) fn scope(problem: impl fmt::Display) -> Self {
        Self { code: "invalid_scope", description: problem.to_string() }
    }

    pub(crate) fn target(problem: impl fmt::Display) -> Self {
        Self { code: "invalid_target", description: problem.to_string() }
    }
}

impl Exchange {
    /// Validates and parses the parameters of a form. Unknown parameters are ignored (RFC 6749,
    /// section 3.2).
    ///
    /// # Errors
    ///
    /// Returns the first invalid parameter.
    pub(crate) fn read(form: &[(String, String)]) -> Result<Self, OAuthError> {
        let mut given: Vec<(&str, &str)> = Vec::with_capacity(form.len());
        // A parameter without a value counts as absent (RFC 6749, section 3.2).
        for (name, value) in form.iter().filter(|(_, value)| !value.is_empty()) {
            if given.iter().any(|(known, _)| known == name) {
                return Err(OAuthError::request(format_args!("{name}: expected one value, found two")));
            }
            given.push((name, value));
        }
        let find = |name: &str| given.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        match find("grant_type") {
            Some(GRANT_TYPE) => {}
            Some(_) => {
                let description = format!("grant_type: expected {GRANT_TYPE}");
                return Err(OAuthError { code: "unsupported_grant_type", description });
            }
            None => {
                return Err(OAuthError::request(format_args!("grant_type: missing; expected {GRANT_TYPE}")));
            }
        }
        if find("subject_token_type") != Some(TOKEN_TYPE) {
            return Err(OAuthError::request(format_args!("subject_token_type: expected {TOKEN_TYPE}")));
        }
        if find("requested_token_type").is_some_and(|requested| requested != TOKEN_TYPE) {
            return Err(OAuthError::request(format_args!("requested_token_type: expected {TOKEN_TYPE}")));
        }
        if find("actor_token").is_some() || find("actor_token_type").is_some() {
            let problem = "actor_token: unsupported; the actor is the agent of the API key";
            return Err(OAuthError::request(problem));
        }
        if find("resource").is_some() {
            return Err(OAuthError::target("resource: unsupported; expected allowed_resources"));
        }
        let subject_token = find("subject_token");
        let subject_token = subject_token
            .ok_or_else(|| OAuthError::request("subject_token: missing; expected a passport"))?;
        // The members of the issue of a passport have the same form here, as JSON.
        let mut members = Vec::new();
        for name in ["allowed_resources", "resource_constraints", "ttl_seconds"] {
            if let Some(text) = find(name) {
                let value = Json::parse(text.as_bytes());
                let value = value.map_err(|_| OAuthError::request(format_args!("{name}: expected JSON")))?;
                members.push((name.to_owned(), value));
            }
        }
        for name in ["agent_id", "dpop_jkt"] {
            members.extend(find(name).map(|text| (name.to_owned(), Json::from(text))));
        }
        let invalid = |error: InvalidMember| OAuthError::request(error);
        let mut members = BodyMembers::of(Json::Object(members)).map_err(invalid)?;
        let constraints = match members.constraints().map_err(invalid)? {
            Some(Json::Object(constraints)) => constraints,
            Some(_) | None => Vec::new(),
        };
        Ok(Self {
            subject_token: Secret::from(subject_token.to_owned()),
            agent_id: members.optional_text("agent_id", 256).map_err(invalid)?,
            tools: find("scope").map(|scope| scope.split(' ').map(str::to_owned).collect()),
            resources: members.texts("allowed_resources", 2048).map_err(invalid)?,
            constraints,
            audience: find("audience").map(str::to_owned),
            confirmation: members.thumbprint("dpop_jkt").map_err(invalid)?,
            ttl_seconds: members.ttl().map_err(invalid)?,
        })
    }
}
