//! Sign-in by OpenID Connect, at a provider that can misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use actpass_gateway::config::Settings;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json as Body, Router};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use common::{Gateway, config, install_provider, refund, text};
use reqwest::redirect::Policy;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A provider's key.
struct Key {
    id: &'static str,
    pair: EcdsaKeyPair,
}

impl Key {
    fn new(id: &'static str) -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random);
        Self { id, pair: pair.unwrap() }
    }

    fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        json!({"kty": "EC", "crv": "P-256", "kid": self.id, "use": "sig", "alg": "ES256", "x": x, "y": y})
    }

    fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": self.id});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(claims));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

/// State of the provider.
struct Provider {
    issuer: String,
    /// Published.
    published: Key,
    /// Signs.
    signing: Key,
    /// Claims of the next ID token, in addition to the regular ones or instead of them.
    claims: Value,
    /// The code that may be redeemed, with the challenge of its sign-in.
    code: Option<(String, String)>,
    nonce: String,
    secret_seen: Option<String>,
}

type Shared = Arc<Mutex<Provider>>;

fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// Starts a provider and returns it.
async fn provider() -> Shared {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let shared = Arc::new(Mutex::new(Provider {
        issuer,
        published: Key::new("one"),
        signing: Key::new("unused"),
        claims: json!({}),
        code: None,
        nonce: String::new(),
        secret_seen: None,
    }));
    let routes = Router::new()
        .route("/.well-known/openid-configuration", get(metadata))
        .route("/jwks", get(jwks))
        .route("/token", post(token))
        .with_state(Arc::clone(&shared));
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    shared
}

async fn metadata(State(provider): State<Shared>) -> Body<Value> {
    let issuer = provider.lock().unwrap().issuer.clone();
    Body(json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"),
        "jwks_uri": format!("{issuer}/jwks"),
        "token_endpoint_auth_methods_supported": ["client_secret_basic"],
    }))
}

async fn jwks(State(provider): State<Shared>) -> Body<Value> {
    Body(json!({"keys": [provider.lock().unwrap().published.jwk()]}))
}

async fn token(State(provider): State<Shared>, headers: HeaderMap, form: String) -> axum::response::Response {
    let form: HashMap<String, String> = form_urlencoded::parse(form.as_bytes()).into_owned().collect();
    let mut provider = provider.lock().unwrap();
    provider.secret_seen = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&form["code_verifier"]));
    let is_known = provider.code.take() == Some((form["code"].clone(), challenge));
    if !is_known {
        return (StatusCode::BAD_REQUEST, Body(json!({"error": "invalid_grant"}))).into_response();
    }
    let mut claims = json!({
        "iss": provider.issuer, "aud": "actpass", "sub": "u-1", "exp": now() + 300, "iat": now(),
        "nonce": provider.nonce, "email": "alice@example.com", "email_verified": true,
        "groups": ["finance", "actpass-operators"], "sid": "s-1",
    });
    for (name, value) in provider.claims.as_object().unwrap() {
        claims[name] = value.clone();
    }
    let signs = if provider.signing.id == "unused" { &provider.published } else { &provider.signing };
    Body(json!({"access_token": "a", "token_type": "Bearer", "id_token": signs.sign(&claims)}))
        .into_response()
}

fn with(provider: &Shared, more: &str) -> impl FnOnce(&mut Settings) + use<> {
    let (issuer, more) = (provider.lock().unwrap().issuer.clone(), more.to_owned());
    move |settings| {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("secret"), "client-secret\n").unwrap();
        let text = config("")
            + &format!(
                "[sign_in]\nissuer = \"{issuer}\"\nclient_id = \"actpass\"\nclient_secret_file = \"secret\"\n\
                 tenant = \"one\"\ndanger_allow_private_address = true\n{more}\n\
                 [[sign_in.roles]]\ngroup = \"actpass-auditors\"\nrole = \"auditor\"\n\
                 [[sign_in.roles]]\ngroup = \"actpass-operators\"\nrole = \"operator\"\n"
            );
        let data = settings.data.clone();
        *settings = Settings::parse(&text, folder.path()).unwrap_or_else(|problems| panic!("{problems}"));
        settings.data = data;
    }
}

