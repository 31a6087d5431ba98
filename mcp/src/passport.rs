//! Passports at the server's side: a call runs only with a passport that was issued for this server.

use actpass_core::{ActPass, Action, Blocked, Json, Mode, OfflineVerifyRequest, PreparedAction, Verdict};

/// A call that must present a passport.
pub(crate) struct Presented<'c> {
    pub(crate) tool: &'c str,
    pub(crate) token: Option<&'c str>,
    pub(crate) audience: &'c str,
    /// The action without the passport: its other members are kept.
    pub(crate) action: Action,
}

/// Verifies the passport offline, and requests the decision about the call with it, which claims its
/// use. The goal, the agent and the user are those of the passport.
///
/// `prepared` is the call without these, for a failure of the verification.
pub(crate) async fn authorize(client: &ActPass, call: Presented<'_>, prepared: &PreparedAction) -> Verdict {
    let Some(token) = call.token else { return Verdict::Blocked(Blocked::invalid_passport(call.tool, &[])) };
    let verified = client.verify_passport_offline(&OfflineVerifyRequest::new(token, call.audience)).await;
    let verified = match verified {
        Ok(verified) => verified,
        Err(error) => return Verdict::for_failure(prepared, error),
    };
    let claims = Json::parse(verified.as_json().as_bytes()).ok();
    let claims = claims.as_ref().and_then(|verified| verified.member("claims"));
    let Some(claims) = claims.filter(|_| verified.is_valid()) else {
        return Verdict::Blocked(Blocked::invalid_passport(call.tool, &verified.errors()));
    };
    let text = |name: &str| claims.member(name).and_then(Json::as_str);
    let mut action = call
        .action
        .goal(text("goal").unwrap_or_default())
        .agent_id(text("agent_id").unwrap_or_default())
        .passport(token)
        .audience(call.audience);
    if let Some(user_id) = text("user_id") {
        action = action.user_id(user_id);
    }
    match client.prepare(action) {
        Ok(prepared) => client.authorize_prepared(&prepared).await,
        Err(error) => Verdict::Blocked(Blocked::invalid_argument(call.tool, error)),
    }
}

/// Checks that decisions in `mode` spend passports.
pub(crate) fn check_mode(mode: Mode) -> Result<(), String> {
    match mode {
        Mode::Enforce | Mode::Strict => Ok(()),
        Mode::Monitor | Mode::Warn => Err(format!(
            "--require-passport: expected --mode enforce or strict, found {}: other modes do not spend passports",
            mode.as_str()
        )),
    }
}
