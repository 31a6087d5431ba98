//! Functions of the guard that make no call.

use actpass_core::Secret;
use actpass_core::json::{Step, path};
use actpass_node_text::guard;
use napi::Either;
use napi_derive::napi;

use crate::panic::catch_panic;

/// The JSON text of the block of a tool to which no action is mapped, as a blocked call reports it.
/// Sends nothing.
#[napi]
pub(crate) fn unmapped_tool(tool: String) -> napi::Result<String> {
    catch_panic(|| Ok(guard::unmapped_tool(tool)))
}

/// The JSON text of the block of a tool whose arguments cannot be sent, for the reason `problem`, as
/// a blocked call reports it. Sends nothing.
#[napi]
pub(crate) fn invalid_argument(tool: String, problem: String) -> napi::Result<String> {
    catch_panic(|| Ok(guard::invalid_argument(tool, problem)))
}

/// The JSON text of the block of a call without a valid passport, as a blocked call reports it.
/// `errors` are the codes of a verification. Sends nothing.
#[napi]
pub(crate) fn invalid_passport(tool: String, errors: Vec<String>) -> napi::Result<String> {
    catch_panic(|| Ok(guard::invalid_passport(tool, &errors)))
}

/// The outcome as canonical JSON, the same in every language.
#[napi]
pub(crate) fn canonical_outcome(
    executed: bool,
    decision: String,
    kind: Option<String>,
    status: Option<u16>,
) -> napi::Result<String> {
    catch_panic(|| guard::canonical_outcome(executed, &decision, kind.as_deref(), status))
}

/// Formats the path to a part of an argument, as in the messages of every language.
#[napi]
pub(crate) fn argument_path(member: String, steps: Vec<Either<String, u32>>) -> napi::Result<String> {
    catch_panic(|| {
        let step = |step| match step {
            Either::A(key) => Step::Key(key),
            Either::B(at) => Step::Index(usize::try_from(at).unwrap_or(usize::MAX)),
        };
        let steps: Vec<Step> = steps.into_iter().map(step).collect();
        Ok(path(&member, &steps))
    })
}

/// The SHA-256 of a value's canonical JSON.
#[napi]
pub(crate) fn hash_payload(payload: String) -> napi::Result<String> {
    catch_panic(|| guard::hash_payload(&payload))
}

/// The thumbprint of a DPoP key.
#[napi]
pub(crate) fn dpop_thumbprint(key: String) -> napi::Result<String> {
    let key = Secret::new(key);
    catch_panic(|| guard::dpop_thumbprint(&key))
}

/// The HMAC-SHA256 of a value's canonical JSON.
#[napi]
pub(crate) fn sign_payload(secret: String, payload: String) -> napi::Result<String> {
    let secret = Secret::new(secret);
    catch_panic(|| guard::sign_payload(&secret, &payload))
}
