//! The settings of a client.

use std::time::Duration;

use actpass_core::{ActPass, ActPassBuilder, CallOptions, Error, ErrorKind, InvalidArgument};
use tracing::Level;

use crate::convert::InputObject;
use crate::log::level_of;

/// The duration that a call's `timeoutMs` limits.
#[derive(Clone, Copy, Debug)]
pub enum Deadline {
    /// The timeout of each of its requests.
    Call,
    /// A longer wait: requests have the client's timeout.
    Client,
}

/// Returns a builder with the settings that every transport has.
///
/// # Errors
///
/// If a setting has the wrong type.
pub fn builder(settings: &InputObject) -> Result<ActPassBuilder, Error> {
    let mut builder = ActPass::builder().user_agent(concat!("actpass-node/", env!("CARGO_PKG_VERSION")));
    if let Some(key) = settings.optional("apiKey")? {
        builder = builder.api_key(key);
    }
    if let Some(tenant_id) = settings.optional("tenantId")? {
        builder = builder.tenant_id(tenant_id);
    }
    if let Some(agent_id) = settings.optional("agentId")? {
        builder = builder.agent_id(agent_id);
    }
    if let Some(base_url) = settings.optional("baseUrl")? {
        builder = builder.base_url(base_url);
    }
    if let Some(timeout) = milliseconds(settings, "timeoutMs")? {
        builder = builder.timeout(timeout);
    }
    if let Some(timeout) = milliseconds(settings, "connectTimeoutMs")? {
        builder = builder.connect_timeout(timeout);
    }
    if let Some(retries) = settings.whole("maxRetries")? {
        builder = builder.max_retries(retries);
    }
    if let Some(failures) = settings.whole("circuitFailures")? {
        builder = builder.circuit_failures(failures);
    }
    if let Some(keys) = settings.optional("approvalKeys")? {
        builder = builder.approval_keys(keys);
    }
    if let Some(key) = settings.optional("dpopKey")? {
        builder = builder.dpop_key(key);
    }
    if let Some(mode) = settings.optional("mode")? {
        let as_config = |error: InvalidArgument| Error::new(ErrorKind::Config, error.to_string());
        builder = builder.mode(mode.parse().map_err(as_config)?);
    }
    Ok(builder.danger_allow_insecure_http(settings.switch("dangerAllowInsecureHttp")?))
}

/// The minimum level of collected log lines; `None` collects none.
///
/// # Errors
///
/// If the setting has the wrong type.
pub fn log_level(settings: &InputObject) -> Result<Option<Level>, Error> {
    Ok(settings.optional("logLevel")?.as_deref().and_then(level_of))
}

/// The client with the call's trace and limits.
///
/// # Errors
///
/// If one of them is invalid.
pub fn scoped(actpass: &ActPass, members: &InputObject, deadline: Deadline) -> Result<ActPass, Error> {
    let timeout = match deadline {
        Deadline::Call => milliseconds(members, "timeoutMs")?,
        Deadline::Client => None,
    };
    let options = CallOptions::new(timeout, members.whole("maxRetries")?)?;
    let actpass = actpass.with_options(options);
    Ok(match members.optional("traceparent")? {
        Some(traceparent) => actpass.in_trace(traceparent.parse()?),
        None => actpass,
    })
}

/// Whether the outcome of a guarded action is recorded.
///
/// # Errors
///
/// If the member is not a boolean.
pub fn records_outcome(members: &InputObject) -> Result<bool, Error> {
    members.switch("recordOutcome")
}

fn milliseconds(settings: &InputObject, member: &str) -> Result<Option<Duration>, Error> {
    let Some(value) = settings.number(member, "milliseconds as a number")? else {
        return Ok(None);
    };
    let range = "expected milliseconds above 0 and at most 86400000";
    actpass_core::seconds(member, value / 1e3)
        .map(Some)
        .map_err(|_| settings.wrong(member, format_args!("{range}, found {value}")))
}
