//! Access evaluations of the `AuthZEN` Authorization API 1.0, mapped to preflights.
//!
//! An evaluation maps to the body of exactly one preflight, so both have the same decision, hashes
//! and approvals. Unknown members are ignored, as the standard requires.

use actpass_protocol::Json;

use super::Protocol;
use super::body::{BodyMembers, InvalidMember};
use super::preflight::{MAX_TOOL_CHARACTERS, Preflight};
use crate::clock::parse_millis;
use crate::object_writer::object;

/// Maximum number of evaluations in a request.
pub(crate) const MAX_EVALUATIONS: usize = 100;

/// Maximum length of an `Idempotency-Key`.
const KEY_CHARACTERS: usize = 256;

/// Maximum length of an entity's type and of a subject's id, in characters.
pub(crate) const TYPE_CHARACTERS: usize = 256;

/// Maximum length of a resource's id, in characters. With a type in which every character is
/// percent-encoded, the resource of the preflight still fits its own limit.
pub(crate) const RESOURCE_CHARACTERS: usize = 1024;

/// The member of `args` for the parts of an evaluation without a member in a preflight.
const RESERVED: &str = "authzen";

/// The member of `context` with members of the preflight.
const EXTENSION: &str = "actpass";

/// The members of the preflight that [`EXTENSION`] may contain.
const EXTENSION_MEMBERS: [&str; 8] = [
    "agent_id",
    "approval_request_id",
    "audience",
    "idempotency_key",
    "mode",
    "passport",
    "tool_manifest_hash",
    "user_id",
];

/// The action of a tool call in the MCP binding of COAZ, whose resource is the tool.
const MCP_TOOL_CALL: &str = "tools/call";

/// The order and the end of the execution of evaluations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Semantic {
    DenyOnFirstDeny,
    ExecuteAll,
    PermitOnFirstPermit,
}

impl Semantic {
    const ALL: [Self; 3] = [Self::DenyOnFirstDeny, Self::ExecuteAll, Self::PermitOnFirstPermit];

    const fn as_str(self) -> &'static str {
        match self {
            Self::DenyOnFirstDeny => "deny_on_first_deny",
            Self::ExecuteAll => "execute_all",
            Self::PermitOnFirstPermit => "permit_on_first_permit",
        }
    }

    /// Returns whether this decision is the last one.
    pub(crate) const fn ends_with(self, is_permitted: bool) -> bool {
        match self {
            Self::DenyOnFirstDeny => !is_permitted,
            Self::ExecuteAll => false,
            Self::PermitOnFirstPermit => is_permitted,
        }
    }
}

/// A request to the evaluations endpoint.
#[derive(Debug)]
pub(crate) enum Evaluations {
    Many(Batch),
    /// Without evaluations, it is a single evaluation.
    One(Box<Preflight>),
}

/// Evaluations with common defaults.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) semantic: Semantic,
    defaults: Entities,
    items: std::vec::IntoIter<Json>,
    count: usize,
}

impl Batch {
    /// Parses the next evaluation; `None` after the last one.
    pub(crate) fn next(&mut self) -> Option<Result<Preflight, InvalidMember>> {
        let item = self.items.next()?;
        let place = format!("evaluations[{}]", self.count);
        self.count += 1;
        let read = |item| Entities::read(&mut BodyMembers::of(item)?)?.or(&self.defaults).preflight();
        Some(read(item).map_err(|error| error.within(&place)))
    }
}

/// Validates and parses the body of an evaluation.
pub(crate) fn read_evaluation(body: Json) -> Result<Preflight, InvalidMember> {
    Entities::read(&mut BodyMembers::of(body)?)?.preflight()
}

/// Validates and parses the body of evaluations, except the evaluations themselves.
pub(crate) fn read_evaluations(body: Json) -> Result<Evaluations, InvalidMember> {
    let mut members = BodyMembers::of(body)?;
    let defaults = Entities::read(&mut members)?;
    let semantic = semantic(members.optional_object("options")?.as_ref())?;
    let items = match members.take_non_null("evaluations") {
        None => Vec::new(),
        Some(Json::Array(items)) if items.len() <= MAX_EVALUATIONS => items,
        Some(other) => {
            let found = match &other {
                Json::Array(items) => items.len().to_string(),
                Json::Bool(_) | Json::Null | Json::Number(_) | Json::Object(_) | Json::String(_) => {
                    other.kind().to_owned()
                }
            };
            let problem = format!("expected a list of at most {MAX_EVALUATIONS} objects, found {found}");
            return Err(InvalidMember::new("evaluations", problem));
        }
    };
    if items.is_empty() {
        return Ok(Evaluations::One(Box::new(defaults.preflight()?)));
    }
    Ok(Evaluations::Many(Batch { semantic, defaults, items: items.into_iter(), count: 0 }))
}

