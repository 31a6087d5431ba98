//! The two steps of the guard. Between them the public API layer runs the caller's function in the
//! caller's task.

use std::future::Future;
use std::sync::Arc;

use actpass_core::engine::Begun;
use actpass_core::{
    Action, ActionEnd, BlockFailure, BlockTexts, Blocked, Credential, Decision, Error, ErrorKind, HaltSignal,
    Json, Mode, Outcome, RecordedEvidence, Recording, Secret, wait_seconds,
};
use actpass_session::GuardSession;

use crate::calls::Calls;
use crate::error::{NativeError, NativeErrorKind, NativeFailure, internal};
use crate::evidence::NativeRecorded;
use crate::runtime::catch_panic;

/// The modes of the core.
#[derive(Clone, Copy, Debug, uniffi::Enum)]
pub(crate) enum NativeMode {
    /// Runs on `allow` only.
    Enforce,
    /// Runs always.
    Monitor,
    /// Runs on a recorded `allow` only.
    Strict,
    /// Runs on `warn` too.
    Warn,
}

impl From<NativeMode> for Mode {
    fn from(mode: NativeMode) -> Self {
        match mode {
            NativeMode::Enforce => Self::Enforce,
            NativeMode::Monitor => Self::Monitor,
            NativeMode::Strict => Self::Strict,
            NativeMode::Warn => Self::Warn,
        }
    }
}

/// An action.
#[derive(uniffi::Record)]
pub(crate) struct NativeAction {
    /// The agent's goal.
    pub(crate) goal: String,
    /// The tool.
    pub(crate) tool: String,
    /// The resource that the tool acts on.
    pub(crate) resource: String,
    /// The JSON text of the arguments, an object.
    pub(crate) args: String,
    /// The user on whose behalf the agent acts.
    pub(crate) user_id: Option<String>,
    /// The passport to present.
    pub(crate) passport: Option<Secret>,
    /// The mode; the client's if `None`.
    pub(crate) mode: Option<NativeMode>,
    /// The idempotency key.
    pub(crate) idempotency_key: Option<String>,
    /// The service that the passport is presented to.
    pub(crate) audience: Option<String>,
    /// The approval to spend.
    pub(crate) approval_request_id: Option<String>,
    /// The hash of the tool's manifest.
    pub(crate) tool_manifest_hash: Option<String>,
    /// A guard's wait for approval, in seconds.
    pub(crate) wait_for_approval: Option<f64>,
}

impl NativeAction {
    pub(crate) fn convert(self) -> Result<Action, Error> {
        let mut action = Action::new(self.goal, self.tool).resource(self.resource).args_text(self.args);
        if let Some(user_id) = self.user_id {
            action = action.user_id(user_id);
        }
        if let Some(passport) = self.passport {
            action = action.passport(passport.expose());
        }
        if let Some(mode) = self.mode {
            action = action.mode(mode.into());
        }
        if let Some(key) = self.idempotency_key {
            action = action.idempotency_key(key);
        }
        if let Some(audience) = self.audience {
            action = action.audience(audience);
        }
        if let Some(id) = self.approval_request_id {
            action = action.approval_request_id(id);
        }
        if let Some(hash) = self.tool_manifest_hash {
            action = action.tool_manifest_hash(hash);
        }
        if let Some(seconds) = self.wait_for_approval {
            action = action.wait_for_approval(wait_seconds("wait_for_approval", seconds)?);
        }
        Ok(action)
    }
}

/// A decision.
#[derive(Clone, Debug, uniffi::Record)]
pub(crate) struct NativeDecision {
    /// The decision word.
    pub(crate) word: String,
    /// The stable reason code.
    pub(crate) reason_code: String,
    /// The risk tier.
    pub(crate) risk_tier: Option<String>,
    /// One sentence.
    pub(crate) summary: String,
    /// The rules that matched.
    pub(crate) matched_rules: Vec<String>,
    /// What to do next.
    pub(crate) next_steps: Vec<String>,
    /// The id of the ledger entry.
    pub(crate) evidence_event_id: Option<String>,
    /// The id of the requested approval.
    pub(crate) approval_request_id: Option<String>,
    /// The gateway's id of the request.
    pub(crate) request_id: Option<String>,
    /// The JSON text.
    pub(crate) json: String,
}

