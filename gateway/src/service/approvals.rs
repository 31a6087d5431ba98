//! Use cases for approvals: read, await, list, decide.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::{Authorized, Service, ServiceError};
use crate::approvals::{Approval, Opening, Status, VoteRefusal};
use crate::auth::{Principal, Role, is_same_person};
use crate::delegation::Delegation;
use crate::events;
use crate::halts::HaltSubject;
use crate::quorum::{DelegatedSeat, Vote};
use crate::request::DecisionNote;
use crate::request::InvalidMember;
use crate::store::{Change, Listing, Transition, TransitionOutcome};

const NOT_FOUND: ServiceError = ServiceError::NotFound("approval");

/// Maximum number of approvals that one page examines for those that an approver may see.
const MAX_SCANNED: usize = 5000;

impl Service {
    /// Returns an approval of the principal's tenant; `None` if it does not exist.
    pub(crate) async fn find_approval(
        &self,
        who: &Principal,
        id: &str,
    ) -> Result<Option<Approval>, ServiceError> {
        self.with_timeout(self.store.approval(&who.tenant.id, id)).await
    }

    /// Returns an approval that the principal may see.
    pub(crate) async fn approval(&self, who: &Principal, id: &str) -> Result<Approval, ServiceError> {
        let approval = self.find_approval(who, id).await?.ok_or(NOT_FOUND)?;
        let groups = self.visible_groups(who).await?;
        if !is_visible(who, groups.as_ref(), &approval) {
            return Err(NOT_FOUND);
        }
        Ok(approval)
    }

    /// Returns an approval that the principal may see as soon as it is decided or the halt epoch
    /// rises, or its state at `until`, and an epoch at which it had that state.
    pub(crate) async fn wait_for_approval(
        &self,
        who: &Principal,
        id: &str,
        until: Instant,
    ) -> Result<(Approval, u64), ServiceError> {
        let mut listener = self.notifier.listen();
        let mut halts = self.store.known_halts().subscribe();
        let first = halts.borrow().epoch;
        loop {
            let epoch = halts.borrow_and_update().epoch;
            let approval = self.approval(who, id).await?;
            let is_pending = approval.status(self.clock.seconds()) == Status::Pending;
            if !is_pending || epoch > first || Instant::now() >= until {
                return Ok((approval, epoch));
            }
            // No store resources are held while waiting.
            let changed = async {
                tokio::select! {
                    changed = listener.changed(id) => changed,
                    Ok(()) = halts.changed() => true,
                }
            };
            if tokio::time::timeout_at(until, changed).await == Ok(false) {
                return Ok((approval, epoch));
            }
        }
    }

    /// Returns a page of the tenant's approvals that the principal may see, and the start of the
    /// next page. For an approver, a page may be short although there is a next one.
    pub(crate) async fn list_approvals(
        &self,
        Authorized(who): Authorized<'_>,
        mut listing: Listing,
    ) -> Result<(Vec<Approval>, Option<String>), ServiceError> {
        let groups = self.visible_groups(who).await?;
        let wanted = usize::try_from(listing.limit).unwrap_or(usize::MAX);
        // One extra item shows if there is another page.
        listing.limit = listing.limit.saturating_add(1);
        let (mut found, mut scanned) = (Vec::new(), 0);
        loop {
            let mut page = self.with_timeout(self.store.approvals(&who.tenant.id, listing.clone())).await?;
            let is_last = page.len() <= wanted;
            page.truncate(wanted);
            scanned += page.len();
            listing.after = page.last().map(|approval| approval.id.clone()).or(listing.after);
            for approval in page.into_iter().filter(|approval| is_visible(who, groups.as_ref(), approval)) {
                if found.len() == wanted {
                    let next = found.last().map(|approval: &Approval| approval.id.clone());
                    return Ok((found, next));
                }
                found.push(approval);
            }
            if is_last {
                return Ok((found, None));
            }
            if found.len() == wanted || scanned >= MAX_SCANNED {
                return Ok((found, listing.after));
            }
        }
    }

    /// Votes on an approval as the principal, or for the absent person `note.on_behalf_of`. Records
    /// the vote and returns the approval's new state.
    pub(crate) async fn decide_approval(
        &self,
        Authorized(who): Authorized<'_>,
        approval: &Approval,
        approved: bool,
        note: DecisionNote,
    ) -> Result<Approval, ServiceError> {
        let id = &approval.id;
        // Decide what was displayed: verify the stored action against its hash.
        let opening = match &approval.opening {
            Some(opening) if approval.recompute_hash().as_ref() == Some(&approval.action_hash) => opening,
            Some(_) | None => {
                tracing::error!(id, "the approval's record was changed: it does not match its action hash");
                return Err(ServiceError::ApprovalAltered);
            }
        };
        let mut vote = self.vote(who, approval, opening, approved, note.on_behalf_of.as_deref()).await?;
        if let Some(signature) = note.signature.filter(|_| approved) {
            self.check_signature(who, approval, note.shown_hash.as_deref(), &signature).await?;
            vote.signature = Some(signature);
        }
        let ballot = self.ballot(who, vote, note.note, note.shown_hash);
        let event = events::approval_decided(who, approval, &ballot);
        let voted = Box::new(events::approval_voted(who, approval, &ballot));
        let record = |halt_epoch| {
            let (ballot, voted) = (Box::new(ballot.clone()), voted.clone());
            let change = Change::DecideApproval { id: id.clone(), ballot, voted, halt_epoch };
            self.store.change(Transition { event: event.clone(), change })
        };
        let outcome = match approved {
            true => {
                let subject = HaltSubject {
                    tenant_id: &who.tenant.id,
                    agent_id: approval.agent_id.as_deref(),
                    tools: &[&approval.tool],
                    user_id: approval.user_id.as_deref(),
                };
                self.unless_halted(&[subject], |epoch| record(Some(epoch))).await?.0
            }
            // A halted action can be rejected.
            false => self.with_timeout(record(None)).await?,
        };
        match outcome {
            TransitionOutcome::Recorded => {
                self.notifier.decided(id);
                self.announced.notify_waiters();
            }
            TransitionOutcome::Refused(refusal) => return Err(Self::refused(opening, refusal)),
            TransitionOutcome::Stale => {
                let now = self.find_approval(who, id).await?.ok_or(NOT_FOUND)?;
                return Err(ServiceError::AlreadyDecided(now.status(self.clock.seconds())));
            }
        }
        self.find_approval(who, id).await?.ok_or(NOT_FOUND)
    }

