//! Passports verified without asking the gateway: compact JWS, `alg` EdDSA over Ed25519 and nothing else (RFC 7515, 8037).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ED25519, UnparsedPublicKey};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::error::Error;
use crate::json::{Document, Json, Number};
use crate::passport::OfflineVerifyRequest;

/// The longest passport that is looked at, in bytes.
const MAX_TOKEN: usize = 16 * 1024;
/// The largest set of keys that is taken, in bytes.
const MAX_KEYS: usize = 64 * 1024;
/// How old a set of keys may be before it is fetched again.
const FRESH: Duration = Duration::from_secs(10 * 60);
/// How old it may be where it cannot be fetched again.
const STALE: Duration = Duration::from_secs(60 * 60);
/// How long an unknown key id fetches nothing after a fetch.
const COOLDOWN: Duration = Duration::from_secs(30);
/// How far two clocks may differ.
const LEEWAY: i64 = 10;

/// Why a passport is not valid, in the gateway's own words.
type Reason = &'static str;

const MALFORMED: Reason = "passport.malformed";
const ALGORITHM: Reason = "passport.algorithm";
pub(crate) const UNKNOWN_KEY: Reason = "passport.unknown_key";
const SIGNATURE: Reason = "passport.signature";
const ISSUER: Reason = "passport.issuer";
const AUDIENCE: Reason = "passport.audience";
const TENANT: Reason = "passport.tenant";
const AGENT: Reason = "passport.agent";
const USER: Reason = "passport.user";
const EXPIRED: Reason = "passport.expired";
const NOT_YET_VALID: Reason = "passport.not_yet_valid";

/// A passport that was taken apart and of which nothing is believed yet.
pub(crate) struct Unverified<'t> {
    key_id: String,
    signed: &'t str,
    signature: Vec<u8>,
    claims: Vec<u8>,
}

impl<'t> Unverified<'t> {
    pub(crate) fn parse(token: &'t str) -> Result<Self, Reason> {
        if token.len() > MAX_TOKEN {
            return Err(MALFORMED);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(MALFORMED)?;
        let (header, claims) = signed.split_once('.').ok_or(MALFORMED)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| MALFORMED);
        let header = Document::parse(&decode(header)?).map_err(|_| MALFORMED)?;
        if header.string("alg").as_deref() != Some("EdDSA") {
            return Err(ALGORITHM);
        }
        // A critical extension is one that must be understood, and none is.
        if header.text_of("crit").is_some() {
            return Err(MALFORMED);
        }
        let key_id = header.string("kid").ok_or(UNKNOWN_KEY)?.into_owned();
        Ok(Self { key_id, signed, signature: decode(signature)?, claims: decode(claims)? })
    }

    pub(crate) fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The claims, if all is as expected.
    pub(crate) fn verify(&self, key: &PublicKey, expected: &Expected<'_>) -> Result<Document, Reason> {
        UnparsedPublicKey::new(&ED25519, &key.bytes)
            .verify(self.signed.as_bytes(), &self.signature)
            .map_err(|_| SIGNATURE)?;
        let claims = Document::parse(&self.claims).map_err(|_| MALFORMED)?;
        let is = |claim: &str, value: &str| claims.string(claim).as_deref() == Some(value);
        let time = |claim: &str| match claims.member(claim) {
            Some(Json::Number(number)) => seconds(&number).ok_or(MALFORMED).map(Some),
            Some(_) => Err(MALFORMED),
            None => Ok(None),
        };
        let now = expected.now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let wanted = expected.wanted;
        let checks = [
            (is("iss", expected.issuer), ISSUER),
            (is("aud", &wanted.audience), AUDIENCE),
            (expected.tenant_id.is_none_or(|tenant| is("tenant_id", tenant)), TENANT),
            (wanted.agent_id.as_deref().is_none_or(|agent| is("agent_id", agent)), AGENT),
            (wanted.user_id.as_deref().is_none_or(|user| is("user_id", user)), USER),
            (time("exp")?.ok_or(MALFORMED)?.saturating_add(LEEWAY) > now, EXPIRED),
            (time("iat")?.ok_or(MALFORMED)?.saturating_sub(LEEWAY) <= now, NOT_YET_VALID),
            (time("nbf")?.is_none_or(|from| from.saturating_sub(LEEWAY) <= now), NOT_YET_VALID),
        ];
        match checks.iter().find(|(holds, _)| !holds) {
            Some((_, reason)) => Err(reason),
            None => Ok(claims),
        }
    }
}

