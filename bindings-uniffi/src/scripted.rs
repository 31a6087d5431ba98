//! The scripted gateway of the test kits, which replaces the network.

use std::sync::Arc;

use actpass_core::Error;
use actpass_core::testing::{Answer, ScriptedApproval, ScriptedGateway};

use crate::approval::NativeApprovalStatus;
use crate::error::NativeError;
use crate::runtime::catch_panic;

/// A scripted response to a preflight.
#[derive(Clone, Debug, uniffi::Record)]
pub(crate) struct NativeAnswer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The JSON text of the decision; `None` simulates an unreachable gateway.
    pub(crate) decision: Option<String>,
}

impl NativeAnswer {
    fn convert(&self) -> Result<Answer, Error> {
        Answer::from_text(self.status, self.decision.as_deref())
    }
}

/// A script that replaces the gateway.
#[derive(Debug, Default, uniffi::Object)]
pub(crate) struct NativeScript(pub(crate) ScriptedGateway);

/// A request that the script received.
#[derive(Debug, uniffi::Record)]
pub(crate) struct NativeRequest {
    /// The path and the query.
    pub(crate) path: String,
    /// The JSON text of the body; empty for requests that only read.
    pub(crate) body: String,
}

/// An approval that the script opened.
#[derive(uniffi::Record)]
pub(crate) struct NativeScriptedApproval {
    /// The id.
    pub(crate) id: String,
    /// The tool of the action.
    pub(crate) tool: String,
    /// The status.
    pub(crate) status: NativeApprovalStatus,
    /// Whether the action was allowed with it.
    pub(crate) spent: bool,
}

/// An action that ran.
#[derive(Debug, uniffi::Record)]
pub(crate) struct NativeExecution {
    /// The tool.
    pub(crate) tool: String,
    /// The JSON text of the arguments.
    pub(crate) args: String,
}

#[uniffi::export]
impl NativeScript {
    /// Creates a script that denies every action.
    #[uniffi::constructor]
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Sets the response to preflights of a tool; of every tool if none is named.
    pub(crate) fn answer(&self, answer: NativeAnswer, tool: Option<String>) -> Result<(), NativeError> {
        catch_panic(|| {
            let answer = answer.convert()?;
            match tool {
                Some(tool) => self.0.script(tool, answer),
                None => self.0.script_all(answer),
            }
            Ok(())
        })
    }

    /// Queues a one-time response for the next preflight.
    pub(crate) fn answer_next(&self, answer: NativeAnswer) -> Result<(), NativeError> {
        catch_panic(|| {
            self.0.script_next(answer.convert()?);
            Ok(())
        })
    }

    /// Approves an approval, given by its id or by its tool. Returns its id.
    pub(crate) fn approve(&self, approval: String) -> Result<String, NativeError> {
        catch_panic(|| Ok(self.0.approve(&approval)?))
    }

    /// Rejects an approval, given by its id or by its tool. Returns its id.
    pub(crate) fn reject(&self, approval: String) -> Result<String, NativeError> {
        catch_panic(|| Ok(self.0.reject(&approval)?))
    }

    /// Lets an approval expire, given by its id or by its tool. Returns its id.
    pub(crate) fn expire(&self, approval: String) -> Result<String, NativeError> {
        catch_panic(|| Ok(self.0.expire(&approval)?))
    }

    /// Stops the actions of a scope: `agent`, `tool`, `user`, `tenant` or `all`. Returns the new
    /// epoch.
    pub(crate) fn halt(&self, scope: String, id: Option<String>, reason: String) -> Result<u64, NativeError> {
        catch_panic(|| Ok(self.0.halt(&scope, id.as_deref(), &reason)?))
    }

    /// Lifts all stops. Returns the new epoch.
    pub(crate) fn lift(&self) -> u64 {
        self.0.lift()
    }

    /// The JSON texts of the acknowledgements of stops so far.
    pub(crate) fn acknowledgements(&self) -> Vec<String> {
        self.0.acknowledgements().iter().map(ToString::to_string).collect()
    }

    /// The approvals so far.
    pub(crate) fn approvals(&self) -> Vec<NativeScriptedApproval> {
        let approvals = self.0.approvals().into_iter();
        let convert = |ScriptedApproval { id, tool, status, spent, .. }| NativeScriptedApproval {
            id,
            tool,
            status: status.into(),
            spent,
        };
        approvals.map(convert).collect()
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<NativeRequest> {
        let requests = self.0.requests().into_iter();
        requests.map(|request| NativeRequest { path: request.path, body: request.body }).collect()
    }

    /// The actions that ran so far.
    pub(crate) fn executions(&self) -> Vec<NativeExecution> {
        let executions = self.0.executions().into_iter();
        executions.map(|it| NativeExecution { tool: it.tool, args: it.args.to_string() }).collect()
    }
}
