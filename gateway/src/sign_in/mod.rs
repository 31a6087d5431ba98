//! Sign-in of people by OpenID Connect: the authorization code flow with PKCE.
//!
//! The gateway is a relying party. `SignIn::begin` sends the browser to the provider,
//! `SignIn::finish` verifies its token, and `SignIn::logout` verifies a back-channel
//! logout. A sign-in ends with an `Identity`, which is kept in the session.

mod id_token;
mod provider;

use std::fmt;
use std::sync::Arc;

use actpass_protocol::{Json, Secret};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use self::id_token::Expected;
pub(crate) use self::id_token::TokenError;
use self::provider::Provider;
use crate::auth::{Principal, Role, Tenant};
use crate::object_writer::object;

/// The event in a logout token, by the specification.
const LOGOUT_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// Settings of the sign-in.
#[derive(Clone)]
pub struct SignInSettings {
    /// The provider's issuer identifier.
    pub issuer: String,
    /// The gateway's client id at the provider.
    pub client_id: String,
    /// The client secret; `None` for a public client.
    pub client_secret: Option<Secret>,
    /// Scopes in addition to `openid`.
    pub scopes: Vec<String>,
    /// The tenant of the people who sign in.
    pub tenant: Arc<Tenant>,
    /// The claim that names the person. Default: `email`, which must be verified.
    pub person_claim: String,
    /// The claim with the person's groups. Default: `groups`.
    pub groups_claim: String,
    /// The role of each group; a person has the strongest one.
    pub roles: Vec<(String, Role)>,
    /// Maximum duration of a session, in seconds. Default: 3600.
    pub session_seconds: i64,
    /// The only authorities trusted for the provider; `None` trusts the system's.
    pub authorities: Option<Vec<CertificateDer<'static>>>,
    /// Whether the provider may have a private address. Default: false.
    pub allow_private_address: bool,
}

impl fmt::Debug for SignInSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignInSettings").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// Why a sign-in fails.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum SignInError {
    #[error("the identity provider failed: {0}")]
    Provider(String),
    #[error("the identity provider's token {0}")]
    Token(#[from] TokenError),
    #[error("the token does not name the person in {0:?}")]
    NoPerson(String),
    #[error("the person has no group with a role")]
    NoRole,
    #[error("there is no randomness")]
    Random,
}

/// The relying party.
#[derive(Debug)]
pub(crate) struct SignIn {
    settings: SignInSettings,
    provider: Provider,
    /// Where the provider sends the browser back to.
    redirect: String,
}

/// A sign-in that has begun.
pub(crate) struct Begun {
    /// Where to send the browser.
    pub(crate) url: String,
    /// The secret that the browser must return, in its cookie and in the URL.
    pub(crate) state: Secret,
    /// The data for [`SignIn::finish`].
    pub(crate) data: String,
}

/// A person who signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) issuer: String,
    pub(crate) subject: String,
    pub(crate) person: String,
    pub(crate) role: Role,
    pub(crate) groups: Vec<String>,
    /// Id of the session at the provider.
    pub(crate) provider_session: Option<String>,
    /// Maximum duration of the session, in seconds.
    pub(crate) session_seconds: i64,
}

/// A logout at the provider: of a person, or of one of the person's sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Logout {
    pub(crate) opener: Option<String>,
    pub(crate) provider_session: Option<String>,
}

impl SignIn {
    /// `page` is the URL of the page, without a trailing slash.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no usable authority.
    pub(crate) fn new(settings: SignInSettings, page: &str) -> Result<Self, String> {
        let provider = Provider::new(
            settings.issuer.clone(),
            settings.client_id.clone(),
            settings.client_secret.clone(),
            settings.authorities.as_deref(),
            settings.allow_private_address,
        )?;
        Ok(Self { settings, provider, redirect: format!("{page}/sign-in/callback") })
    }

    /// The tenant of the people who sign in.
    pub(crate) fn tenant(&self) -> &Arc<Tenant> {
        &self.settings.tenant
    }

