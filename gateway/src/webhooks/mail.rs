//! Messages by e-mail, over SMTP.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use actpass_protocol::Secret;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message as Email};
use lettre::transport::smtp;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use rustls::pki_types::CertificateDer;

use super::addresses::{is_public, literal};
use super::message::Message;
use super::sender::SenderError;

/// Encryption of the connection to a mail server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all; to loopback addresses only.
    None,
    /// With the command STARTTLS, before the sign-in.
    StartTls,
    /// From the start.
    Tls,
}

impl Encryption {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::None, Self::StartTls, Self::Tls];

    /// The word used in settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::StartTls => "starttls",
            Self::Tls => "tls",
        }
    }

    /// The port of its service: 25, 587 (submission) or 465 (submissions).
    pub const fn default_port(self) -> u16 {
        match self {
            Self::None => 25,
            Self::StartTls => 587,
            Self::Tls => 465,
        }
    }
}

/// A mail server, and the addresses of its messages.
#[derive(Clone, Debug)]
pub struct Mail {
    /// The host.
    pub server: String,
    /// The port.
    pub port: u16,
    /// The encryption of the connection.
    pub encryption: Encryption,
    /// The sender.
    pub from: Mailbox,
    /// The recipients.
    pub to: Vec<Mailbox>,
    /// User name and password; `None` does not sign in.
    pub credentials: Option<(String, Secret)>,
}

/// Returns the problem of a mail server's host.
pub(crate) fn check_server(
    server: &str,
    encryption: Encryption,
    allow_private_address: bool,
) -> Result<(), String> {
    let address = literal(server);
    let is_name = !server.is_empty()
        && server.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
    if address.is_none() && !is_name {
        return Err("expected a host such as \"smtp.example\"".to_owned());
    }
    let is_loopback = server == "localhost" || address.is_some_and(|address| address.is_loopback());
    if encryption == Encryption::None && !is_loopback {
        return Err(
            "expected encryption \"tls\" or \"starttls\"; \"none\" is permitted to loopback addresses only"
                .to_owned(),
        );
    }
    let is_private = server == "localhost" || address.is_some_and(|address| !is_public(address));
    if is_private && !allow_private_address {
        return Err("is a private address; danger_allow_private_address = true permits it".to_owned());
    }
    Ok(())
}

/// Sends messages to a mail server.
pub(super) struct Mailer {
    mail: Mail,
    /// `None` without encryption.
    tls: Option<TlsParameters>,
    allow_private: bool,
    timeout: Duration,
}

impl std::fmt::Debug for Mailer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mailer(..)")
    }
}

