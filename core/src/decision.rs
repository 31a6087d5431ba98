//! Decisions, kept as received.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::approval::ApprovalStatus;
use crate::cause::Cause;
use crate::error::Error;
use crate::explanation::Explanation;
use crate::halts;
use crate::prepared::PreparedAction;
use crate::signed_approvals::Unsigned;
use actpass_protocol::json::{JsonWriter, RawObject, Style, all_members, is_array_of_strings};
use actpass_protocol::token::PassportError;
use actpass_protocol::{DecisionWord, Json, Secret};

/// The gateway's reason code of a stopped action.
pub(crate) const HALTED: &str = "halted";
/// The code of a call without a passport.
const NO_PASSPORT: &str = "passport.missing";

const APPROVAL_ID: &str = "approval_request_id";
/// The reason code of a decision without one.
const UNSPECIFIED: &str = "unspecified";
const UNSPECIFIED_JSON: &str = r#""unspecified""#;
const NO_EXPLANATION: &str = r#"{"summary":"","matched_rules":[],"next_steps":[]}"#;

/// A decision: the JSON object of the gateway's response, without the credential.
///
/// `reason_code` and `explain` with its members `summary`, `matched_rules` and `next_steps` are
/// always present: if one is missing or has the wrong type, it is `"unspecified"`, `""` or `[]`.
/// All other members are kept as received.
///
/// Cloning is cheap.
///
/// ```
/// use actpass_core::{Decision, DecisionWord};
///
/// let decision = Decision::parse(br#"{"decision": "deny", "reason_code": "refund.over_limit", "new": [1.50]}"#)?;
/// assert_eq!(decision.word(), &DecisionWord::Deny);
/// assert_eq!(decision.reason_code(), "refund.over_limit");
/// assert_eq!(decision.member("new").unwrap().to_string(), "[1.50]");
/// assert_eq!(Decision::parse(br#"{"decision": "deny"}"#)?.reason_code(), "unspecified");
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Decision(Arc<Inner>);

#[derive(PartialEq, Eq)]
struct Inner {
    document: RawObject,
    word: DecisionWord,
    request_id: Option<String>,
}

