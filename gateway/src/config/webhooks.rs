//! Settings of webhooks and e-mails.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use actpass_protocol::Secret;
use lettre::message::Mailbox;

use super::{Section, SettingsReader, Tenants};
use crate::files;
use crate::webhooks::{self, Announcement, Encryption, Form, Mail, SigningSecret, Webhook, check_server};

/// Permitted pauses between attempts of a webhook, in seconds.
const MAX_PAUSE_SECONDS: RangeInclusive<u32> = 1..=3600;

/// Permitted timeouts of an attempt, in seconds: shorter than half a lease.
const TIMEOUT_SECONDS: RangeInclusive<u32> = 1..=14;

/// Permitted hours of attempts of a webhook.
const GIVE_UP_HOURS: RangeInclusive<u32> = 1..=720;

/// Reads the members of one form; the flag permits private addresses.
type ReadForm<'r> = fn(&mut SettingsReader<'r>, &mut Section, bool) -> Option<Form>;

impl<'r> SettingsReader<'r> {
    pub(super) fn webhooks(&mut self, root: &mut Section, tenants: &Tenants) -> Vec<Webhook> {
        let mut sections: Vec<(Section, ReadForm<'r>)> = Vec::new();
        if root.has("webhooks") {
            let found = root.sections("webhooks", &mut self.problems).into_iter();
            sections.extend(found.map(|section| (section, Self::webhook_form as ReadForm<'r>)));
        }
        if root.has("mail") {
            let found = root.sections("mail", &mut self.problems).into_iter();
            sections.extend(found.map(|section| (section, Self::mail_form as ReadForm<'r>)));
        }
        let mut webhooks: Vec<Webhook> = Vec::new();
        for (mut section, read_form) in sections {
            let webhook = self.webhook(&mut section, tenants, read_form);
            section.finish(&mut self.problems);
            let Some(webhook) = webhook else { continue };
            if webhooks.iter().any(|other| other.name == webhook.name) {
                let problem = format_args!("duplicate webhook name {:?}", webhook.name);
                self.problems.add(section.member("name"), problem);
            }
            webhooks.push(webhook);
        }
        webhooks
    }

    fn webhook(
        &mut self,
        section: &mut Section,
        tenants: &Tenants,
        read_form: ReadForm<'r>,
    ) -> Option<Webhook> {
        let name = section.name("name", &mut self.problems);
        let allow_private_address =
            section.optional_bool("danger_allow_private_address", &mut self.problems).unwrap_or(false);
        let form = read_form(self, section, allow_private_address);
        let announcements =
            section.optional_words("events", &mut self.problems, &Announcement::ALL, |event| event.as_str());
        let of = section.optional_texts("tenants", &mut self.problems);
        for tenant in of.iter().flatten().filter(|tenant| !tenants.contains_key(*tenant)) {
            self.problems.add(section.member("tenants"), format_args!("unknown tenant {tenant:?}"));
        }
        let mut of: Vec<Arc<str>> =
            of.unwrap_or_else(|| tenants.keys().cloned().collect()).into_iter().map(Arc::from).collect();
        of.sort_unstable();
        let with_arguments = section.optional_bool("arguments", &mut self.problems).unwrap_or(false);
        let authorities = section
            .optional_text("ca", &mut self.problems)
            .map(|path| self.certificates(&section.member("ca"), &path));
        let mut bounded = |name: &str, range: RangeInclusive<u32>, default: u32| {
            let number = section.positive(name, &mut self.problems).map_or(default, NonZeroU32::get);
            if !range.contains(&number) {
                let problem = format_args!("expected an integer of {} to {}", range.start(), range.end());
                self.problems.add(section.member(name), problem);
            }
            u64::from(number)
        };
        let timeout = Duration::from_secs(bounded("timeout_seconds", TIMEOUT_SECONDS, 10));
        let max_pause = Duration::from_secs(bounded("max_retry_seconds", MAX_PAUSE_SECONDS, 60));
        let give_up_after = Duration::from_secs(3600 * bounded("give_up_hours", GIVE_UP_HOURS, 72));
        Some(Webhook {
            name: name?.into(),
            form: form?,
            tenants: of,
            announcements: announcements.unwrap_or_else(|| Announcement::ALL.to_vec()),
            with_arguments,
            allow_private_address,
            // Invalid authorities were already reported.
            authorities: match authorities {
                None => None,
                Some(found) => Some(found?),
            },
            timeout,
            max_pause,
            give_up_after,
        })
    }

    /// The URL is never shown: it may contain a secret.
    fn webhook_url(&mut self, section: &mut Section, allow_private_address: bool) -> Option<webhooks::Url> {
        let given = section.optional_text("url", &mut self.problems).map(Secret::new);
        let file = section.optional_text("url_file", &mut self.problems);
        let (place, url) = match (given, file) {
            (Some(url), None) => ("url", url),
            (None, Some(file)) => ("url_file", self.secret(&section.member("url_file"), &file)?),
            (None, None) => {
                self.problems.add(section.member("url"), "missing; expected url or url_file");
                return None;
            }
            (Some(_), Some(_)) => {
                self.problems.add(section.member("url_file"), "conflicts with url; set only one");
                return None;
            }
        };
        let parsed = webhooks::parse_url(&url, allow_private_address);
        parsed.map_err(|problem| self.problems.add(section.member(place), problem)).ok()
    }

    fn webhook_form(&mut self, section: &mut Section, allow_private_address: bool) -> Option<Form> {
        let url = self.webhook_url(section, allow_private_address);
        let word = section.optional_text("form", &mut self.problems);
        let file = section.optional_text("secret_file", &mut self.problems);
        let place = section.member("secret_file");
        match (word.as_deref(), file) {
            (None | Some("standard"), Some(file)) => {
                let secret = SigningSecret::parse(&self.secret(&place, &file)?);
                if secret.is_none() {
                    let problem = "expected \"whsec_\" and 24 to 64 random bytes in base64";
                    self.problems.add(place, problem);
                }
                secret.zip(url).map(|(secret, url)| Form::Standard { url, secret })
            }
            (None | Some("standard"), None) => {
                self.problems.add(place, "missing; expected a file with the signing secret");
                None
            }
            (Some("slack"), None) => url.map(|url| Form::Slack { url }),
            (Some("slack"), Some(_)) => {
                self.problems.add(place, "not used with form \"slack\", whose URL is the secret");
                None
            }
            (Some(other), _) => {
                let problem = format_args!("expected \"standard\" or \"slack\", found {other:?}");
                self.problems.add(section.member("form"), problem);
                None
            }
        }
    }

    fn mail_form(&mut self, section: &mut Section, allow_private_address: bool) -> Option<Form> {
        let word = section.optional_text("encryption", &mut self.problems);
        let word = word.as_deref().unwrap_or(Encryption::Tls.as_str());
        let encryption = Encryption::ALL.into_iter().find(|encryption| encryption.as_str() == word);
        if encryption.is_none() {
            let problem = format_args!("expected \"tls\", \"starttls\" or \"none\", found {word:?}");
            self.problems.add(section.member("encryption"), problem);
        }
        let server = section.text("server", &mut self.problems);
        if let (Some(server), Some(encryption)) = (&server, encryption)
            && let Err(problem) = check_server(server, encryption, allow_private_address)
        {
            self.problems.add(section.member("server"), problem);
        }
        let port = section.positive("port", &mut self.problems).map(|port| u16::try_from(port.get()));
        if let Some(Err(_)) = port {
            self.problems.add(section.member("port"), "expected an integer of 1 to 65535");
        }
        let from = section.text("from", &mut self.problems);
        let from = from.and_then(|text| self.mailbox(&section.member("from"), &text));
        let recipients = section.optional_texts("to", &mut self.problems).unwrap_or_default();
        if recipients.is_empty() {
            self.problems.add(section.member("to"), "missing; expected at least one address");
        }
        let to: Option<Vec<_>> =
            recipients.iter().map(|text| self.mailbox(&section.member("to"), text)).collect();
        let user = section.optional_name("user", &mut self.problems);
        let password = section
            .optional_text("password_file", &mut self.problems)
            .map(|file| self.secret(&section.member("password_file"), &file));
        let credentials = match (user, password) {
            (None, None) => None,
            (Some(user), Some(password)) => Some((user, password?)),
            (Some(_), None) => {
                let problem = "missing; expected a file with the password of user";
                self.problems.add(section.member("password_file"), problem);
                None
            }
            (None, Some(_)) => {
                self.problems.add(section.member("user"), "missing; password_file is set");
                None
            }
        };
        let encryption = encryption?;
        Some(Form::Mail(Mail {
            server: server?,
            port: port.and_then(Result::ok).unwrap_or(encryption.default_port()),
            encryption,
            from: from?,
            to: to?,
            credentials,
        }))
    }

    fn mailbox(&mut self, place: &str, text: &str) -> Option<Mailbox> {
        let mailbox = text.parse().ok().filter(|mailbox: &Mailbox| {
            let address = mailbox.email.to_string();
            let is_whole = text.trim() == address || text.trim().ends_with(&format!("<{address}>"));
            is_whole && address.is_ascii() && !text.contains(char::is_control)
        });
        if mailbox.is_none() {
            let problem = "expected an address such as \"ActPass <actpass@example.com>\"";
            self.problems.add(place, format_args!("{problem}, found {text:?}"));
        }
        mailbox
    }

    /// Reads a file that contains a secret.
    pub(super) fn secret(&mut self, place: &str, file: &str) -> Option<Secret> {
        let path = self.folder.join(file);
        let read = self.read(&path).and_then(|bytes| files::to_text(&bytes));
        if read.is_ok() {
            self.warn_if_open(place, &path);
        }
        let read =
            read.map_err(|error| self.problems.add(place, format_args!("{}: {error}", path.display())));
        read.ok().map(|text| Secret::new(text.trim().to_owned()))
    }
}
