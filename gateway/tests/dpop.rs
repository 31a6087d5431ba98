//! DPoP (RFC 9449): API keys and passports that are bound to a key.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actpass_gateway::auth::ApiKeyHash;
use actpass_gateway::clock::Clock;
use actpass_gateway::config::{MasterKeySource, Settings};
use actpass_gateway::seal::MasterKey;
use actpass_protocol::Json;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{Gateway, PREFLIGHT, json, refund, text};
use reqwest::{RequestBuilder, Response};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use sha2::{Digest, Sha256};

const NOW: u64 = 1_800_000_000;
const KEY: &str = "apk_dpop";

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A client's key, independent of the project's own code.
enum Signer {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

impl Signer {
    fn ed25519(seed: u8) -> Self {
        Self::Ed25519(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }

    fn p256() -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random);
        Self::P256(pair.unwrap())
    }

    const fn algorithm(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "EdDSA",
            Self::P256(_) => "ES256",
        }
    }

    /// The public JWK, with its members as RFC 7638 orders them.
    fn jwk(&self) -> String {
        match self {
            Self::Ed25519(pair) => {
                format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, encode(pair.public_key()))
            }
            Self::P256(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, encode(x), encode(y))
            }
        }
    }

    fn thumbprint(&self) -> String {
        encode(Sha256::digest(self.jwk()))
    }

    fn header(&self) -> String {
        format!(r#"{{"typ":"dpop+jwt","alg":"{}","jwk":{}}}"#, self.algorithm(), self.jwk())
    }

    /// Signs any header and claims.
    fn sign(&self, header: &str, claims: &str) -> String {
        let input = format!("{}.{}", encode(header), encode(claims));
        let signature = match self {
            Self::Ed25519(pair) => pair.sign(input.as_bytes()).as_ref().to_vec(),
            Self::P256(pair) => pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap().as_ref().to_vec(),
        };
        format!("{input}.{}", encode(signature))
    }

    /// A proof for a request with `key`, with a new `jti`.
    fn prove(&self, method: &str, url: &str, key: &str) -> String {
        self.sign(&self.header(), &claims(method, url, key))
    }
}

