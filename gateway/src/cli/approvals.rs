//! `actpass-gateway approvals`.

use clap::Subcommand;

use super::vault::{VaultArguments, read_expiry, with_vault};
use super::{Failure, print};
use crate::approvals::{Approval, Status};
use crate::clock::rfc3339;
use crate::events::COMMAND_LINE;
use crate::request::DelegationRequest;
use crate::service::{new_delegation, read_delegations, revoke_delegation};
use crate::store::{Listing, Record};

/// Approvals read at a time.
const PAGE_SIZE: u32 = 500;

#[derive(Debug, Subcommand)]
pub(super) enum ApprovalsCommand {
    /// Let a person decide in place of an absent one, recorded in the ledger
    Delegate {
        /// The absent person
        #[arg(long)]
        person: String,
        /// The person who decides
        #[arg(long)]
        to: String,
        /// Start: a time such as 2027-01-31T00:00:00Z or a duration from now such as 12h; now if omitted
        #[arg(long, value_name = "WHEN")]
        from: Option<String>,
        /// End: a time or a duration from now such as 14d
        #[arg(long, value_name = "WHEN")]
        until: String,
        /// The reason, recorded in the ledger
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        arguments: VaultArguments,
    },
    /// List delegations that are in force or will be
    Delegations {
        #[command(flatten)]
        arguments: VaultArguments,
    },
    /// List pending approvals with the votes and the missing seats
    List {
        #[command(flatten)]
        arguments: VaultArguments,
    },
    /// Revoke a delegation
    Revoke {
        /// The delegation's id
        id: String,
        #[command(flatten)]
        arguments: VaultArguments,
    },
    /// Show an approval: the requirement, the votes, and the missing seats
    Show {
        /// The approval's id
        id: String,
        #[command(flatten)]
        arguments: VaultArguments,
    },
}

impl ApprovalsCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Delegate { person, to, from, until, reason, arguments } => {
                with_vault(&arguments, async |settings, store, tenant| {
                    for name in [&person, &to] {
                        if settings.directory.groups(tenant, name).is_none() {
                            let problem = format!("unknown person {name:?}; expected one of the settings");
                            return Err(Failure::Failed(problem));
                        }
                    }
                    let now = settings.clock.seconds();
                    let from = from.as_deref().map(|from| read_expiry("--from", from, now)).transpose()?;
                    let until = read_expiry("--until", &until, now)?;
                    let request = DelegationRequest { person: None, to, from, until, reason };
                    let created =
                        new_delegation(&request, &person, COMMAND_LINE, now).map_err(Failure::new)?;
                    let reason = request.reason.as_deref();
                    let event =
                        crate::events::delegation_created(&tenant.into(), COMMAND_LINE, &created, reason);
                    store.record(Record::of(event)).await.map_err(Failure::new)?;
                    print(format_args!("delegated {}", created.id))
                })
            }
            Self::Delegations { arguments } => with_vault(&arguments, async |settings, store, tenant| {
                let now = settings.clock.seconds();
                let found = read_delegations(store, tenant).await.map_err(Failure::new)?;
                for found in found.iter().filter(|found| !found.revoked && now < found.until) {
                    let (from, until) = (rfc3339(found.from), rfc3339(found.until));
                    let (person, to) = (found.person.escape_debug(), found.to.escape_debug());
                    print(format_args!("{}\t{person}\tto {to}\tfrom {from}\tuntil {until}", found.id))?;
                }
                Ok(())
            }),
            Self::List { arguments } => with_vault(&arguments, async |settings, store, tenant| {
                let now = settings.clock.seconds();
                let mut listing =
                    Listing { now, status: Some(Status::Pending), limit: PAGE_SIZE, ..Listing::default() };
                loop {
                    let page = store.approvals(tenant, listing.clone()).await.map_err(Failure::new)?;
                    let Some(last) = page.last() else {
                        return Ok(());
                    };
                    listing.after = Some(last.id.clone());
                    for approval in &page {
                        let (tool, deadline) = (approval.tool.escape_debug(), rfc3339(approval.deadline));
                        let (votes, needed) = (approval.votes.len(), needed(approval, now));
                        print(format_args!(
                            "{}\t{tool}\tuntil {deadline}\t{votes} votes\tneeds {needed}",
                            approval.id
                        ))?;
                    }
                }
            }),
            Self::Revoke { id, arguments } => with_vault(&arguments, async |_, store, tenant| {
                let known = read_delegations(store, tenant).await.map_err(Failure::new)?;
                if !known.iter().any(|found| found.id == id) {
                    return Err(Failure::Failed(format!("tenant {tenant:?} has no delegation {id:?}")));
                }
                revoke_delegation(store, &tenant.into(), COMMAND_LINE, &id).await.map_err(Failure::new)?;
                print(format_args!("revoked {id}"))
            }),
            Self::Show { id, arguments } => with_vault(&arguments, async |settings, store, tenant| {
                let found = store.approval(tenant, &id).await.map_err(Failure::new)?;
                let none = || Failure::Failed(format!("tenant {tenant:?} has no approval {id:?}"));
                show(&found.ok_or_else(none)?, settings.clock.seconds())
            }),
        }
    }
}

fn needed(approval: &Approval, now: i64) -> String {
    let opening = approval.opening.as_ref();
    opening.map(|opening| opening.requirement.describe(&approval.still_needed(now))).unwrap_or_default()
}

fn show(approval: &Approval, now: i64) -> Result<(), Failure> {
    print(format_args!("id        {}", approval.id))?;
    print(format_args!("status    {}", approval.status(now).as_str()))?;
    print(format_args!("tool      {}", approval.tool.escape_debug()))?;
    print(format_args!("deadline  {}", rfc3339(approval.deadline)))?;
    if let Some(opening) = &approval.opening {
        print(format_args!("requested by {}", opening.person.escape_debug()))?;
        print(format_args!("requires  {}", opening.requirement.to_json()))?;
    }
    for vote in &approval.votes {
        let word = if vote.approved { "approved" } else { "rejected" };
        let absent = vote.delegated.as_ref().map(|seat| format!(" for {}", seat.person.escape_debug()));
        let (person, at) = (vote.person.escape_debug(), rfc3339(vote.at));
        print(format_args!("vote      {person} {word}{} at {at}", absent.unwrap_or_default()))?;
    }
    match needed(approval, now) {
        needed if needed.is_empty() => Ok(()),
        needed => print(format_args!("needs     {needed}")),
    }
}