fn semantic(options: Option<&Json>) -> Result<Semantic, InvalidMember> {
    let Some(word) = options.and_then(|options| options.member("evaluations_semantic")) else {
        return Ok(Semantic::ExecuteAll);
    };
    let known = word.as_str().and_then(|word| Semantic::ALL.into_iter().find(|known| known.as_str() == word));
    known.ok_or_else(|| {
        let words = Semantic::ALL.map(Semantic::as_str).join(", ");
        InvalidMember::new("options.evaluations_semantic", format_args!("expected one of {words}"))
    })
}

/// The entities of an evaluation, each an object.
#[derive(Debug)]
pub(super) struct Entities {
    pub(super) subject: Option<Json>,
    pub(super) action: Option<Json>,
    pub(super) resource: Option<Json>,
    pub(super) context: Option<Json>,
}

impl Entities {
    pub(super) fn read(members: &mut BodyMembers) -> Result<Self, InvalidMember> {
        Ok(Self {
            subject: members.optional_object("subject")?,
            action: members.optional_object("action")?,
            resource: members.optional_object("resource")?,
            context: members.optional_object("context")?,
        })
    }

    /// Takes missing entities from `defaults`, as a whole.
    fn or(self, defaults: &Self) -> Self {
        let or = |own: Option<Json>, default: &Option<Json>| own.or_else(|| default.clone());
        Self {
            subject: or(self.subject, &defaults.subject),
            action: or(self.action, &defaults.action),
            resource: or(self.resource, &defaults.resource),
            context: or(self.context, &defaults.context),
        }
    }

    /// Maps the evaluation to a preflight.
    pub(super) fn preflight(self) -> Result<Preflight, InvalidMember> {
        let subject = Subject::read(self.subject)?;
        let (mut action, mut resource) =
            (members("action", self.action)?, members("resource", self.resource)?);
        let within = |error: InvalidMember| error.within("action");
        let name = action.text("name", MAX_TOOL_CHARACTERS).map_err(within)?;
        let args = action.optional_object("properties").map_err(within)?;
        let within = |error: InvalidMember| error.within("resource");
        let resource_type = resource.text("type", TYPE_CHARACTERS).map_err(within)?;
        let id = resource.text("id", RESOURCE_CHARACTERS).map_err(within)?;
        let resource_properties = resource.optional_object("properties").map_err(within)?;
        let mut context = Context::read(self.context)?;

        let (tool, resource) = match name == MCP_TOOL_CALL && resource_type == "tool" {
            true => (id, None),
            false => (name.clone(), Some(format!("{}:{id}", escaped(&resource_type)))),
        };
        let mut body = context.extension.take_all();
        let mut set = |name: &str, value: String| match body.iter().any(|(taken, _)| taken == name) {
            true => Err(InvalidMember::new(
                &extension(name),
                "given twice; expected it in the subject or the context, not in both",
            )),
            false => {
                body.push((name.to_owned(), Json::String(value)));
                Ok(())
            }
        };
        let mut unnamed = None;
        match subject.kind.as_str() {
            "agent" => set("agent_id", subject.id)?,
            "user" => set("user_id", subject.id)?,
            "identity" => {
                set("user_id", subject.id)?;
                // The caller of an MCP server, as the COAZ binding names it.
                if let Some(agent) = context.take_text("agent", 256)? {
                    set("agent_id", agent)?;
                }
            }
            _ => unnamed = Some((subject.kind, subject.id)),
        }
        if let Some(approval) = context.approval {
            set("approval_request_id", approval)?;
        }
        let (kind, id) = unnamed.map(|(kind, id)| (Json::String(kind), Json::String(id))).unzip();
        let rest = Rest {
            subject: object([("id", id), ("properties", subject.properties), ("type", kind)]),
            resource: object([("properties", resource_properties)]),
            context: Json::Object(context.rest.take_all()),
        };
        body.push(("args".to_owned(), rest.add_to(args)?));
        body.push(("goal".to_owned(), Json::String(context.goal.unwrap_or(name))));
        body.extend(resource.map(|resource| ("resource".to_owned(), Json::String(resource))));
        body.push(("tool".to_owned(), Json::String(tool)));
        let preflight = Preflight::read(Json::Object(body)).map_err(renamed)?;
        Ok(Preflight { protocol: Protocol::AuthZen, ..preflight })
    }
}

