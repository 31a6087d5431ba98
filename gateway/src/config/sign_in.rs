//! Settings of the sign-in.

use std::sync::Arc;

use actpass_protocol::Secret;

use super::{Section, SettingsReader, Tenants};
use crate::auth::Role;
use crate::problems::Problems;
use crate::sign_in::SignInSettings;
use crate::webhooks::parse_url;

/// Default maximum duration of a session, in minutes.
const DEFAULT_SESSION_MINUTES: i64 = 60;

/// Permitted durations of a session, in minutes.
const SESSION_MINUTES: std::ops::RangeInclusive<i64> = 1..=480;

impl SettingsReader<'_> {
    pub(super) fn sign_in(&mut self, root: &mut Section, tenants: &Tenants) -> Option<SignInSettings> {
        let mut section = root.section("sign_in", &mut self.problems)?;
        let settings = self.read_sign_in(&mut section, tenants);
        section.finish(&mut self.problems);
        settings
    }

    fn read_sign_in(&mut self, section: &mut Section, tenants: &Tenants) -> Option<SignInSettings> {
        let allow_private_address =
            section.optional_bool("danger_allow_private_address", &mut self.problems).unwrap_or(false);
        let issuer = section.text("issuer", &mut self.problems).filter(|issuer| {
            let problem = parse_url(&Secret::new(issuer.as_str()), allow_private_address).err();
            let is_valid = problem.is_none();
            if let Some(problem) = problem {
                self.problems.add(section.member("issuer"), problem);
            }
            is_valid
        });
        let client_id = section.name("client_id", &mut self.problems);
        let client_secret = section
            .optional_text("client_secret_file", &mut self.problems)
            .map(|file| self.secret(&section.member("client_secret_file"), &file));
        let mut texts = |name: &str| section.optional_texts(name, &mut self.problems);
        let scopes = texts("scopes").unwrap_or_else(|| vec!["email".to_owned(), "groups".to_owned()]);
        let person_claim = section.optional_name("person_claim", &mut self.problems);
        let groups_claim = section.optional_name("groups_claim", &mut self.problems);
        let session_minutes =
            section.positive("session_minutes", &mut self.problems).map(|minutes| i64::from(minutes.get()));
        if session_minutes.is_some_and(|minutes| !SESSION_MINUTES.contains(&minutes)) {
            self.problems.add(section.member("session_minutes"), "expected an integer of 1 to 480");
        }
        let authorities = section
            .optional_text("ca", &mut self.problems)
            .map(|path| self.certificates(&section.member("ca"), &path));
        let tenant = section.text("tenant", &mut self.problems);
        let known = tenant.as_ref().and_then(|tenant| tenants.get(tenant));
        if let (Some(tenant), None) = (&tenant, known) {
            self.problems.add(section.member("tenant"), format_args!("unknown tenant {tenant:?}"));
        }
        let mut roles = Vec::new();
        for mut role in section.sections("roles", &mut self.problems) {
            let group = role.name("group", &mut self.problems);
            let word = person_role(&mut role, &mut self.problems);
            role.finish(&mut self.problems);
            roles.extend(group.zip(word));
        }
        Some(SignInSettings {
            issuer: issuer?,
            client_id: client_id?,
            // An unreadable file was already reported.
            client_secret: match client_secret {
                None => None,
                Some(secret) => Some(secret?),
            },
            scopes,
            tenant: Arc::clone(known?.as_ref()?),
            person_claim: person_claim.unwrap_or_else(|| "email".to_owned()),
            groups_claim: groups_claim.unwrap_or_else(|| "groups".to_owned()),
            roles,
            session_seconds: 60 * session_minutes.unwrap_or(DEFAULT_SESSION_MINUTES),
            authorities: match authorities {
                None => None,
                Some(found) => Some(found?),
            },
            allow_private_address,
        })
    }
}

/// People have no agent's role.
fn person_role(section: &mut Section, problems: &mut Problems) -> Option<Role> {
    let word = section.text("role", problems)?;
    let role = Role::parse(&word).filter(|role| *role != Role::Agent);
    if role.is_none() {
        let problem = format_args!("expected \"approver\", \"auditor\" or \"operator\", found {word:?}");
        problems.add(section.member("role"), problem);
    }
    role
}
