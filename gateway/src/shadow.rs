//! Shadow policies: a second policy of a tenant that is evaluated for each decision, without effect.
//!
//! A decision is passed on after it was recorded, so a shadow policy cannot delay or fail it. If the
//! evaluation falls behind, decisions are skipped and counted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use actpass_protocol::Json;
use rust_decimal::Decimal;
use tokio::sync::mpsc;

use crate::auth::Tenant;
use crate::budget::{Account, Charge};
use crate::clock::rfc3339;
use crate::object_writer::object;
use crate::policy::{Answer, Policy, RecordedDecision, ShadowPolicy};
use crate::store::{KeptChange, KeptKind, NewKept, Store};

/// Maximum number of decisions that wait for their evaluation.
const QUEUE: usize = 4096;

/// Maximum number of decisions that are evaluated together.
const BATCH: usize = 256;

/// Number of disagreements that are kept of a tenant; older ones are removed.
pub(crate) const KEPT_DISAGREEMENTS: u32 = 1000;

/// A recorded decision to evaluate.
#[derive(Debug)]
pub(crate) struct ShadowTask {
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) decision: RecordedDecision,
    pub(crate) event_id: String,
    /// In milliseconds since 1970.
    pub(crate) at: i64,
    pub(crate) agent_id: Option<String>,
    /// The amounts that the decision claimed.
    pub(crate) claimed: Vec<Charge>,
}

impl ShadowTask {
    /// Replaces the answer with that of a decision that the transaction refused. `None` if the response
    /// is invalid.
    pub(crate) fn refused(self, response: &[u8]) -> Option<Self> {
        let response = Json::parse(response).ok()?;
        let text = |name: &str| response.member(name).and_then(Json::as_str).map(str::to_owned);
        let rules = response.member("explain").and_then(|explain| explain.member("matched_rules"));
        let rule = match rules {
            Some(Json::Array(rules)) => rules.first().and_then(Json::as_str).map(str::to_owned),
            Some(_) | None => None,
        };
        let decision = text("would_be").or_else(|| text("decision"))?;
        let answer = Answer { decision, reason: text("reason_code")?, rule };
        let decision = RecordedDecision { answer, ..self.decision };
        Some(Self { decision, event_id: text("evidence_event_id")?, claimed: Vec::new(), ..self })
    }
}

/// Counts of a shadow policy since it was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ShadowCounts {
    /// Decisions that it makes too.
    pub(crate) agreed: u64,
    /// Decisions that it makes otherwise.
    pub(crate) disagreed: u64,
    /// Decisions that depend on a budget or a history that only the shadow policy has.
    pub(crate) undetermined: u64,
    /// Decisions that were not evaluated, because too many were waiting.
    pub(crate) skipped: u64,
}

/// Counts by tenant and hash of the shadow policy.
type Counts = HashMap<(Arc<str>, String), ShadowCounts>;

/// Passes decisions to their shadow policies. A clone is for the same gateway.
#[derive(Clone, Debug)]
pub(crate) struct Shadows {
    tasks: mpsc::Sender<ShadowTask>,
    counts: Arc<Mutex<Counts>>,
}

impl Shadows {
    /// Returns the receiver for [`Shadows::run`].
    pub(crate) fn new() -> (Self, mpsc::Receiver<ShadowTask>) {
        let (tasks, queue) = mpsc::channel(QUEUE);
        (Self { tasks, counts: Arc::default() }, queue)
    }

    /// Queues a decision of a tenant with a shadow policy.
    pub(crate) fn submit(&self, task: ShadowTask) {
        let tenant = Arc::clone(&task.tenant);
        if self.tasks.try_send(task).is_err() {
            self.count(&tenant, |counts| counts.skipped += 1);
        }
    }

    /// Returns the counts of a tenant's shadow policy.
    pub(crate) fn counts(&self, tenant_id: &Arc<str>, policy: &Policy) -> ShadowCounts {
        let name = (Arc::clone(tenant_id), policy.hash().to_owned());
        self.lock().get(&name).copied().unwrap_or_default()
    }

