//! Texts about a blocked action: one for the developer, one for the model that called the tool.

use std::borrow::Cow;

use crate::cause::Cause;
use crate::decision::Decision;
use crate::error::Error;
use crate::redact;
use actpass_protocol::{DecisionWord, ErrorKind, Secret};

/// The longest gateway text, in characters, that a model text includes.
const MAX_GATEWAY_TEXT: usize = 2_000;

/// The two texts of a block, each on one line.
///
/// [`Blocked::texts`](crate::Blocked::texts) creates them. A binding creates them for an outcome
/// that was received from another process.
///
/// ```
/// use actpass_core::{BlockFailure, BlockTexts, Decision};
///
/// let answer = br#"{"decision": "deny", "reason_code": "refund.over_limit", "explain": {"summary": "The limit is 50 dollars."}}"#;
/// let texts = BlockTexts::of("stripe.refund.create", &Decision::parse(answer).unwrap(), None, None);
/// assert_eq!(
///     texts.model,
///     "stripe.refund.create was not run: deny (refund.over_limit). The limit is 50 dollars. \
///      Do not call it again with the same arguments: it would be blocked again.",
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockTexts {
    /// For a developer: the failure, its hop, and what to check.
    pub developer: String,
    /// For a model: the blocked tool, the policy reason, whether to retry, and what to do instead.
    /// It does not describe the gateway's infrastructure.
    pub model: String,
    /// Whether the same call may succeed later unchanged: see
    /// [`Blocked::is_retryable`](crate::Blocked::is_retryable).
    pub is_retryable: bool,
}

/// The gate failure, as far as the block texts need it.
#[derive(Clone, Debug)]
pub struct BlockFailure<'e> {
    /// The error message.
    pub message: Cow<'e, str>,
    /// Whether the same call may succeed later: see [`Error::is_retryable`](crate::Error::is_retryable).
    pub is_retryable: bool,
    /// Whether the cause is an argument; the explanation names it.
    pub is_of_an_argument: bool,
}

impl<'e> From<&'e Error> for BlockFailure<'e> {
    fn from(error: &'e Error) -> Self {
        let is_of_an_argument =
            error.kind() == ErrorKind::Argument || matches!(error.cause(), Some(Cause::NotCanonical { .. }));
        let message = Cow::Owned(error.to_string());
        Self { message, is_retryable: error.is_retryable(), is_of_an_argument }
    }
}

impl BlockTexts {
    /// Creates the texts for a `decision` that blocked `tool`. `failure` is the gate failure, if
    /// any. `approval` is the id of the approval that the action waits for, if it can be resumed.
    pub fn of(
        tool: &str,
        decision: &Decision,
        failure: Option<&BlockFailure<'_>>,
        approval: Option<&str>,
    ) -> Self {
        let (word, reason) = (decision.word().as_str(), decision.reason_code());
        let explain = decision.explain();
        let explained =
            || std::iter::once(&explain.summary).chain(&explain.next_steps).map(|text| sentence(text));
        let head = sentence(&format!("{tool} was not run: {word} ({reason})"));

        let error = failure.map(|failure| sentence(&failure.message));
        let developer = join_sentences([head.clone()].into_iter().chain(error).chain(explained()));

        let sdk_reason = SdkReason::of(&reason);
        let reason_text = match (failure, sdk_reason) {
            (Some(failure), _) if failure.is_of_an_argument => join_sentences(explained()),
            (Some(_), _) => "The policy decision could not be obtained.".to_owned(),
            (None, Some(sdk_reason)) => sdk_reason.summary().to_owned(),
            (None, None) => truncate(join_sentences(explained())),
        };
        let advice = match (approval, failure) {
            _ if decision.is_halted() => {
                "A person stopped it: do not call it again before the stop is lifted.".to_owned()
            }
            (Some(id), _) => {
                let id = one_line(id);
                format!("A person must approve this first (approval {id}): do not call it again before that.")
            }
            (None, Some(failure)) if failure.is_of_an_argument => "Then call it again.".to_owned(),
            (None, Some(failure)) if failure.is_retryable => {
                "The failure may be temporary: retry the same call later.".to_owned()
            }
            (None, Some(_)) => "Do not call it again: an operator must fix this first.".to_owned(),
            (None, None) => match sdk_reason {
                Some(sdk_reason) => sdk_reason.retry_advice().to_owned(),
                None => retry_advice(decision.word(), &reason).to_owned(),
            },
        };
        let is_superseded = matches!(sdk_reason, Some(SdkReason::Halted));
        let is_retryable = failure.map_or(is_superseded, |failure| failure.is_retryable);
        Self { developer, model: join_sentences([head, reason_text, advice]), is_retryable }
    }