/// A browser: cookies, and no redirects followed.
struct Browser {
    client: reqwest::Client,
    cookies: HashMap<String, String>,
    url: String,
}

impl Browser {
    fn new(url: &str) -> Self {
        install_provider();
        let client = reqwest::Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
        Self { client, cookies: HashMap::new(), url: url.to_owned() }
    }

    async fn get(&mut self, path: &str) -> (StatusCode, HeaderMap, String) {
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = self.client.get(format!("{}{path}", self.url)).header("cookie", cookies.join("; "));
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        for cookie in headers.get_all(header::SET_COOKIE) {
            let (pair, attributes) = cookie.to_str().unwrap().split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            assert!(attributes.contains("HttpOnly"), "{attributes}");
            if name != "actpass-sign-in" {
                assert!(attributes.contains("SameSite=Strict"), "{attributes}");
            }
            match attributes.contains("Max-Age=0") {
                true => self.cookies.remove(name),
                false => self.cookies.insert(name.to_owned(), value.to_owned()),
            };
        }
        (status, headers, response.text().await.unwrap())
    }

    /// Begins a sign-in, lets the provider accept it and returns the path of the callback.
    async fn begin(&mut self, provider: &Shared) -> String {
        let (status, headers, page) = self.get("/sign-in").await;
        assert_eq!(status, 303, "{page}");
        let location = headers[header::LOCATION].to_str().unwrap();
        let (place, query) = location.split_once('?').unwrap();
        let query: HashMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let mut provider = provider.lock().unwrap();
        assert_eq!(place, format!("{}/authorize", provider.issuer));
        for (name, value) in [
            ("client_id", "actpass"),
            ("response_type", "code"),
            ("code_challenge_method", "S256"),
            ("scope", "openid email groups"),
            ("redirect_uri", &format!("{}/sign-in/callback", self.url)),
        ] {
            assert_eq!(query[name], value, "{name}");
        }
        provider.code = Some(("c-1".to_owned(), query["code_challenge"].clone()));
        provider.nonce.clone_from(&query["nonce"]);
        format!("/sign-in/callback?code=c-1&state={}", query["state"])
    }

    /// Whether the overview is shown.
    async fn is_in(&mut self) -> bool {
        let (status, _, page) = self.get("/").await;
        assert_eq!(status, 200);
        !page.contains("type=\"password\"")
    }
}

async fn start(provider: &Shared) -> Gateway {
    Gateway::start_with("", with(provider, "")).await
}

#[tokio::test]
async fn person_signs_in_and_decides_with_the_role_of_a_group() {
    let provider = provider().await;
    let gateway = start(&provider).await;
    let request = gateway.decide("apk_one", &refund("25000", "")).await;
    let id = text(&request, "approval_request_id").unwrap();

    let mut browser = Browser::new(&gateway.url);
    assert!(browser.get("/").await.2.contains("href=\"/sign-in\""));
    let callback = browser.begin(&provider).await;
    let (status, _, page) = browser.get(&callback).await;
    assert_eq!(status, 200, "{page}");
    assert!(page.contains("http-equiv=\"refresh\""));
    let (_, _, page) = browser.get("/").await;
    assert!(page.contains("alice@example.com") && page.contains(id), "{page}");
    let basic = format!("Basic {}", STANDARD.encode("actpass:client-secret"));
    assert_eq!(provider.lock().unwrap().secret_seen.as_deref(), Some(&*basic));

    let (_, _, page) = browser.get(&format!("/approvals/{id}")).await;
    let field = |name: &str| {
        let at = page.split_once(&format!("name=\"{name}\" value=\"")).unwrap().1;
        at.split_once('"').unwrap().0.to_owned()
    };
    let form: String = form_urlencoded::Serializer::new(String::new())
        .append_pair("shown_hash", &field("shown_hash"))
        .append_pair("note", "")
        .append_pair("token", &field("token"))
        .finish();
    let cookies: Vec<_> = browser.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let response = browser
        .client
        .post(format!("{}/approvals/{id}/approve", gateway.url))
        .header("cookie", cookies.join("; "))
        .header("origin", &gateway.url)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 303);
    let events = gateway.events("apdv_one", "decisions").await;
    let decided = events.iter().find(|event| text(event, "event_type") == Some("approval.approved")).unwrap();
    assert_eq!(text(decided, "metadata.decided_by"), Some("alice@example.com"));
    gateway.stop().await;
}

