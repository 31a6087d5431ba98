//! The two steps of the guard. The face runs the caller's function between them, in the caller's own task.

use std::sync::{Arc, Mutex, PoisonError};

use actpass_core::{
    Action, Blocked, Credential, Decision, Ended, Error, Json, Mode, Outcome, Recording, Secret, Settlement,
    Verdict, wait_seconds,
};

use crate::error::{NativeError, NativeFailure, internal};
use crate::runtime::enter;

/// The modes, one for each of the core.
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

/// What an agent is about to do.
#[derive(uniffi::Record)]
pub(crate) struct NativeAction {
    /// What it wants to achieve.
    pub(crate) goal: String,
    /// The tool.
    pub(crate) tool: String,
    /// What the tool acts on.
    pub(crate) resource: String,
    /// The text of a JSON object.
    pub(crate) args: String,
    /// On whose behalf it acts.
    pub(crate) user_id: Option<String>,
    /// The passport that it spends.
    pub(crate) passport: Option<Secret>,
    /// The mode; the client's if not given.
    pub(crate) mode: Option<NativeMode>,
    /// What makes a repetition known as one.
    pub(crate) idempotency_key: Option<String>,
    /// To whom the passport is shown.
    pub(crate) audience: Option<String>,
    /// The approved request that it spends.
    pub(crate) approval_request_id: Option<String>,
    /// The hash of the tool's definition.
    pub(crate) tool_manifest_hash: Option<String>,
    /// For how many seconds a guard holds it.
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

/// What a gateway decided.
#[derive(Clone, Debug, uniffi::Record)]
pub(crate) struct NativeDecision {
    /// The decision's word.
    pub(crate) word: String,
    /// Its stable reason.
    pub(crate) reason_code: String,
    /// How much the action could damage.
    pub(crate) risk_tier: Option<String>,
    /// A sentence.
    pub(crate) summary: String,
    /// The rules that matched.
    pub(crate) matched_rules: Vec<String>,
    /// What can be done about it.
    pub(crate) next_steps: Vec<String>,
    /// The ledger entry.
    pub(crate) evidence_event_id: Option<String>,
    /// The approval to wait for.
    pub(crate) approval_request_id: Option<String>,
    /// The gateway's name for the request.
    pub(crate) request_id: Option<String>,
    /// The whole of it.
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

/// A secret that the gateway's vault holds for the tool.
#[derive(uniffi::Record)]
pub(crate) struct NativeCredential {
    /// The secret.
    pub(crate) token: Secret,
    /// When it ends.
    pub(crate) expires_at: Option<String>,
    /// The whole of it; it holds the secret.
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

/// The ruling.
#[derive(uniffi::Enum)]
pub(crate) enum NativeVerdict {
    /// It may not run.
    Blocked {
        /// Why.
        blocked: NativeBlocked,
    },
    /// It may run, once.
    Proceed {
        /// The leave to.
        permit: Arc<NativePermit>,
    },
}

impl From<Verdict> for NativeVerdict {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Blocked(blocked) => Self::Blocked { blocked: NativeBlocked::from(&blocked) },
            Verdict::Proceed(permit) => {
                Self::Proceed { permit: Arc::new(NativePermit(Mutex::new(State::Granted(permit)))) }
            }
        }
    }
}

/// Why an action did not run.
#[derive(uniffi::Record)]
pub(crate) struct NativeBlocked {
    /// The gateway's decision, or that of the SDK.
    pub(crate) decision: NativeDecision,
    /// How the gate failed.
    pub(crate) failure: Option<NativeFailure>,
    /// What to keep in order to run it later.
    pub(crate) approval: Option<NativePending>,
}

impl From<&Blocked> for NativeBlocked {
    fn from(blocked: &Blocked) -> Self {
        Self {
            decision: blocked.decision().into(),
            failure: blocked.error().map(Into::into),
            approval: blocked.approval().map(Into::into),
        }
    }
}

/// An action that waits for a person.
#[derive(uniffi::Record)]
pub(crate) struct NativePending {
    /// The approval's id.
    pub(crate) id: String,
    /// The whole of it, to keep.
    pub(crate) json: String,
}

/// What a permitted action is given.
#[derive(uniffi::Record)]
pub(crate) struct NativeContext {
    /// The decision under which it runs.
    pub(crate) decision: NativeDecision,
    /// The secret for the tool.
    pub(crate) credential: Option<NativeCredential>,
}

/// Under what an action ran.
#[derive(uniffi::Record)]
pub(crate) struct NativeSettled {
    /// The decision.
    pub(crate) decision: NativeDecision,
    /// How the gate failed, where `monitor` ran the action all the same.
    pub(crate) failure: Option<NativeFailure>,
}

/// Leave to run the action, once.
#[derive(uniffi::Object)]
pub(crate) struct NativePermit(Mutex<State>);

enum State {
    Granted(actpass_core::Permit),
    Running(Settlement),
    Settled,
}

#[uniffi::export]
impl NativePermit {
    /// Spends the permit for what the action is given.
    pub(crate) fn spend(&self) -> Result<NativeContext, NativeError> {
        enter(|| {
            let State::Granted(permit) = self.replace(State::Settled) else {
                return Err(internal("the permit is spent"));
            };
            let spent = permit.spend(&actpass_core::TokioClock);
            let (context, settlement) = spent.map_err(|_| internal("the permit is void"))?;
            let given = NativeContext {
                decision: context.decision().into(),
                credential: context.credential().map(Into::into),
            };
            self.replace(State::Running(settlement));
            Ok(given)
        })
    }