    /// Redacts these secrets from both texts.
    #[must_use]
    pub(crate) fn redacted(self, secrets: &[&Secret]) -> Self {
        let [developer, model] = [&self.developer, &self.model].map(|text| redact::text(text, secrets));
        Self { developer, model, ..self }
    }
}

/// Reasons of the SDK itself for which the gate did not fail. Their explanations address a
/// developer.
#[derive(Clone, Copy)]
enum SdkReason {
    ApprovalTimeout,
    ApprovalUnsigned,
    ArgumentsChanged,
    Halted,
    PermitExpired,
    Replayed,
    UnmappedTool,
    Unrecorded,
}

impl SdkReason {
    fn of(reason_code: &str) -> Option<Self> {
        Some(match reason_code {
            "actpass.approval_timeout" => Self::ApprovalTimeout,
            "actpass.approval_unsigned" => Self::ApprovalUnsigned,
            "actpass.arguments_changed" => Self::ArgumentsChanged,
            "actpass.halted" => Self::Halted,
            "actpass.permit_expired" => Self::PermitExpired,
            "actpass.replayed" => Self::Replayed,
            "actpass.unmapped_tool" => Self::UnmappedTool,
            "actpass.unrecorded" => Self::Unrecorded,
            _ => return None,
        })
    }

    fn summary(self) -> &'static str {
        match self {
            Self::ApprovalTimeout => "No decision was made in time.",
            Self::ApprovalUnsigned => "Its approval is not signed by a trusted person.",
            Self::ArgumentsChanged => "The arguments changed after the decision.",
            Self::Halted => "It was allowed, but a stop was issued or lifted before it ran.",
            Self::PermitExpired => "It was allowed, but was not run in time.",
            Self::Replayed => {
                "It was allowed once before under the same idempotency key, so it may have run already."
            }
            Self::UnmappedTool => "The tool is not available to this agent.",
            Self::Unrecorded => "It was allowed, but the decision was not recorded.",
        }
    }

    fn retry_advice(self) -> &'static str {
        match self {
            Self::ApprovalTimeout => "Do not call it again until a person has decided.",
            Self::ArgumentsChanged => "Retry the same call with arguments that do not change.",
            Self::Halted | Self::PermitExpired => "Retry the same call.",
            Self::Replayed => "Do not call it again until it is known whether it ran.",
            Self::UnmappedTool => "Do not call it again.",
            Self::ApprovalUnsigned | Self::Unrecorded => {
                "Do not call it again: an operator must fix this first."
            }
        }
    }
}

/// Whether to call again after a decision by the gateway.
fn retry_advice(word: &DecisionWord, reason_code: &str) -> &'static str {
    match word {
        _ if reason_code == "approval.expired" => "The same call asks for approval again.",
        DecisionWord::RequireApproval => {
            "A person must approve this first: do not call it again before that."
        }
        DecisionWord::RequireToolReapproval => {
            "The tool must be approved again first: do not call it again before that."
        }
        DecisionWord::Allow | DecisionWord::Deny | DecisionWord::Other(_) | DecisionWord::Warn => {
            "Do not call it again with the same arguments: it would be blocked again."
        }
    }
}

fn join_sentences(sentences: impl IntoIterator<Item = String>) -> String {
    let mut text = String::new();
    for sentence in sentences {
        if !sentence.is_empty() {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(&sentence);
        }
    }
    text
}

/// `text` as a sentence on one line; empty if `text` is.
fn sentence(text: &str) -> String {
    let mut text = one_line(text);
    if !text.is_empty() && !text.ends_with(['.', '!', '?', '…']) {
        text.push('.');
    }
    text
}