impl Mailer {
    /// Creates a mailer that trusts `authorities`, or the system's.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no usable authority.
    pub(super) fn new(
        mail: &Mail,
        authorities: Option<&[CertificateDer<'static>]>,
        allow_private: bool,
        timeout: Duration,
    ) -> Result<Self, String> {
        let mut tls = TlsParameters::builder(mail.server.clone());
        if let Some(authorities) = authorities {
            tls = tls.certificate_store(CertificateStore::None);
            for authority in authorities {
                let authority = Certificate::from_der(authority.to_vec());
                tls = tls.add_root_certificate(authority.map_err(|error| error.to_string())?);
            }
        }
        let tls = match mail.encryption {
            Encryption::None => None,
            Encryption::StartTls | Encryption::Tls => Some(tls.build().map_err(|error| error.to_string())?),
        };
        Ok(Self { mail: mail.clone(), tls, allow_private, timeout })
    }

    /// Sends a message once, to all recipients. If the server refuses one of them, no recipient gets it.
    pub(super) async fn send(&self, message: &Message) -> Result<(), SenderError> {
        let email = self.email(message)?;
        let sent = tokio::time::timeout(self.timeout, self.deliver(&email)).await;
        sent.map_err(|_| SenderError::Timeout(self.timeout))?
    }

    async fn deliver(&self, email: &Email) -> Result<(), SenderError> {
        let addresses = self.addresses().await?;
        let hello = ClientId::default();
        let (tls, start_tls) = match self.mail.encryption {
            Encryption::None => (None, None),
            Encryption::StartTls => (None, self.tls.clone()),
            Encryption::Tls => (self.tls.clone(), None),
        };
        let timeout = Some(self.timeout);
        let connecting = AsyncSmtpConnection::connect_tokio1(&*addresses, timeout, &hello, tls, None);
        let mut connection = connecting.await.map_err(|error| describe(&error, "connection"))?;
        if let Some(tls) = start_tls {
            let encrypted = connection.starttls(tls, &hello).await;
            encrypted.map_err(|error| describe(&error, "STARTTLS"))?;
        }
        if let Some((user, password)) = &self.mail.credentials {
            let credentials = Credentials::new(user.clone(), password.expose().to_owned());
            let signed_in = connection.auth(DEFAULT_MECHANISMS, &credentials).await;
            signed_in.map_err(|error| describe(&error, "sign-in"))?;
        }
        let sent = connection.send(email.envelope(), &email.formatted()).await;
        sent.map_err(|error| describe(&error, "message"))?;
        // The message was accepted.
        let _ = connection.quit().await;
        Ok(())
    }

    /// Resolves the server's name to permitted addresses.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, SenderError> {
        let host = self.mail.server.trim_start_matches('[').trim_end_matches(']');
        let found = tokio::net::lookup_host((host, self.mail.port)).await;
        let found = found.map_err(|error| SenderError::Failed(format!("the host is unknown: {error}")))?;
        let is_permitted = |address: &SocketAddr| match self.mail.encryption {
            Encryption::None => self.allow_private && address.ip().is_loopback(),
            Encryption::StartTls | Encryption::Tls => self.allow_private || is_public(address.ip()),
        };
        let permitted: Vec<_> = found.filter(is_permitted).collect();
        if permitted.is_empty() { Err(SenderError::Private) } else { Ok(permitted) }
    }

    /// Creates the e-mail of a message, the same for each attempt.
    fn email(&self, message: &Message) -> Result<Email, SenderError> {
        let sent = humantime::parse_rfc3339(&message.timestamp).unwrap_or(SystemTime::UNIX_EPOCH);
        let id = format!("<{}@{}>", message.id, self.mail.from.email.domain());
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        let mut email = Email::builder()
            .from(self.mail.from.clone())
            .date(sent)
            .message_id(Some(id))
            .subject(message.subject.as_str())
            .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()))
            .header(ContentType::TEXT_PLAIN);
        for recipient in &self.mail.to {
            email = email.to(recipient.clone());
        }
        email.body(message.body.clone()).map_err(|error| SenderError::Failed(error.to_string()))
    }
}

/// Describes a failure without the server's text, which may repeat the password.
fn describe(error: &smtp::Error, step: &str) -> SenderError {
    match error.status() {
        Some(code) if error.is_permanent() => {
            SenderError::Refused(format!("the server responded {code} to the {step}"))
        }
        Some(code) => SenderError::Failed(format!("the server responded {code} to the {step}")),
        None if error.is_response() => {
            SenderError::Failed(format!("the server's response to the {step} is invalid or incomplete"))
        }
        None => SenderError::Failed(format!("{step}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_is_encrypted_and_public_unless_permitted() {
        use Encryption::{None, StartTls, Tls};
        for (server, encryption, private, expected) in [
            ("smtp.example", Tls, false, Ok(())),
            ("smtp.example", StartTls, false, Ok(())),
            ("smtp.example", None, true, Err("expected encryption")),
            ("10.0.0.1", None, true, Err("expected encryption")),
            ("127.0.0.1", None, true, Ok(())),
            ("[::1]", None, true, Ok(())),
            ("localhost", None, true, Ok(())),
            ("localhost", None, false, Err("is a private address")),
            ("10.0.0.1", Tls, false, Err("is a private address")),
            ("10.0.0.1", Tls, true, Ok(())),
            ("smtp.example:25", Tls, true, Err("expected a host")),
            ("smtp://smtp.example", Tls, true, Err("expected a host")),
            ("user@smtp.example", Tls, true, Err("expected a host")),
        ] {
            let found = check_server(server, encryption, private);
            match expected {
                Ok(()) => assert_eq!(found, Ok(()), "{server}"),
                Err(problem) => {
                    let found = found.unwrap_err();
                    assert!(found.contains(problem), "{server}: {found}");
                }
            }
        }
    }
}
