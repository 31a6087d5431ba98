//! `GuardSession`: the steps of a guarded action in a binding.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

use std::sync::atomic::{AtomicUsize, Ordering};

use actpass_core::engine::Begun;
use actpass_core::transport::FixedResponse;
use actpass_core::{ActPass, Action, ActionEnd, Blocked, Error, ErrorKind, Json, Mode, PreparedAction};
use actpass_session::GuardSession;

const ALLOW: &str = r#"{"decision":"allow","evidence_event_id":"ev_1"}"#;
const DENY: &str = r#"{"decision":"deny","reason_code":"r"}"#;

fn prepared(answer: &str, mode: Mode) -> (ActPass, PreparedAction) {
    let actpass =
        ActPass::builder().api_key("apk_test").transport(FixedResponse::new(200, answer)).build().unwrap();
    let prepared = actpass.prepare(action().mode(mode)).unwrap();
    (actpass, prepared)
}

fn action() -> Action {
    Action::new("demo", "demo.tool").args_text(r#"{"amount": 1}"#)
}

fn authorize(answer: &str, mode: Mode, record: bool) -> Result<GuardSession, Box<Blocked>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (actpass, prepared) = prepared(answer, mode);
    runtime.block_on(GuardSession::authorize(&actpass, prepared, record))
}

#[test]
fn session_begins_and_finishes_once() {
    let session = authorize(ALLOW, Mode::Enforce, true).unwrap();
    assert_eq!(session.decision().unwrap().word().as_str(), "allow");
    let early = session.finish(ActionEnd::Returned, None).unwrap_err();
    assert_eq!((early.kind(), early.to_string().starts_with("permit: ")), (ErrorKind::Argument, true));
    assert!(matches!(session.begin(Some(&action())).unwrap(), Begun::Running(_)));
    let again = session.begin(None).unwrap_err();
    assert_eq!(again.to_string(), "permit: already spent");
    assert!(session.decision().is_none());

    let (settlement, recording) = session.finish(ActionEnd::Returned, Some(&Json::from("re_1"))).unwrap();
    let event = recording.unwrap();
    assert_eq!((event.ended(), event.event().event_type.as_str()), (ActionEnd::Returned, "action.outcome"));
    assert!(event.event().response_hash.is_some() && event.event().request_hash.is_some());
    assert!(settlement.settle(Ok::<_, ()>(())).executed());
    assert!(session.finish(ActionEnd::Returned, None).is_err() && session.begin(None).is_err());
}

#[test]
fn only_one_of_many_threads_begins() {
    let session = authorize(ALLOW, Mode::Enforce, false).unwrap();
    let began = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                if matches!(session.begin(None), Ok(Begun::Running(_))) {
                    began.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!(began.into_inner(), 1);
    assert!(session.finish(ActionEnd::Failed, None).unwrap().1.is_none(), "an event was recorded");
}

#[test]
fn changed_action_does_not_begin() {
    let changes = [
        action().args_text(r#"{"amount": 2}"#),
        action().resource("stripe:charge:ch_2"),
        action().user_id("u_2"),
        action().audience("mcp://another"),
        action().tool_manifest_hash("00"),
        Action::new("demo", "another.tool").args_text(r#"{"amount": 1}"#),
        Action::new("another", "demo.tool").args_text(r#"{"amount": 1}"#),
    ];
    for changed in changes {
        let session = authorize(ALLOW, Mode::Enforce, true).unwrap();
        let Begun::Blocked(blocked) = session.begin(Some(&changed)).unwrap() else {
            panic!("{changed:?} began")
        };
        assert_eq!(blocked.decision().reason_code(), "actpass.arguments_changed");
        assert!(session.begin(Some(&action())).is_err(), "a permit can be tried once only");
    }
}

#[test]
fn lost_call_blocks_except_in_monitor() {
    for mode in [Mode::Enforce, Mode::Strict, Mode::Warn, Mode::Monitor] {
        let (_, prepared) = prepared(ALLOW, mode);
        let lost = GuardSession::for_failure(prepared, Error::new(ErrorKind::Internal, "no thread"), true);
        match (mode, lost) {
            (Mode::Monitor, Ok(session)) => {
                let Begun::Running(context) = session.begin(None).unwrap() else { panic!("blocked") };
                assert_eq!(context.decision().reason_code(), "actpass.internal");
                assert!(session.finish(ActionEnd::Returned, None).unwrap().1.is_some());
            }
            (Mode::Enforce | Mode::Strict | Mode::Warn, Err(blocked)) => {
                assert_eq!(blocked.decision().reason_code(), "actpass.internal");
                assert_eq!(blocked.error().unwrap().to_string(), "preflight: no thread");
            }
            (mode, lost) => panic!("{mode}: {lost:?}"),
        }
    }
}

#[test]
fn denial_creates_no_session() {
    let blocked = authorize(DENY, Mode::Enforce, false).unwrap_err();
    assert_eq!(blocked.tool(), "demo.tool");
    assert!(blocked.texts().model.starts_with("demo.tool was not run: deny (r)."));
    assert!(authorize(DENY, Mode::Monitor, false).is_ok());
}
