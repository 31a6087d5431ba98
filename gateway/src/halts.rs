//! Halts: the stop switch.
//!
//! A halt stops an agent, a tool, a user, a tenant or everything. Each halt and each lifting raises
//! the halt epoch of the database by one. A decision is made with the halts of one epoch. The
//! transaction that records it compares the epoch, so no `allow` is recorded after a halt.

use std::sync::Arc;

use actpass_protocol::Json;
use actpass_protocol::json::Number;
use tokio::sync::watch;

use crate::auth::matches_pattern;
use crate::clock::rfc3339;
use crate::ledger;
use crate::object_writer::object;

/// Reason code and error code: a halt stops the action.
pub const HALTED: &str = "halted";

/// Maximum number of active halts of a tenant, and of active halts of all tenants.
pub const MAX_ACTIVE: usize = 1000;

/// Maximum number of acknowledgements that are recorded for one API key and epoch.
pub const MAX_ACKNOWLEDGEMENTS: u64 = 10_000;

/// Scope of a halt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One agent.
    Agent,
    /// Every tenant of the database.
    All,
    /// One tenant.
    Tenant,
    /// The tools that match a pattern.
    Tool,
    /// One user.
    User,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 5] = [Self::Agent, Self::Tool, Self::User, Self::Tenant, Self::All];

    /// The word used on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::All => "all",
            Self::Tenant => "tenant",
            Self::Tool => "tool",
            Self::User => "user",
        }
    }

    /// Parses a scope; `None` if it is unknown.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word)
    }

    /// Returns whether a halt of this scope names a target.
    pub const fn has_target(self) -> bool {
        match self {
            Self::Agent | Self::Tool | Self::User => true,
            Self::All | Self::Tenant => false,
        }
    }
}

/// A halt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halt {
    /// The id: `halt_` followed by a UUIDv7 in hex.
    pub id: String,
    /// The tenant; `None` for every tenant of the database.
    pub tenant_id: Option<Arc<str>>,
    /// The scope.
    pub scope: Scope,
    /// The agent, the pattern of tools or the user; `None` for a tenant and for all.
    pub target: Option<String>,
    /// Why.
    pub reason: String,
    /// Name of the API key that stopped it, or `(command line)`.
    pub by: String,
    /// When it started, in seconds since 1970. Set by the transaction that records it.
    pub at: i64,
    /// The epoch that it started. Set by the transaction that records it.
    pub epoch: u64,
    /// Its lifting; `None` while it is active.
    pub lifted: Option<Lifting>,
}

/// The end of a [`Halt`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifting {
    /// Name of the API key that lifted it, or `(command line)`.
    pub by: String,
    /// When, in seconds since 1970.
    pub at: i64,
    /// Why.
    pub reason: String,
    /// The epoch that it started.
    pub epoch: u64,
}

/// The action, passport or client that a halt may stop.
#[derive(Clone, Copy, Debug, Default)]
pub struct HaltSubject<'a> {
    /// The tenant.
    pub tenant_id: &'a str,
    /// The agent.
    pub agent_id: Option<&'a str>,
    /// The tools. A halt of one stops the whole subject.
    pub tools: &'a [&'a str],
    /// The user.
    pub user_id: Option<&'a str>,
}

impl Halt {
    /// Creates a halt to record; the transaction sets its time and epoch.
    pub fn new(
        tenant_id: Option<Arc<str>>,
        scope: Scope,
        target: Option<String>,
        reason: String,
        by: &str,
    ) -> Self {
        let id = format!("halt_{}", uuid::Uuid::now_v7().simple());
        Self { id, tenant_id, scope, target, reason, by: by.to_owned(), at: 0, epoch: 0, lifted: None }
    }

    /// Returns whether it stops `subject`.
    pub fn stops(&self, subject: &HaltSubject<'_>) -> bool {
        let is_of_tenant = self.tenant_id.as_deref().is_none_or(|tenant_id| tenant_id == subject.tenant_id);
        is_of_tenant
            && match (self.scope, self.target.as_deref()) {
                (Scope::Agent, Some(agent)) => subject.agent_id == Some(agent),
                (Scope::Tool, Some(pattern)) => {
                    subject.tools.iter().any(|tool| matches_pattern(pattern, tool))
                }
                (Scope::User, Some(user)) => subject.user_id == Some(user),
                // A row without its target stops the tenant.
                (Scope::Agent | Scope::All | Scope::Tenant | Scope::Tool | Scope::User, _) => true,
            }
    }

