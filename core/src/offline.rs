//! Offline passport verification with the gateway's cached public keys.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use futures_util::lock::Mutex;

use crate::clock::{Clock, Moment};
use crate::decision::HALTED;
use crate::error::Error;
use crate::passport::OfflineVerifyRequest;
use actpass_protocol::json::RawObject;
use actpass_protocol::token::{Claims, PassportError, Presentation, PublicKey, Unverified, ValidationTime};
use actpass_protocol::{Json, sha256_hex};

/// The age after which keys are fetched again.
const REFRESH_AFTER: Duration = Duration::from_secs(10 * 60);
/// The maximum age of keys if fetching fails.
const MAX_AGE: Duration = Duration::from_secs(60 * 60);
/// Delay before the next fetch after a failed one; stale keys are used until then.
const RETRY_COOLDOWN: Duration = Duration::from_secs(30);
/// The minimum time between the starts of two fetches.
const MIN_FETCH_INTERVAL: Duration = Duration::from_secs(1);
/// The tolerated clock difference, in seconds.
const LEEWAY: i64 = 10;

/// The expected properties of a passport.
pub(crate) struct Expected<'e> {
    pub(crate) issuer: &'e str,
    pub(crate) tenant_id: Option<&'e str>,
    pub(crate) request: &'e OfflineVerifyRequest,
    pub(crate) now: SystemTime,
}

/// Verifies a passport with `key`. Returns its claims, or every reason why it is invalid.
pub(crate) fn verify(
    passport: Unverified<'_>,
    key: Option<&PublicKey>,
    expected: &Expected<'_>,
) -> Result<Claims, Vec<PassportError>> {
    let signed = key.ok_or(PassportError::UnknownKey).and_then(|key| passport.verify(key));
    let claims = signed.and_then(|payload| Claims::parse(&payload)).map_err(|refusal| vec![refusal])?;
    let request = expected.request;
    let presentation = Presentation {
        issuer: expected.issuer,
        audience: Some(&request.audience),
        tenant_id: expected.tenant_id,
        agent_id: request.agent_id.as_deref().map(Some),
        user_id: request.user_id.as_deref().map(Some),
    };
    let now = expected.now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let errors = claims
        .validate(&presentation, &ValidationTime { now, not_before_leeway: LEEWAY, expiry_leeway: LEEWAY });
    if errors.is_empty() { Ok(claims) } else { Err(errors) }
}

/// Rejects a passport that is older than the newest epoch that the client has `seen`: by its claim
/// `halt_epoch`, or by the epoch of the response that `issued` it. Returns the codes of the reasons.
/// A passport without either is accepted.
pub(crate) fn reject_older(
    verified: Result<Claims, Vec<PassportError>>,
    issued: Option<u64>,
    seen: Option<u64>,
) -> Result<Claims, Vec<&'static str>> {
    let codes = |errors: Vec<PassportError>| errors.into_iter().map(PassportError::code).collect::<Vec<_>>();
    let claims = verified.map_err(codes)?;
    let epoch = match claims.as_json().member("halt_epoch") {
        None | Some(Json::Null) => issued,
        // An invalid epoch counts as older.
        Some(claim) => Some(claim.to_string().parse().unwrap_or_default()),
    };
    match epoch.is_some() && epoch < seen {
        false => Ok(claims),
        true => Err(vec![HALTED]),
    }
}

/// The epochs of the last passports that a client has issued.
#[derive(Debug, Default)]
pub(crate) struct IssuedEpochs(std::sync::Mutex<VecDeque<(String, u64)>>);

impl IssuedEpochs {
    /// The number of passports that are remembered.
    const CAPACITY: usize = 1024;

    pub(crate) fn remember(&self, token: &str, epoch: Option<u64>) {
        let Some(epoch) = epoch else { return };
        let mut issued = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if issued.len() == Self::CAPACITY {
            issued.pop_front();
        }
        issued.push_back((sha256_hex(token.as_bytes()), epoch));
    }

    pub(crate) fn of(&self, token: &str) -> Option<u64> {
        let hash = sha256_hex(token.as_bytes());
        let issued = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        issued.iter().find(|(known, _)| *known == hash).map(|(_, epoch)| *epoch)
    }
}

/// The gateway's public keys, with the issuer and tenant if the gateway names them.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeySet {
    keys: Vec<PublicKey>,
    issuer: Option<String>,
    tenant_id: Option<String>,
}

