//! The entries of the module. `engine.ts` is their only caller.

use std::cell::RefCell;

use actpass_core::json::{RawObject, Step, path};
use actpass_core::transport::Response;
use actpass_core::{ActionEnd, Error, ErrorKind, Json, Secret};
use actpass_node_text::call::CompletionKind;
use actpass_node_text::guard;

use crate::buffers::{self, take, text, texts};
use crate::transport::{self, Fetched};
use crate::{calls, client, executor, host};

thread_local! {
    static LINES: RefCell<String> = const { RefCell::new(String::new()) };
    static COMPLETED: RefCell<u64> = const { RefCell::new(0) };
}

/// Prepares the instance. Called once, before every other entry.
#[unsafe(no_mangle)]
extern "C" fn start_module() {
    std::panic::set_hook(Box::new(|info| {
        // The message might contain a secret; the place does not.
        let place = info.location().map_or_else(|| "?".to_owned(), ToString::to_string);
        host::panicked(place.as_ptr(), place.len());
    }));
}

/// The place of the log lines of the call that `next` returned.
#[unsafe(no_mangle)]
extern "C" fn lines() -> *const u8 {
    LINES.with_borrow(|lines| lines.as_ptr())
}

/// The length of the log lines of the call that `next` returned.
#[unsafe(no_mangle)]
extern "C" fn lines_length() -> usize {
    LINES.with_borrow(String::len)
}

/// The number of the call that `next` returned.
#[unsafe(no_mangle)]
extern "C" fn completed() -> f64 {
    COMPLETED.with_borrow(|id| *id as f64)
}

/// Takes the next completed call: its kind, or -1 without one.
#[unsafe(no_mangle)]
extern "C" fn next() -> i32 {
    let Some(completion) = calls::next() else { return -1 };
    COMPLETED.set(completion.id);
    buffers::set_output(completion.text);
    LINES.set(completion.lines);
    match completion.kind {
        CompletionKind::Answered => 0,
        CompletionKind::Failed => 1,
        CompletionKind::Permitted => 2,
        CompletionKind::Halted => 3,
    }
}

/// Creates a client. Returns whether it succeeded, as every entry with an error; the error is at
/// `output`.
#[unsafe(no_mangle)]
extern "C" fn client_create(number: u32, length: usize) -> bool {
    entry(|| client::create(number, secret(length)?))
}

/// Closes a client.
#[unsafe(no_mangle)]
extern "C" fn client_close(number: u32) {
    client::close(number);
}

/// Returns the state of a client's circuit breaker.
#[unsafe(no_mangle)]
extern "C" fn client_circuit(number: u32) -> bool {
    texts(|| client::circuit(number))
}

/// Validates the input of a guard.
#[unsafe(no_mangle)]
extern "C" fn client_check(number: u32, length: usize) -> bool {
    entry(|| client::check(number, secret(length)?))
}

/// Starts a call. The input is the call's name, then its own input.
#[unsafe(no_mangle)]
extern "C" fn call_start(number: u32, id: f64, lost: bool, name: usize, length: usize) -> bool {
    let started = entry(|| {
        let mut bytes = take(name + length);
        let input = bytes.split_off(name.min(bytes.len()));
        client::start(number, &text(bytes)?, integer(id), lost, Secret::new(text(input)?))
    });
    executor::run();
    started
}

/// Cancels a call.
#[unsafe(no_mangle)]
extern "C" fn call_cancel(id: f64) {
    calls::cancel(integer(id));
    executor::run();
}

/// Spends the permit of a call.
#[unsafe(no_mangle)]
extern "C" fn call_begin(id: f64, has_now: bool, length: usize) -> bool {
    let begun = texts(|| {
        let now = text(take(length))?;
        calls::begin(integer(id), has_now.then_some(now))
    });
    executor::run();
    begun
}

/// Settles a permitted action. `ended` is `failed`, `returned`, `cancelled` or `suspended`, in this
/// order.
#[unsafe(no_mangle)]
extern "C" fn call_finish(id: f64, ended: u32, has_response: bool, length: usize) -> bool {
    let finished = texts(|| {
        let response = text(take(length))?;
        let ended = match ended {
            1 => ActionEnd::Returned,
            2 => ActionEnd::Cancelled,
            3 => ActionEnd::Suspended,
            _ => ActionEnd::Failed,
        };
        calls::finish(integer(id), ended, has_response.then_some(response.as_str()))
    });
    executor::run();
    finished
}