    /// Returns whether both stop the same, for the same reason of the same author.
    pub(crate) fn repeats(&self, other: &Self) -> bool {
        (&self.tenant_id, self.scope, &self.target, &self.by)
            == (&other.tenant_id, other.scope, &other.target, &other.by)
    }

    /// Describes what it stops: `the agent "support"`.
    pub fn what(&self) -> String {
        what(self.scope, self.target.as_deref())
    }

    /// Describes who stopped what, when and why, as one clause without a period.
    pub fn explain(&self) -> String {
        format!("{} stopped {} at {}: {}", self.by, self.what(), rfc3339(self.at), self.reason)
    }

    /// Its members on the wire, without the epoch of an answer.
    pub(crate) fn members(&self) -> Vec<(String, Json)> {
        let text = |text: &str| Some(Json::from(text));
        let lifted = self.lifted.as_ref();
        let members = object([
            ("id", text(&self.id)),
            ("scope", text(self.scope.as_str())),
            ("target", Some(self.target.as_deref().map_or(Json::Null, Json::from))),
            ("reason", text(&self.reason)),
            ("by", text(&self.by)),
            ("at", Some(Json::String(rfc3339(self.at)))),
            ("started_epoch", Some(epoch_json(self.epoch))),
            ("lifted_by", lifted.map(|lifted| Json::from(&*lifted.by))),
            ("lifted_at", lifted.map(|lifted| Json::String(rfc3339(lifted.at)))),
            ("lift_reason", lifted.map(|lifted| Json::from(&*lifted.reason))),
            ("lifted_epoch", lifted.map(|lifted| epoch_json(lifted.epoch))),
        ]);
        match members {
            Json::Object(members) => members,
            Json::Array(_) | Json::Bool(_) | Json::Null | Json::Number(_) | Json::String(_) => Vec::new(),
        }
    }
}

/// Describes what a halt stops: `the agent "support"`.
pub(crate) fn what(scope: Scope, target: Option<&str>) -> String {
    match scope {
        Scope::All => "every tenant".to_owned(),
        Scope::Tenant => "the tenant".to_owned(),
        Scope::Agent | Scope::Tool | Scope::User => {
            format!("the {} {:?}", scope.as_str(), target.unwrap_or_default())
        }
    }
}

/// Returns an epoch as JSON.
pub(crate) fn epoch_json(epoch: u64) -> Json {
    Json::Number(Number::from(i64::try_from(epoch).unwrap_or(i64::MAX)))
}

/// The active halts of a database at an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActiveHalts {
    /// The number of halts and liftings so far.
    pub epoch: u64,
    /// The active halts of all tenants, oldest first.
    pub halts: Vec<Arc<Halt>>,
}

impl ActiveHalts {
    /// Returns the oldest halt that stops `subject`.
    pub fn stopping(&self, subject: &HaltSubject<'_>) -> Option<&Arc<Halt>> {
        self.halts.iter().find(|halt| halt.stops(subject))
    }

    /// Returns the halts after `halt` has started.
    pub(crate) fn with(&self, halt: Arc<Halt>) -> Self {
        let mut halts = self.halts.clone();
        let epoch = halt.epoch;
        halts.push(halt);
        Self { epoch, halts }
    }

    /// Returns the halts after the one with this id was lifted.
    pub(crate) fn without(&self, id: &str, epoch: u64) -> Self {
        let halts = self.halts.iter().filter(|halt| halt.id != id).cloned().collect();
        Self { epoch, halts }
    }
}

/// The latest halts that a store has seen.
#[derive(Clone, Debug)]
pub struct KnownHalts(watch::Sender<Arc<ActiveHalts>>);

impl Default for KnownHalts {
    fn default() -> Self {
        Self(watch::channel(Arc::default()).0)
    }
}

impl KnownHalts {
    /// Returns the latest halts.
    pub fn latest(&self) -> Arc<ActiveHalts> {
        Arc::clone(&self.0.borrow())
    }

    /// Subscribes to rises of the epoch.
    pub fn subscribe(&self) -> watch::Receiver<Arc<ActiveHalts>> {
        self.0.subscribe()
    }

