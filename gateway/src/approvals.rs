//! Approvals: an action that the policy leaves to a person, bound to its hash, decided once, used once.

use std::sync::Arc;
use std::time::Duration;

use actpass_protocol::Json;
use tokio::sync::{broadcast, watch};

use crate::object_writer::ObjectWriter;

/// Why an action that needs an approval is not let through, or is.
pub mod reason {
    /// The action is not the one that was approved.
    pub const ACTION_MISMATCH: &str = "approval.action_mismatch";
    /// A person approved it.
    pub const APPROVED: &str = "approval.approved";
    /// Nobody decided in time, or it was not used in time.
    pub const EXPIRED: &str = "approval.expired";
    /// The action has no canonical form, so no approval can be bound to it.
    pub const NOT_HASHABLE: &str = "approval.not_hashable";
    /// What the data store says was decided does not follow from the ledger.
    pub const NOT_PROVEN: &str = "approval.not_proven";
    /// Nobody has decided yet.
    pub const PENDING: &str = "approval.pending";
    /// A person rejected it.
    pub const REJECTED: &str = "approval.rejected";
    /// It was used before.
    pub const SPENT: &str = "approval.spent";
    /// As many requests of the key wait as may.
    pub const TOO_MANY_PENDING: &str = "approval.too_many_pending";
    /// The tenant has no such approval.
    pub const UNKNOWN: &str = "approval.unknown";
}

/// Where an approval stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// A person approved it.
    Approved,
    /// Its time is over.
    Expired,
    /// Nobody has decided yet.
    Pending,
    /// A person rejected it.
    Rejected,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Approved, Self::Expired, Self::Pending, Self::Rejected];

    /// The status of this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Expired => "expired",
            Self::Pending => "pending",
            Self::Rejected => "rejected",
        }
    }
}

/// An action that a person must approve before it may run, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// `apr_` and a UUIDv7.
    pub id: String,
    /// The hash of the exact action.
    pub action_hash: String,
    /// The tool.
    pub tool: String,
    /// What the action is done to.
    pub resource: Option<String>,
    /// The arguments, JSON text.
    pub args: String,
    /// What the agent is trying to achieve.
    pub goal: String,
    /// The agent.
    pub agent_id: Option<String>,
    /// Who asked, as far as the gateway knows it: `agent:` and the agent that the API key is bound to, or else `key:` and
    /// the key's name. Empty for requests that an older version opened.
    pub asker: String,
    /// Whom the agent acts for.
    pub user_id: Option<String>,
    /// Why the policy requires an approval.
    pub reason_code: String,
    /// When it was asked for, in seconds since 1970.
    pub created_at: i64,
    /// Until when it may be decided, in seconds since 1970.
    pub deadline: i64,
    /// What a person decided; `None` if nobody has.
    pub decided: Option<ApprovalDecision>,
    /// Whether a request used it.
    pub spent: bool,
    /// Whether what was decided follows from the ledger; nothing else grants anything.
    pub proven: bool,
}

/// What a person decided about an [`Approval`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalDecision {
    /// Whether the action may run.
    pub approved: bool,
    /// The name of the person's API key.
    pub by: String,
    /// When, in seconds since 1970.
    pub at: i64,
    /// What the person noted.
    pub note: Option<String>,
}

impl Approval {
    /// Where it stands at `now`, in seconds since 1970.
    ///
    /// What was approved must be used within as long as there was to decide: no leave stays open for ever.
    pub fn status(&self, now: i64) -> Status {
        match &self.decided {
            // A decision that no event records grants nothing.
            Some(_) if !self.proven => Status::Expired,
            None if now >= self.deadline => Status::Expired,
            None => Status::Pending,
            Some(decided) if !decided.approved => Status::Rejected,
            Some(decided) if !self.spent && now >= self.usable_until(decided) => Status::Expired,
            Some(_) => Status::Approved,
        }
    }

    /// Whether it was approved and is within its time at `now`, spent or not.
    pub fn is_usable(&self, now: i64) -> bool {
        self.is_approved() && self.decided.as_ref().is_some_and(|decided| now < self.usable_until(decided))
    }

    /// Until when what was decided may be used, in seconds since 1970.
    pub fn usable_until(&self, decided: &ApprovalDecision) -> i64 {
        decided.at.saturating_add(self.deadline.saturating_sub(self.created_at))
    }

    /// The hash of the action that it shows; `None` if that has no canonical form. It is [`Approval::action_hash`], unless
    /// the record was changed.
    pub fn recompute_hash(&self) -> Option<String> {
        let args = Json::parse(self.args.as_bytes()).ok()?;
        let action = Action {
            agent_id: self.agent_id.as_deref(),
            args: &args,
            goal: &self.goal,
            resource: self.resource.as_deref(),
            tool: &self.tool,
            user_id: self.user_id.as_deref(),
        };
        action.hash()
    }

    /// Whether a person approved it, in time or not.
    pub fn is_approved(&self) -> bool {
        self.proven && self.decided.as_ref().is_some_and(|decided| decided.approved)
    }
}

/// A new, time-ordered approval id.
pub fn new_id() -> String {
    format!("apr_{}", uuid::Uuid::now_v7().simple())
}

/// Whether `text` has the form of an approval id.
pub fn is_id(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.strip_prefix("apr_").is_some_and(|digits| digits.len() == 32 && digits.bytes().all(is_digit))
}

