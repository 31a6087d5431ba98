//! Sessions in memory, and their cookies.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actpass_protocol::Secret;
use cookie::SameSite;
use cookie::time::Duration;
use http::{HeaderMap, HeaderValue, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::auth::{ApiKey, ApiKeyHash, Capability, Keyring};

/// Maximum session lifetime, in seconds.
pub(super) const MAX_SESSION_SECONDS: i64 = 8 * 60 * 60;

/// Maximum idle time, in seconds. Automatic refreshes do not count as activity.
pub(super) const MAX_IDLE_SECONDS: i64 = 30 * 60;

/// Maximum number of sessions per key. Another login ends the least recently used session.
const MAX_SESSIONS_PER_KEY: usize = 32;

/// The sessions of this process.
#[derive(Default)]
pub(super) struct Sessions {
    cookies: Cookies,
    open: Mutex<HashMap<SessionHash, Session>>,
}

/// The SHA-256 of a session id. The lookup time reveals only the hash of the sent id.
type SessionHash = [u8; 32];

struct Session {
    key: ApiKeyHash,
    token: Arc<Secret>,
    secure: bool,
    opened: i64,
    used: i64,
}

/// A logged-in person.
#[derive(Clone, Debug)]
pub(super) struct Operator {
    pub(super) key: Arc<ApiKey>,
    /// CSRF token of the session's forms.
    pub(super) token: Arc<Secret>,
    name: SessionHash,
}

/// Whether a lookup counts as activity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    Counts,
    Refresh,
}

impl Sessions {
    pub(super) fn new(cookies: Cookies) -> Self {
        Self { cookies, open: Mutex::default() }
    }

    /// Starts a session and returns its id, which is not stored.
    pub(super) fn open(&self, key: ApiKeyHash, secure: bool, now: i64) -> Result<Secret, getrandom::Error> {
        let (id, token) = (random()?, random()?);
        let mut sessions = self.lock();
        sessions.retain(|_, session| session.is_active(now));
        let of_key = || sessions.iter().filter(|(_, session)| session.key == key);
        if of_key().count() >= MAX_SESSIONS_PER_KEY {
            let oldest = of_key().min_by_key(|(_, session)| session.used).map(|(name, _)| *name);
            oldest.map(|oldest| sessions.remove(&oldest));
        }
        let session = Session { key, token: Arc::new(token), secure, opened: now, used: now };
        sessions.insert(hash_of(&id), session);
        Ok(id)
    }

    /// Finds the session of the request's cookie. The session ends if its key no longer may use
    /// the page.
    pub(super) fn find(
        &self,
        headers: &HeaderMap,
        keyring: &Keyring,
        tls: bool,
        now: i64,
        counts: Activity,
    ) -> Option<Operator> {
        let (id, secure) = match self.cookies.read(Cookie::Session, headers, true) {
            Some(id) => (id, true),
            None if tls => return None,
            None => (self.cookies.read(Cookie::Session, headers, false)?, false),
        };
        let name = hash_of(&Secret::new(id));
        let mut sessions = self.lock();
        let session = sessions.get_mut(&name)?;
        let key = keyring.known(&session.key).filter(|key| key.role.may(Capability::UsePage));
        let Some(key) = key.filter(|_| session.secure == secure && session.is_active(now)) else {
            sessions.remove(&name);
            return None;
        };
        if counts == Activity::Counts {
            session.used = now;
        }
        Some(Operator { key: Arc::clone(key), token: Arc::clone(&session.token), name })
    }