impl Decision {
    /// Parses a decision from a response body. A credential in it is dropped.
    ///
    /// # Errors
    ///
    /// One line that names the problem: not a JSON object, a duplicate key, nesting deeper than 128
    /// levels, `decision` missing, empty or not a string, or a `credential` without a `token`.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        Self::parse_with_credential(body).map(|(decision, _)| decision)
    }

    pub(crate) fn parse_with_credential(body: &[u8]) -> Result<(Self, Option<Credential>), String> {
        let mut document = RawObject::parse(body)?;
        let credential = match document.take("credential") {
            Some(text) => Credential::parse(Secret::new(text))?,
            None => None,
        };
        let word = match document.string("decision") {
            Some(word) if word.is_empty() => return Err("`decision` is empty".to_owned()),
            Some(word) => DecisionWord::from(word.as_ref()),
            None if document.member_text("decision").is_some() => {
                return Err("`decision` is not a string".to_owned());
            }
            None => return Err("missing `decision`".to_owned()),
        };
        add_required_members(&mut document);
        Ok((Self(Arc::new(Inner { document, word, request_id: None })), credential))
    }

    /// The decision of the SDK after a gate failure. `approval` is the approval that the action
    /// names, if any.
    pub(crate) fn for_failure(error: &Error, approval: Option<&str>) -> Self {
        Self::synthesize(
            DecisionWord::Deny,
            error.code(),
            &Explanation::of(error),
            &[(APPROVAL_ID, approval)],
        )
        .with_request_id(error.request_id().map(str::to_owned))
    }

    /// The decision of the SDK after a gate failure, if `answer` had required an approval. It keeps
    /// the ledger references of `answer`.
    pub(crate) fn for_failure_after(answer: &Self, error: &Error, approval: Option<&str>) -> Self {
        answer
            .derived(DecisionWord::Deny, error.code(), &Explanation::of(error), approval)
            .with_request_id(error.request_id().map(str::to_owned))
    }

    /// Sets the `x-request-id` of the response.
    #[must_use]
    pub(crate) fn with_request_id(mut self, request_id: Option<String>) -> Self {
        if request_id.is_some() {
            match Arc::get_mut(&mut self.0) {
                Some(inner) => inner.request_id = request_id,
                None => {
                    let Inner { document, word, .. } = &*self.0;
                    self =
                        Self(Arc::new(Inner { document: document.clone(), word: word.clone(), request_id }));
                }
            }
        }
        self
    }

    /// The decision of the SDK in strict mode if the gateway's `allow` has no ledger entry.
    pub(crate) fn unrecorded(approval: Option<&str>) -> Self {
        let explanation = Explanation::new(
            "The gateway allowed the action without recording it, and strict mode runs nothing unrecorded.",
            ["Check that the gateway writes evidence: its decisions must carry evidence_event_id."],
        );
        Self::synthesize(DecisionWord::Deny, "actpass.unrecorded", &explanation, &[(APPROVAL_ID, approval)])
    }

    /// The decision of the SDK if the approval in `answer` is not signed by a trusted passkey. It
    /// keeps the ledger references of `answer`.
    pub(crate) fn unsigned(answer: &Self, unsigned: Unsigned, approval: Option<&str>) -> Self {
        let explanation = Explanation::new(
            format!(
                "The gateway allowed the action by an approval that no trusted passkey has signed, so it did not \
                 run: {unsigned}."
            ),
            [
                "Check that the rule requires a signed approval, and that the signer's passkey is in approval_keys.",
                "If both are so, the gateway or its answer may have been tampered with: do not run the action.",
            ],
        );
        answer.derived(DecisionWord::Deny, "actpass.approval_unsigned", &explanation, approval)
    }

    /// The decision of the SDK if the arguments changed after the gateway's `answer`. It keeps the
    /// ledger references of `answer`.
    pub(crate) fn arguments_changed(answer: &Self) -> Self {
        let explanation = Explanation::new(
            "The arguments changed after the gateway evaluated them, so the action did not run.",
            [
                "Pass a copy of the arguments that does not change while the gateway decides.",
                "Request a new decision for the current arguments; a spent approval or passport stays spent.",
            ],
        );
        answer.derived(DecisionWord::Deny, "actpass.arguments_changed", &explanation, None)
    }

    /// The decision of the SDK if the permit of `answer` was spent too late. It keeps the ledger
    /// references of `answer`.
    pub(crate) fn permit_expired(answer: &Self) -> Self {
        let explanation = Explanation::new(
            "The permit was not spent in time, so the action did not run.",
            [
                "Spend a permit within five minutes, and before its credential expires.",
                "Request a decision right before the action runs; a spent approval or passport stays spent.",
            ],
        );
        answer.derived(DecisionWord::Deny, "actpass.permit_expired", &explanation, None)
    }

    /// The decision of the SDK if a stop was issued or lifted since the gateway's `answer`. It keeps
    /// the ledger references of `answer`.
    pub(crate) fn halted_since(answer: &Self) -> Self {
        let explanation = Explanation::new(
            "A stop was issued or lifted after the gateway allowed the action, so the action did not run.",
            [
                "Request a new decision, with a new idempotency key; it is denied if the stop covers the action.",
                "A spent approval, passport or budget stays spent.",
            ],
        );
        answer.derived(DecisionWord::Deny, "actpass.halted", &explanation, None)
    }

    /// The decision on an action that waited for the approval `id` when it was stopped. `answer` is
    /// the decision that required the approval; `explain` is the gateway's explanation of the stop.
    pub(crate) fn halted(answer: &Self, id: &str, explain: Option<&Json>) -> Self {
        let said = explain.map(Explain::of).unwrap_or_default();
        let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
        let summary = or(said.summary, "The action is stopped, so its approval cannot be decided.");
        let next_step = or(said.next_steps.join(" "), "Resume the action after the stop is lifted.");
        answer.derived(DecisionWord::Deny, HALTED, &Explanation::new(summary, [next_step]), Some(id))
    }

    /// The decision of the SDK about a tool to which no action is mapped.
    pub(crate) fn unmapped_tool() -> Self {
        let explanation = Explanation::new(
            "No action is mapped to this tool.",
            ["Map the tool to an action, or mark it as unguarded."],
        );
        Self::synthesize(DecisionWord::Deny, "actpass.unmapped_tool", &explanation, &[])
    }

    /// The decision of the SDK about arguments of a tool that cannot be sent. It is shown to the
    /// model, without the advice for a developer that follows a semicolon in the message.
    pub(crate) fn invalid_argument(error: &Error) -> Self {
        let message = error.to_string();
        let problem = message.split_once("; ").map_or(message.as_str(), |(problem, _)| problem);
        let explanation = Explanation::new(problem.to_owned(), ["Correct the argument."]);
        Self::synthesize(DecisionWord::Deny, error.code(), &explanation, &[])
    }

    /// The decision of the SDK about a call without a valid passport. `errors` are the codes.
    pub(crate) fn invalid_passport(errors: &[String]) -> Self {
        let first = errors.first().map_or(NO_PASSPORT, String::as_str);
        let problems: Vec<_> = errors
            .iter()
            .map(|code| {
                PassportError::from_code(code).map_or_else(|| code.clone(), |error| error.to_string())
            })
            .collect();
        let (summary, next_step) = match first == NO_PASSPORT || errors.is_empty() {
            true => (
                "The server requires a passport, which is missing.".to_owned(),
                "Present a passport that was issued for this server.",
            ),
            false => (
                format!("The passport {}.", problems.join(", ")),
                "Request a new passport for this server and this action.",
            ),
        };
        Self::synthesize(DecisionWord::Deny, first, &Explanation::new(summary, [next_step]), &[])
    }

    /// The decision of the SDK if `answer` is a replay of a response to another call. It keeps the
    /// ledger references of `answer`.
    pub(crate) fn replayed(answer: &Self, approval: Option<&str>) -> Self {
        let explanation = Explanation::new(
            "The gateway repeated its response to an earlier request with this idempotency key: the action may have run \
             before, so it was not run again.",
            [
                "Look up evidence_event_id in the gateway's ledger: an action.outcome event that names it has the \
                 action's end.",
                "Check the action's target, such as the payment provider, for the action's effect.",
                "To run the action a second time, use a new idempotency key.",
            ],
        );
        answer.derived(DecisionWord::Deny, "actpass.replayed", &explanation, approval)
    }

    /// The decision of the SDK about an action that waited for the approval `id`, which was not
    /// approved. `answer` is the decision that required the approval.
    pub(crate) fn unapproved(answer: &Self, id: &str, status: ApprovalStatus) -> Self {
        let (word, reason_code, summary, next_step) = match status {
            ApprovalStatus::Approved | ApprovalStatus::Pending => (
                DecisionWord::RequireApproval,
                "actpass.approval_timeout",
                "The approval was still undecided when the wait ended.",
                "Resume the action after the decision, or wait longer.",
            ),
            ApprovalStatus::Expired => (
                DecisionWord::Deny,
                "approval.expired",
                "The approval expired before a decision.",
                "Request the action again, which opens a new approval.",
            ),
            ApprovalStatus::Rejected => {
                (DecisionWord::Deny, "approval.rejected", "A person rejected the action.", "Do not run it.")
            }
        };
        let explanation = Explanation::new(summary, [next_step]);
        answer.derived(word, reason_code, &explanation, Some(id))
    }

    /// A decision of the SDK in place of this one. It keeps this decision's ledger references.
    fn derived(
        &self,
        word: DecisionWord,
        reason_code: &str,
        explanation: &Explanation,
        approval: Option<&str>,
    ) -> Self {
        let [event, chain, request] = ["evidence_event_id", "evidence_chain_id", "request_hash"]
            .map(|name| (name, self.0.document.string(name)));
        let kept = [&event, &chain, &request].map(|(name, value)| (*name, value.as_deref()));
        let [event, chain, request] = kept;
        Self::synthesize(word, reason_code, explanation, &[(APPROVAL_ID, approval), event, chain, request])
            .with_request_id(self.0.request_id.clone())
    }

    /// A decision of the SDK, with the `members` that have a value.
    fn synthesize(
        word: DecisionWord,
        reason_code: &str,
        explanation: &Explanation,
        members: &[(&str, Option<&str>)],
    ) -> Self {
        let mut text = JsonWriter::new(Style::Compact);
        text.raw(r#"{"decision":"#);
        text.string(word.as_str());
        text.raw(r#","reason_code":"#);
        text.string(reason_code);
        for (name, value) in members {
            if let Some(value) = value {
                text.raw(",");
                text.key(name);
                text.string(value);
            }
        }
        text.raw(r#","explain":{"summary":"#);
        text.string(&explanation.summary);
        text.raw(r#","matched_rules":[],"next_steps":["#);
        for (at, step) in explanation.next_steps.iter().enumerate() {
            text.comma(at);
            text.string(step);
        }
        text.raw("]}}");
        let document = RawObject::parse(text.as_str().as_bytes());
        debug_assert!(document.is_ok());
        Self(Arc::new(Inner { document: document.unwrap_or_default(), word, request_id: None }))
    }

    /// The member `decision`.
    pub fn word(&self) -> &DecisionWord {
        &self.0.word
    }

    /// The stable dotted code to alert and branch on, such as `refund.small_in_scope`.
    /// `unspecified` if the gateway sent none.
    pub fn reason_code(&self) -> Cow<'_, str> {
        self.0.document.string("reason_code").unwrap_or(Cow::Borrowed(UNSPECIFIED))
    }

    /// The `x-request-id` of the gateway's response, for support; `None` if there was no response
    /// or no such header.
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// `low`, `medium`, `high` or `critical`; `None` if the gateway sent none.
    pub fn risk_tier(&self) -> Option<Cow<'_, str>> {
        self.0.document.string("risk_tier")
    }

    /// The explanation for people.
    pub fn explain(&self) -> Explain {
        self.member("explain").as_ref().map(Explain::of).unwrap_or_default()
    }

    /// The id of the ledger entry; `None` if the gateway sent none.
    pub fn evidence_event_id(&self) -> Option<Cow<'_, str>> {
        self.0.document.string("evidence_event_id")
    }

    /// The id of the requested approval, if the decision is `require_approval`.
    pub fn approval_request_id(&self) -> Option<Cow<'_, str>> {
        self.0.document.string(APPROVAL_ID)
    }

    /// Returns any member by name, including members that this version does not know.
    pub fn member(&self, name: &str) -> Option<Json> {
        self.0.document.member(name)
    }

    /// The JSON text of the decision, without the credential.
    pub fn as_json(&self) -> &str {
        self.0.document.as_str()
    }

    /// The id of the approval that the action waits for.
    pub(crate) fn pending_approval_id(&self) -> Option<Cow<'_, str>> {
        let id = self.approval_request_id().filter(|id| !id.is_empty())?;
        (*self.word() == DecisionWord::RequireApproval).then_some(id)
    }

    /// Whether the decision names the request that it belongs to. `request` is the request that was
    /// sent.
    ///
    /// # Errors
    ///
    /// If it names another request, or if the request has no canonical form and therefore no hash.
    pub(crate) fn is_bound(&self, request: &PreparedAction) -> Result<bool, (Cause, String)> {
        const MEMBER: &str = "request_hash";
        if self.0.document.member_text(MEMBER).is_none_or(|text| text == "null") {
            return Ok(false);
        }
        let hash = request.request_hash().map_err(|unhashable| {
            let cause = Cause::NotCanonical { path: unhashable.path() };
            (cause, format!("cannot check `request_hash`: {unhashable}"))
        })?;
        match self.0.document.string(MEMBER).as_deref() == Some(hash) {
            true => Ok(true),
            false => Err((Cause::AnotherRequest, "`request_hash` belongs to another request".to_owned())),
        }
    }

    /// The replay information; `None` if the response is not a replay.
    ///
    /// # Errors
    ///
    /// If `replayed` is not a boolean or `null`, or `replay_age_ms` not a non-negative integer or
    /// `null`.
    pub(crate) fn replay(&self) -> Result<Option<Replay>, String> {
        let age_ms = match self.member("replay_age_ms") {
            None | Some(Json::Null) => None,
            Some(Json::Number(number)) if is_unsigned_integer(number.as_str()) => {
                // An age beyond 64 bits is older than any call.
                Some(number.as_str().parse().unwrap_or(u64::MAX))
            }
            Some(_) => return Err("`replay_age_ms` is not a non-negative integer".to_owned()),
        };
        match self.member("replayed") {
            None | Some(Json::Null | Json::Bool(false)) => Ok(None),
            Some(Json::Bool(true)) => Ok(Some(Replay { age_ms })),
            Some(_) => Err("`replayed` is not a boolean".to_owned()),
        }
    }

    /// The gateway's `halt_epoch`; `None` if it sent none.
    ///
    /// # Errors
    ///
    /// If it is not an integer of 0 to 2^53 - 1.
    pub(crate) fn halt_epoch(&self) -> Result<Option<u64>, String> {
        halts::epoch_of(&self.0.document)
    }

    /// Whether the gateway denied it because of a stop.
    pub(crate) fn is_halted(&self) -> bool {
        *self.word() == DecisionWord::Deny && self.reason_code() == HALTED
    }

    pub(crate) fn is_recorded(&self) -> bool {
        self.evidence_event_id().is_some_and(|id| !id.is_empty())
    }
}

