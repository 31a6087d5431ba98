//! `actpass-gateway policy history`, `rollback` and `replay`: policies that were in force, and
//! captured requests.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use actpass_protocol::Json;
use clap::Args;

use super::source::parse_file;
use super::{Failure, print, require_master_key, with_store};
use crate::capture::{CapturedRequest, Captures};
use crate::clock::rfc3339;
use crate::config::Settings;
use crate::events;
use crate::ledger::DECISIONS;
use crate::object_writer::object;
use crate::policy::Policy;
use crate::policy_replay::{ChangedDecision, Replay, ReplayCounts, ReplayedEvent};
use crate::store::{Kept, KeptKind, KeptPage, Record, Store};

/// Number of changed decisions that the text report contains; the JSON report contains all.
const SHOWN_CHANGES: usize = 20;

/// Page size of kept records.
const PAGE: u32 = 1000;

/// Number of captured requests that are read ahead of the events.
const READ_AHEAD: usize = 5000;

/// Selects a tenant of a gateway.
#[derive(Args, Debug)]
pub(super) struct TenantArguments {
    /// Gateway settings, a TOML file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Tenant; required if the gateway has several
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
}

impl TenantArguments {
    /// Runs `job` on the gateway's data, also while the gateway runs.
    fn run(
        &self,
        job: impl AsyncFnOnce(&Settings, &dyn Store, &str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let settings = Settings::load(&self.config).map_err(Failure::Settings)?;
        let tenants: Vec<_> = settings.tenants.iter().map(|tenant| &*tenant.id).collect();
        let tenant = match (self.tenant.as_deref(), tenants.as_slice()) {
            (Some(tenant), tenants) if tenants.contains(&tenant) => tenant,
            (None, [only]) => only,
            (_, tenants) => {
                return Err(Failure::Failed(format!("--tenant: expected one of {}", tenants.join(", "))));
            }
        };
        with_store(&settings.data, async |store| job(&settings, store, tenant).await)
    }
}

/// Returns all of a tenant's policies that were in force, oldest first.
async fn kept_policies(
    store: &dyn Store,
    tenant: &str,
    now: i64,
) -> Result<Vec<(Kept, Arc<Policy>)>, Failure> {
    let (mut found, mut from) = (Vec::new(), 0);
    loop {
        let page = KeptPage { kind: KeptKind::Policy, from, newest: false, now, limit: PAGE };
        let kept = store.kept(tenant, page).await.map_err(Failure::new)?;
        let Some(last) = kept.last() else { return Ok(found) };
        from = last.id;
        for record in kept {
            // The data can be changed by others: only the hash identifies a policy.
            match Policy::parse(&record.body) {
                Ok(policy) if policy.hash() == record.name => found.push((record, Arc::new(policy))),
                Ok(_) | Err(_) => {
                    let name = &record.name;
                    eprintln!("warning: the stored policy {name} does not have this hash; it is ignored");
                }
            }
        }
    }
}

/// Lists the policies that were in force.
pub(super) fn history(arguments: &TenantArguments) -> Result<(), Failure> {
    arguments.run(async |settings, store, tenant| {
        let current = current_policy(settings, tenant)?.hash().to_owned();
        for (kept, policy) in kept_policies(store, tenant, settings.clock.millis()).await? {
            let mark = if kept.name == current { "\tin the settings" } else { "" };
            let since = rfc3339(kept.at.div_euclid(1000));
            let (hash, id, version) = (policy.hash(), policy.id(), policy.version());
            print(format_args!("{hash}\tsince {since}\t{id} {version}{mark}"))?;
        }
        Ok(())
    })
}

fn current_policy<'s>(settings: &'s Settings, tenant: &str) -> Result<&'s Policy, Failure> {
    let found = settings.tenants.iter().find(|known| &*known.id == tenant);
    found.map(|tenant| &tenant.policy).ok_or_else(|| Failure::Failed(format!("unknown tenant {tenant:?}")))
}