    fn count(&self, tenant: &Tenant, add: impl FnOnce(&mut ShadowCounts)) {
        let Some(shadow) = &tenant.shadow else { return };
        let mut counts = self.lock();
        let name = (Arc::clone(&tenant.id), shadow.policy.hash().to_owned());
        if !counts.contains_key(&name) {
            // A reload replaced the policy.
            counts.retain(|(tenant_id, _), _| *tenant_id != tenant.id);
        }
        add(counts.entry(name).or_default());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Evaluates decisions until all senders are gone.
    pub(crate) async fn run(self, mut queue: mpsc::Receiver<ShadowTask>, store: Arc<dyn Store>) {
        let mut tasks = Vec::with_capacity(BATCH);
        while queue.recv_many(&mut tasks, BATCH).await > 0 {
            let mut disagreements = Vec::new();
            for task in tasks.drain(..) {
                disagreements.extend(self.evaluate(&task, &*store).await);
            }
            keep(disagreements, &*store).await;
        }
    }

    /// Evaluates a decision and returns the record of a disagreement.
    async fn evaluate(&self, task: &ShadowTask, store: &dyn Store) -> Option<NewKept> {
        let shadow = task.tenant.shadow.as_ref()?;
        let accounts: Vec<Account> = shadow
            .policy
            .accounts_of(&task.decision.input)
            .into_iter()
            .filter(|account| shadow.shared.contains(&account.budget))
            .collect();
        let mut sums = None;
        if accounts.is_empty() {
            sums = Some(HashMap::new());
        } else if let Ok(uses) = store.budget_uses(&task.tenant.id, task.at, &accounts).await {
            sums = Some(uses.into_iter().map(|found| (found.account, found.used)).collect());
        }
        let sum = |account: &Account| -> Option<Decimal> {
            let sums = sums.as_ref().filter(|_| accounts.contains(account))?;
            // The decision itself has claimed.
            let own = task.claimed.iter().filter(|claimed| claimed.account == *account);
            let own = own.fold(Decimal::ZERO, |sum, claimed| sum.saturating_add(claimed.amount));
            let used = sums.get(account).copied().unwrap_or_default();
            Some(used.saturating_sub(own).max(Decimal::ZERO))
        };
        let Ok(answered) = shadow.policy.reconsider(&task.decision, sum) else {
            self.count(&task.tenant, |counts| counts.undetermined += 1);
            return None;
        };
        if answered.answer.agrees(&task.decision.answer) {
            self.count(&task.tenant, |counts| counts.agreed += 1);
            return None;
        }
        self.count(&task.tenant, |counts| counts.disagreed += 1);
        Some(NewKept {
            tenant_id: Arc::clone(&task.tenant.id),
            kind: KeptKind::Shadow,
            name: task.event_id.clone(),
            at: task.at,
            expires_at: None,
            body: disagreement(task, shadow, &answered.answer).to_string().into_bytes(),
        })
    }
}

/// Describes a disagreement, without arguments of the request.
fn disagreement(task: &ShadowTask, shadow: &ShadowPolicy, answer: &Answer) -> Json {
    object([
        ("event_id", Some(Json::from(&*task.event_id))),
        ("at", Some(Json::String(rfc3339(task.at.div_euclid(1000))))),
        ("tool", task.decision.input.as_json().member("tool").cloned()),
        ("agent_id", task.agent_id.as_deref().map(Json::from)),
        ("decided", Some(task.decision.answer.to_json())),
        ("shadow", Some(answer.to_json())),
        ("policy_hash", Some(Json::from(task.tenant.policy.hash()))),
        ("shadow_policy_hash", Some(Json::from(shadow.policy.hash()))),
    ])
}

/// Keeps the newest disagreements.
async fn keep(disagreements: Vec<NewKept>, store: &dyn Store) {
    if disagreements.is_empty() {
        return;
    }
    let mut tenants: Vec<_> = disagreements.iter().map(|kept| Arc::clone(&kept.tenant_id)).collect();
    tenants.sort_unstable();
    tenants.dedup();
    let mut kept = store.change_kept(KeptChange::Add(disagreements)).await;
    for tenant_id in tenants {
        let trim = KeptChange::Trim { tenant_id, kind: KeptKind::Shadow, keep: KEPT_DISAGREEMENTS };
        kept = kept.and(store.change_kept(trim).await);
    }
    if kept.is_err() {
        tracing::warn!("disagreements of a shadow policy were not stored");
    }
}