/// A submission of the access-request profile.
#[derive(Debug)]
pub(crate) struct AccessRequest {
    entities: Entities,
    /// Identifies the denied evaluation.
    pub(crate) evaluation_id: String,
    /// When the denial expires, in milliseconds since 1970.
    pub(crate) expires_at: i64,
}

impl AccessRequest {
    /// Validates and parses `body`.
    pub(crate) fn read(body: Json) -> Result<Self, InvalidMember> {
        let mut members = BodyMembers::of(body)?;
        let entities = Entities::read(&mut members)?;
        if members.take_non_null("items").is_some() {
            return Err(InvalidMember::new("items", "not supported; expected one request for each item"));
        }
        let mut denial = BodyMembers::of(members.object("denial")?)?;
        let within = |error: InvalidMember| error.within("denial");
        let evaluation_id = denial.text("evaluation_id", 256).map_err(within)?;
        let expires_at = denial.text("expires_at", 64).map_err(within)?;
        let Some(expires_at) = parse_millis(&expires_at) else {
            return Err(InvalidMember::new("denial.expires_at", "expected an RFC 3339 time"));
        };
        Ok(Self { entities, evaluation_id, expires_at })
    }

    /// Maps the denied evaluation to a preflight. A member of the context that is not in `args`, the
    /// arguments of the denied action, was added with the submission and is omitted.
    pub(crate) fn preflight(mut self, args: &Json) -> Result<Preflight, InvalidMember> {
        let denied = args.member(RESERVED).and_then(|rest| rest.member("context"));
        let is_known = |name: &str| {
            ["actpass", "agent", "goal"].contains(&name)
                || denied.is_some_and(|context| context.member(name).is_some())
        };
        if let Some(Json::Object(members)) = &mut self.entities.context {
            members.retain(|(name, _)| is_known(name));
        }
        self.entities.preflight()
    }
}

/// Reads an `Idempotency-Key`: a string of RFC 9651, or the same characters without quotes, as in the
/// profile's examples.
pub(crate) fn read_idempotency_key(text: &str) -> Result<String, InvalidMember> {
    let text = text.trim();
    let key = match text.strip_prefix('"') {
        Some(quoted) => unquote(quoted),
        None => text.bytes().all(is_unquoted).then(|| text.to_owned()),
    };
    let problem = format_args!("expected one string of 1 to {KEY_CHARACTERS} visible ASCII characters");
    key.filter(|key| (1..=KEY_CHARACTERS).contains(&key.len()))
        .ok_or_else(|| InvalidMember::new("Idempotency-Key", problem))
}

/// Reads the rest of a string in quotes.
fn unquote(quoted: &str) -> Option<String> {
    let mut text = String::new();
    let mut rest = quoted.chars();
    loop {
        match rest.next()? {
            '"' => return rest.next().is_none().then_some(text),
            '\\' => text.push(rest.next().filter(|next| matches!(next, '"' | '\\'))?),
            character @ ' '..='~' => text.push(character),
            _ => return None,
        }
    }
}

const fn is_unquoted(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\')
}

/// Percent-encodes the separator between a resource's type and id, so that different resources stay
/// different.
fn escaped(resource_type: &str) -> String {
    resource_type.replace('%', "%25").replace(':', "%3A")
}

/// The members of a required entity.
fn members(name: &str, entity: Option<Json>) -> Result<BodyMembers, InvalidMember> {
    entity.ok_or_else(|| InvalidMember::new(name, "missing; expected an object")).and_then(BodyMembers::of)
}

struct Subject {
    kind: String,
    id: String,
    properties: Option<Json>,
}

impl Subject {
    fn read(subject: Option<Json>) -> Result<Self, InvalidMember> {
        let mut members = members("subject", subject)?;
        let mut read = || {
            Ok(Self {
                kind: members.text("type", TYPE_CHARACTERS)?,
                id: members.text("id", TYPE_CHARACTERS)?,
                properties: members.optional_object("properties")?,
            })
        };
        read().map_err(|error: InvalidMember| error.within("subject"))
    }
}

struct Context {
    /// The approval of the access-request profile.
    approval: Option<String>,
    extension: BodyMembers,
    goal: Option<String>,
    rest: BodyMembers,
}