    /// Publishes halts if their epoch is newer, and returns the latest ones.
    pub(crate) fn publish(&self, halts: &Arc<ActiveHalts>) -> Arc<ActiveHalts> {
        self.0.send_if_modified(|known| {
            let is_newer = halts.epoch > known.epoch;
            if is_newer {
                known.clone_from(halts);
            }
            is_newer
        });
        self.latest()
    }
}

/// A client's confirmation that it has seen an epoch, with the number of stopped actions that still
/// run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Acknowledgement {
    /// The tenant.
    pub tenant_id: Arc<str>,
    /// Name of the client's API key.
    pub key_name: Arc<str>,
    /// The agent; empty if unknown.
    pub agent_id: String,
    /// The client's name of its process; empty if it gave none.
    pub instance: String,
    /// The epoch.
    pub epoch: u64,
    /// Number of stopped actions that still run.
    pub in_flight: u64,
}

/// An [`Acknowledgement`] as recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// Position in listings.
    pub id: i64,
    /// The acknowledgement.
    pub acknowledgement: Acknowledgement,
    /// When it was recorded, in seconds since 1970.
    pub at: i64,
}

/// Replays the halts of a chain of decisions, and finds an `allow` during one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HaltAudit {
    /// Number of halts.
    pub started: u64,
    /// The halts that are active after the last event, with the `seq` of their events.
    pub active: Vec<(u64, Halt)>,
    /// Number of acknowledgements.
    pub acknowledged: u64,
}

/// An `allow` during a halt: the id of the halt and the `seq` of its event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("allowed, although event {seq} stopped it with the halt {id:?}")]
pub struct AllowedDuringHalt {
    /// The halt's id.
    pub id: String,
    /// The `seq` of the event that started it.
    pub seq: u64,
}

