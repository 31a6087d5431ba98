//! The client.

use std::cell::RefCell;
use std::future::Future;
use std::sync::Arc;

use actpass_core::{ActPass, Action, CaVariable, Error, ErrorKind, Secret};
use actpass_node_text::call::CallOutput;
use actpass_node_text::convert::InputObject;
use actpass_node_text::settings::{self, Deadline, records_outcome};
use actpass_node_text::{approval, evidence, guard, passport};
use actpass_session::{CallLog, GuardSession, spawn_watch, test_hooks};
use napi_derive::napi;
use tracing::Level;

use crate::panic::catch_panic;
use crate::runtime::Bridge;

/// The client of the native module.
#[napi]
pub struct Client {
    /// `None` once closed.
    actpass: RefCell<Option<ActPass>>,
    /// The minimum level of collected log lines; `None` collects none.
    log_level: Option<Level>,
}

#[napi]
impl Client {
    /// Creates a client from the JSON text of its settings.
    #[napi(constructor)]
    pub fn new(settings: String) -> napi::Result<Self> {
        let settings = Secret::new(settings);
        catch_panic(|| {
            let settings = InputObject::of_settings(&settings)?;
            let mut builder = settings::builder(&settings)?;
            if let Some(ca) = settings.optional("ca")? {
                builder = builder.ca(ca);
            }
            builder = builder.ca_variables([CaVariable::adding("NODE_EXTRA_CA_CERTS")]);
            let log_level = settings::log_level(&settings)?;
            Ok(Self { actpass: RefCell::new(Some(builder.spawn_watch(spawn_watch).build()?)), log_level })
        })
    }

    /// The state of the circuit breaker.
    #[napi(getter)]
    pub fn circuit(&self) -> napi::Result<&'static str> {
        catch_panic(|| Ok(self.open()?.circuit().as_str()))
    }

    /// Releases the connections. Calls in flight keep theirs.
    #[napi]
    pub fn close(&self) {
        drop(self.actpass.borrow_mut().take());
    }

    /// Validates the input of a guard as `authorize` does. Sends nothing.
    #[napi]
    pub fn check(&self, input: String) -> napi::Result<()> {
        let input = Secret::new(input);
        catch_panic(|| {
            let members = InputObject::of_call(&input)?;
            records_outcome(&members)?;
            self.scoped(&members, Deadline::Call)?.prepare(guard::guarded(&members)?).map(drop)
        })
    }

    /// Starts a preflight.
    #[napi]
    pub fn preflight(&self, bridge: &Bridge, id: i64, input: String) -> napi::Result<()> {
        let convert = |members: &InputObject| Ok((members.string("tool")?, guard::action(members)?));
        self.start(bridge, id, input, Deadline::Call, convert, async |actpass, (tool, action)| {
            test_hooks::before_call(&tool).await;
            actpass.preflight(&action).await.map(|decision| decision.as_json().to_owned())
        })
    }

    /// Starts the first step of a guard.
    #[napi]
    pub fn authorize(&self, bridge: &Bridge, id: i64, input: String) -> napi::Result<()> {
        self.start_authorization(bridge, id, input, guard::guarded)
    }

    /// Starts the first step of a guard for an action that waited for approval.
    #[napi]
    pub fn resume(&self, bridge: &Bridge, id: i64, input: String) -> napi::Result<()> {
        self.start_authorization(bridge, id, input, guard::resumed)
    }

    /// Starts waiting for an approval.
    #[napi]
    pub fn wait_for_approval(&self, bridge: &Bridge, id: i64, input: String) -> napi::Result<()> {
        self.start(bridge, id, input, Deadline::Client, approval::awaited, async |actpass, (id, wait)| {
            actpass.wait_for_approval(&id, wait).await.map(|approval| approval.as_json().to_owned())
        })
    }

    /// Starts recording how the action of the call `call` ended.
    #[napi]
    pub fn record_outcome(&self, bridge: &Bridge, id: i64, input: String) -> napi::Result<()> {
        let convert = |members: &InputObject| bridge.recording(members.call("call")?);
        self.start(bridge, id, input, Deadline::Call, convert, async |actpass, recording| {
            actpass.record(&recording).await.map(|recorded| recorded.as_json().to_owned())
        })
    }

    /// Starts issuing a passport.
    #[napi]
    pub fn issue_passport(&self, bridge: &Bridge, id: i64, input: String) -> napi::Result<()> {
        self.start(bridge, id, input, Deadline::Call, passport::issue, async |actpass, wanted| {
            actpass.issue_passport(&wanted).await.map(|issued| issued.as_json().to_owned())
        })
    }

    /// Starts verifying a passport.
    #[napi]
    pub fn verify_passport(&self, bridge: &Bridge, id: i64, input: String) -> napi::Result<()> {
        self.start(bridge, id, input, Deadline::Call, passport::verify, async |actpass, wanted| {
            actpass.verify_passport(&wanted).await.map(|verified| verified.as_json().to_owned())
        })
    }

    /// Starts verifying a passport offline.
    #[napi]
    pub fn verify_passport_offline(&self, bridge: &Bridge, id: i64, input: String) -> napi::Result<()> {
        self.start(bridge, id, input, Deadline::Call, passport::verify_offline, async |actpass, wanted| {
            actpass.verify_passport_offline(&wanted).await.map(|verified| verified.as_json().to_owned())
        })
    }

    /// Starts revoking a passport.
    #[napi]
    pub fn revoke_passport(&self, bridge: &Bridge, id: i64, input: String) -> napi::Result<()> {
        self.start(bridge, id, input, Deadline::Call, passport::revoke, async |actpass, (jti, reason)| {
            let revoked = actpass.revoke_passport(&jti, reason.as_deref()).await;
            revoked.map(|revoked| revoked.as_json().to_owned())
        })
    }

    /// Starts recording an event.
    #[napi]
    pub fn record_evidence(&self, bridge: &Bridge, id: i64, input: String) -> napi::Result<()> {
        self.start(bridge, id, input, Deadline::Call, evidence::event, async |actpass, event| {
            actpass.record_evidence(&event).await.map(|recorded| recorded.as_json().to_owned())
        })
    }
}