impl From<&Decision> for NativeDecision {
    fn from(decision: &Decision) -> Self {
        let explain = decision.explain();
        Self {
            word: decision.word().as_str().to_owned(),
            reason_code: decision.reason_code().into_owned(),
            risk_tier: decision.risk_tier().map(Into::into),
            summary: explain.summary,
            matched_rules: explain.matched_rules,
            next_steps: explain.next_steps,
            evidence_event_id: decision.evidence_event_id().map(Into::into),
            approval_request_id: decision.approval_request_id().map(Into::into),
            request_id: decision.request_id().map(Into::into),
            json: decision.as_json().to_owned(),
        }
    }
}

/// A secret from the gateway's vault for the tool.
#[derive(uniffi::Record)]
pub(crate) struct NativeCredential {
    /// The secret.
    pub(crate) token: Secret,
    /// The expiry time.
    pub(crate) expires_at: Option<String>,
    /// The JSON text, which contains the secret.
    pub(crate) json: Secret,
}

impl From<&Credential> for NativeCredential {
    fn from(credential: &Credential) -> Self {
        Self {
            token: Secret::new(credential.token()),
            expires_at: credential.expires_at(),
            json: Secret::new(credential.as_json()),
        }
    }
}

/// The verdict.
#[derive(uniffi::Enum)]
pub(crate) enum NativeVerdict {
    /// The action may not run.
    Blocked {
        /// The block.
        blocked: NativeBlocked,
    },
    /// The action may run, once.
    Permitted {
        /// The session that runs it.
        session: Arc<NativeSession>,
    },
}

/// A block.
#[derive(uniffi::Record)]
pub(crate) struct NativeBlocked {
    /// The tool that was not used.
    pub(crate) tool: String,
    /// The decision of the gateway or of the SDK.
    pub(crate) decision: NativeDecision,
    /// The gate failure, if any.
    pub(crate) failure: Option<NativeFailure>,
    /// The handle to store and resume.
    pub(crate) approval: Option<NativePending>,
    /// The texts for a developer and for a model.
    pub(crate) texts: NativeBlockTexts,
}

impl From<&Blocked> for NativeBlocked {
    fn from(blocked: &Blocked) -> Self {
        Self {
            tool: blocked.tool().to_owned(),
            decision: blocked.decision().into(),
            failure: blocked.error().map(Into::into),
            approval: blocked.approval().map(Into::into),
            texts: blocked.texts().into(),
        }
    }
}

/// The two texts of a block.
#[derive(uniffi::Record)]
pub(crate) struct NativeBlockTexts {
    /// For a developer.
    pub(crate) developer: String,
    /// For a model.
    pub(crate) model: String,
    /// Whether the same call may succeed later.
    pub(crate) retryable: bool,
}

impl From<BlockTexts> for NativeBlockTexts {
    fn from(texts: BlockTexts) -> Self {
        let BlockTexts { developer, model, is_retryable } = texts;
        Self { developer, model, retryable: is_retryable }
    }
}

/// A handle of an action that waits for approval.
#[derive(uniffi::Record)]
pub(crate) struct NativePending {
    /// The approval's id.
    pub(crate) id: String,
    /// The JSON text, to store.
    pub(crate) json: String,
}

/// The context of a permitted action.
#[derive(uniffi::Record)]
pub(crate) struct NativeContext {
    /// The decision that permits it.
    pub(crate) decision: NativeDecision,
    /// The secret for the tool.
    pub(crate) credential: Option<NativeCredential>,
    /// Signals that the action was stopped.
    pub(crate) halt: Arc<NativeHaltSignal>,
}

/// Signals that an action was stopped while its function runs.
#[derive(uniffi::Object)]
pub(crate) struct NativeHaltSignal(HaltSignal);

#[uniffi::export]
impl NativeHaltSignal {
    /// Whether the action was stopped.
    pub(crate) fn is_halted(&self) -> bool {
        self.0.is_halted()
    }