impl HaltAudit {
    /// Examines the next event, with the position `seq`, of an intact chain.
    ///
    /// # Errors
    ///
    /// Returns an error if it is an `allow` that a halt stops.
    pub fn push(&mut self, seq: u64, text: &str) -> Result<(), AllowedDuringHalt> {
        // Avoids parsing most events.
        if self.active.is_empty() && !text.contains(r#""event_type":"halt."#) {
            return Ok(());
        }
        let event = Json::parse(text.as_bytes()).unwrap_or(Json::Null);
        let member = |name: &str| event.member(name).and_then(Json::as_str);
        if member("chain_id") != Some(ledger::DECISIONS) {
            return Ok(());
        }
        let about =
            |name: &str| event.member("metadata").and_then(|metadata| metadata.member(name)?.as_str());
        let id = about("halt_id").unwrap_or_default();
        match member("event_type") {
            Some(ledger::HALT_STARTED) => {
                let scope = about("scope").and_then(Scope::parse).unwrap_or(Scope::Tenant);
                let target = about("target").map(str::to_owned);
                let by = member("key_name").unwrap_or_default();
                let halt = Halt::new(None, scope, target, String::new(), by);
                self.started += 1;
                self.active.push((seq, Halt { id: id.to_owned(), ..halt }));
            }
            Some(ledger::HALT_LIFTED) => self.active.retain(|(_, halt)| halt.id != id),
            Some(ledger::HALT_ACKNOWLEDGED) => self.acknowledged += 1,
            Some(ledger::DECISION) if member("decision") == Some("allow") => {
                let tools: Vec<_> = member("tool_id").into_iter().collect();
                let subject = HaltSubject {
                    tenant_id: "",
                    agent_id: member("agent_id"),
                    tools: &tools,
                    user_id: member("user_id"),
                };
                if let Some((seq, halt)) = self.active.iter().find(|(_, halt)| halt.stops(&subject)) {
                    return Err(AllowedDuringHalt { id: halt.id.clone(), seq: *seq });
                }
            }
            Some(_) | None => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halt(tenant_id: Option<&str>, scope: Scope, target: Option<&str>) -> Halt {
        Halt::new(tenant_id.map(Arc::from), scope, target.map(str::to_owned), "why".to_owned(), "alice")
    }

    #[test]
    fn halt_stops_its_target_only() {
        let subject = HaltSubject {
            tenant_id: "t",
            agent_id: Some("support"),
            tools: &["crm.read", "stripe.refund"],
            user_id: Some("u"),
        };
        for (tenant, scope, target, expected) in [
            (Some("t"), Scope::Agent, Some("support"), true),
            (Some("t"), Scope::Agent, Some("support2"), false),
            (Some("t"), Scope::Agent, Some("*"), false),
            (Some("x"), Scope::Agent, Some("support"), false),
            (Some("t"), Scope::Tool, Some("stripe.*"), true),
            (Some("t"), Scope::Tool, Some("crm.read"), true),
            (Some("t"), Scope::Tool, Some("crm"), false),
            (Some("x"), Scope::Tool, Some("*"), false),
            (Some("t"), Scope::User, Some("u"), true),
            (Some("t"), Scope::User, Some("v"), false),
            (Some("t"), Scope::Tenant, None, true),
            (Some("x"), Scope::Tenant, None, false),
            (None, Scope::All, None, true),
            // Damaged rows stop more, not less.
            (Some("t"), Scope::Agent, None, true),
            (None, Scope::Tool, None, true),
        ] {
            let halt = halt(tenant, scope, target);
            assert_eq!(halt.stops(&subject), expected, "{halt:?}");
        }
        let nobody = HaltSubject { tenant_id: "t", ..HaltSubject::default() };
        assert!(!halt(Some("t"), Scope::Agent, Some("")).stops(&nobody));
        assert!(!halt(Some("t"), Scope::Tool, Some("*")).stops(&nobody));
    }

    #[test]
    fn audit_finds_allow_during_halt() {
        let decision = |agent: &str, decision: &str| {
            format!(
                r#"{{"agent_id":"{agent}","chain_id":"decisions","decision":"{decision}","event_type":"decision","tool_id":"crm.read"}}"#
            )
        };
        let event = |kind: &str, id: &str, scope: &str, target: &str| {
            format!(
                r#"{{"chain_id":"decisions","event_type":"halt.{kind}","metadata":{{"halt_id":"{id}","scope":"{scope}","target":"{target}"}}}}"#
            )
        };
        let audit = |events: &[String]| {
            let mut audit = HaltAudit::default();
            let pushed = (1..).zip(events).try_for_each(|(seq, event)| audit.push(seq, event));
            pushed
                .map(|()| (audit.started, audit.active.len(), audit.acknowledged))
                .map_err(|found| found.seq)
        };
        let (start, lift) = (event("started", "h", "agent", "a"), event("lifted", "h", "agent", "a"));
        let (allow, deny) = (decision("a", "allow"), decision("a", "deny"));
        let free = decision("b", "allow");
        let ack = event("acknowledged", "", "", "");
        for (events, expected) in [
            (vec![&allow, &start, &deny, &free, &ack, &lift, &allow], Ok((1, 0, 1))),
            (vec![&allow, &start, &free], Ok((1, 1, 0))),
            (vec![&allow, &start, &free, &allow], Err(2)),
            (vec![&event("started", "h", "tool", "crm.*"), &free], Err(1)),
            (vec![&event("started", "h", "tool", "crm"), &free], Ok((1, 1, 0))),
            (vec![&event("started", "h", "tenant", ""), &free], Err(1)),
            (vec![&event("started", "h", "unknown", ""), &free], Err(1)),
            (vec![&start, &event("lifted", "other", "agent", "a"), &allow], Err(1)),
        ] {
            let events: Vec<String> = events.into_iter().cloned().collect();
            assert_eq!(audit(&events), expected, "{events:?}");
        }
        // A client's event on another chain.
        let elsewhere = allow.replace("decisions", "c");
        assert_eq!(audit(&[start, elsewhere]), Ok((1, 1, 0)));
    }

    #[test]
    fn known_halts_never_go_back() {
        let known = KnownHalts::default();
        let at = |epoch| Arc::new(ActiveHalts { epoch, halts: Vec::new() });
        let mut seen = known.subscribe();
        assert_eq!(known.publish(&at(2)).epoch, 2);
        assert!(seen.has_changed().unwrap());
        seen.mark_unchanged();
        assert_eq!(known.publish(&at(1)).epoch, 2);
        assert_eq!(known.publish(&at(2)).epoch, 2);
        assert!(!seen.has_changed().unwrap());
    }
}