/// Whole seconds since 1970.
fn seconds(number: &Number) -> Option<i64> {
    number.as_str().parse().ok()
}

/// What a passport is held against.
pub(crate) struct Expected<'e> {
    pub(crate) issuer: &'e str,
    pub(crate) tenant_id: Option<&'e str>,
    pub(crate) wanted: &'e OfflineVerifyRequest,
    pub(crate) now: SystemTime,
}

/// An Ed25519 key of the gateway.
#[derive(Debug)]
pub(crate) struct PublicKey {
    id: String,
    bytes: Vec<u8>,
}

/// The Ed25519 keys of a JWK Set; keys of other kinds are passed over.
pub(crate) fn parse_keys(set: &Document) -> Result<Vec<PublicKey>, &'static str> {
    if set.as_str().len() > MAX_KEYS {
        return Err("the set of keys is larger than 64 KiB");
    }
    let Some(Json::Array(keys)) = set.member("keys") else {
        return Err("it has no list `keys`");
    };
    let text = |key: &Json, name: &str| key.member(name).and_then(Json::as_str).map(str::to_owned);
    let is = |key: &Json, name: &str, value: &str| text(key, name).as_deref() == Some(value);
    let parse = |key: &Json| {
        let bytes = URL_SAFE_NO_PAD.decode(text(key, "x")?).ok().filter(|bytes| bytes.len() == 32)?;
        Some(PublicKey { id: text(key, "kid")?, bytes })
    };
    Ok(keys
        .iter()
        .filter(|key| is(key, "kty", "OKP") && is(key, "crv", "Ed25519"))
        .filter(|key| key.member("use").is_none() || is(key, "use", "sig"))
        .filter_map(parse)
        .collect())
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
        self.keys.iter().find(|key| key.id == key_id).map(Arc::clone)
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
    use ring::rand::SystemRandom;
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;
    use crate::error::ErrorKind;

    struct Issuer(Ed25519KeyPair);

    impl Issuer {
        fn new() -> Self {
            let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
            Self(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
        }

        fn key(&self) -> PublicKey {
            PublicKey { id: "k1".to_owned(), bytes: self.0.public_key().as_ref().to_vec() }
        }

        fn sign(&self, header: &str, claims: &str) -> String {
            let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
            let signature = self.0.sign(signed.as_bytes());
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
        }
    }

    const HEADER: &str = r#"{"alg":"EdDSA","kid":"k1","typ":"JWT"}"#;
    const CLAIMS: &str = r#"{"iss":"https://g","aud":"mcp://a","tenant_id":"t","agent_id":"bot","user_id":"u","iat":1000,"exp":1300}"#;

    fn check(issuer: &Issuer, token: &str, now: u64) -> Result<Document, Reason> {
        let mut wanted = OfflineVerifyRequest::new(token, "mcp://a");
        wanted.agent_id = Some("bot".to_owned());
        wanted.user_id = Some("u".to_owned());
        let now = UNIX_EPOCH + Duration::from_secs(now);
        let expected = Expected { issuer: "https://g", tenant_id: Some("t"), wanted: &wanted, now };
        let passport = Unverified::parse(token)?;
        assert_eq!(passport.key_id(), "k1");
        passport.verify(&issuer.key(), &expected)
    }

    #[test]
    fn a_good_passport_is_valid_within_its_time() {
        let issuer = Issuer::new();
        let token = issuer.sign(HEADER, CLAIMS);
        for (now, expected) in
            [(990, Ok(())), (1000, Ok(())), (1309, Ok(())), (1310, Err(EXPIRED)), (989, Err(NOT_YET_VALID))]
        {
            assert_eq!(check(&issuer, &token, now).map(|_| ()), expected, "{now}");
        }
        assert_eq!(check(&issuer, &token, 1000).unwrap().as_str(), CLAIMS);
    }

    #[test]
    fn each_wrong_claim_has_its_reason() {
        let issuer = Issuer::new();
        for (from, to, reason) in [
            ("https://g", "https://h", ISSUER),
            ("mcp://a", "mcp://b", AUDIENCE),
            (r#""aud":"mcp://a""#, r#""aud":["mcp://a"]"#, AUDIENCE),
            (r#""t""#, r#""other""#, TENANT),
            ("bot", "dog", AGENT),
            (r#""u""#, r#""v""#, USER),
            (r#","exp":1300"#, "", MALFORMED),
            (r#""exp":1300"#, r#""exp":"1300""#, MALFORMED),
            (r#""exp":1300"#, r#""exp":1300.5"#, MALFORMED),
            (r#""exp":1300"#, r#""exp":1300,"nbf":1200"#, NOT_YET_VALID),
            (r#""exp":1300"#, r#""exp":1300,"exp":9999"#, MALFORMED),
        ] {
            let token = issuer.sign(HEADER, &CLAIMS.replace(from, to));
            assert_eq!(check(&issuer, &token, 1000).map(|_| ()), Err(reason), "{to}");
        }
    }

    #[test]
    fn only_eddsa_by_the_named_key_counts() {
        let issuer = Issuer::new();
        for (header, reason) in [
            (r#"{"alg":"none","kid":"k1"}"#, ALGORITHM),
            (r#"{"alg":"HS256","kid":"k1"}"#, ALGORITHM),
            (r#"{"alg":"RS256","kid":"k1"}"#, ALGORITHM),
            (r#"{"alg":"eddsa","kid":"k1"}"#, ALGORITHM),
            (r#"{"kid":"k1"}"#, ALGORITHM),
            (r#"{"alg":"EdDSA"}"#, UNKNOWN_KEY),
            (r#"{"alg":"EdDSA","kid":"k1","crit":["b64"],"b64":false}"#, MALFORMED),
            (r#"{"alg":"EdDSA","alg":"none","kid":"k1"}"#, MALFORMED),
            ("", MALFORMED),
        ] {
            assert_eq!(
                check(&issuer, &issuer.sign(header, CLAIMS), 1000).map(|_| ()),
                Err(reason),
                "{header}"
            );
        }
        let foreign = Issuer::new().sign(HEADER, CLAIMS);
        assert_eq!(check(&issuer, &foreign, 1000).map(|_| ()), Err(SIGNATURE));
        for token in ["", ".", "..", "a.b", "a.b.c.d", &"a".repeat(MAX_TOKEN + 1)] {
            assert!(check(&issuer, token, 1000).is_err(), "{token}");
        }
    }

    #[test]
    fn no_byte_of_a_passport_can_be_changed() {
        let issuer = Issuer::new();
        let token = issuer.sign(HEADER, CLAIMS);
        for at in 0..token.len() {
            for other in [b'A', b'Q', b'_', b'=', b'.', b' '] {
                let mut changed = token.clone().into_bytes();
                if std::mem::replace(&mut changed[at], other) == other {
                    continue;
                }
                let changed = String::from_utf8(changed).unwrap();
                let verified = Unverified::parse(&changed).and_then(|passport| {
                    let wanted = OfflineVerifyRequest::new(changed.as_str(), "mcp://a");
                    let now = UNIX_EPOCH + Duration::from_secs(1000);
                    let expected = Expected { issuer: "https://g", tenant_id: None, wanted: &wanted, now };
                    passport.verify(&issuer.key(), &expected)
                });
                assert!(verified.is_err(), "byte {at} as {:?}", char::from(other));
            }
        }
    }

    #[test]
    fn only_ed25519_keys_of_a_set_are_taken() {
        let x = URL_SAFE_NO_PAD.encode([7; 32]);
        let set = format!(
            r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"good","x":"{x}"}},{{"kty":"OKP","crv":"X25519","kid":"b","x":"{x}"}},
            {{"kty":"oct","kid":"c","k":"AA"}},{{"kty":"OKP","crv":"Ed25519","kid":"d","x":"AA"}},{{"kty":"OKP","crv":"Ed25519","x":"{x}"}},
            {{"kty":"OKP","crv":"Ed25519","kid":"e","x":"{x}","use":"enc"}},7]}}"#
        );
        let keys = parse_keys(&Document::parse(set.as_bytes()).unwrap()).unwrap();
        assert_eq!(keys.iter().map(|key| key.id.as_str()).collect::<Vec<_>>(), ["good"]);
        assert!(parse_keys(&Document::parse(b"{}").unwrap()).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_kept_refetched_and_given_up() {
        let cache = KeyCache::default();
        let fetches = std::cell::Cell::new(0);
        let ask = async |key: &'static str, answer: Option<&'static str>| {
            let found = cache.find(key, async || {
                fetches.set(fetches.get() + 1);
                answer
                    .map(|id| vec![PublicKey { id: id.to_owned(), bytes: vec![0; 32] }])
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