impl Context {
    fn read(context: Option<Json>) -> Result<Self, InvalidMember> {
        let mut members = BodyMembers::of(context.unwrap_or(Json::Object(Vec::new())))?;
        let within = |error: InvalidMember| error.within("context");
        let extension = members.optional_object(EXTENSION).map_err(within)?;
        let extension = extension.unwrap_or(Json::Object(Vec::new()));
        let extension = BodyMembers::with_known_members(extension, &EXTENSION_MEMBERS)
            .map_err(|error| error.within(EXTENSION).within("context"))?;
        let approval = match members.optional_object("approval").map_err(within)? {
            None => None,
            Some(approval) => {
                Some(approval_id(approval).map_err(|error| error.within("approval").within("context"))?)
            }
        };
        let goal = members.optional_text("goal", 4096).map_err(within)?;
        if goal.as_ref().is_some_and(String::is_empty) {
            let problem = "expected a non-empty string, found an empty one";
            return Err(InvalidMember::new("context.goal", problem));
        }
        Ok(Self { approval, extension, goal, rest: members })
    }

    fn take_text(&mut self, name: &str, limit: usize) -> Result<Option<String>, InvalidMember> {
        self.rest.optional_text(name, limit).map_err(|error| error.within("context"))
    }
}

/// Returns the approval that the caller received as the result of an access request.
fn approval_id(approval: Json) -> Result<String, InvalidMember> {
    let mut members = BodyMembers::of(approval)?;
    if members.take_non_null("state").is_some() {
        // This gateway issues no state, so it could not verify that it belongs to the approval.
        return Err(InvalidMember::new("state", "unknown state; expected the approval as it was received"));
    }
    members.text("id", 256)
}

/// The parts of an evaluation without a member in a preflight.
struct Rest {
    subject: Json,
    resource: Json,
    context: Json,
}

impl Rest {
    /// Adds the non-empty objects to the arguments.
    fn add_to(self, args: Option<Json>) -> Result<Json, InvalidMember> {
        let mut args = args.unwrap_or(Json::Object(Vec::new()));
        if args.member(RESERVED).is_some() {
            let problem = format_args!("{RESERVED:?} is reserved; expected another name");
            return Err(InvalidMember::new("action.properties", problem));
        }
        let named = [("context", self.context), ("resource", self.resource), ("subject", self.subject)];
        let filled = named.into_iter().filter(|(_, value)| *value != Json::Object(Vec::new()));
        let filled: Vec<_> = filled.map(|(name, value)| (name.to_owned(), value)).collect();
        if let Json::Object(members) = &mut args
            && !filled.is_empty()
        {
            members.push((RESERVED.to_owned(), Json::Object(filled)));
        }
        Ok(args)
    }
}

fn extension(name: &str) -> String {
    format!("context.{EXTENSION}.{name}")
}

