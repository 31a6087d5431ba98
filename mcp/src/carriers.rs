//! The goal, the user and the passport of a call, and their carriers: `_meta`, headers, and the
//! reserved argument.

use actpass_core::Json;
use reqwest::header::{HeaderName, HeaderValue};

use crate::edit::{Members, replace};
use crate::message::{Call, RpcError};

/// The argument that carries the values if an intermediary passes nothing else.
pub(crate) const ARGUMENT: &str = "_actpass";

/// Values that the transport carries next to a message, because an intermediary may strip `_meta`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Carriers {
    pub(crate) goal: Option<String>,
    pub(crate) user_id: Option<String>,
    pub(crate) passport: Option<String>,
    /// The token of `Authorization`: the passport of a call that no other carrier gives one.
    pub(crate) bearer: Option<String>,
    /// Headers of tool parameters, which the server compares with the message: 2026-07-28.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// The authenticated client; `None` without authentication.
    pub(crate) principal: Option<String>,
}

/// Completes the values in `_meta` with those of the headers, and then of the reserved argument.
///
/// # Errors
///
/// Two carriers have different values.
pub(crate) fn complete(call: &mut Call, carriers: &Carriers) -> Result<(), RpcError> {
    for (name, found, carried) in [
        ("goal", &mut call.goal, &carriers.goal),
        ("user_id", &mut call.user_id, &carriers.user_id),
        ("passport", &mut call.passport, &carriers.passport),
    ] {
        match (&found, carried) {
            (Some(found), Some(carried)) if found != carried => {
                return Err(RpcError::invalid_params(format_args!(
                    "{name}: two carriers of the call have different values"
                )));
            }
            (None, Some(carried)) => *found = Some(carried.clone()),
            (Some(_) | None, _) => {}
        }
    }
    Ok(())
}

/// Removes the reserved argument from a call, and returns its values with the message without it.
///
/// # Errors
///
/// The argument is invalid.
pub(crate) fn take_argument(call: &mut Call, text: &str) -> Result<Option<(Carriers, String)>, RpcError> {
    let invalid = || {
        RpcError::invalid_params(format_args!(
            "arguments.{ARGUMENT}: expected an object with goal, user_id and passport as non-empty strings"
        ))
    };
    let Some(mut arguments) = Members::parse(&call.arguments) else { return Ok(None) };
    let Some(carried) = arguments.text(ARGUMENT) else { return Ok(None) };
    let Ok(Json::Object(members)) = Json::parse(carried.as_bytes()) else { return Err(invalid()) };
    let mut carriers = Carriers::default();
    for (name, value) in members {
        let place = match name.as_str() {
            "goal" => &mut carriers.goal,
            "user_id" => &mut carriers.user_id,
            "passport" => &mut carriers.passport,
            _ => return Err(invalid()),
        };
        let Json::String(value) = value else { return Err(invalid()) };
        *place = Some(value).filter(|value| !value.is_empty());
        if place.is_none() {
            return Err(invalid());
        }
    }
    arguments.set(ARGUMENT, None);
    let arguments = arguments.write();
    let within = || Members::parse(Members::parse(text)?.text("params")?)?.text("arguments");
    let text = within().and_then(|part| replace(text, part, &arguments)).ok_or_else(invalid)?;
    call.arguments = arguments;
    Ok(Some((carriers, text)))
}
