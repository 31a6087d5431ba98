//! Typed extraction of the members of a request body.

use std::cmp::Ordering;
use std::fmt;
use std::ops::RangeInclusive;

use actpass_protocol::json::Number;
use actpass_protocol::{Json, Mode};

use crate::dpop::Thumbprint;
use crate::ledger::recordable;
use crate::passport::{self, coverage};
use crate::policy::RiskTier;

const EXPECTED_THUMBPRINT: &str = "expected the thumbprint of a public key, 43 characters of base64url";

/// Maximum number of tools or resources in a passport.
pub(crate) const LIST_ITEMS: usize = 100;

/// A missing or invalid member of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidMember {
    /// The member's name; `body` for the whole body.
    pub member: String,
    /// The expected and the found value.
    pub problem: String,
}

impl InvalidMember {
    pub(super) fn new(member: &str, problem: impl fmt::Display) -> Self {
        Self { member: member.to_owned(), problem: problem.to_string() }
    }

    /// The whole body is invalid.
    pub(crate) fn of_body(problem: impl fmt::Display) -> Self {
        Self::new("body", problem)
    }

    /// Prefixes the member with the name of the object that contains it.
    pub(super) fn within(mut self, object: &str) -> Self {
        self.member = format!("{object}.{}", self.member);
        self
    }
}

impl fmt::Display for InvalidMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.member, self.problem)
    }
}

/// The members of a body that have not been extracted.
pub(super) struct BodyMembers(Vec<(String, Json)>);

impl BodyMembers {
    pub(super) fn of(body: Json) -> Result<Self, InvalidMember> {
        match body {
            Json::Object(members) => Ok(Self(members)),
            Json::Array(_) | Json::Bool(_) | Json::Null | Json::Number(_) | Json::String(_) => {
                Err(InvalidMember::new("body", format_args!("expected an object, found {}", body.kind())))
            }
        }
    }