#[tokio::test]
async fn token_that_does_not_fit_is_refused() {
    let provider = provider().await;
    let gateway = start(&provider).await;
    for (claims, status) in [
        (json!({"aud": "other"}), 502),
        (json!({"aud": ["actpass", "other"]}), 502),
        (json!({"iss": "https://other.example"}), 502),
        (json!({"exp": now() - 61}), 502),
        (json!({"iat": now() + 120}), 502),
        (json!({"nonce": "another"}), 502),
        (json!({"email_verified": false}), 502),
        (json!({"email_verified": "true"}), 502),
        (json!({"email": null}), 502),
        (json!({"groups": ["finance"]}), 403),
        (json!({"groups": null}), 403),
    ] {
        provider.lock().unwrap().claims = claims.clone();
        let mut browser = Browser::new(&gateway.url);
        let callback = browser.begin(&provider).await;
        let (found, _, page) = browser.get(&callback).await;
        assert_eq!(found, status, "{claims}: {page}");
        assert!(!browser.is_in().await, "{claims}");
    }
    // A key that is not the provider's.
    provider.lock().unwrap().claims = json!({});
    provider.lock().unwrap().signing = Key::new("one");
    let mut browser = Browser::new(&gateway.url);
    let callback = browser.begin(&provider).await;
    assert_eq!(browser.get(&callback).await.0, 502);
    assert!(!browser.is_in().await);
    gateway.stop().await;
}

