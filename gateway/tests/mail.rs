//! E-mails, as a mail server sees them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actpass_gateway::config::Settings;
use actpass_protocol::Json;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{Gateway, config_with, json, refund, shipped_policy, text};
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

const PASSWORD: &str = "smtp-password-secret";

/// A mail as received.
#[derive(Clone, Debug)]
struct Received {
    /// The commands of its connection; the argument of AUTH is decoded.
    commands: Vec<String>,
    is_encrypted: bool,
    data: String,
}

impl Received {
    /// Returns the lines of the header, with continuations joined.
    fn headers(&self) -> Vec<String> {
        let (head, _) = self.data.split_once("\r\n\r\n").unwrap();
        head.replace("\r\n ", " ").split("\r\n").map(str::to_owned).collect()
    }

    fn header(&self, name: &str) -> String {
        let start = format!("{name}: ");
        let found: Vec<_> =
            self.headers().iter().filter_map(|line| line.strip_prefix(&start)).map(str::to_owned).collect();
        assert_eq!(found.len(), 1, "{name}: {}", self.data);
        found[0].clone()
    }

    /// Returns the lines of the body, decoded.
    fn lines(&self) -> Vec<String> {
        let (_, body) = self.data.split_once("\r\n\r\n").unwrap();
        let body = match &*self.header("Content-Transfer-Encoding") {
            "7bit" => body.to_owned(),
            "quoted-printable" => unquote(&body.replace("=\r\n", "")),
            "base64" => String::from_utf8(STANDARD.decode(body.replace("\r\n", "")).unwrap()).unwrap(),
            other => panic!("{other}"),
        };
        body.split("\r\n").map(str::to_owned).collect()
    }
}

fn unquote(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((plain, coded)) = rest.split_once('=') {
        bytes.extend_from_slice(plain.as_bytes());
        let (digits, after) = coded.split_at(2);
        bytes.push(u8::from_str_radix(digits, 16).unwrap());
        rest = after;
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).unwrap()
}

#[derive(Clone)]
struct Behaviour {
    /// The start of a command, and the reply to it in place of success.
    refuses: Arc<Mutex<Option<(&'static str, &'static str)>>>,
    /// The number of connections.
    attempts: Arc<AtomicU64>,
    /// Commands of connections that are not encrypted.
    plain: Arc<Mutex<Vec<String>>>,
    mails: watch::Sender<Vec<Received>>,
    /// STARTTLS, or TLS from the start.
    tls: Option<(TlsAcceptor, bool)>,
}

/// A mail server.
struct MailServer {
    port: u16,
    behaviour: Behaviour,
    serving: Option<JoinHandle<()>>,
}

impl MailServer {
    async fn start(tls: Option<(TlsAcceptor, bool)>) -> Self {
        let behaviour = Behaviour {
            refuses: Arc::default(),
            attempts: Arc::default(),
            plain: Arc::default(),
            mails: watch::channel(Vec::new()).0,
            tls,
        };
        let mut server = Self { port: 0, behaviour, serving: None };
        server.listen().await;
        server
    }

    async fn listen(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        self.port = listener.local_addr().unwrap().port();
        let behaviour = self.behaviour.clone();
        self.serving = Some(tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                behaviour.attempts.fetch_add(1, Ordering::SeqCst);
                let behaviour = behaviour.clone();
                tokio::spawn(async move { behaviour.serve(stream).await });
            }
        }));
    }

    async fn stop(&mut self) {
        let serving = self.serving.take().unwrap();
        serving.abort();
        let _ = serving.await;
    }

    fn refuse(&self, refusal: Option<(&'static str, &'static str)>) {
        *self.behaviour.refuses.lock().unwrap() = refusal;
    }

    /// Waits for this number of accepted mails.
    async fn mails(&self, count: usize) -> Vec<Received> {
        let mut mails = self.behaviour.mails.subscribe();
        let waited =
            tokio::time::timeout(Duration::from_secs(60), mails.wait_for(|m| m.len() >= count)).await;
        match waited {
            Ok(found) => found.unwrap().clone(),
            Err(_) => panic!("{count} mails expected: {:?}", self.behaviour.mails.borrow()),
        }
    }

    /// Waits for this number of attempts.
    async fn attempts(&self, count: u64) {
        let waited = async {
            while self.behaviour.attempts.load(Ordering::SeqCst) < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waited).await.expect("attempts");
    }
}

