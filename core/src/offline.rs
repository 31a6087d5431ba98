//! Passports verified without asking the gateway: with its public keys, which are kept for a while.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::error::Error;
use crate::passport::OfflineVerifyRequest;
use crate::token::{Bearer, Claims, PublicKey, Refusal, Time, Unverified};

/// How old a set of keys may be before it is fetched again.
const FRESH: Duration = Duration::from_secs(10 * 60);
/// How old it may be where it cannot be fetched again.
const STALE: Duration = Duration::from_secs(60 * 60);
/// How long an unknown key id fetches nothing after a fetch.
const COOLDOWN: Duration = Duration::from_secs(30);
/// How many seconds the gateway's clock and this one may differ.
const LEEWAY: i64 = 10;

/// What a passport is held against.
pub(crate) struct Expected<'e> {
    pub(crate) issuer: &'e str,
    pub(crate) tenant_id: Option<&'e str>,
    pub(crate) wanted: &'e OfflineVerifyRequest,
    pub(crate) now: SystemTime,
}

/// The claims of a passport that `key`, if there is such a key, signed and that is as expected; else everything that
/// speaks against it.
pub(crate) fn verify(
    passport: Unverified<'_>,
    key: Option<&PublicKey>,
    expected: &Expected<'_>,
) -> Result<Claims, Vec<Refusal>> {
    let signed = key.ok_or(Refusal::UnknownKey).and_then(|key| passport.verify(key));
    let claims = signed.and_then(|payload| Claims::parse(&payload)).map_err(|refusal| vec![refusal])?;
    let wanted = expected.wanted;
    let bearer = Bearer {
        issuer: expected.issuer,
        audience: Some(&wanted.audience),
        tenant_id: expected.tenant_id,
        agent_id: wanted.agent_id.as_deref().map(Some),
        user_id: wanted.user_id.as_deref().map(Some),
    };
    let now = expected.now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let against = claims.against(&bearer, &Time { now, early: LEEWAY, late: LEEWAY });
    if against.is_empty() { Ok(claims) } else { Err(against) }
}

/// The gateway's keys, kept for a while.
#[derive(Debug, Default)]
pub(crate) struct KeyCache(Mutex<Option<Fetched>>);

#[derive(Debug)]
struct Fetched {
    keys: Vec<Arc<PublicKey>>,
    at: Instant,
    /// When a fetch was last tried, whatever came of it.
    tried: Instant,
}

impl Fetched {
    fn find(&self, key_id: &str) -> Option<Arc<PublicKey>> {
        self.keys.iter().find(|key| key.kid() == key_id).map(Arc::clone)
    }
}

impl KeyCache {
    /// The key `key_id`, if the gateway has it. Only one caller fetches; the others wait for what it gets.
    pub(crate) async fn find(
        &self,
        key_id: &str,
        fetch: impl AsyncFnOnce() -> Result<Vec<PublicKey>, Error>,
    ) -> Result<Option<Arc<PublicKey>>, Error> {
        let mut kept = self.0.lock().await;
        let now = Instant::now();
        if let Some(kept) = kept.as_ref() {
            let (age, found) = (now.duration_since(kept.at), kept.find(key_id));
            let tried_lately = now.duration_since(kept.tried) < COOLDOWN;
            if (age < FRESH && found.is_some()) || (age < STALE && tried_lately) {
                return Ok(found);
            }
        }
        match fetch().await {
            Ok(keys) => {
                let fetched = Fetched { keys: keys.into_iter().map(Arc::new).collect(), at: now, tried: now };
                let found = fetched.find(key_id);
                *kept = Some(fetched);
                Ok(found)
            }
            Err(error) => match kept.as_mut() {
                Some(kept) if now.duration_since(kept.at) < STALE => {
                    kept.tried = now;
                    Ok(kept.find(key_id))
                }
                Some(_) | None => Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[tokio::test(start_paused = true)]
    async fn keys_are_kept_refetched_and_given_up() {
        let cache = KeyCache::default();
        let fetches = std::cell::Cell::new(0);
        let ask = async |key: &'static str, answer: Option<&'static str>| {
            let found = cache.find(key, async || {
                fetches.set(fetches.get() + 1);
                answer
                    .map(|id| vec![PublicKey::new(id, &[0; 32]).unwrap()])
                    .ok_or_else(|| Error::new(ErrorKind::Connection, "down"))
            });
            found.await.map(|key| key.is_some()).map_err(|error| error.kind())
        };
        let pass = async |time: Duration| tokio::time::advance(time).await;

        assert_eq!(ask("k1", None).await, Err(ErrorKind::Connection));
        assert_eq!((ask("k1", Some("k1")).await, fetches.get()), (Ok(true), 2));
        assert_eq!((ask("k1", None).await, fetches.get()), (Ok(true), 2), "kept");
        assert_eq!((ask("k2", Some("k2")).await, fetches.get()), (Ok(false), 2), "cooldown");
        pass(COOLDOWN).await;
        assert_eq!(
            (ask("k2", Some("k2")).await, fetches.get()),
            (Ok(true), 3),
            "an unknown key is looked for"
        );
        pass(COOLDOWN).await;
        assert_eq!((ask("k3", None).await, fetches.get()), (Ok(false), 4), "a failure keeps what is there");
        assert_eq!((ask("k3", None).await, fetches.get()), (Ok(false), 4), "cooldown after a failure too");
        pass(FRESH).await;
        assert_eq!((ask("k2", None).await, fetches.get()), (Ok(true), 5), "stale, and still good");
        assert_eq!((ask("k2", None).await, fetches.get()), (Ok(true), 5), "cooldown while stale");
        pass(STALE).await;
        assert_eq!((ask("k2", None).await, fetches.get()), (Err(ErrorKind::Connection), 6), "too old");
        assert_eq!((ask("k2", Some("k2")).await, fetches.get()), (Ok(true), 7));
    }
}
