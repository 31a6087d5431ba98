use std::collections::HashSet;

use actpass_protocol::Json;
use actpass_protocol::token::{self, Algorithm, PublicKey, TokenType, Unverified};
use ring::signature::Ed25519KeyPair;
use tempfile::TempDir;

use super::keys::SigningKeyError;
use super::{PassportError, SigningKeyStore, SigningKeys};
use crate::ledger::Draft;
use crate::seal::MasterKey;
use crate::store::{Mutation, Record, Rotation, SealedKey, SqliteStore, Store};

const CLAIMS: &str = r#"{"iss": "i", "aud": "a", "tenant_id": "t", "agent_id": "g", "user_id": null, "goal": "w",
    "allowed_tools": ["x"], "allowed_resources": [], "risk_tier": "low", "iat": 100, "exp": 200,
    "resource_constraints": {}, "jti": "ap_1"}"#;

fn master(byte: u8) -> MasterKey {
    MasterKey::parse(&hex::encode([byte; 32])).unwrap()
}

fn store(folder: &TempDir) -> SqliteStore {
    SqliteStore::open(&folder.path().join("data.db")).unwrap()
}

async fn ring(folder: &TempDir) -> std::sync::Arc<SigningKeys> {
    SigningKeyStore::open(&store(folder), master(1), Algorithm::EdDsa).await.unwrap().cached()
}