/// A response that the gateway replays for an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replay {
    /// The time since the gateway first recorded the response, in milliseconds, if it is known.
    pub(crate) age_ms: Option<u64>,
}

/// Adds missing required members. A member of the wrong type counts as missing.
fn add_required_members(document: &mut RawObject) {
    if document.string("reason_code").is_none() {
        document.set("reason_code", UNSPECIFIED_JSON);
    }
    let explain =
        document.member_text("explain").map_or(Some(Cow::Borrowed(NO_EXPLANATION)), completed_explanation);
    if let Some(explain) = explain {
        document.set("explain", &explain);
    }
}

/// Whether an explanation has all required members, which is the common case.
fn is_complete_explanation(text: &str) -> bool {
    let mut found = [false; 3];
    let is_valid = all_members(text, |key| {
        let at = ["summary", "matched_rules", "next_steps"].iter().position(|name| *name == key);
        if let Some(found) = at.and_then(|at| found.get_mut(at)) {
            *found = true;
        }
        move |value: &str| match at {
            Some(0) => value.starts_with('"'),
            Some(_) => is_array_of_strings(value),
            None => true,
        }
    });
    is_valid && found == [true; 3]
}

/// The explanation's JSON text with the missing members added; `None` if none is missing.
fn completed_explanation(text: &str) -> Option<Cow<'static, str>> {
    if is_complete_explanation(text) {
        return None;
    }
    let Ok(mut explain) = RawObject::parse(text.as_bytes()) else {
        return Some(Cow::Borrowed(NO_EXPLANATION));
    };
    if explain.string("summary").is_none() {
        explain.set("summary", r#""""#);
    }
    for name in ["matched_rules", "next_steps"] {
        match explain.member(name) {
            Some(Json::Array(mut items)) => {
                items.retain(|item| item.as_str().is_some());
                explain.set(name, &Json::Array(items).to_string());
            }
            Some(_) | None => explain.set(name, "[]"),
        }
    }
    Some(Cow::Owned(explain.as_str().to_owned()))
}

