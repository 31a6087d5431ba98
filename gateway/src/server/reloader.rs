//! Reloads of the settings while requests are served.
//!
//! A task reads the settings on a request (a signal, an operator's call, changed files) with the code
//! that reads them at start, validates them completely, records the reload in the ledger of each
//! tenant, and then replaces the settings in force as a whole. A failure leaves the previous ones in
//! force and is reported in the log, the ledger, the response and the
//! [`ReloadReport`](crate::reload::ReloadReport).

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::{InForce, ServerError, Shared, keep_policies};
use crate::config::{FixedSettings, Settings};
use crate::events::{self, LoadedHashes};
use crate::files::ReadFile;
use crate::ledger::Draft;
use crate::problems::Problems;
use crate::reload::{Change, Loaded, ReloadRequest, Reloads, Trigger};
use crate::service::ServiceError;
use crate::store::Record;
use crate::webhooks::Dispatcher;

/// Interval of the polls of the files with `watch = true`. Changed files are reloaded when two polls
/// read the same content, because a partially written file may be valid.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// Maximum number of attempts to read files that change during the read, and the delay between them.
const MAX_READS: usize = 5;
const READ_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Why a reload was refused.
enum Refusal {
    Problems(Problems),
    Store(ServiceError),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Problems(problems) => f.write_str(&problems.iter().collect::<Vec<_>>().join("; ")),
            Self::Store(_) => f.write_str("the ledger is unavailable"),
        }
    }
}

/// Reloads the settings.
#[derive(Debug)]
pub(super) struct Reloader {
    pub(super) source: PathBuf,
    pub(super) fixed: FixedSettings,
    /// The files of the last attempt.
    pub(super) files: Vec<ReadFile>,
    pub(super) shared: Shared,
    pub(super) replace: watch::Sender<Arc<InForce>>,
    pub(super) reloads: Reloads,
    /// The tasks that deliver to webhooks.
    pub(super) delivering: JoinSet<()>,
}