    /// Ends it: the action has returned, or ended with an error of its own.
    pub(crate) fn settle(&self, returned: bool) -> Result<NativeSettled, NativeError> {
        enter(|| {
            let State::Running(settlement) = self.replace(State::Settled) else {
                return Err(internal("the permit is not running"));
            };
            let outcome = settlement.settle(if returned { Ok(()) } else { Err(()) });
            let failure = match &outcome {
                Outcome::Blocked(blocked) => blocked.error().map(Into::into),
                Outcome::Failed { .. } => None,
                Outcome::Returned { gate_error, .. } => gate_error.as_ref().map(Into::into),
            };
            Ok(NativeSettled { decision: outcome.decision().into(), failure })
        })
    }
}

impl NativePermit {
    /// The event that records how the action ended; `response` is the JSON text of what it returned.
    pub(crate) fn evidence(&self, ended: Ended, response: Option<&str>) -> Result<Recording, NativeError> {
        let response = response.and_then(|text| Json::parse(text.as_bytes()).ok());
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Running(settlement) => Ok(settlement.recording(ended, response.as_ref())),
            State::Granted(_) | State::Settled => Err(internal("the permit is not running")),
        }
    }

    fn replace(&self, state: State) -> State {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), state)
    }
}

/// A decision, read as an answer of a gateway is.
#[uniffi::export]
pub(crate) fn native_decision(json: String) -> Result<NativeDecision, NativeError> {
    enter(|| {
        let decision =
            Decision::parse(json.as_bytes()).map_err(|problem| Error::argument("json", problem))?;
        Ok(NativeDecision::from(&decision))
    })
}

/// The text of the error of an action that was blocked: one line, for developers.
#[uniffi::export]
pub(crate) fn native_blocked_text(tool: String, word: String, reason_code: String, why: String) -> String {
    let why = why.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let why: Vec<&str> = why.collect();
    match why.as_slice() {
        [] => format!("{tool} was not run: {word} ({reason_code})"),
        why => format!("{tool} was not run: {word} ({reason_code}): {}", why.join(" ")),
    }
}

/// An outcome in the form that is the same in every language.
#[uniffi::export]
pub(crate) fn native_canonical_outcome(
    executed: bool,
    decision: String,
    error: Option<String>,
    status: Option<u16>,
) -> Result<String, NativeError> {
    enter(|| {
        let decision =
            Decision::parse(decision.as_bytes()).map_err(|problem| Error::argument("decision", problem))?;
        let error = error.as_deref().map(|kind| (kind, status));
        Ok(actpass_core::canonical_outcome(executed, &decision, error)?)
    })
}