fn is_unsigned_integer(number: &str) -> bool {
    number.bytes().all(|byte| byte.is_ascii_digit())
}

impl fmt::Debug for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Decision({})", self.as_json())
    }
}

/// The explanation of a decision.
///
/// ```
/// use actpass_core::Decision;
///
/// let decision = Decision::parse(br#"{"decision": "deny", "explain": {"matched_rules": ["large_refund"]}}"#)?;
/// assert_eq!(decision.explain().matched_rules, ["large_refund"]);
/// assert_eq!(decision.explain().summary, "");
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explain {
    /// One sentence.
    pub summary: String,
    /// The names of the rules that matched.
    pub matched_rules: Vec<String>,
    /// What to do next, one sentence each.
    pub next_steps: Vec<String>,
}

impl Explain {
    fn of(explain: &Json) -> Self {
        let strings = |name: &str| match explain.member(name) {
            Some(Json::Array(items)) => items.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        Self {
            summary: explain.member("summary").and_then(Json::as_str).unwrap_or_default().to_owned(),
            matched_rules: strings("matched_rules"),
            next_steps: strings("next_steps"),
        }
    }
}

/// A secret from the gateway's vault for the tool. Only the running action receives it.
///
/// `Debug` does not show it. See [`ExecutionContext`](crate::ExecutionContext) for an example.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    text: Secret,
    token: Secret,
}