fn kids(ring: &SigningKeys, now: i64) -> Vec<String> {
    let keys = ring.jwks(now);
    let Json::Array(keys) = &keys else { panic!("{keys}") };
    keys.iter().map(|key| key.member("kid").unwrap().as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn signature_rejects_any_changed_byte() {
    let folder = TempDir::new().unwrap();
    let ring = ring(&folder).await;
    let (token, _) = ring.sign(TokenType::Passport, &Json::parse(CLAIMS.as_bytes()).unwrap()).unwrap();
    assert_eq!(ring.verify(&token).unwrap().jti(), "ap_1");

    let dots: Vec<_> = token.match_indices('.').map(|(at, _)| at).collect();
    let mut seen = HashSet::new();
    for at in 0..token.len() {
        for change in [1, 2, 4, 0x20, 0x80] {
            let mut bytes = token.clone().into_bytes();
            bytes[at] ^= change;
            // Invalid UTF-8 is not valid JSON and is rejected earlier.
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            let refusal = ring.verify(&changed).unwrap_err();
            let possible: &[PassportError] = if at < dots[0] {
                &[
                    PassportError::Malformed,
                    PassportError::Algorithm,
                    PassportError::UnknownKey,
                    PassportError::Signature,
                ]
            } else {
                &[PassportError::Malformed, PassportError::Signature]
            };
            assert!(possible.contains(&refusal), "{at} {change}: {refusal:?}");
            seen.insert(refusal);
        }
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
    for shorter in 0..token.len() {
        assert!(ring.verify(token.get(..shorter).unwrap()).is_err(), "{shorter}");
    }
}

#[tokio::test]
async fn forged_tokens_get_specific_errors() {
    let (folder, foreign) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (ring, other) = (ring(&folder).await, ring_of(&foreign).await);
    let claims = Json::parse(CLAIMS.as_bytes()).unwrap();
    let (token, kid) = ring.sign(TokenType::Passport, &claims).unwrap();
    let payload = token.split('.').nth(1).unwrap();
    let signature = token.rsplit('.').next().unwrap();
    let with = |header: String, signature: &str| format!("{}.{payload}.{signature}", token::encode(header));

    assert_eq!(
        ring.verify(&other.sign(TokenType::Passport, &claims).unwrap().0).unwrap_err(),
        PassportError::UnknownKey
    );
    for (header, signature, refusal) in [
        (r#"{"alg": "none", "kid": "KID"}"#, "", PassportError::Algorithm),
        (r#"{"alg": "none"}"#, "", PassportError::Algorithm),
        (r#"{"alg": "HS256", "kid": "KID"}"#, signature, PassportError::Algorithm),
        (r#"{"alg": "RS256", "kid": "KID"}"#, signature, PassportError::Algorithm),
        (r#"{"alg": "EdDSA"}"#, signature, PassportError::Malformed),
        (r#"{"alg": "EdDSA", "kid": "KID"}"#, "", PassportError::Signature),
        (r#"{"alg": "EdDSA", "kid": "KID"}"#, signature, PassportError::Signature),
        (r#"{"alg": "EdDSA", "kid": "other"}"#, signature, PassportError::UnknownKey),
    ] {
        let forged = with(header.replace("KID", &kid), signature);
        assert_eq!(ring.verify(&forged).unwrap_err(), refusal, "{header}");
    }
    // A valid `kid` with a foreign signature.
    let pair = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap();
    let key = ring.public_keys().pop().unwrap();
    let input = token::signing_input(TokenType::Passport, &key, &claims);
    let forged = format!("{input}.{}", token::encode(pair.sign(input.as_bytes())));
    assert_eq!(ring.verify(&forged).unwrap_err(), PassportError::Signature);
    // Signed by this gateway, but not a passport.
    let (token, _) = ring.sign(TokenType::Passport, &Json::parse(b"{\"iss\": \"i\"}").unwrap()).unwrap();
    assert_eq!(ring.verify(&token).unwrap_err(), PassportError::Malformed);
}

async fn ring_of(folder: &TempDir) -> std::sync::Arc<SigningKeys> {
    ring(folder).await
}

#[tokio::test]
async fn signing_keys_survive_restart_encrypted() {
    let folder = TempDir::new().unwrap();
    let store = store(&folder);
    let first = SigningKeyStore::open(&store, master(1), Algorithm::EdDsa).await.unwrap().cached();
    let again = SigningKeyStore::open(&store, master(1), Algorithm::EdDsa).await.unwrap().cached();
    assert_eq!(kids(&first, 0), kids(&again, 0));
    assert!(matches!(
        SigningKeyStore::open(&store, master(2), Algorithm::EdDsa).await,
        Err(SigningKeyError::Sealed(_))
    ));
    assert!(matches!(
        SigningKeyStore::rotate(&store, &master(2), Algorithm::EdDsa).await,
        Err(SigningKeyError::Sealed(_))
    ));
    assert_eq!(store.signing_keys().await.unwrap().len(), 1);
    store.close().await;
    drop(store);

    let again = ring(&folder).await;
    assert_eq!(kids(&first, 0), kids(&again, 0));
    let claims = Json::parse(CLAIMS.as_bytes()).unwrap();
    assert!(again.verify(&first.sign(TokenType::Passport, &claims).unwrap().0).is_ok());
}

#[tokio::test]
async fn sealed_signing_keys_are_bound_to_kid() {
    let folder = TempDir::new().unwrap();
    let store = store(&folder);
    let (mut one, other) = (
        SealedKey::generate(&master(1), Algorithm::EdDsa).unwrap(),
        SealedKey::generate(&master(1), Algorithm::EdDsa).unwrap(),
    );
    assert!(one.sealed.len() == 12 + 32 + 16 && one.sealed != other.sealed);
    one.kid = other.kid;
    store.add_signing_key(one, Rotation::Next).await.unwrap();
    assert!(matches!(
        SigningKeyStore::open(&store, master(1), Algorithm::EdDsa).await,
        Err(SigningKeyError::Sealed(_))
    ));
}

#[tokio::test]
async fn retired_keys_verify_until_last_passport_expires() {
    let folder = TempDir::new().unwrap();
    let store = store(&folder);
    let keys = SigningKeyStore::open(&store, master(1), Algorithm::EdDsa).await.unwrap();
    let (token, old) =
        keys.cached().sign(TokenType::Passport, &Json::parse(CLAIMS.as_bytes()).unwrap()).unwrap();
    let issue =
        Mutation::IssuePassport { jti: "ap_1".to_owned(), kid: old.clone(), expires_at: 200, halt_epoch: 0 };
    store.record(Record { event: Draft::default(), mutation: Some(issue) }).await.unwrap();

    let new = SigningKeyStore::rotate(&store, &master(1), Algorithm::EdDsa).await.unwrap();
    assert_eq!(kids(&keys.cached(), 0), std::slice::from_ref(&old));
    let ring = keys.read(&store).await.unwrap();
    assert_eq!(kids(&ring, 199), [old.clone(), new.clone()]);
    assert_eq!(kids(&ring, 200), std::slice::from_ref(&new));
    assert!(ring.verify(&token).is_ok());
    assert_eq!(ring.sign(TokenType::Passport, &Json::Null).unwrap().1, new);

    // A key that never signed is not needed.
    let newest = SigningKeyStore::rotate(&store, &master(1), Algorithm::EdDsa).await.unwrap();
    assert_eq!(kids(&keys.read(&store).await.unwrap(), 199), [old, newest]);
}

/// Created with another library, in the format of the first version with sealed keys.
#[test]
fn opens_signing_key_sealed_by_earlier_version() {
    let sealed = "0a0a0a0a0a0a0a0a0a0a0a0a3c973e2ed6addcb270ecb372b67ca2823f743a80bcc2844672efb2c5c1e6f66a33\
                  1828cc7ee6a60524d092c7f6a2a05b";
    let key = SealedKey {
        kid: "atZR63tNG3W2GhPpVleKnfrw1N7N6LAqOe5grE2SBR4".to_owned(),
        sealed: hex::decode(sealed).unwrap(),
        active: true,
        needed_until: 0,
    };
    assert!(key.opens_with(&master(7)));
    assert!(!SealedKey { kid: "another".to_owned(), ..key }.opens_with(&master(7)));
}

#[tokio::test]
async fn algorithm_belongs_to_the_key() {
    let folder = TempDir::new().unwrap();
    let store = store(&folder);
    let claims = Json::parse(CLAIMS.as_bytes()).unwrap();
    let keys = SigningKeyStore::open(&store, master(1), Algorithm::Es256).await.unwrap();
    let (first, kid) = keys.cached().sign(TokenType::Passport, &claims).unwrap();
    assert_eq!(keys.cached().algorithm(), Some(Algorithm::Es256));
    assert!(first.starts_with(&token::encode(format!(r#"{{"alg":"ES256","kid":"{kid}","typ":"JWT"}}"#))));
    assert_eq!(keys.cached().verify(&first).unwrap().jti(), "ap_1");
    let jwks = format!(r#"{{"keys": {}}}"#, keys.cached().jwks(0));
    let published = PublicKey::parse_jwks(jwks.as_bytes()).unwrap();
    assert!(Unverified::passport(&first).unwrap().verify(&published[0]).is_ok());

    // The keys of both algorithms verify after a rotation and a restart; the new one signs.
    SigningKeyStore::rotate(&store, &master(1), Algorithm::EdDsa).await.unwrap();
    let keys = SigningKeyStore::open(&store, master(1), Algorithm::Es256).await.unwrap();
    assert_eq!(keys.cached().algorithm(), Some(Algorithm::EdDsa));
    let (second, _) = keys.cached().sign(TokenType::Passport, &claims).unwrap();
    for token in [&first, &second] {
        assert!(keys.cached().verify(token).is_ok(), "{token}");
    }
    // Each token under the header of the other.
    let parts = |token: &str| token.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (first, second) = (parts(&first), parts(&second));
    let exchanged = format!("{}.{}.{}", second[0], first[1], first[2]);
    assert_eq!(keys.cached().verify(&exchanged).unwrap_err(), PassportError::Signature);
    let header = token::encode(format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"JWT"}}"#));
    let confused = format!("{header}.{}.{}", first[1], first[2]);
    assert_eq!(keys.cached().verify(&confused).unwrap_err(), PassportError::Algorithm);
}