/// Names the evaluation's member in place of the preflight's.
fn renamed(error: InvalidMember) -> InvalidMember {
    let member = match error.member.as_str() {
        "args" => "action.properties".to_owned(),
        "goal" => "context.goal".to_owned(),
        "resource" => "resource".to_owned(),
        "tool" => "action.name".to_owned(),
        other => extension(other),
    };
    InvalidMember { member, ..error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Json {
        Json::parse(text.as_bytes()).unwrap()
    }

    /// The hash of the preflight to which the evaluation maps.
    fn mapped(evaluation: &str) -> Option<String> {
        let mapped = read_evaluation(parse(evaluation)).unwrap();
        assert_eq!(mapped.protocol, Protocol::AuthZen);
        mapped.request_hash
    }

    #[test]
    fn evaluation_maps_to_one_preflight() {
        for (evaluation, preflight) in [
            (
                r#"{"subject": {"type": "agent", "id": "a"}, "action": {"name": "t", "properties": {"n": 1}},
                    "resource": {"type": "order", "id": "7:8"}, "context": {"goal": "g"}}"#,
                r#"{"agent_id": "a", "tool": "t", "args": {"n": 1}, "resource": "order:7:8", "goal": "g"}"#,
            ),
            (
                r#"{"subject": {"type": "user", "id": "u", "properties": {"role": "admin"}}, "action": {"name": "t"},
                    "resource": {"type": "a:%", "id": "b", "properties": {"status": "s"}}, "more": [1],
                    "context": {"ip": "::1", "actpass": {"agent_id": "a", "mode": "strict"}}}"#,
                r#"{"user_id": "u", "agent_id": "a", "mode": "strict", "tool": "t", "goal": "t",
                    "resource": "a%3A%25:b", "args": {"authzen": {"context": {"ip": "::1"},
                    "resource": {"properties": {"status": "s"}}, "subject": {"properties": {"role": "admin"}}}}}"#,
            ),
            (
                r#"{"subject": {"type": "service", "id": "s"}, "action": {"name": "t", "properties": null},
                    "resource": {"type": "r", "id": "1"}, "context": {"approval": {"id": "apr_1", "approved_until": "x"}}}"#,
                r#"{"approval_request_id": "apr_1", "tool": "t", "goal": "t", "resource": "r:1",
                    "args": {"authzen": {"subject": {"id": "s", "type": "service"}}}}"#,
            ),
            (
                r#"{"subject": {"type": "identity", "id": "u"}, "action": {"name": "tools/call"},
                    "resource": {"type": "tool", "id": "refunds.create"}, "context": {"agent": "client"}}"#,
                r#"{"user_id": "u", "agent_id": "client", "tool": "refunds.create", "goal": "tools/call",
                    "args": {}}"#,
            ),
        ] {
            let expected = Preflight::read(parse(preflight)).unwrap().request_hash;
            assert!(expected.is_some());
            assert_eq!(mapped(evaluation), expected, "{evaluation}");
        }
    }

    #[test]
    fn invalid_evaluations_name_the_member() {
        let whole = r#"{"subject": {"type": "user", "id": "u"}, "action": {"name": "t"}, "resource": {"type": "r", "id": "1"}, "context": {}}"#;
        assert!(read_evaluation(parse(whole)).is_ok());
        let long = format!("\"{}\"", "x".repeat(257));
        for (from, to, member) in [
            (r#""subject": {"type": "user", "id": "u"}, "#, "", "subject"),
            (r#"{"type": "user", "id": "u"}"#, r#""alice""#, "subject"),
            (r#""type": "user", "#, "", "subject.type"),
            (r#", "id": "u""#, "", "subject.id"),
            (r#""id": "u""#, r#""id": """#, "subject.id"),
            (r#""id": "u""#, r#""id": "u", "properties": []"#, "subject.properties"),
            (r#""id": "u""#, &*format!(r#""id": {long}"#), "subject.id"),
            (r#"{"name": "t"}"#, "{}", "action.name"),
            (r#"{"name": "t"}"#, r#"{"name": 1}"#, "action.name"),
            (r#"{"name": "t"}"#, r#"{"name": "t", "properties": {"authzen": 1}}"#, "action.properties"),
            (r#""type": "r", "#, "", "resource.type"),
            (r#", "id": "1""#, r#", "id": null"#, "resource.id"),
            ("{}}", "[]}", "context"),
            ("{}}", r#"{"goal": ""}}"#, "context.goal"),
            ("{}}", r#"{"goal": 1}}"#, "context.goal"),
            ("{}}", r#"{"approval": "apr_1"}}"#, "context.approval"),
            ("{}}", r#"{"approval": {}}}"#, "context.approval.id"),
            ("{}}", r#"{"approval": {"id": "a", "state": "x"}}}"#, "context.approval.state"),
            ("{}}", r#"{"actpass": {"agent": "x"}}}"#, "context.actpass.agent"),
            ("{}}", r#"{"actpass": {"user_id": "x"}}}"#, "context.actpass.user_id"),
            ("{}}", r#"{"actpass": {"mode": "off"}}}"#, "context.actpass.mode"),
            (
                "{}}",
                r#"{"approval": {"id": "a"}, "actpass": {"approval_request_id": "b"}}}"#,
                "context.actpass.approval_request_id",
            ),
        ] {
            let found = read_evaluation(parse(&whole.replacen(from, to, 1))).map(|_| ());
            assert_eq!(found.map_err(|error| error.member), Err(member.to_owned()), "{from} {to}");
        }
        assert_eq!(read_evaluation(parse("[]")).unwrap_err().member, "body");
    }

    #[test]
    fn types_and_ids_of_resources_do_not_collide() {
        let of = |kind: &str, id: &str| {
            let text = format!(
                r#"{{"subject": {{"type": "user", "id": "u"}}, "action": {{"name": "t"}}, "resource": {{"type": "{kind}", "id": "{id}"}}}}"#
            );
            mapped(&text)
        };
        let pairs = [("a", "b:c"), ("a:b", "c"), ("a%3Ab", "c"), ("a%253Ab", "c")];
        for (place, one) in pairs.iter().enumerate() {
            for other in pairs.iter().skip(place + 1) {
                assert_ne!(of(one.0, one.1), of(other.0, other.1), "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn longest_evaluation_fits() {
        let (kind, id) = (":".repeat(TYPE_CHARACTERS), "x".repeat(RESOURCE_CHARACTERS));
        let text = format!(
            r#"{{"subject": {{"type": "user", "id": "u"}}, "action": {{"name": "t"}}, "resource": {{"type": "{kind}", "id": "{id}"}}}}"#
        );
        assert!(mapped(&text).is_some());
    }
}