    /// Returns the error of a vote that does not count.
    pub(super) fn refused(Opening { requirement, .. }: &Opening, refusal: VoteRefusal) -> ServiceError {
        match refusal {
            VoteRefusal::Altered => ServiceError::ApprovalAltered,
            VoteRefusal::AlreadyVoted
            | VoteRefusal::NoSeat
            | VoteRefusal::NotDelegated
            | VoteRefusal::NotSigned
            | VoteRefusal::SelfApproval => {
                ServiceError::VoteRefused(refusal, requirement.describe(&requirement.missing(&[])))
            }
        }
    }

    /// Returns the vote of the principal: for the principal's own seat if present, otherwise for the
    /// seat of an absent person.
    pub(super) async fn vote(
        &self,
        who: &Principal,
        approval: &Approval,
        Opening { requirement, .. }: &Opening,
        approved: bool,
        on_behalf_of: Option<&str>,
    ) -> Result<Vote, ServiceError> {
        let now = self.clock.seconds();
        let own = Vote {
            approved,
            by: who.name.to_string(),
            person: who.person().to_owned(),
            delegated: None,
            groups: requirement.named(who.groups.iter()),
            escalated: requirement.is_escalated(approval.created_at, now),
            at: now,
            signature: None,
        };
        if on_behalf_of.is_none() && requirement.admits(&own) {
            return Ok(own);
        }
        let mut seats = Vec::new();
        for delegation in self.delegations_to(who, now).await? {
            let groups = self.directory.groups(&who.tenant.id, &delegation.person);
            let groups = requirement.named(groups.into_iter().flatten());
            let seat = DelegatedSeat { person: delegation.person, delegation: delegation.id };
            let vote = Vote { groups, delegated: Some(seat), ..own.clone() };
            let is_named =
                on_behalf_of.is_none_or(|name| vote.people().any(|person| is_same_person(person, name)));
            if is_named && (on_behalf_of.is_some() || requirement.admits(&vote)) {
                seats.push(vote);
            }
        }
        let invalid = |problem: String| InvalidMember { member: "for".to_owned(), problem };
        match (on_behalf_of, seats.len()) {
            (Some(name), 0) => {
                let problem = format!("no delegation of {name:?} to {:?} is in force", who.person());
                Err(invalid(problem).into())
            }
            (None, 2..) => {
                let people = seats.iter().filter_map(|vote| vote.delegated.as_ref());
                let people: BTreeSet<_> = people.map(|seat| &*seat.person).collect();
                let people = people.into_iter().collect::<Vec<_>>().join(", ");
                Err(invalid(format!("missing; several people have delegated to you: {people}")).into())
            }
            // The transaction refuses a vote without a seat.
            _ => Ok(seats.into_iter().next().unwrap_or(own)),
        }
    }

    /// Returns the groups whose approvals an approver may see, including those of people who have
    /// delegated to the approver; `None` for other roles.
    async fn visible_groups(&self, who: &Principal) -> Result<Option<BTreeSet<String>>, ServiceError> {
        if who.role != Role::Approver {
            return Ok(None);
        }
        let mut groups: BTreeSet<_> = who.groups.iter().cloned().collect();
        for delegation in self.delegations_to(who, self.clock.seconds()).await? {
            let delegated = self.directory.groups(&who.tenant.id, &delegation.person);
            groups.extend(delegated.into_iter().flatten().cloned());
        }
        Ok(Some(groups))
    }

    /// Returns the delegations to the principal that are in force at `now`.
    async fn delegations_to(&self, who: &Principal, now: i64) -> Result<Vec<Delegation>, ServiceError> {
        let all = self.delegations(&who.tenant.id).await?;
        let to = |delegation: &Delegation| is_same_person(&delegation.to, who.person());
        Ok(all.into_iter().filter(|delegation| delegation.is_active(now) && to(delegation)).collect())
    }
}

/// Returns whether the principal may see an approval: agents their agent's, approvers those of their
/// `groups`, others all.
fn is_visible(who: &Principal, groups: Option<&BTreeSet<String>>, approval: &Approval) -> bool {
    let is_own = who.confined_to().is_none_or(|agent| approval.agent_id.as_deref() == Some(agent));
    let concerns = |groups: &BTreeSet<String>| {
        approval.opening.as_ref().is_some_and(|opening| opening.requirement.concerns(groups))
    };
    is_own && groups.is_none_or(concerns)
}
