//! Quorums: the people that must approve an action, and the seats that votes fill.

use actpass_protocol::Json;
use actpass_protocol::json::Number;

use crate::clock::{parse_millis, rfc3339};
use crate::object_writer::object;

/// Maximum number of people that a rule can require.
pub const MAX_QUORUM: usize = 16;

/// Permitted time to decide, in seconds.
pub const DEADLINE_SECONDS: std::ops::RangeInclusive<i64> = 10..=86_400;

/// The people who must approve an action. The default is one person of any group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Number of people.
    quorum: usize,
    /// The groups whose members may decide, each with the number of seats reserved for it. Empty for
    /// any person who may decide.
    groups: Vec<(String, usize)>,
    /// Time to decide, in seconds; `None` for the gateway's default.
    deadline_seconds: Option<i64>,
    escalation: Option<Escalation>,
    /// Whether only votes that a passkey signed count.
    signed: bool,
}

/// Further groups, whose members may take any seat after a part of the deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Escalation {
    after_seconds: i64,
    groups: Vec<String>,
}

impl Default for Requirement {
    fn default() -> Self {
        Self { quorum: 1, groups: Vec::new(), deadline_seconds: None, escalation: None, signed: false }
    }
}

/// A seat: the group that must fill it; `None` for any group of the requirement.
pub type Seat<'r> = Option<&'r str>;

/// A person's vote on an approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Whether the person approves.
    pub approved: bool,
    /// The name of the API key, or of the signed-in person.
    pub by: String,
    /// The person.
    pub person: String,
    /// The person whose seat it fills, by the delegation with this id.
    pub delegated: Option<DelegatedSeat>,
    /// The groups whose seats it can fill.
    pub groups: Vec<String>,
    /// Whether the time of escalation had come.
    pub escalated: bool,
    /// When it was given, in seconds since 1970.
    pub at: i64,
    /// The signature by the person's passkey.
    pub signature: Option<Json>,
}

/// The seat of an absent person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelegatedSeat {
    /// The absent person.
    pub person: String,
    /// Id of the delegation.
    pub delegation: String,
}

/// A problem with a member of a requirement.
pub(crate) type MemberProblem = (String, String);

impl Requirement {
    /// Parses the `approval` of a rule.
    ///
    /// # Errors
    ///
    /// Returns every problem with the member's name, empty for the whole.
    pub(crate) fn parse(value: &Json) -> Result<Self, Vec<MemberProblem>> {
        let mut reader = Reader::default();
        let members =
            reader.members("", value, &["quorum", "groups", "deadline_seconds", "escalate", "signed"]);
        let groups = members.iter().find(|(name, _)| name == "groups");
        let groups = groups.map(|(_, groups)| reader.reserved(groups)).unwrap_or_default();
        let reserved: usize = groups.iter().map(|(_, seats)| seats).sum();
        let limit = i64::try_from(MAX_QUORUM).unwrap_or(i64::MAX);
        let quorum = reader.integer("quorum", members, 1, limit);
        let quorum = quorum.and_then(|quorum| usize::try_from(quorum).ok());
        if quorum.is_some_and(|quorum| quorum < reserved) {
            reader.add("quorum", format!("expected at least {reserved}, the sum of groups"));
        }
        if reserved > MAX_QUORUM {
            reader.add("groups", format!("expected at most {MAX_QUORUM} people in all, found {reserved}"));
        }
        let (least, most) = (*DEADLINE_SECONDS.start(), *DEADLINE_SECONDS.end());
        let deadline_seconds = reader.integer("deadline_seconds", members, least, most);
        let escalate = members.iter().find(|(name, _)| name == "escalate");
        let escalation = escalate.and_then(|(_, escalate)| reader.escalation(escalate, deadline_seconds));
        let signed = match members.iter().find(|(name, _)| name == "signed") {
            None => false,
            Some((_, Json::Bool(signed))) => *signed,
            Some((_, other)) => {
                reader.add("signed", format!("expected true or false, found {other}"));
                false
            }
        };
        let requirement =
            Self { quorum: quorum.unwrap_or(reserved.max(1)), groups, deadline_seconds, escalation, signed };
        if reader.0.is_empty() { Ok(requirement) } else { Err(reader.0) }
    }

