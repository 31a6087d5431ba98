//! Sessions, which all gateways on the same data share, and their cookies.

use std::sync::Arc;

use actpass_protocol::Secret;
use cookie::SameSite;
use cookie::time::Duration;
use http::{HeaderMap, HeaderValue, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::auth::{ApiKey, ApiKeyHash, Capability, Keyring};
use crate::sign_in::{Identity, SignIn};
use crate::store::{IdHash, SessionChange, Store, StoreError, StoredSession};

/// Maximum session lifetime, in seconds.
pub(super) const MAX_SESSION_SECONDS: i64 = 8 * 60 * 60;

/// Maximum duration of a sign-in, in seconds.
pub(super) const SIGN_IN_SECONDS: i64 = 10 * 60;

/// Maximum idle time, in seconds. Automatic refreshes do not count as activity.
pub(super) const MAX_IDLE_SECONDS: i64 = 30 * 60;

/// Maximum number of sessions per key or person. Another login ends the least recently used session.
const MAX_SESSIONS: u32 = 32;

/// Activity is recorded if the last recorded one is at least this old, in seconds.
const TOUCH_SECONDS: i64 = 60;

/// The sessions of the page.
#[derive(Debug)]
pub(super) struct Sessions {
    cookies: Cookies,
    store: Arc<dyn Store>,
}

/// The opener of a session.
pub(super) enum Opener<'a> {
    Key(&'a ApiKeyHash),
    Person(&'a Identity),
}

/// A logged-in person.
#[derive(Clone, Debug)]
pub(super) struct Operator {
    pub(super) key: Arc<ApiKey>,
    /// CSRF token of the session's forms.
    pub(super) token: Arc<Secret>,
    id: IdHash,
}

/// Whether a lookup counts as activity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    Counts,
    Refresh,
}

/// Error of opening a session.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Random(#[from] getrandom::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Sessions {
    pub(super) fn new(cookies: Cookies, store: Arc<dyn Store>) -> Self {
        Self { cookies, store }
    }

    /// Starts a session and returns its id, which is not stored.
    pub(super) async fn open(
        &self,
        opener: Opener<'_>,
        tenant_id: &Arc<str>,
        secure: bool,
        now: i64,
    ) -> Result<Secret, OpenError> {
        let (id, token) = (random()?, random()?);
        let (opener, identity, seconds, provider_session) = match opener {
            Opener::Key(key) => (format!("key:{key}"), None, MAX_SESSION_SECONDS, None),
            Opener::Person(person) => (
                person.opener(),
                Some(person.to_json()),
                person.session_seconds.min(MAX_SESSION_SECONDS),
                person.provider_session.clone(),
            ),
        };
        let session = StoredSession {
            id: hash_of(id.expose()),
            opener,
            tenant_id: Arc::clone(tenant_id),
            identity,
            token: token.expose().to_owned(),
            secure,
            opened: now,
            used: now,
            until: now.saturating_add(seconds),
            provider_session,
        };
        let idle_since = now.saturating_sub(MAX_IDLE_SECONDS);
        let session = Box::new(session);
        self.store.change_session(SessionChange::Open { session, limit: MAX_SESSIONS, idle_since }).await?;
        Ok(id)
    }

    /// Finds the session of the request's cookie. The session ends if its key, or the person's
    /// role, no longer may use the page.
    pub(super) async fn find(
        &self,
        headers: &HeaderMap,
        keyring: &Keyring,
        sign_in: Option<&SignIn>,
        (tls, now): (bool, i64),
        counts: Activity,
    ) -> Result<Option<Operator>, StoreError> {
        let found = match self.cookies.read(Cookie::Session, headers, true) {
            Some(id) => Some((id, true)),
            None if tls => None,
            None => self.cookies.read(Cookie::Session, headers, false).map(|id| (id, false)),
        };
        let Some((id, secure)) = found else { return Ok(None) };
        let id = hash_of(id);
        let Some(session) = self.store.session(id).await? else { return Ok(None) };
        let is_active = now < session.until && now < session.used.saturating_add(MAX_IDLE_SECONDS);
        // A session carries no proof, so a key that became bound to a DPoP key loses its sessions.
        let may_use = |key: &Arc<ApiKey>| key.role.may(Capability::UsePage) && key.dpop.is_none();
        let key = key_of(&session, keyring, sign_in, now).filter(may_use);
        let Some(key) = key.filter(|_| session.secure == secure && is_active) else {
            self.store.change_session(SessionChange::Close { id }).await?;
            return Ok(None);
        };
        if counts == Activity::Counts && now >= session.used.saturating_add(TOUCH_SECONDS) {
            self.store.change_session(SessionChange::Touch { id, now }).await?;
        }
        Ok(Some(Operator { key, token: Arc::new(Secret::new(session.token)), id }))
    }

    pub(super) async fn close(&self, operator: &Operator) -> Result<(), StoreError> {
        self.store.change_session(SessionChange::Close { id: operator.id }).await.map(drop)
    }
}

