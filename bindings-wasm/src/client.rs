//! The clients of this instance.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;

use actpass_core::{ActPass, Action, Error, ErrorKind, Secret};
use actpass_node_text::call::{CallOutput, CallResult, Guarded};
use actpass_node_text::convert::InputObject;
use actpass_node_text::settings::{self, Deadline, records_outcome};
use actpass_node_text::{approval, evidence, guard, passport};
use actpass_session::{CallLog, GuardSession, test_hooks};
use tracing::Level;

use crate::calls;
use crate::executor;
use crate::host::HostClock;
use crate::transport::FetchTransport;

#[derive(Clone)]
struct Client {
    actpass: ActPass,
    log_level: Option<Level>,
}

thread_local! {
    static CLIENTS: RefCell<HashMap<u32, Client>> = RefCell::default();
}

type Started = Pin<Box<dyn Future<Output = CallResult> + Send>>;

/// Creates the client `number` from the JSON text of its settings.
pub(crate) fn create(number: u32, text: Secret) -> Result<(), Error> {
    let settings = InputObject::of_settings(&text)?;
    let actpass = settings::builder(&settings)?
        .http_transport(FetchTransport::make)
        .clock(HostClock)
        .spawn_watch(|watch| {
            executor::spawn(watch);
        })
        .build()?;
    let client = Client { actpass, log_level: settings::log_level(&settings)? };
    CLIENTS.with_borrow_mut(|clients| clients.insert(number, client));
    Ok(())
}

/// Drops a client. Calls in flight keep it.
pub(crate) fn close(number: u32) {
    drop(CLIENTS.with_borrow_mut(|clients| clients.remove(&number)));
}

/// The state of the circuit breaker.
pub(crate) fn circuit(number: u32) -> Result<String, Error> {
    Ok(find(number)?.actpass.circuit().as_str().to_owned())
}

/// Validates the input of a guard as `authorize` does. Sends nothing.
pub(crate) fn check(number: u32, text: Secret) -> Result<(), Error> {
    let members = InputObject::of_call(&text)?;
    records_outcome(&members)?;
    let actpass = find(number)?.actpass;
    settings::scoped(&actpass, &members, Deadline::Call)?.prepare(guard::guarded(&members)?).map(drop)
}

/// Starts the call `name`; it completes under the number `id`. If it is `lost`, it failed with an
/// instance that panicked: nothing is sent, and it completes as a failure.
pub(crate) fn start(number: u32, name: &str, id: u64, lost: bool, text: Secret) -> Result<(), Error> {
    let client = find(number)?;
    let members = InputObject::of_call(&text)?;
    let log = client.log_level.map(|level| CallLog::new(level.into()));
    let call: Started = match name {
        "authorize" => client.authorize(&members, lost, guard::guarded)?,
        "resume" => client.authorize(&members, lost, guard::resumed)?,
        _ if lost => Box::pin(async { Err(Error::panicked()) }),
        _ => client.call(name, &members)?,
    };
    calls::start(id, log, call);
    Ok(())
}

fn find(number: u32) -> Result<Client, Error> {
    let closed = || Error::new(ErrorKind::Config, "client: closed; create a new one");
    CLIENTS.with_borrow(|clients| clients.get(&number).cloned()).ok_or_else(closed)
}

impl Client {
    fn authorize(&self, members: &InputObject, lost: bool, convert: Guarded) -> Result<Started, Error> {
        let actpass = settings::scoped(&self.actpass, members, Deadline::Call)?;
        let record = records_outcome(members)?;
        let action: Action = convert(members)?;
        let prepared = actpass.prepare(action)?;
        Ok(Box::pin(async move {
            Ok(CallOutput::Verdict(match lost {
                false => GuardSession::authorize(&actpass, prepared, record).await,
                true => GuardSession::for_failure(prepared, Error::panicked(), record),
            }))
        }))
    }

    fn call(&self, name: &str, members: &InputObject) -> Result<Started, Error> {
        let scoped = |deadline| settings::scoped(&self.actpass, members, deadline);
        Ok(match name {
            "preflight" => {
                let (tool, action, actpass) =
                    (members.string("tool")?, guard::action(members)?, scoped(Deadline::Call)?);
                text(async move {
                    test_hooks::before_call(&tool).await;
                    actpass.preflight(&action).await.map(|decision| decision.as_json().to_owned())
                })
            }
            "waitForApproval" => {
                let ((id, wait), actpass) = (approval::awaited(members)?, scoped(Deadline::Client)?);
                text(async move {
                    actpass.wait_for_approval(&id, wait).await.map(|state| state.as_json().to_owned())
                })
            }
            "recordOutcome" => {
                let (recording, actpass) =
                    (calls::recording(members.call("call")?)?, scoped(Deadline::Call)?);
                text(async move { actpass.record(&recording).await.map(|it| it.as_json().to_owned()) })
            }
            "issuePassport" => {
                let (wanted, actpass) = (passport::issue(members)?, scoped(Deadline::Call)?);
                text(async move { actpass.issue_passport(&wanted).await.map(|it| it.as_json().to_owned()) })
            }
            "verifyPassport" => {
                let (wanted, actpass) = (passport::verify(members)?, scoped(Deadline::Call)?);
                text(async move { actpass.verify_passport(&wanted).await.map(|it| it.as_json().to_owned()) })
            }
            "verifyPassportOffline" => {
                let (wanted, actpass) = (passport::verify_offline(members)?, scoped(Deadline::Call)?);
                text(async move {
                    actpass.verify_passport_offline(&wanted).await.map(|it| it.as_json().to_owned())
                })
            }
            "revokePassport" => {
                let ((jti, reason), actpass) = (passport::revoke(members)?, scoped(Deadline::Call)?);
                text(async move {
                    let revoked = actpass.revoke_passport(&jti, reason.as_deref()).await;
                    revoked.map(|it| it.as_json().to_owned())
                })
            }
            "recordEvidence" => {
                let (event, actpass) = (evidence::event(members)?, scoped(Deadline::Call)?);
                text(async move { actpass.record_evidence(&event).await.map(|it| it.as_json().to_owned()) })
            }
            _ => return Err(Error::new(ErrorKind::Internal, format!("unknown call {name}"))),
        })
    }
}

fn text(call: impl Future<Output = Result<String, Error>> + Send + 'static) -> Started {
    Box::pin(async move { call.await.map(CallOutput::Text) })
}