    /// Returns the requirement as in a policy.
    pub(crate) fn to_json(&self) -> Json {
        let number = |value: usize| Json::Number(Number::from(i64::try_from(value).unwrap_or(i64::MAX)));
        let names =
            |groups: &[String]| Json::Array(groups.iter().map(|group| Json::from(&**group)).collect());
        let is_list = self.groups.iter().all(|(_, seats)| *seats == 0);
        let groups = match is_list {
            true => Json::Array(self.groups.iter().map(|(group, _)| Json::from(&**group)).collect()),
            false => Json::Object(
                self.groups.iter().map(|(group, seats)| (group.clone(), number(*seats))).collect(),
            ),
        };
        let escalate = self.escalation.as_ref().map(|escalation| {
            object([
                ("after_seconds", Some(Json::Number(Number::from(escalation.after_seconds)))),
                ("groups", Some(names(&escalation.groups))),
            ])
        });
        object([
            ("quorum", Some(number(self.quorum))),
            ("groups", (!self.groups.is_empty()).then_some(groups)),
            ("deadline_seconds", self.deadline_seconds.map(|seconds| Json::Number(Number::from(seconds)))),
            ("escalate", escalate),
            ("signed", self.signed.then_some(Json::Bool(true))),
        ])
    }

    /// Time to decide, in seconds; `None` for the gateway's default.
    pub fn deadline_seconds(&self) -> Option<i64> {
        self.deadline_seconds
    }

    /// Returns whether only votes that a passkey signed count.
    pub fn is_signed(&self) -> bool {
        self.signed
    }

    /// Returns whether escalation has come for an approval that was created at `created_at`.
    pub fn is_escalated(&self, created_at: i64, now: i64) -> bool {
        let after = self.escalation.as_ref().map(|escalation| escalation.after_seconds);
        after.is_some_and(|after| now >= created_at.saturating_add(after))
    }

    /// Returns those of the groups that the requirement names, also for escalation.
    pub fn named<'g>(&self, groups: impl IntoIterator<Item = &'g String>) -> Vec<String> {
        let is_named = |group: &&String| {
            let escalates = self.escalation.as_ref().is_some_and(|found| found.groups.contains(group));
            escalates || self.groups.iter().any(|(named, _)| named == *group)
        };
        groups.into_iter().filter(is_named).cloned().collect()
    }

    /// Returns whether people of these groups may see the approval.
    pub fn concerns<'g>(&self, groups: impl IntoIterator<Item = &'g String>) -> bool {
        self.groups.is_empty() || !self.named(groups).is_empty()
    }

    /// Returns whether the vote can fill any seat.
    pub fn admits(&self, vote: &Vote) -> bool {
        self.seats().iter().any(|seat| self.can_fill(vote, *seat))
    }

    /// Returns the seats that remain empty with the best assignment of the approving votes, so the
    /// order of votes does not matter. Each vote fills one seat.
    pub fn missing(&self, votes: &[Vote]) -> Vec<Seat<'_>> {
        let seats = self.seats();
        let counts = |vote: &&Vote| vote.approved && (!self.signed || vote.signature.is_some());
        let votes: Vec<_> = votes.iter().filter(counts).collect();
        let mut assignment = Assignment { requirement: self, seats: &seats, taken: vec![None; votes.len()] };
        let empty = (0..seats.len()).filter(|seat| {
            let mut seen = vec![false; votes.len()];
            !assignment.fill(*seat, &votes, &mut seen)
        });
        let empty: Vec<_> = empty.collect();
        empty.into_iter().filter_map(|seat| seats.get(seat).copied()).collect()
    }

    /// Describes seats for people: `1 of finance and 1 of security`.
    pub fn describe(&self, seats: &[Seat<'_>]) -> String {
        let any = match self.groups.is_empty() {
            true => "any group".to_owned(),
            false => self.groups.iter().map(|(group, _)| group.as_str()).collect::<Vec<_>>().join(" or "),
        };
        let counts =
            counted(seats).into_iter().map(|(seat, count)| format!("{count} of {}", seat.unwrap_or(&any)));
        counts.collect::<Vec<_>>().join(" and ")
    }

    /// Returns seats as JSON: `[{"count": 1, "groups": ["finance"]}]`, without `groups` for any.
    pub(crate) fn seats_json(&self, seats: &[Seat<'_>]) -> Json {
        let groups = |seat: Seat<'_>| -> Vec<Json> {
            match seat {
                Some(group) => vec![Json::from(group)],
                None => self.groups.iter().map(|(group, _)| Json::from(&**group)).collect(),
            }
        };
        let seats = counted(seats).into_iter().map(|(seat, count)| {
            let groups = groups(seat);
            object([
                ("count", Some(Json::Number(Number::from(count)))),
                ("groups", (!groups.is_empty()).then_some(Json::Array(groups))),
            ])
        });
        Json::Array(seats.collect())
    }

    /// The reserved seats, then the others.
    fn seats(&self) -> Vec<Seat<'_>> {
        let reserved =
            self.groups.iter().flat_map(|(group, seats)| std::iter::repeat_n(Some(&**group), *seats));
        let mut seats: Vec<_> = reserved.collect();
        seats.resize(self.quorum.max(seats.len()), None);
        seats
    }

    fn can_fill(&self, vote: &Vote, seat: Seat<'_>) -> bool {
        let has = |group: &str| vote.groups.iter().any(|found| found == group);
        let escalation = self.escalation.as_ref().filter(|_| vote.escalated);
        let by_group = match seat {
            Some(group) => has(group),
            None => self.groups.is_empty() || self.groups.iter().any(|(group, _)| has(group)),
        };
        by_group || escalation.is_some_and(|escalation| escalation.groups.iter().any(|group| has(group)))
    }
}