/// Claims for a request, with a new `jti`.
fn claims(method: &str, url: &str, key: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let jti = COUNT.fetch_add(1, Ordering::SeqCst);
    let ath = encode(Sha256::digest(key));
    format!(r#"{{"jti":"proof-{jti}","htm":"{method}","htu":"{url}","iat":{NOW},"ath":"{ath}"}}"#)
}

/// The settings of the key `apk_dpop`, bound to `signer`.
fn bound(signer: &Signer, more: &str) -> String {
    format!(
        "[[keys]]\nname = \"bound\"\nhash = \"{}\"\ntenant = \"one\"\nrole = \"agent\"\ndpop_jkt = \"{}\"\n{more}\n",
        ApiKeyHash::of(KEY),
        signer.thumbprint()
    )
}

/// A gateway at the time [`NOW`]. `root` precedes its settings; `keys` follow them.
async fn start(root: &str, keys: &str) -> (Gateway, Arc<AtomicU64>) {
    let time = Arc::new(AtomicU64::new(NOW));
    let gateway = Gateway::start_with("", with(root, keys, &time)).await;
    (gateway, time)
}

fn with<'a>(root: &'a str, keys: &'a str, time: &Arc<AtomicU64>) -> impl FnOnce(&mut Settings) + use<'a> {
    let time = Arc::clone(time);
    move |settings| {
        let text = format!("{root}\n{}{keys}", common::config(""));
        let data = settings.data.clone();
        *settings = Settings::parse(&text, std::path::Path::new("")).unwrap_or_else(|p| panic!("{p}"));
        settings.data = data;
        settings.master_key = MasterKeySource::Given(MasterKey::parse(&"07".repeat(32)).unwrap());
        settings.clock = Clock::new(move || UNIX_EPOCH + Duration::from_secs(time.load(Ordering::SeqCst)));
    }
}

impl Gateway {
    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// A preflight with `apk_dpop` and this proof.
    fn proven(&self, proof: &str) -> RequestBuilder {
        self.client
            .post(self.at(PREFLIGHT))
            .header("authorization", format!("DPoP {KEY}"))
            .header("content-type", "application/json")
            .header("dpop", proof)
            .body(refund("4900", ""))
    }

    async fn allowed(&self, proof: &str) {
        let (status, body) = json(self.proven(proof).send().await.unwrap()).await;
        assert_eq!(status, 200, "{body}");
        assert_eq!(text(&body, "decision"), Some("allow"));
    }
}

/// Asserts that a response refuses the proof with an error, and returns the message.
async fn refused(response: Response, code: &str) -> String {
    let challenge = response.headers()["www-authenticate"].to_str().unwrap().to_owned();
    let (status, body) = json(response).await;
    assert_eq!(status, 401, "{body}");
    assert_eq!(text(&body, "error.code"), Some(code), "{body}");
    assert_eq!(challenge, format!("DPoP error=\"{code}\", algs=\"ES256 EdDSA\""));
    text(&body, "error.message").unwrap().to_owned()
}

#[tokio::test]
async fn bound_key_decides_with_a_proof_of_either_algorithm() {
    for signer in [Signer::ed25519(7), Signer::p256()] {
        let (gateway, _) = start("", &bound(&signer, "")).await;
        let url = gateway.at(PREFLIGHT);
        gateway.allowed(&signer.prove("POST", &url, KEY)).await;
        // The scheme is case-insensitive, and a query is not part of htu.
        let proof = signer.prove("POST", &url, KEY);
        let mut request = gateway.proven(&proof).build().unwrap();
        request.url_mut().set_query(Some("a=b"));
        assert_eq!(gateway.client.execute(request).await.unwrap().status(), 200);
        let request = gateway.client.get(gateway.at("/api/v1/evidence/chains/decisions?limit=1"));
        let proof = signer.prove("GET", &gateway.at("/api/v1/evidence/chains/decisions"), KEY);
        let request = request.header("authorization", format!("dpop {KEY}")).header("dpop", proof);
        assert_eq!(request.send().await.unwrap().status(), 200);
        gateway.stop().await;
    }
}

#[tokio::test]
async fn stolen_key_is_refused_without_its_dpop_key() {
    let (signer, thief) = (Signer::p256(), Signer::p256());
    let (gateway, _) = start("", &bound(&signer, "")).await;
    let url = gateway.at(PREFLIGHT);
    let message =
        refused(gateway.post(PREFLIGHT, KEY).body("{}").send().await.unwrap(), "invalid_token").await;
    assert!(message.contains("authorization: DPoP"), "{message}");
    // With a valid proof, too: Bearer is the wrong scheme.
    let proof = signer.prove("POST", &url, KEY);
    let request = gateway.post(PREFLIGHT, KEY).header("dpop", proof).body("{}");
    refused(request.send().await.unwrap(), "invalid_token").await;
    let message =
        refused(gateway.proven(&thief.prove("POST", &url, KEY)).send().await.unwrap(), "invalid_dpop_proof");
    assert!(message.await.starts_with("jwk: another key"));
    let bare = gateway.client.post(&url).header("authorization", format!("DPoP {KEY}")).send().await.unwrap();
    assert!(refused(bare, "invalid_dpop_proof").await.starts_with("DPoP: missing"));
    // Nothing was decided.
    assert!(
        gateway.get("/api/v1/evidence/chains/decisions", "apdv_one").send().await.unwrap().status() == 404
    );
    gateway.stop().await;
}

#[tokio::test]
async fn unbound_key_is_refused_as_dpop() {
    let signer = Signer::ed25519(1);
    let (gateway, _) = start("", "").await;
    let url = gateway.at(PREFLIGHT);
    let request = |scheme: &str, key: &str, proof: &str| {
        gateway
            .client
            .post(&url)
            .header("authorization", format!("{scheme} {key}"))
            .header("content-type", "application/json")
            .header("dpop", proof)
            .body(refund("4900", ""))
    };
    let valid = signer.prove("POST", &url, "apk_one");
    let message = refused(request("DPoP", "apk_one", &valid).send().await.unwrap(), "invalid_token").await;
    assert!(message.contains("dpop_jkt"), "{message}");
    // A bearer key may carry a proof, which is checked in the same way.
    assert_eq!(request("Bearer", "apk_one", &valid).send().await.unwrap().status(), 200);
    let again = request("Bearer", "apk_one", &valid).send().await.unwrap();
    assert!(refused(again, "invalid_dpop_proof").await.starts_with("jti: "));
    let other = signer.prove("GET", &url, "apk_one");
    let wrong = request("Bearer", "apk_one", &other).send().await.unwrap();
    assert!(refused(wrong, "invalid_dpop_proof").await.starts_with("htm: "));
    let (status, body) = json(request("DPoP", "apk_unknown", &valid).send().await.unwrap()).await;
    assert_eq!((status.as_u16(), text(&body, "error.code")), (401, Some("unauthenticated")));
    gateway.stop().await;
}

/// Each case changes one part of a valid proof, which is signed again by the right key.
#[tokio::test]
async fn each_check_of_a_proof_names_its_member() {
    let signer = Signer::p256();
    let (gateway, _) = start("", &bound(&signer, "")).await;
    let url = gateway.at(PREFLIGHT);
    let (header, claims) = (signer.header(), || claims("POST", &url, KEY));
    let with_header = |from: &str, to: &str| {
        assert!(header.contains(from), "{from}");
        signer.sign(&header.replacen(from, to, 1), &claims())
    };
    let with_claims = |from: &str, to: &str| {
        let claims = claims();
        assert!(claims.contains(from), "{from}");
        signer.sign(&header, &claims.replacen(from, to, 1))
    };
    let (early, late) = (format!("{}", NOW - 61), format!("{}", NOW + 61));
    let now = NOW.to_string();
    let huge = format!("{}\"", "j".repeat(8192));
    let cases = [
        (with_header("dpop+jwt", "JWT"), "typ: "),
        (with_header(r#""typ":"dpop+jwt","#, ""), "typ: "),
        (with_header("ES256", "none"), "alg: unsupported"),
        (with_header("ES256", "HS256"), "alg: unsupported"),
        (with_header("ES256", "RS256"), "alg: unsupported"),
        (with_header("ES256", "EdDSA"), "alg: EdDSA is not the algorithm of the key"),
        (with_header(r#""typ""#, r#""alg":"ES256","typ""#), "DPoP: "),
        (with_header(r#""typ""#, r#""crit":["b64"],"b64":false,"typ""#), "crit: "),
        (with_header(r#""jwk""#, r#""kid""#), "jwk: missing"),
        (with_header(r#""kty":"EC""#, r#""kty":"EC","d":"AAAA""#), "jwk: d: expected a public key"),
        (with_header(r#""kty":"EC""#, r#""kty":"oct","k":"AAAA""#), "jwk: k: expected a public key"),
        (with_header(r#""kty":"EC""#, r#""kty":"EC","alg":"RS256""#), "jwk: alg: "),
        (with_header("P-256", "P-384"), "jwk: kty: "),
        (with_header(r#""x":""#, r#""x":"AA"#), "jwk: x: "),
        (with_claims(r#""htm":"POST""#, r#""htm":"GET""#), "htm: "),
        (with_claims(r#""htm":"POST","#, ""), "htm: missing"),
        (with_claims("/actions/preflight", "/evidence/events"), "htu: "),
        (with_claims("http://127.0.0.1", "http://evil.example"), "htu: "),
        (with_claims(r#""htu":""#, r#""other":""#), "htu: missing"),
        (with_claims(&now, &early), "iat: "),
        (with_claims(&now, &late), "iat: "),
        (with_claims(&now, "\"now\""), "iat: "),
        (with_claims(r#""ath":""#, r#""ath":"A"#), "ath: "),
        (with_claims(r#""ath":""#, r#""other":""#), "ath: "),
        (with_claims(r#""ath":""#, r#""ath":1,"other":""#), "ath: expected a string"),
        (with_claims(r#""jti":"proof"#, r#""other":"proof"#), "jti: missing"),
        (with_claims(r#""jti":"proof-"#, r#""jti":"","other":""#), "jti: missing"),
        (with_claims(r#""htm""#, r#""jti":"twice","htm""#), "DPoP: "),
        (
            with_claims(r#""jti":"proof"#, &format!("\"jti\":\"{huge},\"other\":\"")),
            "DPoP: expected at most 8192",
        ),
        (signer.sign(&header, "[]"), "DPoP: "),
        (signer.prove("POST", &url, KEY) + "A", "DPoP: "),
        (signer.prove("POST", &url, KEY) + ".", "DPoP: "),
        (format!("{}.", signer.prove("POST", &url, KEY).rsplit_once('.').unwrap().0), "DPoP: the signature"),
        ("not a proof".to_owned(), "DPoP: "),
        (String::new(), "DPoP: "),
        (format!("{0},{0}", signer.prove("POST", &url, KEY)), "DPoP: "),
    ];
    for (proof, problem) in &cases {
        let message = refused(gateway.proven(proof).send().await.unwrap(), "invalid_dpop_proof").await;
        assert!(message.starts_with(problem), "{problem}: {message}");
        assert!(!message.contains(KEY), "{message}");
    }
    // The key of another signer in the header.
    let foreign = Signer::p256().sign(&header, &claims());
    let message = refused(gateway.proven(&foreign).send().await.unwrap(), "invalid_dpop_proof").await;
    assert!(message.starts_with("DPoP: the signature"), "{message}");
    let two =
        gateway.proven(&signer.prove("POST", &url, KEY)).header("dpop", signer.prove("POST", &url, KEY));
    let message = refused(two.send().await.unwrap(), "invalid_dpop_proof").await;
    assert!(message.starts_with("DPoP: expected one header"), "{message}");
    gateway.allowed(&signer.prove("POST", &url, KEY)).await;
    gateway.stop().await;
}

#[tokio::test]
async fn proof_is_accepted_once_for_its_time() {
    let signer = Signer::ed25519(3);
    let (gateway, time) = start("", &bound(&signer, "")).await;
    let url = gateway.at(PREFLIGHT);
    let proof = signer.prove("POST", &url, KEY);
    // Of concurrent uses, one wins.
    let send = || async { gateway.proven(&proof).send().await.unwrap().status().as_u16() };
    let mut found: Vec<_> = futures_util::future::join_all((0..16).map(|_| send())).await;
    found.sort_unstable();
    assert_eq!((found[0], found[1], found[15]), (200, 401, 401));
    for later in [0, 60, 61, 1000] {
        time.store(NOW + later, Ordering::SeqCst);
        let message = refused(gateway.proven(&proof).send().await.unwrap(), "invalid_dpop_proof").await;
        assert!(message.starts_with(if later <= 60 { "jti: used before" } else { "iat: " }), "{message}");
    }
    gateway.stop().await;
}

/// With a nonce, another process accepts no proof of this one.
#[tokio::test]
async fn nonce_binds_proofs_to_the_process() {
    let signer = Signer::p256();
    let keys = bound(&signer, "");
    let (mut gateway, time) = start("dpop_nonce = true", &keys).await;
    let url = gateway.at(PREFLIGHT);
    let response = gateway.proven(&signer.prove("POST", &url, KEY)).send().await.unwrap();
    let nonce = response.headers()["dpop-nonce"].to_str().unwrap().to_owned();
    assert_eq!(response.headers()["cache-control"], "no-store");
    assert!(refused(response, "use_dpop_nonce").await.starts_with("nonce: "));
    let with_nonce = |nonce: &str| {
        let claims = claims("POST", &gateway.at(PREFLIGHT), KEY);
        signer.sign(&signer.header(), &claims.replacen('{', &format!("{{\"nonce\":\"{nonce}\","), 1))
    };
    let response = gateway.proven(&with_nonce(&nonce)).send().await.unwrap();
    assert_eq!(response.headers()["dpop-nonce"], *nonce);
    assert_eq!(response.status(), 200);
    // The next window gives another nonce, and accepts this one.
    time.store(NOW + 60, Ordering::SeqCst);
    let response = gateway.proven(&with_nonce(&nonce)).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_ne!(response.headers()["dpop-nonce"], *nonce);
    refused(gateway.proven(&with_nonce("forged")).send().await.unwrap(), "use_dpop_nonce").await;
    time.store(NOW, Ordering::SeqCst);
    // Requests without a proof get no nonce.
    let plain = gateway.post(PREFLIGHT, "apk_one").body(refund("1", "")).send().await.unwrap();
    assert!(plain.status() == 200 && !plain.headers().contains_key("dpop-nonce"));

    gateway.restart(with("dpop_nonce = true", &keys, &time)).await;
    let again = signer.sign(
        &signer.header(),
        &claims("POST", &gateway.at(PREFLIGHT), KEY).replacen('{', &format!("{{\"nonce\":\"{nonce}\","), 1),
    );
    refused(gateway.proven(&again).send().await.unwrap(), "use_dpop_nonce").await;
    gateway.stop().await;
}

/// Every route that takes an API key takes a bound one, with a proof only.
#[tokio::test]
async fn every_route_needs_the_proof() {
    let signer = Signer::ed25519(5);
    let keys = bound(&signer, "").replace("\"agent\"", "\"operator\"");
    let (gateway, _) = start("", &keys).await;
    let document = gateway.client.get(gateway.at("/openapi.json")).send().await.unwrap();
    let document = json(document).await.1;
    let mut checked = 0;
    for (path, item) in document.member("paths").unwrap().as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if operation.member("security").is_none() {
                continue;
            }
            let place = path.replace("{id}", "x").replace("{chain_id}", "decisions");
            let request = |scheme: &str, proof: Option<String>| {
                let method = reqwest::Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                let request = gateway.client.request(method, gateway.at(&place)).body("{}");
                let request = request.header("authorization", format!("{scheme} {KEY}"));
                let request = request.header("content-type", "application/json");
                proof.into_iter().fold(request, |request, proof| request.header("dpop", proof))
            };
            let bearer = request("Bearer", None).send().await.unwrap();
            assert_eq!(bearer.status(), 401, "{method} {path}");
            let proof = signer.prove(&method.to_uppercase(), &gateway.at(&place), KEY);
            let found = request("DPoP", Some(proof.clone())).send().await.unwrap().status();
            assert_ne!(found, 401, "{method} {path}");
            let replayed = request("DPoP", Some(proof)).send().await.unwrap();
            assert_eq!(replayed.status(), 401, "{method} {path}");
            checked += 1;
        }
    }
    assert!(checked > 25, "{checked}");
    gateway.stop().await;
}

#[tokio::test]
async fn interfaces_without_dpop_refuse_a_bound_key() {
    let signer = Signer::p256();
    let (gateway, _) = start("", &bound(&signer, "").replace("\"agent\"", "\"operator\"")).await;
    let path = "/ext-authz/api/v1/actions/preflight";
    let request = gateway.client.get(gateway.at(path)).header("authorization", format!("DPoP {KEY}"));
    let proof = signer.prove("GET", &gateway.at(path), KEY);
    let (status, body) = json(request.header("dpop", proof).send().await.unwrap()).await;
    assert_eq!((status.as_u16(), text(&body, "error.code")), (403, Some("invalid_token")), "{body}");
    // A proof for the server behind the proxy is not for the gateway.
    let request =
        gateway.client.get(gateway.at(path)).bearer_auth("apk_one").header("dpop", "for the server");
    let (status, body) = json(request.send().await.unwrap()).await;
    assert_eq!(text(&body, "error.code"), None, "{status} {body}");
    // The page: a session carries no proof.
    let page = gateway.client.get(format!("{}/", gateway.url)).send().await.unwrap();
    let cookie = page.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let html = page.text().await.unwrap();
    let token = html.split("name=\"token\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    for (key, status) in [(KEY, 403), ("apdv_one", 303)] {
        let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let login = client.build().unwrap().post(gateway.at("/login")).header("cookie", &cookie);
        let login = login.header("origin", &gateway.url).header("sec-fetch-site", "same-origin");
        let login = login.header("content-type", "application/x-www-form-urlencoded");
        let found = login.body(format!("key={key}&token={token}")).send().await.unwrap().status();
        assert_eq!(found, status, "{key}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn invalid_proofs_are_rate_limited_but_valid_ones_are_not() {
    let signer = Signer::ed25519(9);
    let (gateway, _) = start("", &bound(&signer, "")).await;
    let mut limited = 0;
    for _ in 0..150 {
        limited += usize::from(gateway.proven("wrong").send().await.unwrap().status() == 429);
    }
    assert!(limited > 0);
    gateway.allowed(&signer.prove("POST", &gateway.at(PREFLIGHT), KEY)).await;
    gateway.stop().await;
}

#[tokio::test]
async fn remembered_proofs_are_in_the_metrics() {
    let signer = Signer::ed25519(9);
    let (gateway, _) = start("", &bound(&signer, "")).await;
    gateway.allowed(&signer.prove("POST", &gateway.at(PREFLIGHT), KEY)).await;
    let metrics = gateway.get("/metrics", "apdv_one").send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("actpass_gateway_dpop_proofs_remembered 1.0\n"), "{metrics}");
    gateway.stop().await;
}

#[test]
fn settings_name_the_invalid_member() {
    let signer = Signer::ed25519(1);
    let good = bound(&signer, "");
    for (keys, problem) in [
        (
            good.replace(&signer.thumbprint(), "x"),
            "keys[4].dpop_jkt: expected the thumbprint of a public key",
        ),
        (good.replace(&signer.thumbprint(), &"_".repeat(43)), "keys[4].dpop_jkt: expected the thumbprint"),
        (good.replace("dpop_jkt = \"", "dpop_jkt = 1 #"), "keys[4].dpop_jkt: expected a non-empty string"),
        (
            bound(&signer, "certificate = \"spiffe://e.org/a\"\ncertificate_authenticates = true"),
            "keys[4].dpop_jkt: conflicts with certificate_authenticates",
        ),
    ] {
        let text = format!("{}{keys}", common::config(""));
        let found = Settings::parse(&text, std::path::Path::new("")).unwrap_err().to_string();
        assert!(found.contains(problem), "{problem}: {found}");
    }
    let found = Settings::parse(&format!("dpop_nonce = 1\n{}", common::config("")), std::path::Path::new(""));
    assert!(found.unwrap_err().to_string().contains("dpop_nonce: expected true or false"));
}

const ISSUE: &str = "/api/v1/passports/issue";

fn passport(more: &str) -> String {
    format!(
        r#"{{"audience": "mcp://shop", "agent_id": "sdk", "goal": "refund an order",
            "allowed_tools": ["refunds.create"]{more}}}"#
    )
}

async fn issue(gateway: &Gateway, more: &str) -> String {
    let (status, body) =
        json(gateway.post(ISSUE, "apk_one").body(passport(more)).send().await.unwrap()).await;
    assert_eq!(status, 200, "{body}");
    text(&body, "token").unwrap().to_owned()
}

fn with_passport(token: &str) -> String {
    refund("100", &format!(r#", "passport": "{token}", "audience": "mcp://shop""#))
}

#[tokio::test]
async fn passport_with_cnf_needs_a_proof_by_its_key() {
    let (holder, other) = (Signer::p256(), Signer::ed25519(2));
    let (gateway, _) = start("", "").await;
    let url = gateway.at(PREFLIGHT);
    let cnf = format!(r#", "cnf": {{"jkt": "{}"}}"#, holder.thumbprint());
    let token = issue(&gateway, &cnf).await;
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claimed = Json::parse(&payload).unwrap();
    assert_eq!(text(&claimed, "cnf.jkt"), Some(&*holder.thumbprint()));
    let decide = async |proof: Option<String>| {
        let request = gateway.post(PREFLIGHT, "apk_one").body(with_passport(&token));
        let request = proof.into_iter().fold(request, |request, proof| request.header("dpop", proof));
        let (status, body) = json(request.send().await.unwrap()).await;
        assert_eq!(status, 200, "{body}");
        [text(&body, "decision").unwrap().to_owned(), text(&body, "reason_code").unwrap().to_owned()]
    };
    assert_eq!(decide(None).await, ["deny", "passport.key"]);
    assert_eq!(decide(Some(other.prove("POST", &url, "apk_one"))).await, ["deny", "passport.key"]);
    // The first valid presentation uses it.
    assert_eq!(decide(Some(holder.prove("POST", &url, "apk_one"))).await[0], "allow");
    assert_eq!(decide(Some(holder.prove("POST", &url, "apk_one"))).await, ["deny", "passport.replayed"]);
    gateway.stop().await;
}

#[tokio::test]
async fn passport_with_cnf_needs_the_proof_in_authzen_too() {
    let holder = Signer::p256();
    let (gateway, _) = start("", &bound(&holder, "")).await;
    let cnf = format!(r#", "cnf": {{"jkt": "{}"}}"#, holder.thumbprint());
    let evaluation = |token: &str| {
        format!(
            r#"{{"subject": {{"type": "agent", "id": "sdk"}}, "action": {{"name": "refunds.create",
                "properties": {{"amount": 100, "currency": "usd"}}}}, "resource": {{"type": "order", "id": "7"}},
                "context": {{"goal": "refund an order", "actpass": {{"passport": "{token}", "audience": "mcp://shop"}}}}}}"#
        )
    };
    for path in ["/access/v1/evaluation", "/access/v1/evaluations"] {
        let token = issue(&gateway, &cnf).await;
        let body = match path {
            "/access/v1/evaluation" => evaluation(&token),
            _ => format!(r#"{{"evaluations": [{}]}}"#, evaluation(&token)),
        };
        let reason = async |response: Response| {
            let (status, body) = json(response).await;
            assert_eq!(status, 200, "{body}");
            let found = body.to_string();
            let reason = found.split("\"reason_code\":\"").nth(1).unwrap();
            reason.split('"').next().unwrap().to_owned()
        };
        let without = gateway.post(path, "apk_one").body(body.clone()).send().await.unwrap();
        assert_eq!(reason(without).await, "passport.key", "{path}");
        let proof = holder.prove("POST", &gateway.at(path), KEY);
        let with = gateway.client.post(gateway.at(path)).header("authorization", format!("DPoP {KEY}"));
        let with = with.header("content-type", "application/json").header("dpop", proof).body(body);
        assert_ne!(reason(with.send().await.unwrap()).await, "passport.key", "{path}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn verify_compares_the_key_that_the_caller_checked() {
    let holder = Signer::ed25519(4);
    let (gateway, _) = start("", "").await;
    let bound = issue(&gateway, &format!(r#", "cnf": {{"jkt": "{}"}}"#, holder.thumbprint())).await;
    let free = issue(&gateway, "").await;
    let verify = async |token: &str, more: &str| {
        let body = format!(r#"{{"token": "{token}", "audience": "mcp://shop"{more}}}"#);
        let response = gateway.post("/api/v1/passports/verify", "apk_one").body(body).send().await.unwrap();
        let (status, body) = json(response).await;
        assert_eq!(status, 200, "{body}");
        body.member("errors").unwrap().to_string()
    };
    let jkt = format!(r#", "dpop_jkt": "{}""#, holder.thumbprint());
    let other = format!(r#", "dpop_jkt": "{}""#, Signer::ed25519(5).thumbprint());
    assert_eq!(verify(&bound, "").await, "[]", "possession is the caller's to check");
    assert_eq!(verify(&bound, &jkt).await, "[]");
    assert_eq!(verify(&bound, &other).await, r#"["passport.key"]"#);
    assert_eq!(verify(&free, &jkt).await, "[]", "bound to no key");
    gateway.stop().await;
}

#[tokio::test]
async fn issue_names_an_invalid_cnf() {
    let (gateway, _) = start("", "").await;
    for (cnf, problem) in [
        (r#""x""#, "cnf: expected an object"),
        ("{}", "cnf.jkt: missing; expected the thumbprint"),
        (r#"{"jkt": 1}"#, "cnf.jkt: expected the thumbprint"),
        (r#"{"jkt": "short"}"#, "cnf.jkt: expected the thumbprint"),
        (r#"{"x5t#S256": "x"}"#, "cnf.x5t#S256: unknown member"),
    ] {
        let body = passport(&format!(r#", "cnf": {cnf}"#));
        let (status, body) = json(gateway.post(ISSUE, "apk_one").body(body).send().await.unwrap()).await;
        assert_eq!(status, 422, "{body}");
        assert!(text(&body, "error.message").unwrap().starts_with(problem), "{problem}: {body}");
    }
    gateway.stop().await;
}

/// The real clock, once.
#[tokio::test]
async fn proof_of_the_present_is_accepted_by_the_system_clock() {
    let signer = Signer::p256();
    let keys = bound(&signer, "");
    let text = format!("{}{keys}", common::config(""));
    let gateway = Gateway::start_with("", |settings| {
        let data = settings.data.clone();
        *settings = Settings::parse(&text, std::path::Path::new("")).unwrap();
        settings.data = data;
    })
    .await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().to_string();
    let claims = claims("POST", &gateway.at(PREFLIGHT), KEY).replace(&NOW.to_string(), &now);
    gateway.allowed(&signer.sign(&signer.header(), &claims)).await;
    gateway.stop().await;
}