impl Behaviour {
    async fn serve(&self, stream: TcpStream) {
        match &self.tls {
            Some((tls, true)) => {
                let Ok(stream) = tls.accept(stream).await else { return };
                self.converse(stream, true, "220 ready\r\n").await;
            }
            Some((tls, false)) => {
                let Some(stream) = self.converse(stream, false, "220 ready\r\n").await else { return };
                let Ok(stream) = tls.accept(stream).await else { return };
                self.converse(stream, true, "").await;
            }
            None => drop(self.converse(stream, false, "220 ready\r\n").await),
        }
    }

    /// Returns the stream after STARTTLS.
    async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        is_encrypted: bool,
        greeting: &str,
    ) -> Option<S> {
        let mut stream = BufReader::new(stream);
        let mut commands = Vec::new();
        stream.get_mut().write_all(greeting.as_bytes()).await.ok()?;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            let mut command = line.trim_end().to_owned();
            if let Some(coded) = command.strip_prefix("AUTH PLAIN ") {
                let decoded = String::from_utf8(STANDARD.decode(coded).unwrap()).unwrap();
                command = format!("AUTH PLAIN {}", decoded.replace('\0', "/"));
            }
            if !is_encrypted {
                self.plain.lock().unwrap().push(command.clone());
            }
            commands.push(command.clone());
            let refusal = *self.refuses.lock().unwrap();
            let reply = match command.split([' ', ':']).next().unwrap_or_default() {
                _ if refusal.is_some_and(|(start, _)| command.starts_with(start)) => {
                    // A server may repeat the command.
                    format!("{} {command}", refusal.unwrap().1)
                }
                "EHLO" if is_encrypted => "250-mail\r\n250 AUTH PLAIN".to_owned(),
                "EHLO" if self.tls.is_some() => "250-mail\r\n250 STARTTLS".to_owned(),
                "EHLO" => "250-mail\r\n250 8BITMIME".to_owned(),
                "STARTTLS" => {
                    stream.get_mut().write_all(b"220 go ahead\r\n").await.ok()?;
                    return Some(stream.into_inner());
                }
                "AUTH" => "235 welcome".to_owned(),
                "DATA" => {
                    stream.get_mut().write_all(b"354 go ahead\r\n").await.ok()?;
                    let mut data = String::new();
                    while !data.ends_with("\r\n.\r\n") {
                        if stream.read_line(&mut data).await.ok()? == 0 {
                            return None;
                        }
                    }
                    let data = data.strip_suffix(".\r\n").unwrap().replace("\r\n..", "\r\n.");
                    let mail = Received { commands: commands.clone(), is_encrypted, data };
                    self.mails.send_modify(|mails| mails.push(mail));
                    "250 accepted".to_owned()
                }
                "QUIT" => "221 bye".to_owned(),
                _ => "250 ok".to_owned(),
            };
            stream.get_mut().write_all(format!("{reply}\r\n").as_bytes()).await.ok()?;
        }
    }
}

/// Creates a certificate of localhost in a folder and returns its file and an acceptor.
fn certificate(folder: &Path) -> (PathBuf, TlsAcceptor) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = folder.join("mail-ca.pem");
    std::fs::write(&file, made.cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (file, TlsAcceptor::from(Arc::new(config)))
}

/// Changes the settings of a gateway to those with e-mails to the server with more members.
fn with(port: u16, policy: &str, more: &str) -> impl Fn(&mut Settings) + use<> {
    let mut config = config_with("", policy);
    write!(
        config,
        "[[mail]]\nname = \"on-call\"\nport = {port}\nfrom = \"ActPass <actpass@gateway.example>\"\n\
         to = [\"Alice <alice@one.example>\", \"bob@one.example\"]\ndanger_allow_private_address = true\n\
         max_retry_seconds = 1\ntimeout_seconds = 5\n{more}\n"
    )
    .unwrap();
    if !more.contains("encryption") {
        config += "server = \"127.0.0.1\"\nencryption = \"none\"\n";
    }
    move |current| {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("mail.password"), format!("{PASSWORD}\n")).unwrap();
        let changed = Settings::parse(&config, folder.path()).unwrap_or_else(|problems| panic!("{problems}"));
        let data = current.data.clone();
        *current = changed;
        current.data = data;
    }
}

