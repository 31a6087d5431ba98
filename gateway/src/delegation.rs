//! Delegations: during an absence, another person decides in place of the absent one.
//!
//! Delegations exist only as events of the tenant's chain of delegations.

use actpass_protocol::Json;

use crate::auth::is_same_person;
use crate::clock::{parse_millis, rfc3339};
use crate::ledger::{DELEGATION_CREATED, DELEGATION_REVOKED};
use crate::object_writer::object;

/// Maximum duration of a delegation, in seconds: one year.
pub const MAX_SECONDS: i64 = 366 * 86_400;

/// A delegation. It is not transitive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegation {
    /// The id: `dlg_` followed by a UUIDv7 in hex.
    pub id: String,
    /// The absent person.
    pub person: String,
    /// The person who decides in their place.
    pub to: String,
    /// Start, in seconds since 1970.
    pub from: i64,
    /// End, exclusive, in seconds since 1970.
    pub until: i64,
    /// The key or signed-in person that created it.
    pub by: String,
    /// Whether it was revoked.
    pub revoked: bool,
}

impl Delegation {
    /// Returns whether it is in force at `now`.
    pub fn is_active(&self, now: i64) -> bool {
        !self.revoked && self.from <= now && now < self.until
    }

    /// Returns whether `to` may decide for `person` at `now`.
    pub fn permits(&self, person: &str, to: &str, now: i64) -> bool {
        self.is_active(now) && is_same_person(&self.person, person) && is_same_person(&self.to, to)
    }

    /// Returns the delegations that events of the chain describe, in order of creation.
    pub fn of_events<'e>(events: impl IntoIterator<Item = &'e str>) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        for event in events.into_iter().filter_map(|event| Json::parse(event.as_bytes()).ok()) {
            let metadata = event.member("metadata");
            let text = |name: &str| metadata?.member(name)?.as_str();
            let Some(id) = text("delegation_id") else { continue };
            match event.member("event_type").and_then(Json::as_str) {
                Some(DELEGATION_CREATED) => found.extend(Self::of_event(&event, id)),
                Some(DELEGATION_REVOKED) => {
                    let revoked = found.iter_mut().filter(|delegation| delegation.id == id);
                    revoked.for_each(|delegation| delegation.revoked = true);
                }
                Some(_) | None => {}
            }
        }
        found
    }

    fn of_event(event: &Json, id: &str) -> Option<Self> {
        let metadata = event.member("metadata")?;
        let text = |name: &str| metadata.member(name).and_then(Json::as_str);
        let seconds = |name: &str| text(name).and_then(parse_millis).map(|millis| millis.div_euclid(1000));
        Some(Self {
            id: id.to_owned(),
            person: text("person")?.to_owned(),
            to: text("to")?.to_owned(),
            from: seconds("from")?,
            until: seconds("until")?,
            by: event.member("key_name").and_then(Json::as_str)?.to_owned(),
            revoked: false,
        })
    }

    /// Returns the delegation for a response.
    pub(crate) fn to_json(&self) -> Json {
        let text = |text: &str| Some(Json::from(text));
        object([
            ("id", text(&self.id)),
            ("person", text(&self.person)),
            ("to", text(&self.to)),
            ("from", text(&rfc3339(self.from))),
            ("until", text(&rfc3339(self.until))),
            ("created_by", text(&self.by)),
            ("revoked", Some(Json::Bool(self.revoked))),
        ])
    }
}

/// Generates a time-ordered id.
pub fn new_id() -> String {
    format!("dlg_{}", uuid::Uuid::now_v7().simple())
}