impl Credential {
    fn parse(text: Secret) -> Result<Option<Self>, String> {
        if text.expose() == "null" {
            return Ok(None);
        }
        let token = RawObject::parse(text.expose().as_bytes())
            .ok()
            .and_then(|document| document.string("token").map(Secret::new))
            .ok_or("`credential` has no `token`")?;
        Ok(Some(Self { text, token }))
    }

    /// The secret.
    pub fn token(&self) -> &str {
        self.token.expose()
    }

    /// The expiry time as sent by the gateway; `None` if it sent none.
    pub fn expires_at(&self) -> Option<String> {
        let document = RawObject::parse(self.text.expose().as_bytes()).ok()?;
        document.string("expires_at").map(Cow::into_owned)
    }

    /// Whether it has expired. An unreadable `expires_at` counts as no expiry.
    pub(crate) fn has_expired(&self, now: SystemTime) -> bool {
        let Some(text) = self.expires_at() else { return false };
        match OffsetDateTime::parse(&text, &Rfc3339) {
            Ok(until) => OffsetDateTime::from(now) >= until,
            Err(_) => false,
        }
    }

    /// The JSON text of the credential, for bindings.
    pub fn as_json(&self) -> &str {
        self.text.expose()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actpass_protocol::ErrorKind;

    #[test]
    fn parses_decision_words() {
        for word in ["allow", "deny", "require_approval", "require_tool_reapproval", "warn"] {
            let decision = Decision::parse(format!(r#"{{"decision":"{word}"}}"#).as_bytes()).unwrap();
            assert_eq!(decision.word().as_str(), word);
            assert!(!matches!(decision.word(), DecisionWord::Other(_)));
        }
        for word in [" allow", "allow ", "ALLOW", "Allow", "аllow", "allow\\u0000", "permit"] {
            let decision = Decision::parse(format!(r#"{{"decision":"{word}"}}"#).as_bytes()).unwrap();
            assert!(matches!(decision.word(), DecisionWord::Other(_)), "{word}");
        }
    }

    #[test]
    fn rejects_invalid_decisions() {
        for (body, problem) in [
            (r#"{"reason_code":"x"}"#, "missing `decision`"),
            (r#"{"decision":null}"#, "`decision` is not a string"),
            (r#"{"decision":["allow"]}"#, "`decision` is not a string"),
            (r#"{"decision":""}"#, "`decision` is empty"),
            ("[]", "not an object"),
        ] {
            assert_eq!(Decision::parse(body.as_bytes()), Err(problem.to_owned()), "{body}");
        }
    }

    #[test]
    fn removes_credential_from_decision() {
        let body = br#"{"decision":"allow","credential":{"token":"s3cret","expires_at":"soon"},"x":[1.0]}"#;
        let (decision, credential) = Decision::parse_with_credential(body).unwrap();
        let credential = credential.unwrap();
        assert_eq!(
            decision.as_json(),
            r#"{"decision":"allow","x":[1.0],"reason_code":"unspecified","explain":{"summary":"","matched_rules":[],"next_steps":[]}}"#
        );
        assert_eq!((credential.token(), credential.expires_at().as_deref()), ("s3cret", Some("soon")));
        assert!(!format!("{decision:?}{credential:?}").contains("s3cret"));
        let (_, none) =
            Decision::parse_with_credential(br#"{"decision":"allow","credential":null}"#).unwrap();
        assert_eq!(none, None);
        for credential in ["\"s3cret\"", "{}", "[]", "7", r#"{"token":1}"#] {
            let body = format!(r#"{{"decision":"allow","credential":{credential}}}"#);
            let error = Decision::parse(body.as_bytes()).unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn sdk_decisions_have_required_members() {
        for kind in ErrorKind::ALL {
            let decision = Decision::for_failure(&Error::new(kind, "a test"), None);
            assert_eq!(decision.word(), &DecisionWord::Deny);
            assert_eq!(decision.reason_code(), kind.code());
            let explain = decision.explain();
            assert!(explain.summary.ends_with('.') && explain.matched_rules.is_empty());
            assert!(!explain.next_steps.is_empty());
        }
        assert_eq!(Decision::unrecorded(None).reason_code(), "actpass.unrecorded");
        let allowed =
            Decision::parse(br#"{"decision":"allow","evidence_event_id":"ev_1","risk_tier":"low"}"#);
        let changed = Decision::arguments_changed(&allowed.unwrap());
        assert_eq!(changed.evidence_event_id().as_deref(), Some("ev_1"));
        assert_eq!(changed.word(), &DecisionWord::Deny);
        assert_eq!(changed.reason_code(), "actpass.arguments_changed");
        assert_eq!(changed.explain().next_steps.len(), 2);
    }

    #[test]
    fn adds_missing_reason_code_and_explain() {
        let whole = r#""summary":"s","matched_rules":["r"],"next_steps":["n"]"#;
        for (members, reason_code, explain) in [
            ("", "unspecified", r#"{"summary":"","matched_rules":[],"next_steps":[]}"#),
            (
                r#","reason_code":null,"explain":null"#,
                "unspecified",
                r#"{"summary":"","matched_rules":[],"next_steps":[]}"#,
            ),
            (
                r#","reason_code":7,"explain":"no""#,
                "unspecified",
                r#"{"summary":"","matched_rules":[],"next_steps":[]}"#,
            ),
            (
                r#","reason_code":"","explain":{"matched_rules":"r","new":[1.50]}"#,
                "",
                r#"{"matched_rules":[],"new":[1.50],"summary":"","next_steps":[]}"#,
            ),
            (
                r#","explain":{"summary":null,"next_steps":["a",7,"b",null]},"reason_code":"x""#,
                "x",
                r#"{"summary":"","next_steps":["a","b"],"matched_rules":[]}"#,
            ),
        ] {
            let decision = Decision::parse(format!(r#"{{"decision":"deny"{members}}}"#).as_bytes()).unwrap();
            assert_eq!(decision.reason_code(), reason_code, "{members}");
            assert_eq!(decision.0.document.member_text("explain"), Some(explain), "{members}");
            assert_eq!(decision.word(), &DecisionWord::Deny);
            let again = Decision::parse(decision.as_json().as_bytes()).unwrap();
            assert_eq!(again, decision, "the members are at their positions: {members}");
        }
        let untouched =
            format!(r#"{{ "explain" : {{{whole}}}, "reason_code":"a\u0041", "decision": "deny" }}"#);
        let decision = Decision::parse(untouched.as_bytes()).unwrap();
        assert_eq!((decision.as_json(), &*decision.reason_code()), (untouched.as_str(), "aA"));
    }

    #[test]
    fn parses_replays() {
        let replay = |members: &str| {
            Decision::parse(format!(r#"{{"decision":"allow"{members}}}"#).as_bytes()).unwrap().replay()
        };
        let aged = |age_ms| Ok(Some(Replay { age_ms }));
        for members in ["", r#","replayed":null"#, r#","replayed":false"#, r#","replay_age_ms":5"#] {
            assert_eq!(replay(members), Ok(None), "{members}");
        }
        assert_eq!(replay(r#","replayed":true"#), aged(None));
        assert_eq!(replay(r#","replayed":true,"replay_age_ms":null"#), aged(None));
        assert_eq!(replay(r#","replayed":true,"replay_age_ms":0"#), aged(Some(0)));
        assert_eq!(
            replay(r#","replayed":true,"replay_age_ms":99999999999999999999999"#),
            aged(Some(u64::MAX))
        );
        for wrong in ["\"true\"", "1", "0", "[]", "{}", "\"\""] {
            assert!(
                replay(&format!(r#","replayed":{wrong}"#)).unwrap_err().contains("`replayed`"),
                "{wrong}"
            );
        }
        for wrong in ["-1", "-0", "1.5", "1.0", "1e3", "\"5\"", "true", "[5]", "{}"] {
            for replayed in ["true", "false", "null"] {
                let members = format!(r#","replayed":{replayed},"replay_age_ms":{wrong}"#);
                assert!(replay(&members).unwrap_err().contains("`replay_age_ms`"), "{members}");
            }
        }
    }
}