    /// Rejects other members, because an ignored member could make the operator's decision differ
    /// from the intended one.
    pub(super) fn with_known_members(body: Json, known: &[&str]) -> Result<Self, InvalidMember> {
        let members = Self::of(body)?;
        match members.0.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(members),
            Some((name, _)) => {
                Err(InvalidMember::new(name, format_args!("unknown member; expected {}", known.join(", "))))
            }
        }
    }

    /// Removes and returns the members that are left.
    pub(super) fn take_all(&mut self) -> Vec<(String, Json)> {
        std::mem::take(&mut self.0)
    }

    /// Removes and returns a member; changes the order of the others.
    fn take(&mut self, name: &str) -> Option<Json> {
        let at = self.0.iter().position(|(found, _)| found == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Removes and returns a member; `null` is equivalent to absence.
    pub(super) fn take_non_null(&mut self, name: &str) -> Option<Json> {
        self.take(name).filter(|value| *value != Json::Null)
    }

    pub(super) fn optional_text(
        &mut self,
        name: &str,
        limit: usize,
    ) -> Result<Option<String>, InvalidMember> {
        let expected = format_args!("expected a string of at most {limit} characters");
        match self.take_non_null(name) {
            None => Ok(None),
            // A character has at least one byte, so most texts need not be counted.
            Some(Json::String(text)) if text.len() <= limit || text.chars().count() <= limit => {
                Ok(Some(text))
            }
            Some(Json::String(text)) => {
                let problem = format!("{expected}, found {} characters", text.chars().count());
                Err(InvalidMember::new(name, problem))
            }
            Some(other) => Err(InvalidMember::new(name, format_args!("{expected}, found {}", other.kind()))),
        }
    }

    pub(super) fn text(&mut self, name: &str, limit: usize) -> Result<String, InvalidMember> {
        match self.optional_text(name, limit)? {
            Some(text) if text.is_empty() => {
                Err(InvalidMember::new(name, "expected a non-empty string, found an empty one"))
            }
            Some(text) => Ok(text),
            None => Err(InvalidMember::new(
                name,
                format_args!("missing; expected a string of at most {limit} characters"),
            )),
        }
    }

    pub(super) fn object(&mut self, name: &str) -> Result<Json, InvalidMember> {
        match self.take(name) {
            Some(object @ Json::Object(_)) => Ok(object),
            Some(other) => {
                Err(InvalidMember::new(name, format_args!("expected an object, found {}", other.kind())))
            }
            None => Err(InvalidMember::new(name, "missing; expected an object")),
        }
    }

    pub(super) fn optional_object(&mut self, name: &str) -> Result<Option<Json>, InvalidMember> {
        match self.take_non_null(name) {
            None => Ok(None),
            Some(object @ Json::Object(_)) => Ok(Some(object)),
            Some(other) => {
                Err(InvalidMember::new(name, format_args!("expected an object, found {}", other.kind())))
            }
        }
    }

    pub(super) fn metadata(&mut self) -> Result<Option<Json>, InvalidMember> {
        let metadata = self.optional_object("metadata")?;
        if let Some(metadata) = &metadata {
            recordable(metadata).map_err(|error| InvalidMember::new("metadata", error))?;
        }
        Ok(metadata)
    }

    pub(super) fn mode(&mut self) -> Result<Mode, InvalidMember> {
        let Some(value) = self.take_non_null("mode") else {
            return Ok(Mode::Enforce);
        };
        let word = value.as_str().ok_or_else(|| {
            InvalidMember::new("mode", format_args!("expected a string, found {}", value.kind()))
        })?;
        word.parse().map_err(|_| InvalidMember::new("mode", "expected enforce, strict, warn or monitor"))
    }

    /// Extracts a list of strings of at most `limit` characters each.
    pub(super) fn texts(&mut self, name: &str, limit: usize) -> Result<Option<Vec<String>>, InvalidMember> {
        let wrong = |found: &str| {
            InvalidMember::new(
                name,
                format_args!(
                    "expected a list of at most {LIST_ITEMS} strings of at most {limit} characters, found {found}"
                ),
            )
        };
        let text = |item: Json| match item {
            Json::String(text) if text.chars().count() <= limit => Some(text),
            Json::Array(_)
            | Json::Bool(_)
            | Json::Null
            | Json::Number(_)
            | Json::Object(_)
            | Json::String(_) => None,
        };
        match self.take_non_null(name) {
            None => Ok(None),
            Some(Json::Array(items)) if items.len() <= LIST_ITEMS => {
                let texts: Option<Vec<String>> = items.into_iter().map(text).collect();
                texts.map(Some).ok_or_else(|| wrong("another list"))
            }
            Some(Json::Array(_)) => Err(wrong("another list")),
            Some(other) => Err(wrong(other.kind())),
        }
    }

    pub(super) fn constraints(&mut self) -> Result<Option<Json>, InvalidMember> {
        const MEMBER: &str = "resource_constraints";
        let constraints = self.optional_object(MEMBER)?;
        for (name, value) in constraints.as_ref().and_then(Json::as_object).into_iter().flatten() {
            let Some((argument, _)) = coverage::bound(name) else {
                continue;
            };
            if argument.is_empty() {
                return Err(InvalidMember::new(
                    MEMBER,
                    format_args!("{name:?}: expected an argument name after the prefix"),
                ));
            }
            if !matches!(value, Json::Number(_)) {
                let problem = format_args!("{name:?}: expected a number, found {}", value.kind());
                return Err(InvalidMember::new(MEMBER, problem));
            }
        }
        Ok(constraints)
    }

    pub(super) fn risk_tier(&mut self) -> Result<RiskTier, InvalidMember> {
        let Some(value) = self.take_non_null("risk_tier") else {
            return Ok(RiskTier::Medium);
        };
        value
            .as_str()
            .and_then(RiskTier::parse)
            .ok_or_else(|| InvalidMember::new("risk_tier", "expected low, medium, high or critical"))
    }

    /// Extracts the confirmation (RFC 7800) of a passport: the thumbprint of its DPoP key.
    pub(super) fn confirmation(&mut self) -> Result<Option<Thumbprint>, InvalidMember> {
        const MEMBER: &str = "cnf";
        let Some(confirmation) = self.optional_object(MEMBER)? else { return Ok(None) };
        let within = |error: InvalidMember| error.within(MEMBER);
        let mut members = Self::with_known_members(confirmation, &["jkt"]).map_err(within)?;
        match members.thumbprint("jkt").map_err(within)? {
            Some(thumbprint) => Ok(Some(thumbprint)),
            None => Err(within(InvalidMember::new("jkt", format_args!("missing; {EXPECTED_THUMBPRINT}")))),
        }
    }

    pub(super) fn thumbprint(&mut self, name: &str) -> Result<Option<Thumbprint>, InvalidMember> {
        let Some(value) = self.take_non_null(name) else { return Ok(None) };
        let thumbprint = value.as_str().and_then(Thumbprint::parse);
        thumbprint.map(Some).ok_or_else(|| InvalidMember::new(name, EXPECTED_THUMBPRINT))
    }

    /// Extracts a required integer.
    pub(super) fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<u64, InvalidMember> {
        let expected = format!("expected an integer of {} to {}", range.start(), range.end());
        let Some(value) = self.take_non_null(name) else {
            return Err(InvalidMember::new(name, format_args!("missing; {expected}")));
        };
        let number = integer(&value).filter(|number| range.contains(number));
        number
            .and_then(|number| u64::try_from(number).ok())
            .ok_or_else(|| InvalidMember::new(name, format_args!("{expected}, found {}", value.kind())))
    }

    pub(super) fn ttl(&mut self) -> Result<Option<i64>, InvalidMember> {
        let Some(value) = self.take_non_null("ttl_seconds") else {
            return Ok(None);
        };
        let seconds =
            integer(&value).filter(|seconds| (1..=passport::MAX_TTL).contains(seconds)).ok_or_else(|| {
                let expected = format_args!("expected an integer of 1 to {}", passport::MAX_TTL);
                InvalidMember::new("ttl_seconds", format_args!("{expected}, found {}", value.kind()))
            })?;
        Ok(Some(seconds))
    }
}

/// Returns an integer by value, in any notation: 300.0 and 3e2 are accepted.
fn integer(value: &Json) -> Option<i64> {
    let Json::Number(number) = value else {
        return None;
    };
    let nearest = format!("{:.0}", number.as_f64()).parse::<i64>().ok();
    nearest.filter(|nearest| number.compare(&Number::from(*nearest)) == Ordering::Equal)
}
