//! Engine tests without a network: random orders of events against a model of the contract, and the
//! state diagram.

#![allow(
    clippy::cast_precision_loss,
    clippy::enum_glob_use,
    clippy::string_slice,
    clippy::unreachable,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant, SystemTime};

use actpass_protocol::{ActionEnd, ErrorKind, Mode, Operation};

use super::*;
use crate::builder::ActPassBuilder;
use crate::client::ActPass;
use crate::clock::Sleep;
use crate::guard::{Outcome, PERMIT_VALIDITY};

/// A manual clock with repeatable randomness.
#[derive(Debug)]
struct Script {
    now: Mutex<Moment>,
    random: Mutex<fastrand::Rng>,
}

impl Script {
    fn new(seed: u64) -> Self {
        let start = Moment::after_origin(Duration::from_secs(1_000));
        Self { now: Mutex::new(start), random: Mutex::new(fastrand::Rng::with_seed(seed)) }
    }

    fn reach(&self, moment: Moment) {
        let mut now = self.now.lock().unwrap();
        *now = moment.max(*now);
    }

    fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.random.lock().unwrap().usize(..from.len())]
    }
}

impl Clock for Script {
    fn now(&self) -> Moment {
        *self.now.lock().unwrap()
    }

    fn wall_clock(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    fn random(&self) -> Result<[u8; 16], Error> {
        Ok(self.random.lock().unwrap().u128(..).to_ne_bytes())
    }

    fn sleep_until(&self, _: Moment) -> Sleep<'_> {
        unreachable!("the engine does not sleep")
    }
}

/// The result of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reaction {
    Allow,
    AllowForAnother,
    AllowUnrecorded,
    AllowWith403,
    Approved,
    Busy,
    BusyForLong,
    Deny,
    Elapsed,
    Expired,
    Garbage,
    Lost,
    Panicked,
    Pending,
    Refused,
    Rejected,
    ReplayedAllow,
    RequireApproval,
    ServerError,
    TooMany,
    Warn,
}

use self::Reaction::*;

const PREFLIGHT: &[Reaction] = &[
    BusyForLong,
    Allow,
    Allow,
    Allow,
    AllowForAnother,
    AllowUnrecorded,
    AllowWith403,
    Busy,
    Deny,
    Elapsed,
    Garbage,
    Lost,
    Panicked,
    Refused,
    ReplayedAllow,
    RequireApproval,
    RequireApproval,
    ServerError,
    TooMany,
    Warn,
];
const POLL: &[Reaction] = &[
    Approved,
    Approved,
    Approved,
    Busy,
    Elapsed,
    Expired,
    Garbage,
    Lost,
    Panicked,
    Pending,
    Rejected,
    ServerError,
];
const RECORDING: &[Reaction] = &[Allow, Busy, Elapsed, Garbage, Lost, Panicked, ServerError];