    pub(super) fn close(&self, operator: &Operator) {
        self.lock().remove(&operator.name);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionHash, Session>> {
        // No code that holds the lock leaves a partial update on panic.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sessions({})", self.lock().len())
    }
}

impl Session {
    fn is_active(&self, now: i64) -> bool {
        now < self.opened.saturating_add(MAX_SESSION_SECONDS)
            && now < self.used.saturating_add(MAX_IDLE_SECONDS)
    }
}

/// Cookies of the page.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cookie {
    /// Token of the login form, which prevents cross-site logins.
    Login,
    /// Session id.
    Session,
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
        };
        self.header(cookie, value.expose(), age, secure)
    }

    /// Returns the header that deletes the cookie.
    pub(super) fn unset(&self, cookie: Cookie, secure: bool) -> Option<HeaderValue> {
        self.header(cookie, "", Some(Duration::ZERO), secure)
    }

    fn header(
        &self,
        cookie: Cookie,
        value: &str,
        age: Option<Duration>,
        secure: bool,
    ) -> Option<HeaderValue> {
        let path = if self.base_path.is_empty() { "/" } else { &self.base_path };
        let mut cookie = cookie::Cookie::new(self.name(cookie, secure), value);
        cookie.set_path(path);
        cookie.set_http_only(true);
        cookie.set_same_site(SameSite::Strict);
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

fn hash_of(id: &Secret) -> SessionHash {
    Sha256::digest(id.expose().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Role, Tenant};
    use crate::policy::Policy;

    const KEY: &str = "apdv_alice";

    fn keyring(keys: &[(&str, Role)]) -> Keyring {
        let policy = Policy::parse(br#"{"id": "p", "version": 1, "rules": []}"#).unwrap();
        let tenant = Arc::new(Tenant { id: "t".into(), policy });
        let mut keyring = Keyring::default();
        for (key, role) in keys {
            keyring.add(ApiKeyHash::of(key), ApiKey::new(key, Arc::clone(&tenant), *role, None));
        }
        keyring
    }

    fn operators() -> Keyring {
        keyring(&[(KEY, Role::Operator), ("apdv_bob", Role::Operator)])
    }

    fn with(name: &str, id: &Secret) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let line = format!("theme=dark; {name}={}", id.expose());
        headers.insert(header::COOKIE, HeaderValue::from_str(&line).unwrap());
        headers
    }

    fn found(sessions: &Sessions, id: &Secret, now: i64) -> bool {
        sessions.find(&with("actpass", id), &operators(), false, now, Activity::Counts).is_some()
    }

    #[test]
    fn session_expires_when_idle_or_old() {
        let sessions = Sessions::default();
        let id = sessions.open(ApiKeyHash::of(KEY), false, 0).unwrap();
        for now in (0..MAX_SESSION_SECONDS).step_by(1000) {
            assert!(found(&sessions, &id, now), "{now}");
        }
        assert!(!found(&sessions, &id, MAX_SESSION_SECONDS));
        assert!(!found(&sessions, &id, 0), "an expired session stays expired");

        let id = sessions.open(ApiKeyHash::of(KEY), false, 0).unwrap();
        assert!(found(&sessions, &id, MAX_IDLE_SECONDS - 1));
        assert!(!found(&sessions, &id, 2 * MAX_IDLE_SECONDS - 1));
    }

    #[test]
    fn auto_refresh_does_not_extend_session() {
        let sessions = Sessions::default();
        let id = sessions.open(ApiKeyHash::of(KEY), false, 0).unwrap();
        let refresh =
            |now| sessions.find(&with("actpass", &id), &operators(), false, now, Activity::Refresh).is_some();
        assert!(refresh(MAX_IDLE_SECONDS - 1));
        assert!(!refresh(MAX_IDLE_SECONDS));
    }

    #[test]
    fn session_ends_when_its_key_is_removed() {
        for keys in [vec![], vec![("apdv_bob", Role::Operator)], vec![(KEY, Role::Agent)]] {
            let sessions = Sessions::default();
            let id = sessions.open(ApiKeyHash::of(KEY), false, 0).unwrap();
            let headers = with("actpass", &id);
            assert!(
                sessions.find(&headers, &keyring(&keys), false, 1, Activity::Counts).is_none(),
                "{keys:?}"
            );
            assert!(!found(&sessions, &id, 2), "the session does not return with the key");
        }
    }

    #[test]
    fn cookie_is_scoped_to_scheme_and_name() {
        let sessions = Sessions::default();
        let find = |headers: &HeaderMap, tls| {
            sessions
                .find(headers, &operators(), tls, 0, Activity::Counts)
                .map(|operator| operator.key.name.clone())
        };
        let open = |secure| sessions.open(ApiKeyHash::of(KEY), secure, 0).unwrap();
        assert_eq!(find(&with("__Host-actpass", &open(true)), true).as_deref(), Some(KEY));
        assert_eq!(find(&with("__Host-actpass", &open(true)), false).as_deref(), Some(KEY), "behind a proxy");
        assert_eq!(find(&with("actpass", &open(false)), true), None, "plain, over TLS");
        assert_eq!(find(&with("actpass", &open(true)), false), None, "secure cookie over http");
        assert_eq!(find(&with("actpass", &random().unwrap()), false), None);

        let id = open(false);
        let mut twice = with("actpass", &id);
        twice.append(header::COOKIE, HeaderValue::from_str(&format!("actpass={}", "0".repeat(64))).unwrap());
        assert_eq!(find(&twice, false), None, "duplicate cookies");
        assert_eq!(find(&with("actpass", &id), false).as_deref(), Some(KEY));
    }

    #[test]
    fn cookies_are_scoped_to_base_path() {
        let cookies = Cookies::new("/actpass".into());
        let set = |secure| {
            let header = cookies.set(Cookie::Session, &Secret::new("id"), secure).unwrap();
            header.to_str().unwrap().to_owned()
        };
        let (strict, age) =
            ("HttpOnly; SameSite=Strict", format!("Path=/actpass; Max-Age={MAX_SESSION_SECONDS}"));
        assert_eq!(set(true), format!("__Secure-actpass=id; {strict}; Secure; {age}"));
        assert_eq!(set(false), format!("actpass=id; {strict}; {age}"));
        let sessions = Sessions::new(cookies);
        let id = sessions.open(ApiKeyHash::of(KEY), true, 0).unwrap();
        let find = |name| sessions.find(&with(name, &id), &operators(), true, 0, Activity::Counts).is_some();
        assert!(find("__Secure-actpass"));
        assert!(!find("__Host-actpass"));
    }

    #[test]
    fn sessions_per_key_are_bounded() {
        let sessions = Sessions::default();
        let bob = sessions.open(ApiKeyHash::of("apdv_bob"), false, 0).unwrap();
        let first = sessions.open(ApiKeyHash::of(KEY), false, 1).unwrap();
        let second = sessions.open(ApiKeyHash::of(KEY), false, 2).unwrap();
        assert!(found(&sessions, &first, 3));
        for now in 0..MAX_SESSIONS_PER_KEY - 1 {
            sessions.open(ApiKeyHash::of(KEY), false, 4 + i64::try_from(now).unwrap()).unwrap();
        }
        assert!(!found(&sessions, &second, 100), "least recently used");
        assert!(found(&sessions, &first, 100));
        assert!(found(&sessions, &bob, 100));
        assert_eq!(format!("{sessions:?}"), format!("Sessions({})", MAX_SESSIONS_PER_KEY + 1));
    }

    #[test]
    fn logout_ends_one_session() {
        let sessions = Sessions::default();
        let open = || sessions.open(ApiKeyHash::of(KEY), false, 0).unwrap();
        let (detail, two) = (open(), open());
        let operator =
            sessions.find(&with("actpass", &detail), &operators(), false, 0, Activity::Counts).unwrap();
        sessions.close(&operator);
        assert!(!found(&sessions, &detail, 0));
        assert!(found(&sessions, &two, 0));
    }
}