impl Client {
    /// Converts the input of a guard and starts its first step, which always ends with a verdict.
    fn start_authorization(
        &self,
        bridge: &Bridge,
        id: i64,
        input: String,
        convert: fn(&InputObject) -> Result<Action, Error>,
    ) -> napi::Result<()> {
        let input = Secret::new(input);
        catch_panic(|| {
            let members = InputObject::of_call(&input)?;
            let actpass = self.scoped(&members, Deadline::Call)?;
            let record = records_outcome(&members)?;
            let request = actpass.prepare(convert(&members)?)?;
            let prepared = request.clone();
            let call = async move {
                Ok(CallOutput::Verdict(GuardSession::authorize(&actpass, prepared, record).await))
            };
            let lost =
                move |error| Ok(CallOutput::Verdict(GuardSession::for_failure(request, error, record)));
            bridge.start(id, self.log(), call, lost);
            Ok(())
        })
    }

    /// The log of a call, if the client has a logger.
    fn log(&self) -> Option<Arc<CallLog>> {
        self.log_level.map(|level| CallLog::new(level.into()))
    }

    fn open(&self) -> Result<ActPass, Error> {
        let closed = || Error::new(ErrorKind::Config, "client: closed; create a new one");
        self.actpass.borrow().clone().ok_or_else(closed)
    }

    /// The client with the call's trace and limits.
    fn scoped(&self, members: &InputObject, deadline: Deadline) -> Result<ActPass, Error> {
        settings::scoped(&self.open()?, members, deadline)
    }

    /// Converts the input of a call and starts the call, whose result is a JSON text.
    fn start<T, F>(
        &self,
        bridge: &Bridge,
        id: i64,
        input: String,
        deadline: Deadline,
        convert: impl FnOnce(&InputObject) -> Result<T, Error>,
        call: impl FnOnce(ActPass, T) -> F,
    ) -> napi::Result<()>
    where
        F: Future<Output = Result<String, Error>> + Send + 'static,
    {
        let input = Secret::new(input);
        catch_panic(|| {
            let members = InputObject::of_call(&input)?;
            let input = convert(&members)?;
            let call = call(self.scoped(&members, deadline)?, input);
            bridge.start(id, self.log(), async move { call.await.map(CallOutput::Text) }, Err);
            Ok(())
        })
    }
}
