//! Use cases of delegations: create, list, revoke.

use std::sync::Arc;

use super::{Authorized, Service, ServiceError};
use crate::auth::{Capability, Principal, Role, is_same_person};
use crate::delegation::{self, Delegation, MAX_SECONDS};
use crate::events;
use crate::ledger::DELEGATIONS;
use crate::request::{DelegationRequest, InvalidMember};
use crate::store::{Change, Record, Store, StoreError, Transition, TransitionOutcome};

/// Reads the delegations of a tenant from their chain.
pub(crate) async fn read_delegations(
    store: &dyn Store,
    tenant_id: &str,
) -> Result<Vec<Delegation>, StoreError> {
    let Some(head) = store.head(tenant_id, DELEGATIONS).await? else {
        return Ok(Vec::new());
    };
    let (mut events, mut after) = (Vec::new(), 0);
    loop {
        let page = store.events(tenant_id, DELEGATIONS, after, head.length).await?;
        let Some(last) = page.last() else {
            return Ok(Delegation::of_events(events.iter().map(String::as_str)));
        };
        after = last.seq;
        events.extend(page.into_iter().map(|event| event.text));
    }
}

/// Checks a delegation's people and times at `now`, in seconds since 1970.
pub(crate) fn new_delegation(
    request: &DelegationRequest,
    person: &str,
    by: &str,
    now: i64,
) -> Result<Delegation, InvalidMember> {
    let invalid = |member: &str, problem: String| InvalidMember { member: member.to_owned(), problem };
    let from = request.from.unwrap_or(now);
    if is_same_person(person, &request.to) {
        return Err(invalid("to", "expected another person than the absent one".to_owned()));
    }
    if request.until <= from.max(now) {
        return Err(invalid("until", "expected a time after now and after from".to_owned()));
    }
    if request.until - from > MAX_SECONDS {
        return Err(invalid("until", format!("expected at most {MAX_SECONDS} seconds after from")));
    }
    Ok(Delegation {
        id: delegation::new_id(),
        person: person.to_owned(),
        to: request.to.clone(),
        from,
        until: request.until,
        by: by.to_owned(),
        revoked: false,
    })
}

impl Service {
    /// Returns all delegations of a tenant, in order of creation.
    pub(super) async fn delegations(&self, tenant_id: &str) -> Result<Vec<Delegation>, ServiceError> {
        self.with_timeout(read_delegations(&*self.store, tenant_id)).await
    }

    /// Delegates the seats of a person: the principal's own, or for operators anyone's.
    pub(crate) async fn delegate(
        &self,
        Authorized(who): Authorized<'_>,
        request: &DelegationRequest,
    ) -> Result<Delegation, ServiceError> {
        let person = request.person.as_deref().unwrap_or(who.person());
        if who.role != Role::Operator && !is_same_person(person, who.person()) {
            return Err(ServiceError::NotOwn(
                "person: only the person or an operator can delegate the decisions of a person",
            ));
        }
        for (member, name) in [("person", person), ("to", &request.to)] {
            if self.directory.groups(&who.tenant.id, name).is_none() {
                let problem = format!(
                    "unknown person {name:?}; expected the person of an approver or operator key, or one \
                    under [[people]] in the settings"
                );
                return Err(InvalidMember { member: member.to_owned(), problem }.into());
            }
        }
        let created = new_delegation(request, person, &who.name, self.clock.seconds())?;
        let event =
            events::delegation_created(&who.tenant.id, &who.name, &created, request.reason.as_deref());
        self.with_timeout(self.store.record(Record::of(event))).await?;
        Ok(created)
    }

    /// Returns the delegations that are in force or will be: all of the tenant's, or for approvers
    /// those from or to them.
    pub(crate) async fn list_delegations(
        &self,
        Authorized(who): Authorized<'_>,
    ) -> Result<Vec<Delegation>, ServiceError> {
        let now = self.clock.seconds();
        let mut found = self.delegations(&who.tenant.id).await?;
        found.retain(|delegation| !delegation.revoked && now < delegation.until && may_see(who, delegation));
        Ok(found)
    }

    /// Revokes a delegation from or to the principal; operators may revoke any.
    pub(crate) async fn revoke_delegation(
        &self,
        Authorized(who): Authorized<'_>,
        id: &str,
    ) -> Result<Delegation, ServiceError> {
        let not_found = ServiceError::NotFound("delegation");
        let known = self.delegations(&who.tenant.id).await?;
        let found = known.into_iter().find(|found| found.id == id && may_see(who, found)).ok_or(not_found)?;
        revoke(&*self.store, &who.tenant.id, &who.name, id).await?;
        Ok(Delegation { revoked: true, ..found })
    }
}

/// Revokes a delegation; one that is already revoked stays so.
pub(crate) async fn revoke(
    store: &dyn Store,
    tenant_id: &Arc<str>,
    by: &str,
    id: &str,
) -> Result<(), StoreError> {
    let event = events::delegation_revoked(tenant_id, by, id);
    let change = Change::RevokeDelegation { id: id.to_owned() };
    store.change(Transition { event, change }).await.map(|_: TransitionOutcome| ())
}

fn may_see(who: &Principal, delegation: &Delegation) -> bool {
    let is_theirs =
        [&delegation.person, &delegation.to].iter().any(|name| is_same_person(name, who.person()));
    is_theirs || who.role != Role::Approver && who.role.may(Capability::ListApprovals)
}