/// Counts equal seats.
fn counted<'s>(seats: &[Seat<'s>]) -> Vec<(Seat<'s>, i64)> {
    let mut counts: Vec<(Seat<'s>, i64)> = Vec::new();
    for seat in seats {
        match counts.iter_mut().find(|(known, _)| known == seat) {
            Some((_, count)) => *count += 1,
            None => counts.push((*seat, 1)),
        }
    }
    counts
}

/// A maximum bipartite matching of votes and seats, by augmenting paths.
struct Assignment<'a> {
    requirement: &'a Requirement,
    seats: &'a [Seat<'a>],
    /// The seat of each vote.
    taken: Vec<Option<usize>>,
}

impl Assignment<'_> {
    /// Fills a seat, moving votes to other seats where that helps.
    fn fill(&mut self, seat: usize, votes: &[&Vote], seen: &mut [bool]) -> bool {
        for (index, vote) in votes.iter().enumerate() {
            let fits = self.seats.get(seat).is_some_and(|wanted| self.requirement.can_fill(vote, *wanted));
            let Some(seen_vote) = seen.get_mut(index).filter(|seen| fits && !**seen) else {
                continue;
            };
            *seen_vote = true;
            let held = self.taken.get(index).copied().flatten();
            if held.is_none_or(|other| self.fill(other, votes, seen)) {
                if let Some(taken) = self.taken.get_mut(index) {
                    *taken = Some(seat);
                }
                return true;
            }
        }
        false
    }
}

impl Vote {
    /// The voter, and the absent person.
    pub fn people(&self) -> impl Iterator<Item = &str> {
        [Some(&*self.person), self.delegated.as_ref().map(|seat| &*seat.person)].into_iter().flatten()
    }