    /// Calls `listener` once when the action is stopped, immediately if it is already.
    pub(crate) fn on_halt(&self, listener: Arc<dyn NativeHaltListener>) {
        self.0.on_halt(move || listener.halted());
    }
}

impl NativeHaltSignal {
    /// As [`NativeHaltSignal::on_halt`], with a function.
    pub(crate) fn when_halted(&self, listener: impl FnOnce() + Send + 'static) {
        self.0.on_halt(listener);
    }
}

/// The listener of a public API layer. It runs on the background thread and must not block.
#[uniffi::export(with_foreign)]
pub(crate) trait NativeHaltListener: Send + Sync {
    /// The action was stopped.
    fn halted(&self);
}

/// The result of spending a permit.
#[derive(uniffi::Enum)]
pub(crate) enum NativeBegun {
    /// The action may not run.
    Blocked {
        /// The block.
        blocked: NativeBlocked,
    },
    /// The action runs.
    Running {
        /// Its context.
        context: NativeContext,
    },
}

/// The end of an action.
#[derive(Clone, Copy, Debug, uniffi::Enum)]
pub(crate) enum NativeEnded {
    /// It was cancelled.
    Cancelled,
    /// It failed with its own error.
    Failed,
    /// It returned.
    Returned,
    /// A framework's control-flow signal suspended it.
    Suspended,
}

/// The result of an action that ran.
#[derive(uniffi::Record)]
pub(crate) struct NativeReport {
    /// The decision.
    pub(crate) decision: NativeDecision,
    /// The failure of the gate, if `monitor` ran the action despite the failure.
    pub(crate) failure: Option<NativeFailure>,
    /// The recording to send, if outcomes are recorded and it is not in progress yet.
    pub(crate) recording: Option<Arc<NativeRecording>>,
}

/// A permitted action, from the verdict to the outcome.
#[derive(uniffi::Object)]
pub(crate) struct NativeSession {
    calls: Calls,
    session: GuardSession,
    action: Action,
    decision: Decision,
}

#[uniffi::export]
impl NativeSession {
    /// The decision that permits the action.
    pub(crate) fn decision(&self) -> NativeDecision {
        NativeDecision::from(&self.decision)
    }

    /// Spends the permit. `args` are the arguments with which the action is about to run, if they
    /// may have changed.
    pub(crate) fn spend(&self, args: Option<String>) -> Result<NativeBegun, NativeError> {
        catch_panic(|| {
            let now = args.map(|args| self.action.clone().args_text(args));
            Ok(match self.session.begin(now.as_ref())? {
                Begun::Blocked(blocked) => NativeBegun::Blocked { blocked: NativeBlocked::from(&blocked) },
                Begun::Running(context) => NativeBegun::Running {
                    context: NativeContext {
                        decision: context.decision().into(),
                        credential: context.credential().map(Into::into),
                        halt: Arc::new(NativeHaltSignal(context.halt().clone())),
                    },
                },
            })
        })
    }

    /// Settles the action. `response` is the JSON text of its result. A cancellation and a
    /// suspension are recorded in the background.
    pub(crate) fn finish(
        &self,
        ended: NativeEnded,
        response: Option<String>,
    ) -> Result<NativeReport, NativeError> {
        catch_panic(|| {
            let response = response.and_then(|text| Json::parse(text.as_bytes()).ok());
            let (ended, result) = match ended {
                NativeEnded::Cancelled => (ActionEnd::Cancelled, Err(())),
                NativeEnded::Failed => (ActionEnd::Failed, Err(())),
                NativeEnded::Returned => (ActionEnd::Returned, Ok(())),
                NativeEnded::Suspended => (ActionEnd::Suspended, Err(())),
            };
            let (settlement, recording) = self.session.finish(ended, response.as_ref())?;
            let recording = match recording {
                Some(recording)
                    if matches!(recording.ended(), ActionEnd::Cancelled | ActionEnd::Suspended) =>
                {
                    self.calls.record_in_background(recording);
                    None
                }
                Some(recording) => {
                    let calls = self.calls.clone();
                    Some(Arc::new(NativeRecording { calls, recording }))
                }
                None => None,
            };
            let outcome = settlement.settle(result);
            let failure = match &outcome {
                Outcome::Returned { gate_error, .. } => gate_error.as_ref().map(Into::into),
                Outcome::Blocked(_) | Outcome::Failed { .. } => None,
            };
            Ok(NativeReport { decision: outcome.decision().into(), failure, recording })
        })
    }
}