/// Writes an earlier policy to the tenant's policy file, and records it.
pub(super) fn rollback(arguments: &TenantArguments, hash: &str) -> Result<(), Failure> {
    arguments.run(async |settings, store, tenant| {
        let current = current_policy(settings, tenant)?;
        let file = settings.policy_files.get(tenant).ok_or_else(|| Failure::new("unknown tenant"))?;
        let policies = kept_policies(store, tenant, settings.clock.millis()).await?;
        let mut matching = policies.iter().filter(|(kept, _)| hash.len() >= 8 && kept.name.starts_with(hash));
        let (kept, policy) = match (matching.next(), matching.next()) {
            (Some(found), None) => found,
            (None, _) => {
                let expected = "expected a hash of `policy history`, or at least 8 first digits of one";
                return Err(Failure::Failed(format!("no policy {hash:?} was in force; {expected}")));
            }
            (Some(_), Some(_)) => {
                return Err(Failure::Failed(format!("several policies start with {hash:?}")));
            }
        };
        if policy.hash() == current.hash() {
            return Err(Failure::Failed(format!("{}: has this policy already", file.display())));
        }
        // A new file in place of the old one, so that no reload reads a part of it.
        let new = file.with_extension("rollback");
        let failed = |error: std::io::Error| Failure::Failed(format!("{}: {error}", new.display()));
        std::fs::write(&new, &kept.body).map_err(failed)?;
        let event = events::policy_rolled_back(tenant, current, policy);
        store.record(Record::of(event)).await.map_err(Failure::new)?;
        std::fs::rename(&new, file).map_err(failed)?;
        print(format_args!(
            "{} has the policy {} again; reload the gateway unless it watches its files",
            file.display(),
            policy.hash()
        ))
    })
}

/// Options of a replay.
#[derive(Args, Debug)]
pub(super) struct ReplayArguments {
    /// The policy to replay, a JSON file
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Report decisions from this time on, such as 2027-01-31T00:00:00Z; earlier ones are replayed
    /// for their budgets and histories
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tenant: TenantArguments,
}

/// Captured requests in the order of their decisions.
struct CaptureReader<'s> {
    store: &'s dyn Store,
    captures: Captures,
    tenant: &'s str,
    now: i64,
    from: i64,
    is_at_end: bool,
    ahead: HashMap<String, Vec<u8>>,
}

impl CaptureReader<'_> {
    /// Returns the request of a decision.
    async fn take(&mut self, event_id: &str) -> Result<Option<CapturedRequest>, Failure> {
        while !self.ahead.contains_key(event_id) && !self.is_at_end && self.ahead.len() < READ_AHEAD {
            let page = KeptPage {
                kind: KeptKind::Capture,
                from: self.from,
                newest: false,
                now: self.now,
                limit: PAGE,
            };
            let kept = self.store.kept(self.tenant, page).await.map_err(Failure::new)?;
            match kept.last() {
                Some(last) => self.from = last.id,
                None => self.is_at_end = true,
            }
            self.ahead.extend(kept.into_iter().map(|kept| (kept.name, kept.body)));
        }
        match self.ahead.remove(event_id) {
            None => Ok(None),
            Some(sealed) => match self.captures.open(self.tenant, &sealed) {
                Some(request) => Ok(Some(request)),
                None => Err(Failure::Failed(format!(
                    "the captured request of {event_id} cannot be opened: it was changed, or sealed with another \
                    master key"
                ))),
            },
        }
    }
}

