//! The scripted gateway of `@actpass/sdk/testing`; the TypeScript layer is its HTTP server.

use actpass_core::testing::{Answer, ScriptedGateway};
use napi_derive::napi;

use crate::panic::catch_panic;

/// The state of a scripted gateway, without a server.
#[napi]
pub struct ScriptedGatewayState(ScriptedGateway);

/// A request that the gateway received.
#[napi(object)]
pub struct NativeScriptedRequest {
    /// The HTTP method.
    pub method: String,
    /// The path, with the query.
    pub path: String,
    /// The body.
    pub body: String,
}

/// A response of the gateway.
#[napi(object)]
pub struct NativeScriptedReply {
    /// The HTTP status.
    pub status: u16,
    /// The JSON text of the body.
    pub body: String,
}

#[napi]
impl ScriptedGatewayState {
    /// Creates a gateway that denies every action.
    #[napi(constructor)]
    #[allow(clippy::new_without_default, reason = "JavaScript calls it")]
    pub fn new() -> Self {
        Self(ScriptedGateway::new())
    }

    /// Answers all following preflights of `tool`; of every tool if it is `null`. `answer` is a JSON
    /// text; `null` closes the connection. The default of `status` is 200.
    #[napi]
    pub fn script(
        &self,
        tool: Option<String>,
        answer: Option<String>,
        status: Option<u16>,
    ) -> napi::Result<()> {
        catch_panic(|| {
            let answer = Answer::from_text(status.unwrap_or(200), answer.as_deref())?;
            match tool {
                Some(tool) => self.0.script(tool, answer),
                None => self.0.script_all(answer),
            }
            Ok(())
        })
    }

    /// Queues an answer for one preflight.
    #[napi]
    pub fn script_next(&self, answer: Option<String>, status: Option<u16>) -> napi::Result<()> {
        catch_panic(|| {
            self.0.script_next(Answer::from_text(status.unwrap_or(200), answer.as_deref())?);
            Ok(())
        })
    }

    /// Approves or rejects an approval, given by its id or by its tool. Returns its id.
    #[napi]
    pub fn decide(&self, approval: String, approved: bool) -> napi::Result<String> {
        catch_panic(|| match approved {
            true => self.0.approve(&approval),
            false => self.0.reject(&approval),
        })
    }

    /// Lets an approval expire, given by its id or by its tool. Returns its id.
    #[napi]
    pub fn expire(&self, approval: String) -> napi::Result<String> {
        catch_panic(|| self.0.expire(&approval))
    }

    /// Stops the actions of a scope: `agent`, `tool`, `user`, `tenant` or `all`. Returns the new
    /// epoch.
    #[napi]
    pub fn halt(&self, scope: String, id: Option<String>, reason: String) -> napi::Result<i64> {
        catch_panic(|| {
            let epoch = self.0.halt(&scope, id.as_deref(), &reason)?;
            Ok(i64::try_from(epoch).unwrap_or(i64::MAX))
        })
    }

    /// Lifts all stops. Returns the new epoch.
    #[napi]
    pub fn lift(&self) -> i64 {
        i64::try_from(self.0.lift()).unwrap_or(i64::MAX)
    }

    /// The JSON text of each approval so far.
    #[napi]
    pub fn approvals(&self) -> napi::Result<Vec<String>> {
        catch_panic(|| Ok(self.0.approvals().iter().map(|approval| approval.to_json()).collect()))
    }

    /// The requests so far.
    #[napi]
    pub fn requests(&self) -> napi::Result<Vec<NativeScriptedRequest>> {
        catch_panic(|| {
            let requests = self.0.requests().into_iter();
            Ok(requests
                .map(|it| NativeScriptedRequest { method: it.method, path: it.path, body: it.body })
                .collect())
        })
    }

    /// The milliseconds for which the server holds a request before it calls `reply`.
    #[napi]
    pub fn hold(&self, method: String, path: String) -> napi::Result<f64> {
        catch_panic(|| Ok(self.0.hold(&method, &path).as_secs_f64() * 1e3))
    }

    /// Answers a request; `null` to close the connection.
    #[napi]
    pub fn reply(
        &self,
        method: String,
        path: String,
        body: String,
    ) -> napi::Result<Option<NativeScriptedReply>> {
        catch_panic(|| {
            let reply = self.0.reply(&method, &path, body.as_bytes());
            Ok(reply.map(|(status, body)| NativeScriptedReply { status, body }))
        })
    }
}