async fn start(server: &MailServer, more: &str) -> Gateway {
    Gateway::start_with("", with(server.port, &shipped_policy("dev.json"), more)).await
}

/// Opens an approval and returns its id.
async fn request(gateway: &Gateway, key: &str, more: &str) -> String {
    let response = gateway.decide(key, &refund("25000", more)).await;
    text(&response, "approval_request_id").unwrap_or_else(|| panic!("{response}")).to_owned()
}

/// Waits for messages that were set aside.
async fn dead_letters(gateway: &Gateway) -> Vec<Json> {
    let found = async {
        loop {
            let response = gateway.get("/api/v1/webhooks/dead_letters", "apdv_one").send().await.unwrap();
            match json(response).await.1.member("dead_letters") {
                Some(Json::Array(found)) if !found.is_empty() => break found.clone(),
                Some(Json::Array(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), found).await.expect("dead letters")
}

/// Waits for the last problem of the e-mails.
async fn problem(gateway: &Gateway) -> String {
    let found = async {
        loop {
            let response = gateway.get("/api/v1/webhooks", "apdv_one").send().await.unwrap();
            let body = json(response).await.1;
            let Some(Json::Array(webhooks)) = body.member("webhooks") else { panic!("{body}") };
            assert_eq!(text(&webhooks[0], "form"), Some("mail"));
            if let Some(problem) = text(&webhooks[0], "problem") {
                break problem.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), found).await.expect("a problem")
}

#[tokio::test]
async fn mail_contains_the_facts_and_arguments_only_if_configured() {
    for (more, has_arguments) in [("", false), ("arguments = true", true)] {
        let server = MailServer::start(None).await;
        let gateway = start(&server, more).await;
        let id = request(&gateway, "apk_one", "").await;
        let verb = format!("/api/v1/approvals/{id}/approve");
        assert_eq!(gateway.post(&verb, "apdv_one").body("{}").send().await.unwrap().status(), 200);
        let mails = server.mails(2).await;
        assert_eq!(mails[0].header("Subject"), "ActPass: An action needs your approval: refunds.create");
        assert_eq!(mails[1].header("Subject"), "ActPass: approved by name-of-apdv-one: refunds.create");
        let link = format!("{}/approvals/{id}", gateway.url);
        let has = |mail: &Received, line: &str| mail.lines().iter().any(|found| found == line);
        for mail in &mails {
            assert_eq!(mail.header("From"), "ActPass <actpass@gateway.example>");
            assert_eq!(mail.header("To"), "Alice <alice@one.example>, bob@one.example");
            assert_eq!(mail.header("Auto-Submitted"), "auto-generated");
            assert_eq!(mail.header("Content-Type"), "text/plain; charset=utf-8");
            assert!(mail.commands.iter().any(|command| command == "RCPT TO:<bob@one.example>"));
            for line in ["Tenant: one", "Tool: refunds.create", "Goal: refund an order", &*link] {
                assert!(has(mail, line), "{line}: {:?}", mail.lines());
            }
            let arguments = r#"Arguments: {"amount":25000,"currency":"usd"}"#;
            assert_eq!(has(mail, arguments), has_arguments, "{:?}", mail.lines());
            assert_eq!(mail.data.contains("25000"), has_arguments, "{}", mail.data);
            for secret in ["apk_", "apdv_", PASSWORD] {
                assert!(!mail.lines().join("\n").contains(secret) && !mail.data.contains(secret), "{secret}");
            }
        }
        let events = gateway.events("apdv_one", "decisions").await;
        let event = text(&events[0], "event_id").unwrap();
        assert_eq!(
            mails[0].header("Message-ID"),
            format!("<{event}_approval_requested@gateway.example>"),
            "a repeated e-mail has the same id"
        );
        gateway.stop().await;
    }
}

#[tokio::test]
async fn mails_arrive_in_order_after_server_was_down() {
    let mut server = MailServer::start(None).await;
    let mut gateway = start(&server, "").await;
    server.stop().await;
    let mut expected = Vec::new();
    for user in 0..3 {
        expected.push(request(&gateway, "apk_one", &format!(r#", "user_id": "u{user}""#)).await);
    }
    assert!(problem(&gateway).await.contains("onnection refused"));
    // Another process continues.
    gateway.restart(with(server.port, &shipped_policy("dev.json"), "")).await;
    server.listen().await;
    let found = server.mails(3).await;
    for (mail, id) in found.iter().zip(&expected) {
        assert!(mail.lines().iter().any(|line| line.ends_with(&format!("/approvals/{id}"))), "{mail:?}");
    }
    assert_eq!(found.len(), 3);
    gateway.stop().await;
}

#[tokio::test]
async fn temporary_failure_is_retried_with_the_same_mail() {
    let server = MailServer::start(None).await;
    let gateway = start(&server, "").await;
    server.refuse(Some(("RCPT TO:<bob", "451")));
    request(&gateway, "apk_one", "").await;
    server.attempts(3).await;
    assert_eq!(problem(&gateway).await, "the server responded 451 to the message");
    server.refuse(None);
    let mails = server.mails(1).await;
    // The time in the header is that of the event, so each attempt sends the same bytes.
    let events = gateway.events("apdv_one", "decisions").await;
    let at = text(&events[0], "created_at").unwrap();
    let sent = mails[0].header("Date");
    assert!(sent.contains(at.get(11..19).unwrap()), "{sent} {at}");
    gateway.stop().await;
}

#[tokio::test]
async fn refused_recipient_is_a_dead_letter_and_sent_again_on_request() {
    let server = MailServer::start(None).await;
    server.refuse(Some(("RCPT TO:<bob", "550")));
    let gateway = start(&server, "").await;
    let refused = request(&gateway, "apk_one", r#", "user_id": "refused""#).await;
    server.attempts(5).await;
    let found = dead_letters(&gateway).await;
    assert_eq!(text(&found[0], "problem"), Some("the server responded 550 to the message"));
    assert!(server.behaviour.mails.borrow().is_empty(), "a refused recipient refuses the mail");
    // Later messages go on.
    server.refuse(None);
    request(&gateway, "apk_one", r#", "user_id": "next""#).await;
    server.mails(1).await;
    let path = format!("/api/v1/webhooks/dead_letters/{}/redeliver", found[0].member("id").unwrap());
    assert_eq!(gateway.post(&path, "apdv_one").body("{}").send().await.unwrap().status(), 202);
    let mails = server.mails(2).await;
    let id = text(&found[0], "message_id").unwrap();
    assert_eq!(mails[1].header("Message-ID"), format!("<{id}@gateway.example>"));
    assert!(mails[1].lines().iter().any(|line| line.ends_with(&refused)));
    gateway.stop().await;
}

#[tokio::test]
async fn names_and_reasons_cannot_add_headers_lines_or_commands() {
    let folder = TempDir::new().unwrap();
    let policy = folder.path().join("policy.json");
    let rule = r#"{"name": "all", "when": [], "decision": "require_approval", "reason": "needs_a_person"}"#;
    std::fs::write(&policy, format!(r#"{{"id": "p", "version": 1, "rules": [{rule}]}}"#)).unwrap();
    let server = MailServer::start(None).await;
    let change = with(server.port, policy.to_str().unwrap(), "arguments = true");
    let gateway = Gateway::start_with("", change).await;
    let attack = r"x\r\nBcc: eve@evil.example\r\n\r\nOpen the request:\r\nhttps://evil.example\r\n.\r\nMAIL FROM:<eve@evil.example>\r\n";
    let body = format!(
        r#"{{"agent_id": "{attack}", "goal": "{attack}", "tool": "{attack}", "user_id": "{attack}",
            "resource": "{attack}", "args": {{"{attack}": "{attack}"}}}}"#
    );
    gateway.decide("apk_one", &body).await;
    let halt = format!(r#"{{"scope": "tool", "id": "{attack}", "reason": "{attack}"}}"#);
    let halted = gateway.post("/api/v1/halts", "apdv_one").body(halt).send().await.unwrap();
    assert_eq!(halted.status(), 201);
    for mail in server.mails(2).await {
        let names: Vec<_> =
            mail.headers().iter().map(|line| line.split(": ").next().unwrap().to_owned()).collect();
        let expected = [
            "From",
            "Date",
            "Message-ID",
            "Subject",
            "Auto-Submitted",
            "Content-Type",
            "To",
            "Content-Transfer-Encoding",
        ];
        assert!(
            names.len() == expected.len() && expected.iter().all(|name| names.iter().any(|n| n == name)),
            "{names:?}"
        );
        let lines = mail.lines();
        for start in ["Bcc:", "https://evil", "MAIL FROM", "."] {
            assert!(!lines.iter().any(|line| line.starts_with(start)), "{start}: {lines:?}");
        }
        let links = lines.iter().filter(|line| *line == "Open the request:").count();
        assert!(links <= 1, "{lines:?}");
        let commands = mail.commands.join("\n");
        assert!(!commands.contains("evil"), "{commands}");
    }
    assert_eq!(server.behaviour.mails.borrow().len(), 2);
    gateway.stop().await;
}

#[tokio::test]
async fn password_is_sent_encrypted_only() {
    let folder = TempDir::new().unwrap();
    let (ca, tls) = certificate(folder.path());
    for (encryption, from_start) in [("starttls", false), ("tls", true)] {
        let server = MailServer::start(Some((tls.clone(), from_start))).await;
        let more = format!(
            "server = \"localhost\"\nencryption = \"{encryption}\"\nca = {ca:?}\nuser = \"actpass\"\n\
             password_file = \"mail.password\""
        );
        let gateway = start(&server, &more).await;
        request(&gateway, "apk_one", "").await;
        let mail = server.mails(1).await.remove(0);
        assert!(mail.is_encrypted);
        let signed_in = format!("AUTH PLAIN /actpass/{PASSWORD}");
        assert!(mail.commands.contains(&signed_in), "{:?}", mail.commands);
        let plain = server.behaviour.plain.lock().unwrap().join("\n");
        assert!(!plain.contains("AUTH") && !plain.contains("MAIL"), "{plain}");
        // A refused sign-in does not show what the server repeats.
        server.refuse(Some(("AUTH", "535")));
        request(&gateway, "apk_one", r#", "user_id": "next""#).await;
        assert_eq!(problem(&gateway).await, "the server responded 535 to the sign-in");
        gateway.stop().await;
    }
}

#[tokio::test]
async fn mail_is_not_sent_without_the_configured_encryption() {
    let folder = TempDir::new().unwrap();
    let (ca, tls) = certificate(folder.path());
    let (_, other) = certificate(TempDir::new().unwrap().path());
    // A server without STARTTLS, one with plain text in place of TLS, and one with another
    // certificate.
    for (encryption, tls, expected) in [
        ("starttls", None, "STARTTLS: "),
        ("tls", None, "connection: "),
        ("tls", Some((other, true)), "connection: "),
        ("starttls", Some((tls, false)), ""),
    ] {
        let is_sent = expected.is_empty();
        let server = MailServer::start(tls).await;
        let more = format!("server = \"localhost\"\nencryption = \"{encryption}\"\nca = {ca:?}");
        let gateway = start(&server, &more).await;
        request(&gateway, "apk_one", "").await;
        if is_sent {
            server.mails(1).await;
        } else {
            let problem = problem(&gateway).await;
            assert!(problem.starts_with(expected), "{problem}");
            let plain = server.behaviour.plain.lock().unwrap().join("\n");
            assert!(!plain.contains("MAIL"), "{plain}");
            assert!(server.behaviour.mails.borrow().is_empty());
        }
        gateway.stop().await;
    }
}