/// Replays captured requests with another policy.
pub(super) fn replay(arguments: &ReplayArguments) -> Result<(), Failure> {
    let policy = parse_file(&arguments.policy, Policy::parse)?;
    let from = match &arguments.from {
        None => i64::MIN,
        Some(text) => read_time(text)?,
    };
    arguments.tenant.run(async |settings, store, tenant| {
        let now = settings.clock.millis();
        let master = require_master_key(settings)?;
        let captures = Captures::new(&master).map_err(Failure::new)?;
        let known = kept_policies(store, tenant, now).await?;
        let known = known.into_iter().map(|(_, policy)| (policy.hash().to_owned(), policy)).collect();
        let mut replay = Replay::new(&policy, known, from);
        let mut reader =
            CaptureReader { store, captures, tenant, now, from: 0, is_at_end: false, ahead: HashMap::new() };
        let mut changed = Vec::new();
        let head = store.head(tenant, DECISIONS).await.map_err(Failure::new)?;
        let (mut after, until) = (0, head.map_or(0, |head| head.length));
        loop {
            let events = store.events(tenant, DECISIONS, after, until).await.map_err(Failure::new)?;
            let Some(last) = events.last() else { break };
            after = last.seq;
            for event in events {
                let Some(event) = ReplayedEvent::read(event.seq, &event.text) else {
                    return Err(Failure::Failed(format!("event {} of the ledger is invalid", event.seq)));
                };
                let captured = match event.is_decision() {
                    true => reader.take(&event.event_id).await?,
                    false => None,
                };
                changed.extend(replay.next(event, captured));
            }
        }
        report(arguments, &policy, replay.counts(), &changed)
    })
}

fn read_time(text: &str) -> Result<i64, Failure> {
    let time = humantime::parse_rfc3339(text).ok();
    let since = time.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    since.and_then(|since| i64::try_from(since.as_millis()).ok()).ok_or_else(|| {
        Failure::Failed(format!("--from: expected a time such as 2027-01-31T00:00:00Z, found {text:?}"))
    })
}

/// The number of changes by the recorded and the replayed decision, in the order of the words.
fn kinds(changed: &[ChangedDecision]) -> Vec<(&str, &str, usize)> {
    let mut kinds: Vec<(&str, &str, usize)> = Vec::new();
    for change in changed {
        let (old, new) = (&*change.recorded.decision, &*change.replayed.decision);
        match kinds.iter_mut().find(|(before, after, _)| (*before, *after) == (old, new)) {
            Some((_, _, count)) => *count += 1,
            None => kinds.push((old, new, 1)),
        }
    }
    kinds.sort_unstable();
    kinds
}

fn report(
    arguments: &ReplayArguments,
    policy: &Policy,
    counts: ReplayCounts,
    changed: &[ChangedDecision],
) -> Result<(), Failure> {
    let ReplayCounts { decisions, missing, compared, reproduced, .. } = counts;
    let is_exact = missing == 0 && compared == decisions && reproduced == compared;
    if arguments.json {
        let number = |count: u64| Some(Json::Number(i64::try_from(count).unwrap_or(i64::MAX).into()));
        let kinds = kinds(changed).into_iter().map(|(old, new, count)| {
            object([
                ("recorded", Some(Json::from(old))),
                ("replayed", Some(Json::from(new))),
                ("decisions", number(u64::try_from(count).unwrap_or(u64::MAX))),
            ])
        });
        let report = object([
            ("policy_hash", Some(Json::from(policy.hash()))),
            ("exact", Some(Json::Bool(is_exact))),
            ("decisions", number(decisions)),
            ("changed", number(counts.changed)),
            ("missing", number(missing)),
            ("compared", number(compared)),
            ("reproduced", number(reproduced)),
            ("kinds", Some(Json::Array(kinds.collect()))),
            ("changes", Some(Json::Array(changed.iter().map(ChangedDecision::to_json).collect()))),
        ]);
        print(report)?;
    } else {
        print(format_args!("{decisions} decisions replayed, {} change", counts.changed))?;
        for (old, new, count) in kinds(changed) {
            print(format_args!("  {old} -> {new}: {count}"))?;
        }
        for change in changed.iter().take(SHOWN_CHANGES) {
            print(change)?;
        }
        if changed.len() > SHOWN_CHANGES {
            print(format_args!("and {} more; --json prints all", changed.len() - SHOWN_CHANGES))?;
        }
        print(format_args!("{reproduced} of {compared} recorded decisions reproduced by their own policy"))?;
    }
    match is_exact {
        true => Ok(()),
        false => Err(Failure::Failed(format!(
            "{}: not exact: {missing} decisions without a captured request, {} not reproduced, {} of an unknown \
            policy",
            arguments.policy.display(),
            compared.saturating_sub(reproduced),
            decisions.saturating_sub(compared)
        ))),
    }
}