impl Reloader {
    /// Reloads on requests, and on changed files if `watch` is set.
    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<ReloadRequest>) {
        let watches = self.fixed.watches();
        let mut polls = tokio::time::interval(WATCH_INTERVAL);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changed = None;
        loop {
            let request = tokio::select! {
                Some(request) = requests.recv() => request,
                _ = polls.tick(), if watches => {
                    let found = again(&self.files).await;
                    let is_stable = changed.as_ref() == Some(&found);
                    changed = (found != self.files).then_some(found);
                    if changed.is_none() || !is_stable {
                        continue;
                    }
                    ReloadRequest { trigger: Trigger::Watch, reply: None }
                }
            };
            let files = self.files.clone();
            let result = self.reload(&request.trigger).await;
            if let Err(Refusal::Store(_)) = result {
                // The next poll reloads again.
                self.files = files;
            }
            self.report(result.is_ok());
            let result = result.map_err(|refusal| {
                let trigger = request.trigger.as_str();
                tracing::error!(
                    trigger,
                    problems = %refusal,
                    "the settings were not reloaded; the previous ones are in force"
                );
                match refusal {
                    Refusal::Problems(_) => ServiceError::ReloadRefused(refusal.to_string()),
                    Refusal::Store(error) => error,
                }
            });
            if let Some(reply) = request.reply {
                // The caller may be gone.
                let _ = reply.send(result);
            }
        }
    }

    fn report(&self, succeeded: bool) {
        let now = self.replace.borrow().service().clock.seconds();
        self.reloads.count(succeeded, now);
    }

    async fn reload(&mut self, trigger: &Trigger) -> Result<Change, Refusal> {
        let before = Arc::clone(&self.replace.borrow());
        let settings = match self.load().await {
            Ok(settings) => settings,
            Err(problems) => {
                self.record_refusal(trigger, &before.loaded, problems.len()).await;
                return Err(Refusal::Problems(problems));
            }
        };
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        let (after, dispatchers) = match self.prepare(settings, &before).await {
            Ok(prepared) => prepared,
            Err(error) => {
                self.record_refusal(trigger, &before.loaded, 1).await;
                return Err(Refusal::Problems(Problems::one(self.source.display(), error)));
            }
        };
        let clock = self.shared.clock.clone();
        keep_policies(&after.loaded, &*self.shared.store, &clock)
            .await
            .map_err(|error| Refusal::Store(ServiceError::from(error)))?;
        // Recorded first: no decision of a policy precedes the event of its reload.
        let change = [Arc::clone(&before.loaded), Arc::clone(&after.loaded)];
        let tenants = change.iter().flat_map(|loaded| &loaded.tenants);
        for tenant_id in tenants.map(|tenant| &tenant.id).collect::<BTreeSet<_>>() {
            let found = change.each_ref().map(|loaded| hashes(loaded, tenant_id));
            let by = trigger.operator(tenant_id);
            let event = events::policy_reloaded(tenant_id, by, trigger.as_str(), found);
            self.record(event).await.map_err(Refusal::Store)?;
        }
        let [hash_before, hash] = change.each_ref().map(|loaded| &loaded.hash);
        tracing::info!(
            trigger = trigger.as_str(),
            settings_hash_before = hash_before,
            settings_hash = hash,
            "settings reloaded"
        );
        self.replace.send_replace(after);
        // An attempt that is aborted is repeated: delivery is at least once.
        self.delivering.shutdown().await;
        dispatchers.into_iter().for_each(|dispatcher| {
            self.delivering.spawn(dispatcher.run());
        });
        Ok(change)
    }

    /// Creates everything that can fail.
    async fn prepare(
        &self,
        settings: Settings,
        before: &InForce,
    ) -> Result<(Arc<InForce>, Vec<Dispatcher>), ServerError> {
        let after = InForce::new(settings, &self.shared, &self.reloads, Some(before))?;
        let dispatchers = after.dispatchers(&self.shared).await?;
        Ok((Arc::new(after), dispatchers))
    }

    /// Reads and validates the settings; repeats it if a file has changed during the read.
    async fn load(&mut self) -> Result<Settings, Problems> {
        for _ in 0..MAX_READS {
            let source = self.source.clone();
            let (settings, files) = load(source).await;
            self.files = files;
            if again(&self.files).await == self.files {
                let settings = settings?;
                let mut problems = Problems::default();
                for member in self.fixed.differences(&settings.fixed()) {
                    problems.add(member, "changed, which needs a restart of the gateway");
                }
                return problems.or(settings);
            }
            tokio::time::sleep(READ_AGAIN_AFTER).await;
        }
        Err(Problems::one(self.source.display(), "the files change while they are read; try again"))
    }

    async fn record_refusal(&self, trigger: &Trigger, current: &Loaded, problems: usize) {
        for tenant in &current.tenants {
            let by = trigger.operator(&tenant.id);
            let hashes = hashes(current, &tenant.id);
            let event = events::reload_refused(&tenant.id, by, trigger.as_str(), hashes, problems);
            if self.record(event).await.is_err() {
                tracing::error!(tenant = &*tenant.id, "the refused reload could not be recorded");
            }
        }
    }

    async fn record(&self, event: Draft) -> Result<(), ServiceError> {
        let service = Arc::clone(self.replace.borrow().service());
        service.with_timeout(service.store.record(Record::of(event))).await.map(|_| ())
    }
}

fn hashes<'a>(loaded: &'a Loaded, tenant_id: &str) -> LoadedHashes<'a> {
    LoadedHashes { settings: &loaded.hash, policy: loaded.policy(tenant_id) }
}

/// Reads the settings on a blocking thread.
async fn load(source: PathBuf) -> (Result<Settings, Problems>, Vec<ReadFile>) {
    let place = source.clone();
    let loading = tokio::task::spawn_blocking(move || Settings::load_files(&source));
    loading.await.unwrap_or_else(|_| (Err(internal(&place)), Vec::new()))
}

fn internal(source: &Path) -> Problems {
    Problems::one(source.display(), "internal error while reading the settings")
}

/// Reads the files again on a blocking thread.
async fn again(files: &[ReadFile]) -> Vec<ReadFile> {
    let files = files.to_vec();
    let reading = tokio::task::spawn_blocking(move || files.iter().map(ReadFile::again).collect());
    reading.await.unwrap_or_default()
}
