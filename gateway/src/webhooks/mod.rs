//! Webhooks: requests and e-mails to others that report recorded events.
//!
//! The ledger is the outbox. An event names its [announcements](Announcement), so an announcement is
//! durable in the transaction of its decision. For each webhook, the store keeps a position in each
//! chain; `dispatch` sends the announcements after it in order and advances it. A message is sent
//! at least once, with the same id each time.

mod addresses;
mod dispatch;
mod mail;
mod message;
mod sender;
mod signature;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actpass_protocol::Secret;
use rustls::pki_types::CertificateDer;

pub use crate::announcement::Announcement;

pub(crate) use self::addresses::is_public;
pub(crate) use self::dispatch::{Dispatcher, WaitingMessage, waiting_messages};
pub(crate) use self::mail::check_server;
pub use self::mail::{Encryption, Mail};
pub(crate) use self::sender::{SenderError, Target};
pub use self::signature::SigningSecret;

/// The form of a webhook's messages, and where they are sent.
#[derive(Clone)]
pub enum Form {
    /// An e-mail.
    Mail(Mail),
    /// A message for a Slack incoming webhook.
    Slack {
        /// The URL, which is its secret.
        url: Url,
    },
    /// JSON of the Standard Webhooks.
    Standard {
        /// The URL; it may contain a secret.
        url: Url,
        /// The secret that signs messages.
        secret: SigningSecret,
    },
}

impl fmt::Debug for Form {
    /// Omits the URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Form {
    /// The word used in settings and listings.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Mail(_) => "mail",
            Self::Slack { .. } => "slack",
            Self::Standard { .. } => "standard",
        }
    }
}

/// A URL to send requests to.
pub type Url = http::Uri;

/// A webhook, as configured.
#[derive(Clone)]
pub struct Webhook {
    /// The unique name.
    pub name: Arc<str>,
    /// The form of its messages, and where they are sent.
    pub form: Form,
    /// The tenants whose announcements it receives.
    pub tenants: Vec<Arc<str>>,
    /// The announcements that it receives.
    pub announcements: Vec<Announcement>,
    /// Whether messages contain the arguments of actions. Default: false.
    pub with_arguments: bool,
    /// Whether its host may have a private address. Default: false.
    pub allow_private_address: bool,
    /// The only authorities trusted for its host; `None` trusts the system's.
    pub authorities: Option<Vec<CertificateDer<'static>>>,
    /// Maximum time of an attempt. Default: 10 s.
    pub timeout: Duration,
    /// Maximum time between two attempts. Default: 60 s.
    pub max_pause: Duration,
    /// Time after which an undelivered message is set aside. Default: 72 h.
    pub give_up_after: Duration,
}

impl fmt::Debug for Webhook {
    /// Omits the URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Parses the URL of a webhook: `https`, or `http` to a loopback address, without user information.
///
/// # Errors
///
/// Returns the problem without the URL, which may contain a secret.
pub(crate) fn parse_url(text: &Secret, allow_private_address: bool) -> Result<Url, String> {
    let expected = "expected a URL such as \"https://hooks.example/path\"";
    let url: Url = text.expose().trim().parse().map_err(|_| expected.to_owned())?;
    let host = url.host().ok_or(expected)?;
    let is_loopback = host == "localhost" || addresses::literal(host).is_some_and(|ip| ip.is_loopback());
    match url.scheme_str() {
        Some("https") => {}
        Some("http") if is_loopback => {}
        Some("http") => {
            return Err("expected https; plain http is permitted to loopback addresses only".to_owned());
        }
        Some(_) | None => return Err(expected.to_owned()),
    }
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("expected a URL without user information".to_owned());
    }
    let is_private = host == "localhost" || addresses::literal(host).is_some_and(|ip| !is_public(ip));
    if is_private && !allow_private_address {
        return Err("is a private address; danger_allow_private_address = true permits it".to_owned());
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_is_https_and_public_unless_permitted() {
        for (url, private, expected) in [
            ("https://hooks.example/a?b=c", false, Ok(())),
            ("https://hooks.example/a\n", false, Ok(())),
            ("https://[2606:4700::1]/", false, Ok(())),
            ("http://hooks.example/", true, Err("expected https")),
            ("http://127.0.0.1:9/", true, Ok(())),
            ("http://localhost:9/", true, Ok(())),
            ("http://127.0.0.1:9/", false, Err("is a private address")),
            ("https://localhost/", false, Err("is a private address")),
            ("https://10.0.0.1/", false, Err("is a private address")),
            ("https://10.0.0.1/", true, Ok(())),
            ("https://169.254.169.254/", false, Err("is a private address")),
            ("https://[::1]/", false, Err("is a private address")),
            ("https://[::ffff:10.0.0.1]/", false, Err("is a private address")),
            ("https://user:secret@hooks.example/", false, Err("without user information")),
            ("ftp://hooks.example/", false, Err("expected a URL")),
            ("/path", false, Err("expected a URL")),
            ("not a url", false, Err("expected a URL")),
        ] {
            let found = parse_url(&Secret::new(url.to_owned()), private);
            match expected {
                Ok(()) => assert!(found.is_ok(), "{url}: {found:?}"),
                Err(problem) => {
                    let found = found.unwrap_err();
                    assert!(found.contains(problem), "{url}: {found}");
                    assert!(!found.contains("secret"));
                }
            }
        }
    }
}
