//! A validated action with its serialized request.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use actpass_protocol::json::{JsonWriter, NotCanonical, Style};
use actpass_protocol::{Json, Mode, Secret, sha256_hex};
use bytes::Bytes;
use uuid::Builder;

use crate::action::Action;
use crate::clock::Clock;
use crate::config::Config;
use crate::error::Error;
use crate::request;
use crate::signed_approvals::ApprovalVerifier;

/// A validated action with the request that authorizes it: see
/// [`ActPass::prepare`](crate::ActPass::prepare). Cloning is cheap.
#[derive(Clone)]
pub struct PreparedAction(Arc<Inner>);

struct Inner {
    config: Arc<Config>,
    action: Action,
    mode: Mode,
    body: Bytes,
    hash: OnceLock<Result<String, NotCanonical>>,
}

impl PreparedAction {
    /// # Errors
    ///
    /// [`ErrorKind::Argument`](crate::ErrorKind::Argument) for an invalid member.
    pub(crate) fn new(action: Action, config: &Arc<Config>, clock: &dyn Clock) -> Result<Self, Error> {
        let mode = action.fields().mode.unwrap_or(config.mode);
        let key = match &action.fields().idempotency_key {
            Some(key) => Cow::Borrowed(key.as_str()),
            None => Cow::Owned(fresh_key(clock)?),
        };
        let agent_id = action.fields().agent_id.as_deref().unwrap_or(&config.agent_id);
        let body = request::preflight(action.fields(), agent_id, mode, &key)?;
        Ok(Self(Arc::new(Inner { config: Arc::clone(config), action, mode, body, hash: OnceLock::new() })))
    }

    /// The tool that the action uses.
    pub fn tool(&self) -> &str {
        &self.0.action.fields().tool
    }

    /// The mode that applies to the decision: the action's, else the client's.
    pub fn mode(&self) -> Mode {
        self.0.mode
    }

    /// Secrets that must not appear in texts about the action.
    pub(crate) fn secrets(&self) -> Vec<&Secret> {
        let passport = self.action().fields().passport.as_ref();
        std::iter::once(&self.0.config.api_key).chain(passport).collect()
    }

    /// The action.
    pub fn action(&self) -> &Action {
        &self.0.action
    }

    /// The highest `halt_epoch` that the client has seen.
    pub(crate) fn seen_epoch(&self) -> Option<u64> {
        self.0.config.seen_epoch.get()
    }

    /// The passkeys that must have signed an approval. `monitor` does not depend on them.
    pub(crate) fn approvals(&self) -> Option<&ApprovalVerifier> {
        self.0.config.approvals.as_deref().filter(|_| self.mode() != Mode::Monitor)
    }

    pub(crate) fn body(&self) -> &Bytes {
        &self.0.body
    }

    /// Reports to the scripted gateway of a test that the action runs.
    #[cfg(feature = "testing")]
    pub(crate) fn note_execution(&self) {
        if let Some(executions) = &self.0.config.executions {
            executions.note_execution(self.tool(), &self.action().fields().args);
        }
    }

    /// Whether the SDK generated the idempotency key. No other call has it.
    pub(crate) fn has_generated_key(&self) -> bool {
        self.0.action.fields().idempotency_key.is_none()
    }

    /// The hash of the request, computed once.
    ///
    /// # Errors
    ///
    /// If the request has no canonical form.
    pub(crate) fn request_hash(&self) -> Result<&str, &NotCanonical> {
        let hash = self.0.hash.get_or_init(|| {
            let body = Json::parse(&self.0.body).unwrap_or(Json::Null);
            let mut canonical = JsonWriter::new(Style::Compact);
            body.write_canonical(&mut canonical)?;
            Ok(sha256_hex(canonical.as_str().as_bytes()))
        });
        hash.as_deref()
    }
}

/// Generates an idempotency key: a UUIDv7, without a shared counter.
fn fresh_key(clock: &dyn Clock) -> Result<String, Error> {
    let since = clock.wall_clock().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let [random @ .., _, _, _, _, _, _] = clock.random()?;
    Ok(Builder::from_unix_timestamp_millis(millis, &random).into_uuid().to_string())
}

impl fmt::Debug for PreparedAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedAction")
            .field("tool", &self.tool())
            .field("mode", &self.mode())
            .finish_non_exhaustive()
    }
}
