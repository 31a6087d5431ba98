//! Use cases of passkeys and signed approvals.

use actpass_protocol::Json;
use actpass_protocol::signed_approval::Statement;

use super::{Authorized, Service, ServiceError};
use crate::approvals::Approval;
use crate::auth::{Principal, is_same_person};
use crate::events;
use crate::ledger::PASSKEYS;
use crate::passkeys::{MAX_PASSKEYS, Passkey, Registration, RelyingParty};
use crate::quorum::Vote;
use crate::request::InvalidMember;
use crate::store::{Record, Store, StoreError};

/// Maximum length of the name of a passkey, in characters.
const MAX_NAME_CHARACTERS: usize = 64;

/// The statement that a person signs to approve a request, and the passkeys that can sign it.
#[derive(Clone, Debug)]
pub(crate) struct Signing {
    /// The statement, whose hash is the challenge.
    pub(crate) statement: Statement,
    /// The relying party.
    pub(crate) rp_id: String,
    /// The ids of the person's passkeys.
    pub(crate) passkeys: Vec<String>,
}

/// Reads the passkeys of a tenant from their chain.
pub(crate) async fn read_passkeys(store: &dyn Store, tenant_id: &str) -> Result<Vec<Passkey>, StoreError> {
    let Some(head) = store.head(tenant_id, PASSKEYS).await? else {
        return Ok(Vec::new());
    };
    let (mut events, mut after) = (Vec::new(), 0);
    loop {
        let page = store.events(tenant_id, PASSKEYS, after, head.length).await?;
        let Some(last) = page.last() else {
            return Ok(Passkey::of_events(events.iter().map(String::as_str)));
        };
        after = last.seq;
        events.extend(page.into_iter().map(|event| event.text));
    }
}

fn invalid(member: &str, problem: impl Into<String>) -> InvalidMember {
    InvalidMember { member: member.to_owned(), problem: problem.into() }
}

impl Service {
    /// Returns the site on which people sign.
    pub(crate) fn signing_site(&self) -> Result<&RelyingParty, ServiceError> {
        let problem = "passkeys need a host name: set issuer to the URL of this gateway";
        self.relying_party.as_ref().ok_or_else(|| invalid("issuer", problem).into())
    }

    /// Returns all passkeys of a tenant, in order of registration.
    async fn all_passkeys(&self, tenant_id: &str) -> Result<Vec<Passkey>, ServiceError> {
        self.with_timeout(read_passkeys(&*self.store, tenant_id)).await
    }

    /// Returns the principal's passkeys.
    pub(crate) async fn passkeys(&self, who: &Principal) -> Result<Vec<Passkey>, ServiceError> {
        let mut found = self.all_passkeys(&who.tenant.id).await?;
        found.retain(|passkey| passkey.is_of(who.person()));
        Ok(found)
    }

    /// Registers a passkey of the principal.
    pub(crate) async fn register_passkey(
        &self,
        Authorized(who): Authorized<'_>,
        name: &str,
        response: &Json,
        challenge: &str,
    ) -> Result<(), ServiceError> {
        let characters = name.chars().count();
        if !(1..=MAX_NAME_CHARACTERS).contains(&characters) || name.chars().any(char::is_control) {
            let problem = format!("expected 1 to {MAX_NAME_CHARACTERS} characters");
            return Err(invalid("name", problem).into());
        }
        let new = Registration::read(response, self.signing_site()?, challenge)
            .map_err(|problem| invalid("passkey", problem))?;
        let known = self.all_passkeys(&who.tenant.id).await?;
        // A removed passkey cannot be registered again: its events would be ambiguous.
        if known.iter().any(|passkey| passkey.key.kid() == new.id) {
            return Err(invalid("passkey", "is already registered").into());
        }
        if known.iter().filter(|passkey| passkey.is_of(who.person())).count() >= MAX_PASSKEYS {
            return Err(invalid("passkey", format!("there are already {MAX_PASSKEYS}; remove one")).into());
        }
        let event = events::passkey_registered(who, &new, name);
        self.with_timeout(self.store.record(Record::of(event))).await?;
        Ok(())
    }

    /// Removes a passkey of the principal. The approvals that it signed stay valid.
    pub(crate) async fn remove_passkey(
        &self,
        Authorized(who): Authorized<'_>,
        id: &str,
    ) -> Result<(), ServiceError> {
        let known = self.passkeys(who).await?;
        let found = known.iter().find(|passkey| passkey.key.kid() == id);
        let found = found.ok_or(ServiceError::NotFound("passkey"))?;
        let event = events::passkey_removed(who, found.key.kid());
        self.with_timeout(self.store.record(Record::of(event))).await?;
        Ok(())
    }