impl KeySet {
    /// Parses a JWK Set and its additional members `issuer` and `tenant_id` (the tenant of the API
    /// key).
    pub(crate) fn read(set: &RawObject) -> Result<Self, &'static str> {
        let text = |name| set.string(name).filter(|text| !text.is_empty()).map(Cow::into_owned);
        let keys = PublicKey::parse_jwks(set.as_str().as_bytes())?;
        Ok(Self { keys, issuer: text("issuer"), tenant_id: text("tenant_id") })
    }

    pub(crate) fn find(&self, key_id: &str) -> Option<&PublicKey> {
        self.keys.iter().find(|key| key.kid() == key_id)
    }

    pub(crate) fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    pub(crate) fn tenant_id(&self) -> Option<&str> {
        self.tenant_id.as_deref()
    }
}

/// A cache of the gateway's keys.
#[derive(Debug, Default)]
pub(crate) struct KeyCache {
    kept: ArcSwapOption<Fetched>,
    /// Held while keys are fetched.
    fetching: Mutex<()>,
}

#[derive(Debug)]
struct Fetched {
    keys: Arc<KeySet>,
    at: Moment,
    /// The start of the last fetch, successful or not.
    tried: Moment,
}

impl Fetched {
    /// The keys, if a call that began at `called` may use them to find `key_id`.
    fn keys_for(&self, key_id: &str, called: Moment) -> Option<Arc<KeySet>> {
        let age = called.saturating_since(self.at);
        let is_known = self.keys.find(key_id).is_some();
        let tried_since = self.tried > called;
        let tried_lately = called.saturating_since(self.tried) < RETRY_COOLDOWN;
        ((age < REFRESH_AFTER && is_known) || (age < MAX_AGE && (tried_since || (is_known && tried_lately))))
            .then(|| Arc::clone(&self.keys))
    }
}