#[tokio::test]
async fn sign_in_ends_once_and_in_its_browser_only() {
    let provider = provider().await;
    let gateway = start(&provider).await;
    let mut alice = Browser::new(&gateway.url);
    let callback = alice.begin(&provider).await;
    // A victim is led to the callback of another person's sign-in.
    let mut victim = Browser::new(&gateway.url);
    assert_eq!(victim.get(&callback).await.0, 403);
    victim.begin(&provider).await;
    assert_eq!(victim.get(&callback).await.0, 403);
    assert!(!victim.is_in().await);

    let callback = alice.begin(&provider).await;
    let before = alice.cookies.clone();
    assert_eq!(alice.get(&callback).await.0, 200);
    assert!(alice.is_in().await);
    // The same state again, with the same cookie and a new code.
    let mut replaying = Browser::new(&gateway.url);
    replaying.cookies = before;
    let challenge = "unused".to_owned();
    provider.lock().unwrap().code = Some(("c-1".to_owned(), challenge));
    assert_eq!(replaying.get(&callback).await.0, 403);
    for query in ["", "?code=c-1", "?state=x", "?error=access_denied"] {
        let mut browser = Browser::new(&gateway.url);
        browser.begin(&provider).await;
        assert_eq!(browser.get(&format!("/sign-in/callback{query}")).await.0, 403, "{query}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn logout_at_the_provider_ends_its_sessions_only() {
    let provider = provider().await;
    let gateway = start(&provider).await;
    let mut browsers = Vec::new();
    for session in ["s-1", "s-2"] {
        provider.lock().unwrap().claims = json!({"sid": session});
        let mut browser = Browser::new(&gateway.url);
        let callback = browser.begin(&provider).await;
        browser.get(&callback).await;
        assert!(browser.is_in().await);
        browsers.push(browser);
    }
    let issuer = provider.lock().unwrap().issuer.clone();
    let events = json!({"http://schemas.openid.net/event/backchannel-logout": {}});
    let logout = json!({"iss": issuer, "aud": "actpass", "iat": now(), "exp": now() + 60, "jti": "j",
        "sid": "s-1", "events": events});
    let sign = |claims: &Value| provider.lock().unwrap().published.sign(claims);
    let post = async |token: String| {
        let body = format!("logout_token={token}");
        let request = gateway.client.post(format!("{}/sign-in/logout", gateway.url)).body(body);
        let response = request.header("content-type", "application/x-www-form-urlencoded").send().await;
        response.unwrap().status().as_u16()
    };
    for (name, value) in [
        ("aud", json!("other")),
        ("iss", json!("https://other.example")),
        ("exp", json!(now() - 61)),
        ("events", json!({})),
        ("nonce", json!("n")),
        ("sid", json!(null)),
    ] {
        let mut wrong = logout.clone();
        wrong[name] = value;
        assert_eq!(post(sign(&wrong)).await, 400, "{name}");
    }
    assert_eq!(post(Key::new("one").sign(&logout)).await, 400, "another key");
    assert_eq!(post("x".to_owned()).await, 400);
    for browser in &mut browsers {
        assert!(browser.is_in().await);
    }
    assert_eq!(post(sign(&logout)).await, 200);
    assert!(!browsers[0].is_in().await);
    assert!(browsers[1].is_in().await);
    // By person.
    let mut of_person = logout;
    of_person["sid"] = json!(null);
    of_person["sub"] = json!("u-1");
    assert_eq!(post(sign(&of_person)).await, 200);
    assert!(!browsers[1].is_in().await);
    gateway.stop().await;
}

#[tokio::test]
async fn session_survives_restart_and_ends_with_the_setting() {
    let provider = provider().await;
    let mut gateway = start(&provider).await;
    let mut browser = Browser::new(&gateway.url);
    let callback = browser.begin(&provider).await;
    browser.get(&callback).await;
    gateway.restart(with(&provider, "")).await;
    browser.url.clone_from(&gateway.url);
    assert!(browser.is_in().await);
    gateway.restart(|_| {}).await;
    browser.url.clone_from(&gateway.url);
    assert!(!browser.is_in().await, "without a provider, sessions of people end");
    assert_eq!(browser.get("/sign-in").await.0, 404);
    gateway.stop().await;
}

#[tokio::test]
async fn unreachable_provider_is_reported() {
    let provider = provider().await;
    provider.lock().unwrap().issuer = "http://127.0.0.1:9".to_owned();
    let gateway = start(&provider).await;
    let mut browser = Browser::new(&gateway.url);
    let (status, _, page) = browser.get("/sign-in").await;
    assert_eq!(status, 502);
    assert!(page.contains("The sign-in failed"), "{page}");
    gateway.stop().await;
}

#[test]
fn sign_in_problems_name_the_member() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("secret"), "hidden").unwrap();
    let good = "issuer = \"https://login.example\"\nclient_id = \"actpass\"\nclient_secret_file = \"secret\"\n\
                tenant = \"one\"\n";
    let roles = "[[sign_in.roles]]\ngroup = \"g\"\nrole = \"approver\"\n";
    let parse = |text: String| {
        let text = format!("{}[sign_in]\n{text}", config(""));
        Settings::parse(&text, folder.path()).map_err(|problems| problems.to_string())
    };
    let settings = parse(format!("{good}{roles}")).unwrap();
    assert!(settings.sign_in.is_some() && !format!("{settings:?}").contains("hidden"));
    for (text, problem) in [
        (good.to_owned(), "sign_in.roles: missing"),
        (
            good.replace("https://login.example", "http://login.example") + roles,
            "sign_in.issuer: expected https",
        ),
        (good.replace("https://login.example", "https://10.0.0.1") + roles, "sign_in.issuer: is a private"),
        (good.replace("\"one\"", "\"three\"") + roles, "sign_in.tenant: unknown tenant"),
        (good.replace("\"secret\"", "\"none\"") + roles, "sign_in.client_secret_file: "),
        (
            format!("{good}session_minutes = 481\n{roles}"),
            "sign_in.session_minutes: expected an integer of 1 to 480",
        ),
        (
            good.to_owned() + &roles.replace("approver", "agent"),
            "sign_in.roles[0].role: expected \"approver\"",
        ),
        (format!("{good}other = 1\n{roles}"), "sign_in.other: unknown member"),
    ] {
        let found = parse(text.clone()).unwrap_err();
        assert!(found.contains(problem), "{text}: {found}");
    }
}