    /// Returns the members of the vote in the metadata of its event. A person is omitted if it is
    /// the name of the key.
    pub(crate) fn to_metadata(&self) -> [(&'static str, Option<Json>); 7] {
        let groups = self.groups.iter().map(|group| Json::from(&**group)).collect();
        let text = |text: &str| Some(Json::from(text));
        let delegated = self.delegated.as_ref();
        [
            ("decided_by", text(&self.by)),
            ("person", (self.person != self.by).then(|| Json::from(&*self.person))),
            ("for", delegated.and_then(|seat| text(&seat.person))),
            ("delegation_id", delegated.and_then(|seat| text(&seat.delegation))),
            ("groups", (!self.groups.is_empty()).then_some(Json::Array(groups))),
            ("escalated", self.escalated.then_some(Json::Bool(true))),
            ("signature", self.signature.clone()),
        ]
    }

    /// Reads a vote from its event; `None` for other events.
    pub(crate) fn of_event(event: &Json, approved: bool) -> Option<Self> {
        let metadata = event.member("metadata")?;
        let text = |name: &str| metadata.member(name).and_then(Json::as_str).map(str::to_owned);
        let by = text("decided_by")?;
        let at = event.member("created_at").and_then(Json::as_str).and_then(parse_millis)?;
        let delegated = match (text("for"), text("delegation_id")) {
            (Some(person), Some(delegation)) => Some(DelegatedSeat { person, delegation }),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return None,
        };
        Some(Self {
            approved,
            person: text("person").unwrap_or_else(|| by.clone()),
            by,
            delegated,
            groups: metadata.member("groups").map(texts).unwrap_or_default(),
            escalated: metadata.member("escalated") == Some(&Json::Bool(true)),
            at: at.div_euclid(1000),
            signature: metadata.member("signature").cloned(),
        })
    }

    /// Returns the vote for a response.
    pub(crate) fn to_json(&self) -> Json {
        let groups = self.groups.iter().map(|group| Json::from(&**group)).collect();
        object([
            ("approved", Some(Json::Bool(self.approved))),
            ("by", Some(Json::from(&*self.by))),
            ("person", Some(Json::from(&*self.person))),
            ("for", Some(self.delegated.as_ref().map_or(Json::Null, |seat| Json::from(&*seat.person)))),
            ("groups", Some(Json::Array(groups))),
            ("escalated", Some(Json::Bool(self.escalated))),
            ("at", Some(Json::String(rfc3339(self.at)))),
        ])
    }
}

fn texts(value: &Json) -> Vec<String> {
    match value {
        Json::Array(items) => items.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
        Json::Bool(_) | Json::Null | Json::Number(_) | Json::Object(_) | Json::String(_) => Vec::new(),
    }
}

/// Reads the members of a requirement and collects problems.
#[derive(Default)]
struct Reader(Vec<MemberProblem>);

impl Reader {
    fn add(&mut self, member: impl Into<String>, problem: impl Into<String>) {
        self.0.push((member.into(), problem.into()));
    }

    fn members<'j>(&mut self, place: &str, value: &'j Json, known: &[&str]) -> &'j [(String, Json)] {
        let Json::Object(members) = value else {
            self.add(place, format!("expected an object, found {}", value.kind()));
            return &[];
        };
        for (name, _) in members.iter().filter(|(name, _)| !known.contains(&&**name)) {
            let name = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
            self.add(name, format!("unknown member; expected {}", known.join(", ")));
        }
        members
    }

    /// Reads an optional integer.
    fn integer(&mut self, place: &str, members: &[(String, Json)], least: i64, most: i64) -> Option<i64> {
        let name = place.rsplit('.').next().unwrap_or(place);
        let (_, value) = members.iter().find(|(found, _)| found == name)?;
        let number = integer_of(value).filter(|number| (least..=most).contains(number));
        if number.is_none() {
            self.add(place, format!("expected an integer of {least} to {most}, found {}", value));
        }
        number
    }

    /// Reads the groups: a list, or an object with the number of people of each group.
    fn reserved(&mut self, groups: &Json) -> Vec<(String, usize)> {
        let Json::Object(members) = groups else {
            return self.names("groups", groups).into_iter().map(|group| (group, 0)).collect();
        };
        if members.is_empty() {
            self.add("groups", "expected at least one group");
        }
        let mut reserved = Vec::with_capacity(members.len());
        for (group, seats) in members {
            let count = integer_of(seats).and_then(|seats| usize::try_from(seats).ok());
            match count.filter(|seats| *seats <= MAX_QUORUM && !group.is_empty()) {
                Some(seats) => reserved.push((group.clone(), seats)),
                None => self.add(
                    format!("groups.{group}"),
                    format!("expected a number of people of 0 to {MAX_QUORUM}, found {seats}"),
                ),
            }
        }
        reserved
    }

    /// Reads a non-empty list of distinct group names.
    fn names(&mut self, place: &str, value: &Json) -> Vec<String> {
        let names = texts(value);
        let is_list = match value {
            Json::Array(items) => items.len() == names.len() && names.iter().all(|name| !name.is_empty()),
            Json::Bool(_) | Json::Null | Json::Number(_) | Json::Object(_) | Json::String(_) => false,
        };
        if !is_list || names.is_empty() {
            let expected = match place {
                "groups" => "a non-empty list of names, or an object of names and numbers of people",
                _ => "a non-empty list of names",
            };
            self.add(place, format!("expected {expected}, found {value}"));
        }
        if let Some(name) =
            names.iter().enumerate().find(|(at, name)| names.iter().take(*at).any(|n| n == *name))
        {
            self.add(place, format!("duplicate group {:?}", name.1));
        }
        names
    }

    fn escalation(&mut self, escalate: &Json, deadline: Option<i64>) -> Option<Escalation> {
        let members = self.members("escalate", escalate, &["after_seconds", "groups"]);
        let Some(deadline) = deadline else {
            self.add("deadline_seconds", "missing or invalid; escalate needs it");
            return None;
        };
        for name in ["after_seconds", "groups"] {
            if !members.iter().any(|(found, _)| found == name) {
                self.add(format!("escalate.{name}"), "missing");
            }
        }
        let after_seconds = self.integer("escalate.after_seconds", members, 1, deadline - 1)?;
        let (_, groups) = members.iter().find(|(name, _)| name == "groups")?;
        Some(Escalation { after_seconds, groups: self.names("escalate.groups", groups) })
    }
}