impl KeyCache {
    /// Returns the cached keys if they contain `key_id`, else keys fetched after this call began.
    /// Only one caller fetches. Callers with an unknown key id wait for it; others do not wait.
    pub(crate) async fn find(
        &self,
        key_id: &str,
        clock: &dyn Clock,
        fetch: impl AsyncFnOnce() -> Result<KeySet, Error>,
    ) -> Result<Arc<KeySet>, Error> {
        let called = clock.now();
        let usable = || self.kept.load().as_ref().and_then(|kept| kept.keys_for(key_id, called));
        if let Some(keys) = usable() {
            return Ok(keys);
        }
        let _fetching = self.fetching.lock().await;
        if let Some(keys) = usable() {
            return Ok(keys);
        }
        let before = self.kept.load_full();
        if let Some(before) = &before {
            clock.sleep_until(before.tried + MIN_FETCH_INTERVAL).await;
        }
        let tried = clock.now();
        let (keys, at) = match (fetch().await, before) {
            (Ok(keys), _) => (Arc::new(keys), tried),
            (Err(_), Some(before)) if tried.saturating_since(before.at) < MAX_AGE => {
                (Arc::clone(&before.keys), before.at)
            }
            (Err(error), _) => return Err(error),
        };
        self.kept.store(Some(Arc::new(Fetched { keys: Arc::clone(&keys), at, tried })));
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TokioClock;
    use actpass_protocol::ErrorKind;
    use actpass_protocol::token::Algorithm;
    use tokio::time::Instant;

    #[test]
    fn rejects_passport_of_older_epoch() {
        let claims = |member: &str| {
            let claims = format!(
                r#"{{"iss":"i","aud":"a","tenant_id":"t","goal":"g","risk_tier":"low","jti":"j","agent_id":null,
                    "user_id":null,"allowed_tools":[],"allowed_resources":[],"resource_constraints":{{}},
                    "iat":1,"exp":2{member}}}"#
            );
            Ok(Claims::parse(claims.as_bytes()).unwrap())
        };
        for (claim, issued, seen, is_valid) in [
            ("", None, None, true),
            ("", None, Some(7), true),
            ("", Some(6), Some(7), false),
            ("", Some(7), Some(7), true),
            (r#","halt_epoch":6"#, Some(7), Some(7), false),
            (r#","halt_epoch":7"#, Some(6), Some(7), true),
            (r#","halt_epoch":8"#, None, Some(7), true),
            (r#","halt_epoch":null"#, Some(6), Some(7), false),
            (r#","halt_epoch":"8""#, None, Some(7), false),
            (r#","halt_epoch":-1"#, None, Some(7), false),
            (r#","halt_epoch":0"#, None, None, true),
        ] {
            let rejected = reject_older(claims(claim), issued, seen);
            assert_eq!(rejected.is_ok(), is_valid, "{claim} {issued:?} {seen:?}");
            assert!(is_valid || rejected.unwrap_err() == ["halted"]);
        }
        let invalid = reject_older(Err(vec![PassportError::Expired]), Some(1), Some(2));
        assert_eq!(invalid.unwrap_err(), ["passport.expired"]);
    }

    #[test]
    fn keeps_epochs_of_the_last_issued_passports() {
        let issued = IssuedEpochs::default();
        issued.remember("without", None);
        for at in 0..=1024 {
            issued.remember(&at.to_string(), Some(at));
        }
        assert_eq!([issued.of("without"), issued.of("0")], [None, None]);
        assert_eq!([issued.of("1"), issued.of("1024")], [Some(1), Some(1024)]);
    }

    #[tokio::test(start_paused = true)]
    async fn caches_refetches_and_expires_keys() {
        let cache = KeyCache::default();
        let fetches = std::cell::Cell::new(0);
        let ask = async |key: &'static str, answer: Option<&'static str>| {
            let found = cache.find(key, &TokioClock, async || {
                fetches.set(fetches.get() + 1);
                answer
                    .map(|id| KeySet {
                        keys: vec![PublicKey::new(id, Algorithm::EdDsa, &[0; 32]).unwrap()],
                        ..KeySet::default()
                    })
                    .ok_or_else(|| Error::new(ErrorKind::Connection, "down"))
            });
            found.await.map(|keys| keys.find(key).is_some()).map_err(|error| error.kind())
        };
        let pass = async |time: Duration| tokio::time::advance(time).await;

        assert_eq!(ask("k1", None).await, Err(ErrorKind::Connection));
        assert_eq!((ask("k1", Some("k1")).await, fetches.get()), (Ok(true), 2));
        assert_eq!((ask("k1", None).await, fetches.get()), (Ok(true), 2), "kept");
        let began = Instant::now();
        assert_eq!(
            (ask("k2", Some("k2")).await, fetches.get()),
            (Ok(true), 3),
            "a rotation is detected immediately"
        );
        assert_eq!(began.elapsed(), MIN_FETCH_INTERVAL, "at most one fetch per second");
        assert_eq!((ask("k3", None).await, fetches.get()), (Ok(false), 4), "a failure keeps the cached keys");
        assert_eq!((ask("k2", None).await, fetches.get()), (Ok(true), 4), "a known key causes no fetch");
        pass(REFRESH_AFTER).await;
        assert_eq!((ask("k2", None).await, fetches.get()), (Ok(true), 5), "stale, but usable");
        assert_eq!((ask("k2", None).await, fetches.get()), (Ok(true), 5), "cooldown while stale");
        pass(MAX_AGE).await;
        assert_eq!((ask("k2", None).await, fetches.get()), (Err(ErrorKind::Connection), 6), "too old");
        assert_eq!((ask("k2", Some("k2")).await, fetches.get()), (Ok(true), 7));
    }

    #[tokio::test(start_paused = true)]
    async fn forged_key_ids_do_not_delay_known_keys() {
        let cache = KeyCache::default();
        let fetches = std::cell::Cell::new(0);
        let find = async |key: &'static str| {
            let fetch = async || {
                fetches.set(fetches.get() + 1);
                Ok(KeySet {
                    keys: vec![PublicKey::new("k1", Algorithm::EdDsa, &[0; 32]).unwrap()],
                    ..KeySet::default()
                })
            };
            cache.find(key, &TokioClock, fetch).await.unwrap().find(key).is_some()
        };
        assert!(find("k1").await);
        let began = Instant::now();
        let forged = futures_util::future::join_all((0..50).map(|_| find("forged")));
        let (forged, (known, waited)) = tokio::join!(forged, async { (find("k1").await, began.elapsed()) });
        assert_eq!((known, waited), (true, Duration::ZERO), "a known key does not wait");
        assert!(!forged.contains(&true));
        assert_eq!(fetches.get(), 2, "all forged ids share one fetch");
    }
}