/// Returns the key that acts in a session.
fn key_of(
    session: &StoredSession,
    keyring: &Keyring,
    sign_in: Option<&SignIn>,
    now: i64,
) -> Option<Arc<ApiKey>> {
    match &session.identity {
        None => {
            let key = keyring.known(&ApiKeyHash::parse(session.opener.strip_prefix("key:")?)?, now);
            // The key may have been bound since.
            key.filter(|key| key.certificate.is_none()).cloned()
        }
        Some(identity) => Some(Arc::new(ApiKey::of(sign_in?.principal(&Identity::parse(identity)?)?))),
    }
}

/// Cookies of the page.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cookie {
    /// Token of the login form, which prevents cross-site logins.
    Login,
    /// Session id.
    Session,
    /// State of a sign-in, which returns from another site.
    SignIn,
}

/// Reads and writes the page's cookies.
#[derive(Clone, Debug, Default)]
pub(super) struct Cookies {
    /// Path of the page, without a trailing slash.
    base_path: Arc<str>,
}

impl Cookies {
    pub(super) fn new(base_path: Arc<str>) -> Self {
        Self { base_path }
    }

    /// Browsers accept and send `__Secure-…` cookies over https only, and `__Host-…` cookies to
    /// this host only. `__Host-` requires the path `/`, which is not usable with a base path shared
    /// with other pages.
    fn name(&self, cookie: Cookie, secure: bool) -> &'static str {
        match (cookie, secure, self.base_path.is_empty()) {
            (Cookie::Login, true, true) => "__Host-actpass-login",
            (Cookie::Login, true, false) => "__Secure-actpass-login",
            (Cookie::Login, false, _) => "actpass-login",
            (Cookie::Session, true, true) => "__Host-actpass",
            (Cookie::Session, true, false) => "__Secure-actpass",
            (Cookie::Session, false, _) => "actpass",
            (Cookie::SignIn, true, true) => "__Host-actpass-sign-in",
            (Cookie::SignIn, true, false) => "__Secure-actpass-sign-in",
            (Cookie::SignIn, false, _) => "actpass-sign-in",
        }
    }

    /// Returns the cookie's value if it is present once and well-formed.
    pub(super) fn read<'h>(&self, cookie: Cookie, headers: &'h HeaderMap, secure: bool) -> Option<&'h str> {
        find_cookie(headers, self.name(cookie, secure))
    }

    /// Returns the header that sets the cookie.
    pub(super) fn set(&self, cookie: Cookie, value: &Secret, secure: bool) -> Option<HeaderValue> {
        let age = match cookie {
            Cookie::Login => None,
            Cookie::Session => Some(Duration::seconds(MAX_SESSION_SECONDS)),
            Cookie::SignIn => Some(Duration::seconds(SIGN_IN_SECONDS)),
        };
        self.header(cookie, value.expose(), age, secure)
    }

    /// Returns the header that deletes the cookie.
    pub(super) fn unset(&self, cookie: Cookie, secure: bool) -> Option<HeaderValue> {
        self.header(cookie, "", Some(Duration::ZERO), secure)
    }

    fn header(&self, kind: Cookie, value: &str, age: Option<Duration>, secure: bool) -> Option<HeaderValue> {
        let path = if self.base_path.is_empty() { "/" } else { &self.base_path };
        let mut cookie = cookie::Cookie::new(self.name(kind, secure), value);
        cookie.set_path(path);
        cookie.set_http_only(true);
        // The provider's redirect comes from another site.
        cookie.set_same_site(if matches!(kind, Cookie::SignIn) { SameSite::Lax } else { SameSite::Strict });
        cookie.set_max_age(age);
        cookie.set_secure(secure);
        let mut header = HeaderValue::from_str(&cookie.to_string()).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

/// Returns the cookie `name` if it occurs exactly once and has the form of an id.
fn find_cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut values = pairs.filter(|(found, _)| *found == name).map(|(_, value)| value);
    let value =
        values.next().filter(|value| value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit()));
    value.filter(|_| values.next().is_none())
}