impl Reaction {
    fn event(self, request: &Request) -> Event {
        let json = |text: String| Event::Response(Response::new(200, text));
        let decided = |word: &str, more: &str| {
            let hash = crate::hash_payload(&crate::Json::parse(&request.body).unwrap()).unwrap();
            let recorded = r#","evidence_event_id":"ev_1""#;
            json(format!(r#"{{"decision":"{word}","request_hash":"{hash}"{recorded}{more}}}"#))
        };
        let failed = |is_pre_send| {
            let error = Error::new(ErrorKind::Connection, "a test");
            Event::Failed(TransportError { error, is_pre_send })
        };
        let approval = |status: &str| json(format!(r#"{{"id":"apr_1","status":"{status}"}}"#));
        match self {
            Allow if request.operation == Operation::RecordEvidence => {
                json(r#"{"event_id":"ev_2","current_event_hash":"ab"}"#.to_owned())
            }
            Allow => decided("allow", ""),
            AllowForAnother => json(r#"{"decision":"allow","request_hash":"00"}"#.to_owned()),
            AllowUnrecorded => json(r#"{"decision":"allow"}"#.to_owned()),
            AllowWith403 => Event::Response(Response::new(403, r#"{"decision":"allow"}"#)),
            Approved => approval("approved"),
            Busy => Event::Response(Response { retry_after: Some("1".to_owned()), ..Response::new(503, "") }),
            BusyForLong => {
                Event::Response(Response { retry_after: Some("60".to_owned()), ..Response::new(503, "") })
            }
            Deny => decided("deny", ""),
            Elapsed => Event::Elapsed,
            Expired => approval("expired"),
            Garbage => json("{".to_owned()),
            Lost => failed(false),
            Panicked => Event::Panicked,
            Pending => approval("pending"),
            Refused => failed(true),
            Rejected => approval("rejected"),
            ReplayedAllow => decided("allow", r#","replayed":true"#),
            RequireApproval => decided("require_approval", r#","approval_request_id":"apr_1""#),
            ServerError => Event::Response(Response::new(500, "")),
            TooMany => Event::Response(Response::new(429, "")),
            Warn => decided("warn", ""),
        }
    }
}

/// The contract of `docs/guard-contract.md` as a model: whether the replies to the attempts of the
/// last request allow the action to run.
fn may_run(mode: Mode, replies: &[Reaction]) -> bool {
    let Some((last, before)) = replies.split_last() else { return mode == Mode::Monitor };
    // An attempt that the gateway may have processed, without a response.
    let lost = before.iter().any(|reply| matches!(reply, Lost));
    match (mode, last) {
        (Mode::Monitor, _) => true,
        (_, Allow) => true,
        (_, ReplayedAllow) => lost,
        (Mode::Enforce | Mode::Warn, AllowUnrecorded) => true,
        (Mode::Warn, Warn) => true,
        _ => false,
    }
}

/// Whether an attempt with this result is retried, if retries are left.
fn is_retried(reply: Reaction) -> bool {
    matches!(reply, Busy | Lost | Refused | TooMany)
}

#[derive(Debug, Default)]
struct Counts {
    ran: u64,
    blocked: u64,
    dropped: u64,
    held: u64,
    voided: u64,
    retried: u64,
    recorded: u64,
}

/// A cached engine with this number of retries.
fn engine(retries: u32) -> Engine {
    static ENGINES: LazyLock<[Engine; 3]> = LazyLock::new(|| [0, 1, 2].map(make));
    ENGINES[retries as usize].clone()
}

fn make(retries: u32) -> Engine {
    let builder: ActPassBuilder = ActPass::builder();
    builder
        .api_key("apk_test")
        .base_url("http://127.0.0.1:9")
        .max_retries(retries)
        .circuit_failures(0)
        .settings()
        .unwrap()
        .engine()
}

/// Runs one guarded action in one order of events and compares it with the model.
fn walk(seed: u64, counts: &mut Counts) {
    let script = Script::new(seed);
    let mode = script.pick(&[Mode::Enforce, Mode::Strict, Mode::Warn, Mode::Monitor]);
    let retries = script.pick(&[0, 1, 2]);
    let wait = script.pick(&[None, Some(Duration::ZERO), Some(Duration::from_secs(90))]);
    let dropped_at = script.pick(&[None, None, None, Some(0), Some(1), Some(2), Some(3)]);
    let record = script.pick(&[true, false]);
    let mut action = Action::new("goal", "tool").mode(mode);
    if let Some(wait) = wait {
        action = action.wait_for_approval(wait);
    }
    let engine = engine(retries);
    let prepared = engine.prepare(action, &script).unwrap();
    let mut session = engine.guard(prepared, Scope::default(), record);

    let (mut question, mut held, mut steps, mut deadline) = (Vec::new(), false, 0, None);
    let mut step = session.step(Event::Started, &script);
    let ready = loop {
        if dropped_at == Some(steps) {
            counts.dropped += 1;
            return;
        }
        steps += 1;
        assert!(steps < 1_000, "{seed}: no end");
        let event = match step {
            Step::Ended(Stage::Ready) => break true,
            Step::Ended(Stage::Blocked(blocked)) => {
                assert_ne!(blocked.decision().word(), &crate::DecisionWord::Allow, "{seed}");
                break false;
            }
            Step::Sleep { until } => {
                // A backoff ends before the deadline of its call.
                assert!(
                    deadline.is_none_or(|deadline| until < deadline),
                    "{seed}: the backoff exceeds the deadline"
                );
                script.reach(until);
                Event::Elapsed
            }
            Step::Send { request, until } => {
                let reply = match request.operation {
                    Operation::Preflight => {
                        if request.retry == 0 {
                            question.clear();
                        }
                        deadline = Some(until);
                        let reply = script.pick(PREFLIGHT);
                        question.push(reply);
                        assert!(question.len() <= retries as usize + 1, "{seed}: too many attempts");
                        assert!(
                            question.iter().rev().skip(1).all(|reply| is_retried(*reply)),
                            "{seed}: retried after a final response: {question:?}"
                        );
                        counts.retried += u64::from(request.retry > 0);
                        reply
                    }
                    Operation::Approval => {
                        (held, deadline) = (true, None);
                        script.pick(POLL)
                    }
                    other => panic!("{seed}: {other:?} before the verdict"),
                };
                if reply == Elapsed {
                    script.reach(until);
                }
                reply.event(&request)
            }
        };
        step = session.step(event, &script);
    };
    counts.held += u64::from(held);
    assert_eq!(ready, may_run(mode, &question), "{seed}: {mode:?} {question:?} held {held}");
    if !ready {
        counts.blocked += 1;
        assert!(session.begin(None, &script).is_err(), "{seed}: a blocked action began");
        return;
    }

    counts.ran += 1;
    // Some permits are spent too late, and some actions change before they run.
    let late = script.pick(&[false, false, false, false, false, true]);
    let changed = script.pick(&[false, false, false, false, false, true]);
    if late {
        script.reach(script.now() + PERMIT_VALIDITY + Duration::from_millis(1));
    }
    let now = Action::new("goal", if changed { "another" } else { "tool" });
    match session.begin(Some(&now), &script).unwrap() {
        Begun::Running(_) => {
            assert!(mode == Mode::Monitor || !(late || changed), "{seed}: an invalid permit ran");
        }
        Begun::Blocked(blocked) => {
            assert!(mode != Mode::Monitor && (late || changed), "{seed}: it was blocked");
            let reason = if changed { "actpass.arguments_changed" } else { "actpass.permit_expired" };
            assert_eq!(blocked.decision().reason_code(), reason, "{seed}");
            assert!(session.begin(None, &script).is_err(), "{seed}: began after a block");
            counts.voided += 1;
            return;
        }
    }
    assert!(session.begin(None, &script).is_err(), "{seed}: began twice");
    let ended =
        script.pick(&[ActionEnd::Returned, ActionEnd::Failed, ActionEnd::Cancelled, ActionEnd::Suspended]);
    let (settlement, recording) = session.finish(ended, None).unwrap();
    assert_eq!(recording.is_some(), record, "{seed}");
    assert!(session.finish(ended, None).is_err(), "{seed}: finished twice");
    if let Some(recording) = recording {
        let mut machine = engine.record(&recording, Scope::default()).unwrap();
        let mut step = machine.step(Event::Started, &script);
        let recorded = loop {
            let event = match step {
                Step::Ended(recorded) => break recorded,
                Step::Sleep { until } => {
                    script.reach(until);
                    Event::Elapsed
                }
                Step::Send { request, until } => {
                    assert_eq!(request.operation, Operation::RecordEvidence, "{seed}");
                    let text = String::from_utf8(request.body.to_vec()).unwrap();
                    assert!(text.contains(ended.as_str()), "{seed}: {text}");
                    let reply = script.pick(RECORDING);
                    if reply == Elapsed {
                        script.reach(until);
                    }
                    reply.event(&request)
                }
            };
            step = machine.step(event, &script);
        };
        counts.recorded += u64::from(recorded.is_ok());
    }
    let outcome = settlement.settle::<_, ()>(Ok("done"));
    assert!(matches!(outcome, Outcome::Returned { result: "done", .. }), "{seed}");
    assert!(session.begin(None, &script).is_err(), "{seed}: began after the end");
}

/// The default number of walks; `ACTPASS_INTERLEAVINGS` overrides it.
const WALKS: u64 = 20_000;

#[test]
fn every_order_of_events_matches_the_model() {
    let walks = std::env::var("ACTPASS_INTERLEAVINGS").map_or(WALKS, |text| text.parse().unwrap());
    let mut counts = Counts::default();
    let began = Instant::now();
    for seed in 0..walks {
        walk(seed, &mut counts);
    }
    let rate = walks as f64 / began.elapsed().as_secs_f64();
    println!("{walks} orders of events, {rate:.0} a second, 0 differences: {counts:?}");
    // The walks must cover every case.
    for (what, count) in [
        ("ran", counts.ran),
        ("blocked", counts.blocked),
        ("dropped", counts.dropped),
        ("held", counts.held),
        ("voided", counts.voided),
        ("retried", counts.retried),
        ("recorded", counts.recorded),
    ] {
        assert!(count * 60 > walks, "{what}: {count} of {walks}");
    }
}

#[test]
fn misused_machine_runs_nothing() {
    let script = Script::new(1);
    for mode in [Mode::Enforce, Mode::Strict, Mode::Warn, Mode::Monitor] {
        let engine = engine(0);
        let session = || {
            let prepared = engine.prepare(Action::new("goal", "tool").mode(mode), &script).unwrap();
            engine.guard(prepared, Scope::default(), false)
        };
        let mut unasked = session();
        let answered = Event::Response(Response::new(200, r#"{"decision":"allow"}"#));
        assert!(matches!(unasked.step(answered.clone(), &script), Step::Ended(Stage::Blocked(_))), "{mode}");

        // A second response to the same request.
        let mut ready = session();
        assert!(matches!(ready.step(Event::Started, &script), Step::Send { .. }));
        let Step::Ended(first) = ready.step(Event::Panicked, &script) else { panic!("{mode}") };
        assert_eq!(matches!(first, Stage::Ready), mode == Mode::Monitor);
        assert!(matches!(ready.step(answered.clone(), &script), Step::Ended(Stage::Blocked(_))), "{mode}");
        assert!(ready.begin(None, &script).is_err(), "{mode}: the permit is not void");
        assert!(matches!(ready.step(answered, &script), Step::Ended(Stage::Blocked(_))), "{mode}");
    }
}

/// The document with the diagram.
const DIAGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/engine.md");

#[test]
fn diagram_matches_states_and_events() {
    let page = std::fs::read_to_string(DIAGRAM).unwrap();
    let (begin, end) = ("```mermaid\n", "```");
    let start = page.find(begin).unwrap() + begin.len();
    let length = page[start..].find(end).unwrap();
    let expected = diagram();
    if std::env::var_os("ACTPASS_WRITE_DIAGRAM").is_some() {
        let written = format!("{}{expected}{}", &page[..start], &page[start + length..]);
        std::fs::write(DIAGRAM, written).unwrap();
        return;
    }
    assert_eq!(&page[start..start + length], expected, "write it with ACTPASS_WRITE_DIAGRAM=1");
}

/// A step through the state diagram.
#[derive(Clone, Copy, Debug)]
enum Move {
    Begin,
    Finish,
    Reaction(Reaction),
    Sleep,
    Start,
}

/// The reachable states of a session with one retry, a wait for approval and recording, and the
/// transitions between them. Found by trying each event in each state.
fn diagram() -> String {
    let mut paths = VecDeque::from([Vec::new()]);
    let mut seen = BTreeSet::new();
    let mut edges: BTreeMap<(String, String), BTreeSet<&'static str>> = BTreeMap::new();
    while let Some(path) = paths.pop_front() {
        let (from, moves) = play(&path);
        if !seen.insert(from.clone()) {
            continue;
        }
        for next in moves {
            let longer: Vec<Move> = path.iter().copied().chain([next]).collect();
            let (to, _) = play(&longer);
            edges.entry((from.clone(), to)).or_default().insert(label(next));
            paths.push_back(longer);
        }
    }
    let mut text = "stateDiagram-v2\n    [*] --> Created\n".to_owned();
    for ((from, to), labels) in edges {
        let labels: Vec<_> = labels.into_iter().collect();
        text += &format!("    {from} --> {to}: {}\n", labels.join(", "));
    }
    text + "    Blocked --> [*]\n    Done --> [*]\n"
}

/// The state after these moves, and the possible next moves.
fn play(path: &[Move]) -> (String, Vec<Move>) {
    let script = Script::new(7);
    let engine = engine(1);
    let action = Action::new("goal", "tool").wait_for_approval(Duration::from_secs(90));
    let prepared = engine.prepare(action, &script).unwrap();
    let mut machine = Playing::Session(Box::new(engine.guard(prepared, Scope::default(), true)));
    let (mut last, mut state, mut held) = (None, "Created".to_owned(), false);
    let mut moves = vec![Move::Start];
    for next in path {
        let step = match next {
            Move::Start => machine.step(Event::Started, &script),
            Move::Begin => {
                let Playing::Session(session) = &mut machine else { panic!("{path:?}") };
                assert!(matches!(session.begin(None, &script).unwrap(), Begun::Running(_)));
                (state, moves) = ("Running".to_owned(), vec![Move::Finish]);
                continue;
            }
            Move::Finish => {
                let Playing::Session(session) = &mut machine else { panic!("{path:?}") };
                let (_, recording) = session.finish(ActionEnd::Returned, None).unwrap();
                let recording = engine.record(&recording.unwrap(), Scope::default()).unwrap();
                machine = Playing::Recording(Box::new(recording));
                machine.step(Event::Started, &script)
            }
            Move::Sleep => machine.step(Event::Elapsed, &script),
            Move::Reaction(reply) => machine.step(reply.event(&last.take().unwrap()), &script),
        };
        let was = state.clone();
        (state, moves) = match step {
            Step::Sleep { until } => {
                script.reach(until);
                let kind = was.trim_end_matches("Again").to_owned();
                // The previous move distinguishes a pause between polls from the retry of a poll.
                let is_pause =
                    kind == "Polling" && (was != kind || matches!(next, Move::Reaction(Pending | Elapsed)));
                (if is_pause { "Pausing".to_owned() } else { format!("{kind}Retry") }, vec![Move::Sleep])
            }
            Step::Send { request, .. } => {
                let again = if request.retry > 0 { "Again" } else { "" };
                let (kind, replies) = match request.operation {
                    Operation::Approval => {
                        held = true;
                        ("Polling", POLL)
                    }
                    Operation::Preflight if held => ("AskingApproved", PREFLIGHT),
                    Operation::Preflight => ("Asking", PREFLIGHT),
                    _ => ("Recording", RECORDING),
                };
                last = Some(request);
                (format!("{kind}{again}"), replies.iter().copied().map(Move::Reaction).collect())
            }
            Step::Ended(Some(Stage::Ready)) => ("Ready".to_owned(), vec![Move::Begin]),
            Step::Ended(Some(Stage::Blocked(_))) => ("Blocked".to_owned(), Vec::new()),
            Step::Ended(None) => ("Done".to_owned(), Vec::new()),
        };
    }
    (state, moves)
}

/// The machine before the action, and the one after it.
enum Playing {
    Session(Box<GuardSession>),
    Recording(Box<dyn Machine<Output = Result<RecordedEvidence, Error>>>),
}

impl Playing {
    fn step(&mut self, event: Event, clock: &dyn Clock) -> Step<Option<Stage>> {
        match self {
            Self::Session(session) => session.step(event, clock).map(Some),
            Self::Recording(recording) => recording.step(event, clock).map(|_| None),
        }
    }
}

fn label(next: Move) -> &'static str {
    match next {
        Move::Begin => "begin",
        Move::Finish => "finish",
        Move::Sleep => "elapsed",
        Move::Start => "started",
        Move::Reaction(reply) => match reply {
            Allow => "allow",
            AllowForAnother => "allow for another request",
            AllowUnrecorded => "allow without evidence",
            AllowWith403 => "allow with 403",
            Approved => "approved",
            Busy => "503 with Retry-After",
            BusyForLong => "503 with Retry-After past the deadline",
            Deny => "deny",
            Elapsed => "deadline",
            Expired => "expired",
            Garbage => "not JSON",
            Lost => "connection lost",
            Panicked => "panic",
            Pending => "pending",
            Refused => "connection refused",
            Rejected => "rejected",
            ReplayedAllow => "replayed allow",
            RequireApproval => "require_approval",
            ServerError => "500",
            TooMany => "429",
            Warn => "warn",
        },
    }
}