    /// Begins a sign-in.
    pub(crate) async fn begin(&self) -> Result<Begun, SignInError> {
        let metadata = self.provider.metadata().await?;
        let random = || {
            let bytes = crate::seal::random::<32>().map_err(|_| SignInError::Random)?;
            Ok::<_, SignInError>((hex::encode(bytes.as_slice()), URL_SAFE_NO_PAD.encode(bytes.as_slice())))
        };
        // The state has the form of the page's other cookies.
        let ((state, _), (_, nonce), (_, verifier)) = (random()?, random()?, random()?);
        let scopes = std::iter::once("openid").chain(self.settings.scopes.iter().map(String::as_str));
        let mut query = form_urlencoded::Serializer::new(String::new());
        query
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.settings.client_id)
            .append_pair("redirect_uri", &self.redirect)
            .append_pair("scope", &scopes.collect::<Vec<_>>().join(" "))
            .append_pair("state", &state)
            .append_pair("nonce", &nonce)
            .append_pair("code_challenge", &URL_SAFE_NO_PAD.encode(Sha256::digest(&verifier)))
            .append_pair("code_challenge_method", "S256");
        let join = if metadata.authorization.query().is_some() { '&' } else { '?' };
        let url = format!("{}{join}{}", metadata.authorization, query.finish());
        let data = object([("nonce", Some(Json::String(nonce))), ("verifier", Some(Json::String(verifier)))]);
        Ok(Begun { url, state: Secret::new(state), data: data.to_string() })
    }

    /// Redeems the code and returns the person. `now` is in seconds since 1970.
    pub(crate) async fn finish(&self, code: &str, data: &str, now: i64) -> Result<Identity, SignInError> {
        let data = Json::parse(data.as_bytes()).map_err(|_| TokenError::Nonce)?;
        let text = |name| data.member(name).and_then(Json::as_str).unwrap_or_default();
        let token = self.provider.redeem(code, text("verifier"), &self.redirect).await?;
        let claims = self.provider.verify(&token).await?;
        self.expected(now).check(&claims)?;
        if claims.member("nonce").and_then(Json::as_str) != Some(text("nonce")) {
            return Err(TokenError::Nonce.into());
        }
        self.identity(&claims)
    }

    /// Verifies a back-channel logout token. `now` is in seconds since 1970.
    pub(crate) async fn logout(&self, token: &str, now: i64) -> Result<Logout, SignInError> {
        let claims = self.provider.verify(token).await?;
        self.expected(now).check(&claims)?;
        let text = |name: &str| claims.member(name).and_then(Json::as_str).map(str::to_owned);
        let is_logout = claims.member("events").is_some_and(|events| events.member(LOGOUT_EVENT).is_some());
        let logout = Logout {
            opener: text("sub").map(|subject| opener(&self.settings.issuer, &subject)),
            provider_session: text("sid"),
        };
        // An ID token must not end sessions, nor a token without a person and a session.
        let is_unnamed = logout.opener.is_none() && logout.provider_session.is_none();
        if !is_logout || claims.member("nonce").is_some() || is_unnamed {
            return Err(TokenError::Malformed.into());
        }
        Ok(logout)
    }

    fn expected(&self, now: i64) -> Expected<'_> {
        Expected { issuer: &self.settings.issuer, client_id: &self.settings.client_id, now }
    }

    fn identity(&self, claims: &Json) -> Result<Identity, SignInError> {
        let settings = &self.settings;
        let text = |name: &str| claims.member(name).and_then(Json::as_str).filter(|text| !text.is_empty());
        let subject = text("sub").ok_or(TokenError::Malformed)?;
        let is_verified =
            settings.person_claim != "email" || claims.member("email_verified") == Some(&Json::Bool(true));
        let person = text(&settings.person_claim)
            .filter(|_| is_verified)
            .ok_or_else(|| SignInError::NoPerson(settings.person_claim.clone()))?;
        let groups: Vec<String> = match claims.member(&settings.groups_claim) {
            Some(Json::Array(groups)) => groups.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
            Some(group) => group.as_str().map(str::to_owned).into_iter().collect(),
            None => Vec::new(),
        };
        let role = settings.roles.iter().filter(|(group, _)| groups.contains(group)).map(|(_, role)| *role);
        let role = role.max_by_key(|role| strength(*role)).ok_or(SignInError::NoRole)?;
        Ok(Identity {
            issuer: settings.issuer.clone(),
            subject: subject.to_owned(),
            person: person.to_owned(),
            role,
            groups,
            provider_session: text("sid").map(str::to_owned),
            session_seconds: settings.session_seconds,
        })
    }

    /// Returns who acts in a session of this person; `None` if the session is of another provider.
    pub(crate) fn principal(&self, identity: &Identity) -> Option<Principal> {
        (identity.issuer == self.settings.issuer).then(|| Principal {
            person: Some(identity.person.as_str().into()),
            groups: identity.groups.iter().cloned().collect(),
            ..Principal::new(&identity.person, Arc::clone(&self.settings.tenant), identity.role)
        })
    }
}

/// Order of roles by their rights.
fn strength(role: Role) -> u8 {
    match role {
        Role::Agent => 0,
        Role::Auditor => 1,
        Role::Approver => 2,
        Role::Operator => 3,
    }
}

fn opener(issuer: &str, subject: &str) -> String {
    format!("person:{issuer}|{subject}")
}

impl Identity {
    /// Returns who opens the sessions of this person.
    pub(crate) fn opener(&self) -> String {
        opener(&self.issuer, &self.subject)
    }

    /// Returns the JSON that [`Identity::parse`] reads.
    pub(crate) fn to_json(&self) -> String {
        let groups = self.groups.iter().map(|group| Json::from(&**group)).collect();
        let identity = object([
            ("issuer", Some(Json::from(&*self.issuer))),
            ("subject", Some(Json::from(&*self.subject))),
            ("person", Some(Json::from(&*self.person))),
            ("role", Some(Json::from(self.role.as_str()))),
            ("groups", Some(Json::Array(groups))),
        ]);
        identity.to_string()
    }

    /// Reads a stored identity; `None` if it is unreadable.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let json = Json::parse(text.as_bytes()).ok()?;
        let text = |name: &str| json.member(name).and_then(Json::as_str).map(str::to_owned);
        let Some(Json::Array(groups)) = json.member("groups") else { return None };
        Some(Self {
            issuer: text("issuer")?,
            subject: text("subject")?,
            person: text("person")?,
            role: Role::parse(&text("role")?)?,
            groups: groups.iter().map(|group| group.as_str().map(str::to_owned)).collect::<Option<_>>()?,
            provider_session: None,
            session_seconds: 0,
        })
    }
}