fn integer_of(value: &Json) -> Option<i64> {
    match value {
        Json::Number(number) if number.is_integer() => number.as_str().parse().ok(),
        Json::Array(_) | Json::Bool(_) | Json::Null | Json::Number(_) | Json::Object(_) | Json::String(_) => {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(text: &str) -> Requirement {
        Requirement::parse(&Json::parse(text.as_bytes()).unwrap()).unwrap()
    }

    fn vote(person: &str, groups: &[&str], escalated: bool) -> Vote {
        Vote {
            approved: true,
            by: person.to_owned(),
            person: person.to_owned(),
            delegated: None,
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            escalated,
            at: 0,
            signature: None,
        }
    }

    /// Every order of the same votes leaves the same number of seats empty.
    #[test]
    fn order_of_votes_does_not_matter() {
        for (text, votes, missing) in [
            (r#"{"groups": {"f": 1, "s": 1}}"#, vec![&["f", "s"][..], &["f"]], 0),
            (r#"{"groups": {"f": 1, "s": 1}}"#, vec![&["f", "s"], &["s"]], 0),
            (r#"{"groups": {"f": 1, "s": 1}}"#, vec![&["f"], &["f"]], 1),
            (r#"{"groups": {"f": 1, "s": 1}}"#, vec![&["f", "s"]], 1),
            (r#"{"groups": {"f": 1, "s": 1, "o": 1}}"#, vec![&["f", "s"], &["s", "o"], &["f", "o"]], 0),
            (r#"{"groups": {"f": 1, "s": 1, "o": 1}}"#, vec![&["f", "s"], &["f", "s"], &["f", "s"]], 1),
            (r#"{"quorum": 3, "groups": {"f": 1, "s": 1}}"#, vec![&["f"], &["f"], &["s"]], 0),
            (r#"{"quorum": 3, "groups": {"f": 1, "s": 1}}"#, vec![&["f"], &["f"], &["f"]], 1),
            (r#"{"quorum": 2, "groups": ["f", "s"]}"#, vec![&["f"], &["f"]], 0),
            (r#"{"quorum": 2, "groups": ["f"]}"#, vec![&["f"], &["s"]], 1),
            (r#"{"quorum": 2}"#, vec![&[], &[]], 0),
            (r#"{"quorum": 2, "groups": {"f": 1, "o": 0}}"#, vec![&["o"], &["f"]], 0),
            (r#"{"quorum": 2, "groups": {"f": 1, "o": 0}}"#, vec![&["o"], &["o"]], 1),
        ] {
            let requirement = requirement(text);
            let votes: Vec<_> = votes.iter().map(|groups| vote("p", groups, false)).collect();
            for turn in 0..votes.len() {
                let mut turned = votes.clone();
                turned.rotate_left(turn);
                assert_eq!(requirement.missing(&turned).len(), missing, "{text} {turned:?}");
                turned.reverse();
                assert_eq!(requirement.missing(&turned).len(), missing, "{text} {turned:?}");
            }
        }
    }

    #[test]
    fn escalated_group_takes_any_seat() {
        let text = r#"{"groups": {"f": 1, "s": 1}, "deadline_seconds": 100,
            "escalate": {"after_seconds": 50, "groups": ["lead"]}}"#;
        let requirement = requirement(text);
        assert!(!requirement.admits(&vote("p", &["lead"], false)));
        assert!(requirement.admits(&vote("p", &["lead"], true)));
        let votes = [vote("p", &["lead"], true), vote("q", &["f"], false)];
        assert_eq!(requirement.missing(&votes), Vec::<Seat<'_>>::new());
        assert_eq!(requirement.describe(&requirement.missing(&votes[..0])), "1 of f and 1 of s");
        assert!(!requirement.is_escalated(1000, 1049) && requirement.is_escalated(1000, 1050));
    }

    #[test]
    fn requirement_round_trips() {
        for text in [
            r#"{"quorum":1}"#,
            r#"{"quorum":2,"groups":["f","s"]}"#,
            r#"{"quorum":3,"groups":{"f":1,"s":1},"deadline_seconds":600,"escalate":{"after_seconds":300,"groups":["l"]}}"#,
        ] {
            assert_eq!(requirement(text).to_json().to_string(), text);
        }
        assert_eq!(requirement("{}"), Requirement::default());
        assert_eq!(
            requirement(r#"{"groups":{"f":1,"s":1}}"#).to_json().member("quorum").unwrap().to_string(),
            "2"
        );
    }

    #[test]
    fn problems_name_the_member() {
        for (text, member, problem) in [
            ("[]", "", "expected an object, found an array"),
            (
                r#"{"people": 2}"#,
                "people",
                "unknown member; expected quorum, groups, deadline_seconds, escalate, signed",
            ),
            (r#"{"quorum": 0}"#, "quorum", "expected an integer of 1 to 16, found 0"),
            (r#"{"quorum": "2"}"#, "quorum", "expected an integer of 1 to 16, found \"2\""),
            (r#"{"quorum": 1, "groups": {"f": 2}}"#, "quorum", "expected at least 2, the sum of groups"),
            (r#"{"groups": {"f": -1}}"#, "groups.f", "expected a number of people of 0 to 16, found -1"),
            (r#"{"groups": {"f": 9, "s": 9}}"#, "groups", "expected at most 16 people in all, found 18"),
            (r#"{"groups": {}}"#, "groups", "expected at least one group"),
            (
                r#"{"groups": []}"#,
                "groups",
                "expected a non-empty list of names, or an object of names and numbers of people, found []",
            ),
            (r#"{"groups": ["f", "f"]}"#, "groups", "duplicate group \"f\""),
            (r#"{"deadline_seconds": 5}"#, "deadline_seconds", "expected an integer of 10 to 86400, found 5"),
            (
                r#"{"escalate": {"after_seconds": 5, "groups": ["f"]}}"#,
                "deadline_seconds",
                "missing or invalid; escalate needs it",
            ),
            (
                r#"{"deadline_seconds": 60, "escalate": {"after_seconds": 60, "groups": ["f"]}}"#,
                "escalate.after_seconds",
                "expected an integer of 1 to 59, found 60",
            ),
            (r#"{"deadline_seconds": 60, "escalate": {"after_seconds": 30}}"#, "escalate.groups", "missing"),
        ] {
            let found = Requirement::parse(&Json::parse(text.as_bytes()).unwrap()).unwrap_err();
            assert_eq!(found, vec![(member.to_owned(), problem.to_owned())], "{text}");
        }
    }
}