/// The exact action that an approval is bound to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Action<'a> {
    pub(crate) agent_id: Option<&'a str>,
    pub(crate) args: &'a Json,
    pub(crate) goal: &'a str,
    pub(crate) resource: Option<&'a str>,
    pub(crate) tool: &'a str,
    pub(crate) user_id: Option<&'a str>,
}

impl Action<'_> {
    /// The hash of its canonical JSON; `None` if it has no canonical form.
    pub(crate) fn hash(&self) -> Option<String> {
        let mut action = ObjectWriter::new();
        action.string_or_null("agent_id", self.agent_id);
        action.canonical("args", self.args).ok()?;
        action.string("goal", Some(self.goal));
        action.string_or_null("resource", self.resource);
        action.string("tool", Some(self.tool));
        action.string_or_null("user_id", self.user_id);
        Some(action.sha256())
    }
}

/// How often a waiting request looks again by itself: another gateway on the same data tells nobody here.
const REPOLL_INTERVAL: Duration = Duration::from_secs(2);

/// Tells those who wait that something was decided.
#[derive(Clone, Debug)]
pub struct ApprovalNotifier {
    decided: broadcast::Sender<Arc<str>>,
    stopping: watch::Sender<bool>,
}

impl Default for ApprovalNotifier {
    fn default() -> Self {
        Self { decided: broadcast::channel(64).0, stopping: watch::channel(false).0 }
    }
}

impl ApprovalNotifier {
    /// Somebody decided about this approval.
    pub fn decided(&self, id: &str) {
        // Nobody may be waiting.
        let _ = self.decided.send(id.into());
    }

    /// Nobody waits from now on.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Listens from now on, so that nothing is missed between a look and a wait.
    pub fn listen(&self) -> ApprovalListener {
        ApprovalListener { decided: self.decided.subscribe(), stopping: self.stopping.subscribe() }
    }
}

/// A request that waits for a decision.
#[derive(Debug)]
pub struct ApprovalListener {
    decided: broadcast::Receiver<Arc<str>>,
    stopping: watch::Receiver<bool>,
}

impl ApprovalListener {
    /// Waits until it is worth looking at `id` again; `false` if the gateway stops.
    pub async fn changed(&mut self, id: &str) -> bool {
        let notified = async {
            loop {
                match self.decided.recv().await {
                    Ok(decided) if *decided != *id => {}
                    // Told, or too slow to know.
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            () = notified => true,
            () = tokio::time::sleep(REPOLL_INTERVAL) => true,
            _ = self.stopping.wait_for(|stopping| *stopping) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn approval(decided: Option<(bool, i64)>, spent: bool) -> Approval {
        Approval {
            id: "apr_1".to_owned(),
            action_hash: "h".to_owned(),
            tool: "t".to_owned(),
            resource: None,
            args: "{}".to_owned(),
            goal: "g".to_owned(),
            agent_id: None,
            asker: "key:k".to_owned(),
            user_id: None,
            reason_code: "r".to_owned(),
            created_at: 100,
            deadline: 200,
            decided: decided.map(|(approved, at)| ApprovalDecision {
                approved,
                by: "alice".to_owned(),
                at,
                note: None,
            }),
            spent,
            proven: true,
        }
    }

    #[test]
    fn action_hash_is_sha256_of_canonical_json() {
        let args = Json::parse(br#"{"b": 1.50, "a": "\u20ac\u0001"}"#).unwrap();
        let action = Action {
            agent_id: Some("a\""),
            args: &args,
            goal: "g\n",
            resource: None,
            tool: "t",
            user_id: Some(""),
        };
        let payload = Json::parse(
            br#"{"tool": "t", "resource": null, "args": {"a": "\u20ac\u0001", "b": 1.5}, "goal": "g\n",
                "agent_id": "a\"", "user_id": ""}"#,
        );
        assert_eq!(action.hash(), actpass_protocol::hash_payload(&payload.unwrap()).ok());
    }

    #[test]
    fn approval_status_follows_time() {
        for (decided, spent, now, status) in [
            (None, false, 199, Status::Pending),
            (None, false, 200, Status::Expired),
            (Some((true, 190)), false, 289, Status::Approved),
            (Some((true, 190)), false, 290, Status::Expired),
            (Some((true, 190)), true, 999, Status::Approved),
            (Some((false, 190)), false, 999, Status::Rejected),
        ] {
            assert_eq!(approval(decided, spent).status(now), status, "{decided:?} {spent} {now}");
        }
    }

    #[tokio::test]
    async fn listener_wakes_for_its_approval_only() {
        let soon = REPOLL_INTERVAL / 4;
        let notifier = ApprovalNotifier::default();
        let mut listener = notifier.listen();
        notifier.decided("apr_2");
        assert!(tokio::time::timeout(soon, listener.changed("apr_1")).await.is_err());
        notifier.decided("apr_1");
        assert_eq!(tokio::time::timeout(soon, listener.changed("apr_1")).await, Ok(true));
        assert!(tokio::time::timeout(soon, listener.changed("apr_1")).await.is_err());
        notifier.stop();
        assert_eq!(tokio::time::timeout(soon, listener.changed("apr_1")).await, Ok(false));
        assert_eq!(tokio::time::timeout(soon, notifier.listen().changed("apr_1")).await, Ok(false));
    }
}
