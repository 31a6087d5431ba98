//! Checks of agentgateway's external policy server for MCP, mapped to preflights.

use std::collections::HashMap;

use actpass_protocol::Json;

use super::Protocol;
use super::body::InvalidMember;
use super::preflight::Preflight;
use crate::object_writer::object;

/// The method of a tool call.
const TOOL_CALL: &str = "tools/call";

/// The members of a preflight that the metadata of agentgateway's settings may contain.
const METADATA: [&str; 4] = ["agent_id", "audience", "goal", "user_id"];

/// The member of `_meta` with the goal.
const GOAL: &str = "actpass/goal";

/// The member of `_meta` with the passport.
const PASSPORT: &str = "actpass/passport";

/// `McpRequest`, with the fields that are read. Headers are not: they name nothing that is verified.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct McpRequest {
    #[prost(string, repeated, tag = "1")]
    service_names: Vec<String>,
    #[prost(string, tag = "2")]
    method: String,
    #[prost(message, optional, tag = "3")]
    metadata_context: Option<Struct>,
    /// The `params` as JSON.
    #[prost(bytes = "vec", optional, tag = "4")]
    mcp_request: Option<Vec<u8>>,
}

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, prost::Message)]
struct Struct {
    #[prost(map = "string, message", tag = "1")]
    fields: HashMap<String, Value>,
}

/// `google.protobuf.Value`, of which strings are read.
#[derive(Clone, PartialEq, prost::Message)]
struct Value {
    #[prost(string, optional, tag = "3")]
    string: Option<String>,
}

/// Maps a tool call to a preflight; `None` for other requests, which need no decision.
///
/// # Errors
///
/// Returns the first field that is missing or invalid.
pub(crate) fn read_request(request: McpRequest) -> Result<Option<Preflight>, InvalidMember> {
    if request.method != TOOL_CALL {
        return Ok(None);
    }
    let [service] = request.service_names.as_slice() else {
        let problem = format_args!("expected one name, found {}", request.service_names.len());
        return Err(InvalidMember::new("service_names", problem));
    };
    let invalid = |problem: &str| InvalidMember::new("mcp_request", problem);
    let params = request.mcp_request.ok_or_else(|| invalid("missing; expected the params of the call"))?;
    let params = Json::parse(&params).map_err(|error| InvalidMember::new("mcp_request", error))?;
    let Some(name) = params.member("name").and_then(Json::as_str) else {
        return Err(InvalidMember::new("mcp_request.name", "missing; expected the name of the tool"));
    };
    let meta = |name: &str| params.member("_meta").and_then(|meta| meta.member(name)).cloned();
    let tool = format!("{service}.{name}");
    let mut metadata = metadata(request.metadata_context)?;
    let mut take = |name: &str| metadata.remove(name).map(Json::String);
    let preflight = object([
        ("agent_id", take("agent_id")),
        ("args", Some(params.member("arguments").cloned().unwrap_or(Json::Object(Vec::new())))),
        ("audience", Some(take("audience").unwrap_or_else(|| Json::String(format!("mcp://{service}"))))),
        ("goal", Some(take("goal").or_else(|| meta(GOAL)).unwrap_or_else(|| Json::from(&*tool)))),
        ("passport", meta(PASSPORT)),
        ("tool", Some(Json::from(&*tool))),
        ("user_id", take("user_id")),
    ]);
    Ok(Some(Preflight { protocol: Protocol::ExtMcp, ..Preflight::read(preflight)? }))
}

/// Returns the texts of the metadata. An unknown or unreadable one could be meant to restrict the call.
fn metadata(context: Option<Struct>) -> Result<HashMap<String, String>, InvalidMember> {
    let fields = context.map(|context| context.fields).unwrap_or_default();
    let read = fields.into_iter().map(|(name, value)| match (METADATA.contains(&&*name), value.string) {
        (true, Some(text)) => Ok((name, text)),
        (true, None) => Err((name, "expected a string")),
        (false, _) => Err((name, "unknown; expected agent_id, audience, goal or user_id")),
    });
    read.collect::<Result<_, _>>()
        .map_err(|(name, problem)| InvalidMember::new(&format!("metadata_context.{name}"), problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(params: &str, metadata: &[(&str, Option<&str>)]) -> McpRequest {
        let fields = metadata
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Value { string: value.map(str::to_owned) }));
        McpRequest {
            service_names: vec!["stripe".to_owned()],
            method: TOOL_CALL.to_owned(),
            metadata_context: Some(Struct { fields: fields.collect() }),
            mcp_request: Some(params.as_bytes().to_vec()),
        }
    }

    #[test]
    fn tool_call_maps_to_one_preflight() {
        for (request, preflight) in [
            (
                call(r#"{"name": "refund", "arguments": {"amount": 1}}"#, &[]),
                r#"{"tool": "stripe.refund", "goal": "stripe.refund", "args": {"amount": 1}, "audience": "mcp://stripe"}"#,
            ),
            (
                call(
                    r#"{"name": "refund", "_meta": {"actpass/goal": "g", "actpass/passport": "p"}}"#,
                    &[("agent_id", Some("a")), ("user_id", Some("u")), ("audience", Some("x"))],
                ),
                r#"{"tool": "stripe.refund", "goal": "g", "args": {}, "audience": "x", "agent_id": "a", "user_id": "u",
                    "passport": "p"}"#,
            ),
            (
                call(r#"{"name": "refund", "_meta": {"actpass/goal": "g"}}"#, &[("goal", Some("set"))]),
                r#"{"tool": "stripe.refund", "goal": "set", "args": {}, "audience": "mcp://stripe"}"#,
            ),
        ] {
            let expected = Preflight::read(Json::parse(preflight.as_bytes()).unwrap()).unwrap();
            let found = read_request(request).unwrap().unwrap();
            assert_eq!((found.request_hash, found.protocol), (expected.request_hash, Protocol::ExtMcp));
        }
        let list = McpRequest { method: "tools/list".to_owned(), ..McpRequest::default() };
        assert!(read_request(list).unwrap().is_none());
    }

    #[test]
    fn invalid_calls_name_the_field() {
        let whole = call(r#"{"name": "refund"}"#, &[]);
        for (request, member) in [
            (McpRequest { service_names: Vec::new(), ..whole.clone() }, "service_names"),
            (
                McpRequest { service_names: vec!["a".to_owned(), "b".to_owned()], ..whole.clone() },
                "service_names",
            ),
            (McpRequest { mcp_request: None, ..whole.clone() }, "mcp_request"),
            (call(r#"{"name": "refund""#, &[]), "mcp_request"),
            (call(r#"["refund"]"#, &[]), "mcp_request.name"),
            (call(r#"{"name": 7}"#, &[]), "mcp_request.name"),
            (call(r#"{"name": "refund", "_meta": {"actpass/passport": 7}}"#, &[]), "passport"),
            (call(r#"{"name": "refund", "name": "list"}"#, &[]), "mcp_request"),
            (call("{}", &[]), "mcp_request.name"),
            (call(r#"{"name": "refund", "arguments": []}"#, &[]), "args"),
            (call(r#"{"name": "refund", "_meta": {"actpass/goal": 1}}"#, &[]), "goal"),
            (call(r#"{"name": "refund"}"#, &[("agent_id", None)]), "metadata_context.agent_id"),
            (call(r#"{"name": "refund"}"#, &[("agent", Some("a"))]), "metadata_context.agent"),
        ] {
            assert_eq!(read_request(request.clone()).unwrap_err().member, member, "{request:?}");
        }
    }
}