/// Completes a request with a response. The input is `retry-after`, `x-request-id`,
/// `www-authenticate`, `dpop-nonce` and the body; the length of a missing header is `u32::MAX`.
/// `problem` is 0 for a whole body, 1 for one that is too large, 2 for one that is cut short.
#[unsafe(no_mangle)]
#[expect(clippy::too_many_arguments, reason = "one length per header")]
extern "C" fn fetched(
    operation: u32,
    status: u32,
    retry_after: u32,
    request_id: u32,
    www_authenticate: u32,
    dpop_nonce: u32,
    problem: u32,
    body: usize,
) {
    let length = |length: u32| usize::try_from(length).ok().filter(|_| length != u32::MAX);
    let headers = [retry_after, request_id, www_authenticate, dpop_nonce].map(length);
    let mut bytes = take(headers.iter().flatten().sum::<usize>() + body);
    let mut header = |length: Option<usize>| {
        let rest = bytes.split_off(length?.min(bytes.len()));
        String::from_utf8(std::mem::replace(&mut bytes, rest)).ok()
    };
    let [retry_after, request_id, www_authenticate, dpop_nonce] = headers.map(&mut header);
    let body = transport::body_of(problem, bytes);
    let status = u16::try_from(status).unwrap_or(0);
    let response =
        Response { retry_after, request_id, www_authenticate, dpop_nonce, body, ..Response::new(status, "") };
    transport::fetched(operation, Fetched::Response(response));
    executor::run();
}

/// Completes a request without a response. The input is the host's code, a space and its message.
#[unsafe(no_mangle)]
extern "C" fn fetch_failed(operation: u32, length: usize) {
    let problem = String::from_utf8_lossy(&take(length)).into_owned();
    transport::fetched(operation, Fetched::Failed(problem));
    executor::run();
}

/// Whether this build contains the test hooks.
#[cfg(feature = "test-hooks")]
#[unsafe(no_mangle)]
extern "C" fn has_test_hooks() -> bool {
    true
}

/// Completes a timer.
#[unsafe(no_mangle)]
extern "C" fn fired(operation: u32) {
    host::fired(operation);
    executor::run();
}

/// Calls a function that makes no call of the gateway. The input is a JSON object with its arguments.
#[unsafe(no_mangle)]
extern "C" fn function(which: u32, length: usize) -> bool {
    texts(|| {
        let input = secret(length)?;
        let arguments = RawObject::parse(input.expose().as_bytes())
            .map_err(|problem| Error::new(ErrorKind::Internal, problem))?;
        apply(which, &arguments)
    })
}

fn apply(which: u32, arguments: &RawObject) -> Result<String, Error> {
    let string = |name: &str| arguments.string(name).map(std::borrow::Cow::into_owned);
    let required = |name: &str| string(name).unwrap_or_default();
    match which {
        0 => {
            let status = arguments.member_text("status").and_then(|text| text.parse().ok());
            let executed = arguments.member_text("executed") == Some("true");
            guard::canonical_outcome(executed, &required("decision"), string("kind").as_deref(), status)
        }
        1 => Ok(guard::unmapped_tool(required("tool"))),
        2 => Ok(guard::invalid_argument(required("tool"), required("problem"))),
        3 => {
            let errors = match arguments.member("errors") {
                Some(Json::Array(errors)) => {
                    errors.iter().filter_map(|error| error.as_str().map(str::to_owned)).collect()
                }
                Some(_) | None => Vec::new(),
            };
            Ok(guard::invalid_passport(required("tool"), &errors))
        }
        4 => {
            let steps: Vec<Step> = match arguments.member("steps") {
                Some(Json::Array(steps)) => steps
                    .iter()
                    .map(|step| match step.as_str() {
                        Some(key) => Step::Key(key.to_owned()),
                        None => Step::Index(step.to_string().parse().unwrap_or(usize::MAX)),
                    })
                    .collect(),
                Some(_) | None => Vec::new(),
            };
            Ok(path(&required("member"), &steps))
        }
        5 => guard::hash_payload(&required("payload")),
        6 => guard::sign_payload(&Secret::new(required("secret")), &required("payload")),
        7 => Ok(env!("CARGO_PKG_VERSION").to_owned()),
        8 => guard::dpop_thumbprint(&Secret::new(required("key"))),
        _ => Err(Error::new(ErrorKind::Internal, "unknown function")),
    }
}

fn secret(length: usize) -> Result<Secret, Error> {
    text(take(length)).map(Secret::new)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an integer of JavaScript")]
fn integer(id: f64) -> u64 {
    id as u64
}

fn entry(body: impl FnOnce() -> Result<(), Error>) -> bool {
    texts(|| body().map(|()| String::new()))
}