impl NativeSession {
    pub(crate) fn verdict(
        calls: Calls,
        action: Action,
        authorized: Result<GuardSession, Box<Blocked>>,
    ) -> Result<NativeVerdict, NativeError> {
        let session = match authorized {
            Ok(session) => session,
            Err(blocked) => return Ok(NativeVerdict::Blocked { blocked: NativeBlocked::from(&*blocked) }),
        };
        let decision = session.decision().ok_or_else(|| internal("a permit without a decision"))?;
        Ok(NativeVerdict::Permitted { session: Arc::new(Self { calls, session, action, decision }) })
    }
}

/// A recording of how an action ended.
#[derive(uniffi::Object)]
pub(crate) struct NativeRecording {
    calls: Calls,
    recording: Recording,
}

#[uniffi::export]
impl NativeRecording {
    /// Sends the recording.
    pub(crate) async fn send(&self) -> Result<NativeRecorded, NativeError> {
        self.calls.record(self.recording.clone()).await
    }
}

impl NativeRecording {
    /// The call of [`NativeRecording::send`].
    pub(crate) fn call(&self) -> impl Future<Output = Result<RecordedEvidence, Error>> + Send + use<> {
        self.calls.recording(self.recording.clone())
    }
}

/// Parses a decision like a response of the gateway.
#[uniffi::export]
pub(crate) fn native_decision(json: String) -> Result<NativeDecision, NativeError> {
    catch_panic(|| {
        let decision =
            Decision::parse(json.as_bytes()).map_err(|problem| Error::argument("json", problem))?;
        Ok(NativeDecision::from(&decision))
    })
}

/// The block of a tool to which no action is mapped. Sends nothing.
#[uniffi::export]
pub(crate) fn native_unmapped_tool(tool: String) -> Result<NativeBlocked, NativeError> {
    catch_panic(|| Ok(NativeBlocked::from(&Blocked::unmapped_tool(tool))))
}

/// The gate failure of a block created by a test.
#[derive(uniffi::Record)]
pub(crate) struct NativeBlockFailure {
    /// The kind.
    pub(crate) kind: NativeErrorKind,
    /// One line.
    pub(crate) message: String,
    /// Whether the same call may succeed later.
    pub(crate) retryable: bool,
}

/// The texts of a block created by a test.
#[uniffi::export]
pub(crate) fn native_block_texts(
    tool: String,
    decision: String,
    failure: Option<NativeBlockFailure>,
    approval: Option<String>,
) -> NativeBlockTexts {
    let decision = match Decision::parse(decision.as_bytes()) {
        Ok(decision) => decision,
        // The public API layer passes the text of a parsed decision.
        Err(problem) => {
            let model = format!("{tool} was not run");
            let developer = format!("{model}: decision: {problem}");
            return NativeBlockTexts { developer, model, retryable: false };
        }
    };
    let failure = failure.map(|failure| BlockFailure {
        message: failure.message.into(),
        is_retryable: failure.retryable,
        is_of_an_argument: ErrorKind::from(failure.kind) == ErrorKind::Argument,
    });
    BlockTexts::of(&tool, &decision, failure.as_ref(), approval.as_deref()).into()
}

/// The outcome as canonical JSON, the same in every language.
#[uniffi::export]
pub(crate) fn native_canonical_outcome(
    executed: bool,
    decision: String,
    error: Option<String>,
    status: Option<u16>,
) -> Result<String, NativeError> {
    catch_panic(|| {
        let decision =
            Decision::parse(decision.as_bytes()).map_err(|problem| Error::argument("decision", problem))?;
        let error = error.as_deref().map(|kind| (kind, status));
        Ok(actpass_core::canonical_outcome(executed, &decision, error)?)
    })
}