    /// Returns the statement that the principal signs to approve a request whose card has this hash;
    /// `None` without a passkey.
    pub(crate) async fn signing(
        &self,
        who: &Principal,
        approval: &Approval,
        shown_hash: &str,
    ) -> Result<Option<Signing>, ServiceError> {
        let Some(site) = &self.relying_party else { return Ok(None) };
        let passkeys: Vec<_> =
            self.passkeys(who).await?.iter().map(|passkey| passkey.key.kid().to_owned()).collect();
        if passkeys.is_empty() {
            return Ok(None);
        }
        let nonce = uuid::Uuid::now_v7().simple().to_string();
        let statement = statement_of(who, approval, shown_hash, nonce);
        Ok(Some(Signing { statement, rp_id: site.id.clone(), passkeys }))
    }

    /// Verifies the signature of a vote of the principal on the card with this hash, and records the
    /// use of a passkey with a counter.
    pub(super) async fn check_signature(
        &self,
        who: &Principal,
        approval: &Approval,
        shown_hash: Option<&str>,
        signature: &Json,
    ) -> Result<(), ServiceError> {
        let failed = |problem: String| ServiceError::from(invalid("signature", problem));
        let known = self.passkeys(who).await?;
        let keys = self.signing_site()?.keys(&who.tenant.id, &known);
        let signed = keys
            .verify(signature, &approval.action_hash, self.clock.seconds())
            .map_err(|error| failed(error.to_string()))?;
        let nonce = signed.statement.nonce.clone();
        if signed.statement != statement_of(who, approval, shown_hash.unwrap_or_default(), nonce) {
            return Err(failed("approves another request, or another card".to_owned()));
        }
        let passkey = known.iter().find(|passkey| passkey.key.kid() == signed.key_id);
        let before = passkey.map_or(0, |passkey| passkey.sign_count);
        // A counter that does not rise shows a copy of the passkey.
        if (before, signed.sign_count) != (0, 0) && signed.sign_count <= before {
            tracing::warn!(
                passkey = signed.key_id,
                "the counter of a passkey did not rise: it may be a copy"
            );
            return Err(failed("is by a passkey whose counter did not rise; it may be a copy".to_owned()));
        }
        if signed.sign_count > 0 {
            let event = events::passkey_used(who, &signed.key_id, signed.sign_count, &approval.id);
            self.with_timeout(self.store.record(Record::of(event))).await?;
        }
        Ok(())
    }

    /// Verifies the signatures of an approval that must be signed. If one is invalid, the approval
    /// grants nothing.
    pub(super) async fn with_verified_signatures(
        &self,
        tenant_id: &str,
        approval: Approval,
    ) -> Result<Approval, ServiceError> {
        let is_signed = approval.opening.as_ref().is_some_and(|opening| opening.requirement.is_signed());
        if !is_signed || !approval.is_approved() {
            return Ok(approval);
        }
        let known = self.all_passkeys(tenant_id).await?;
        let keys = self.relying_party.as_ref().map(|site| site.keys(tenant_id, &known));
        let now = self.clock.seconds();
        let is_valid = |vote: &Vote| {
            let signed = keys.as_ref().zip(vote.signature.as_ref()).and_then(|(keys, signature)| {
                // An expired approval is reported as such.
                let at = now.min(approval.usable_until(approval.decided.as_ref()?).saturating_sub(1));
                keys.verify(signature, &approval.action_hash, at).ok()
            });
            signed.is_some_and(|signed| {
                let key = known.iter().find(|passkey| passkey.key.kid() == signed.key_id);
                signed.statement.approval_request_id == approval.id
                    && key.is_some_and(|passkey| is_same_person(&passkey.person, &vote.person))
            })
        };
        let proven = approval.votes.iter().filter(|vote| vote.approved).all(is_valid);
        if !proven {
            let id = &*approval.id;
            tracing::error!(id, "a signature of this approval is invalid; the approval grants nothing");
        }
        Ok(Approval { proven: approval.proven && proven, ..approval })
    }
}

/// The statement of an approval. It is valid as long as the approval can be used.
fn statement_of(who: &Principal, approval: &Approval, shown_hash: &str, nonce: String) -> Statement {
    Statement {
        action_hash: approval.action_hash.clone(),
        approval_request_id: approval.id.clone(),
        tenant_id: who.tenant.id.to_string(),
        nonce,
        shown_hash: shown_hash.to_owned(),
        expires_at: approval.deadline.saturating_mul(2).saturating_sub(approval.created_at),
    }
}