/// Returns 32 random bytes in hex.
pub(super) fn random() -> Result<Secret, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(Secret::new(hex::encode(bytes)))
}

/// Compares in constant time.
pub(super) fn constant_time_eq(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

/// Returns the SHA-256 of a secret id.
pub(super) fn hash_of(id: &str) -> IdHash {
    Sha256::digest(id.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Role, Tenant};
    use crate::policy::Policy;
    use crate::store::SqliteStore;

    const KEY: &str = "apdv_alice";

    fn keyring(keys: &[(&str, Role)]) -> Keyring {
        let policy = Policy::parse(br#"{"id": "p", "version": 1, "rules": []}"#).unwrap();
        let tenant = Arc::new(Tenant::new("t", policy));
        let mut keyring = Keyring::default();
        for (key, role) in keys {
            keyring.add(ApiKeyHash::of(key), ApiKey::new(key, Arc::clone(&tenant), *role, None));
        }
        keyring
    }

    fn operators() -> Keyring {
        keyring(&[(KEY, Role::Operator), ("apdv_bob", Role::Operator)])
    }

    struct Test {
        _folder: tempfile::TempDir,
        sessions: Sessions,
    }

    impl Test {
        fn new(cookies: Cookies) -> Self {
            let folder = tempfile::TempDir::new().unwrap();
            let store = SqliteStore::open(&folder.path().join("data")).unwrap();
            Self { _folder: folder, sessions: Sessions::new(cookies, Arc::new(store)) }
        }

        async fn open(&self, key: &str, secure: bool, now: i64) -> Secret {
            self.sessions.open(Opener::Key(&ApiKeyHash::of(key)), &"t".into(), secure, now).await.unwrap()
        }

        async fn find(&self, headers: &HeaderMap, keys: &Keyring, tls: bool, now: i64) -> Option<Operator> {
            self.sessions.find(headers, keys, None, (tls, now), Activity::Counts).await.unwrap()
        }

        async fn is_open(&self, id: &Secret, now: i64) -> bool {
            self.find(&with("actpass", id), &operators(), false, now).await.is_some()
        }
    }

    fn with(name: &str, id: &Secret) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let line = format!("theme=dark; {name}={}", id.expose());
        headers.insert(header::COOKIE, HeaderValue::from_str(&line).unwrap());
        headers
    }

    #[tokio::test]
    async fn session_expires_when_idle_or_old() {
        let test = Test::new(Cookies::default());
        let id = test.open(KEY, false, 0).await;
        for now in (0..MAX_SESSION_SECONDS).step_by(1000) {
            assert!(test.is_open(&id, now).await, "{now}");
        }
        assert!(!test.is_open(&id, MAX_SESSION_SECONDS).await);
        assert!(!test.is_open(&id, 0).await, "an expired session stays expired");

        let id = test.open(KEY, false, 0).await;
        assert!(test.is_open(&id, MAX_IDLE_SECONDS - 1).await);
        assert!(!test.is_open(&id, 2 * MAX_IDLE_SECONDS - 1).await);
    }

    #[tokio::test]
    async fn auto_refresh_does_not_extend_session() {
        let test = Test::new(Cookies::default());
        let id = test.open(KEY, false, 0).await;
        for (now, expected) in [(MAX_IDLE_SECONDS - 1, true), (MAX_IDLE_SECONDS, false)] {
            let headers = with("actpass", &id);
            let found =
                test.sessions.find(&headers, &operators(), None, (false, now), Activity::Refresh).await;
            assert_eq!(found.unwrap().is_some(), expected, "{now}");
        }
    }

    #[tokio::test]
    async fn session_ends_when_its_key_is_removed() {
        for keys in [vec![], vec![("apdv_bob", Role::Operator)], vec![(KEY, Role::Agent)]] {
            let test = Test::new(Cookies::default());
            let id = test.open(KEY, false, 0).await;
            let headers = with("actpass", &id);
            assert!(test.find(&headers, &keyring(&keys), false, 1).await.is_none(), "{keys:?}");
            assert!(!test.is_open(&id, 2).await, "the session does not return with the key");
        }
    }

    #[tokio::test]
    async fn cookie_is_scoped_to_scheme_and_name() {
        let test = Test::new(Cookies::default());
        let find = async |headers: &HeaderMap, tls| {
            test.find(headers, &operators(), tls, 0).await.map(|operator| operator.key.name.clone())
        };
        let open = async |secure| test.open(KEY, secure, 0).await;
        assert_eq!(find(&with("__Host-actpass", &open(true).await), true).await.as_deref(), Some(KEY));
        let behind_proxy = find(&with("__Host-actpass", &open(true).await), false).await;
        assert_eq!(behind_proxy.as_deref(), Some(KEY));
        assert_eq!(find(&with("actpass", &open(false).await), true).await, None, "plain, over TLS");
        assert_eq!(find(&with("actpass", &open(true).await), false).await, None, "secure cookie over http");
        assert_eq!(find(&with("actpass", &random().unwrap()), false).await, None);

        let id = open(false).await;
        let mut twice = with("actpass", &id);
        twice.append(header::COOKIE, HeaderValue::from_str(&format!("actpass={}", "0".repeat(64))).unwrap());
        assert_eq!(find(&twice, false).await, None, "duplicate cookies");
        assert_eq!(find(&with("actpass", &id), false).await.as_deref(), Some(KEY));
    }

    #[tokio::test]
    async fn cookies_are_scoped_to_base_path() {
        let cookies = Cookies::new("/actpass".into());
        let set = |cookie, secure| {
            let header = cookies.set(cookie, &Secret::new("id"), secure).unwrap();
            header.to_str().unwrap().to_owned()
        };
        let (strict, age) =
            ("HttpOnly; SameSite=Strict", format!("Path=/actpass; Max-Age={MAX_SESSION_SECONDS}"));
        assert_eq!(set(Cookie::Session, true), format!("__Secure-actpass=id; {strict}; Secure; {age}"));
        assert_eq!(set(Cookie::Session, false), format!("actpass=id; {strict}; {age}"));
        assert_eq!(
            set(Cookie::SignIn, true),
            "__Secure-actpass-sign-in=id; HttpOnly; SameSite=Lax; Secure; Path=/actpass; Max-Age=600"
        );
        let test = Test::new(cookies);
        let id = test.open(KEY, true, 0).await;
        assert!(test.find(&with("__Secure-actpass", &id), &operators(), true, 0).await.is_some());
        assert!(test.find(&with("__Host-actpass", &id), &operators(), true, 0).await.is_none());
    }

    #[tokio::test]
    async fn sessions_per_key_are_bounded() {
        let test = Test::new(Cookies::default());
        let bob = test.open("apdv_bob", false, 0).await;
        let first = test.open(KEY, false, 1).await;
        let second = test.open(KEY, false, 2).await;
        assert!(test.is_open(&first, 100).await);
        for now in 0..i64::from(MAX_SESSIONS) - 1 {
            test.open(KEY, false, 200 + now).await;
        }
        assert!(!test.is_open(&second, 300).await, "least recently used");
        assert!(test.is_open(&first, 300).await);
        assert!(test.is_open(&bob, 300).await);
    }

    #[tokio::test]
    async fn logout_ends_one_session() {
        let test = Test::new(Cookies::default());
        let (one, two) = (test.open(KEY, false, 0).await, test.open(KEY, false, 0).await);
        let operator = test.find(&with("actpass", &one), &operators(), false, 0).await.unwrap();
        test.sessions.close(&operator).await.unwrap();
        assert!(!test.is_open(&one, 0).await);
        assert!(test.is_open(&two, 0).await);
    }
}