/// `text` on one line, without control characters: a model text is one paragraph for any response.
fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn truncate(text: String) -> String {
    match text.char_indices().nth(MAX_GATEWAY_TEXT) {
        None => text,
        Some((end, _)) => text.get(..end).unwrap_or_default().trim_end().to_owned() + "…",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(decision: &str, failure: Option<&BlockFailure<'_>>, approval: Option<&str>) -> BlockTexts {
        BlockTexts::of("demo.tool", &Decision::parse(decision.as_bytes()).unwrap(), failure, approval)
    }

    #[test]
    fn explains_gateway_decision_to_developer_and_model() {
        let decision = r#"{"decision":"deny","reason_code":"r","explain":{"summary":" The limit\n is 50 ","next_steps":["Ask for less"]}}"#;
        let BlockTexts { developer, model, .. } = texts(decision, None, None);
        assert_eq!(developer, "demo.tool was not run: deny (r). The limit is 50. Ask for less.");
        let again = "Do not call it again with the same arguments: it would be blocked again.";
        assert_eq!(model, format!("{developer} {again}"));
    }

    #[test]
    fn model_text_hides_infrastructure() {
        let error = Error::new(ErrorKind::Connection, "cannot reach 127.0.0.1:8787: connection refused");
        let decision = Decision::for_failure(&error, None);
        let BlockTexts { developer, model, .. } =
            BlockTexts::of("demo.tool", &decision, Some(&BlockFailure::from(&error)), None);
        assert_eq!(
            model,
            "demo.tool was not run: deny (actpass.unreachable). The policy decision could not be obtained. \
             The failure may be temporary: retry the same call later."
        );
        assert!(developer.contains("127.0.0.1:8787") && developer.contains("base URL"), "{developer}");
    }

    #[test]
    fn model_text_says_whether_to_retry() {
        let decided =
            |word: &str, reason: &str| format!(r#"{{"decision":"{word}","reason_code":"{reason}"}}"#);
        for (word, reason, approval, end) in [
            ("deny", "actpass.replayed", None, "until it is known whether it ran."),
            ("deny", "actpass.arguments_changed", None, "with arguments that do not change."),
            ("deny", "actpass.halted", None, "before it ran. Retry the same call."),
            ("deny", "actpass.permit_expired", None, "Retry the same call."),
            ("deny", "halted", None, "do not call it again before the stop is lifted."),
            ("deny", "halted", Some("apr_1"), "do not call it again before the stop is lifted."),
            ("deny", "actpass.unmapped_tool", None, "to this agent. Do not call it again."),
            ("deny", "actpass.unrecorded", None, "an operator must fix this first."),
            ("deny", "actpass.approval_unsigned", None, "an operator must fix this first."),
            ("deny", "approval.expired", None, "asks for approval again."),
            ("deny", "approval.rejected", None, "it would be blocked again."),
            ("require_approval", "r", Some("apr_1"), "(approval apr_1): do not call it again before that."),
            ("require_approval", "actpass.approval_timeout", None, "until a person has decided."),
            ("require_approval", "r", None, "do not call it again before that."),
            ("require_tool_reapproval", "r", None, "before that."),
            ("tomorrow", "r", None, "it would be blocked again."),
        ] {
            let model = texts(&decided(word, reason), None, approval).model;
            assert!(model.ends_with(end), "{word} {reason}: {model}");
        }
    }

    #[test]
    fn model_text_names_invalid_argument() {
        let error = Error::new(ErrorKind::Response, "x")
            .with_cause(Cause::NotCanonical { path: "args.id".to_owned() });
        let decision = Decision::for_failure(&error, None);
        let model = BlockTexts::of("t", &decision, Some(&BlockFailure::from(&error)), None).model;
        assert!(model.ends_with("Send args.id as a string. Then call it again."), "{model}");
    }

    #[test]
    fn truncates_and_redacts_gateway_text() {
        let long = "x".repeat(10_000);
        let model =
            texts(&format!(r#"{{"decision":"deny","explain":{{"summary":"{long}"}}}}"#), None, None).model;
        assert!(model.len() < 2_300 && model.contains('…'), "{}", model.len());
        let said = texts(r#"{"decision":"deny","explain":{"summary":"key apk_1234"}}"#, None, None);
        let hidden = said.redacted(&[&Secret::new("apk_1234")]);
        assert!(hidden.model.contains("key [redacted]") && hidden.developer.contains("key [redacted]"));
    }
}
