//! Checks of Envoy's external authorization, mapped to preflights.
//!
//! A check maps to the body of exactly one preflight. The arguments are the parts of the HTTP request
//! that the upstream server will receive; a part that the check does not contain is an error.

use std::collections::HashMap;

use actpass_protocol::Json;
use actpass_protocol::json::Number;
use sha2::{Digest, Sha256};

use super::Protocol;
use super::body::InvalidMember;
use super::preflight::Preflight;
use crate::object_writer::object;

/// Prefix of the context extensions for the gateway.
const EXTENSION_PREFIX: &str = "actpass.";

/// The header with the agent's passport.
const PASSPORT: &str = "x-actpass-passport";

/// `envoy.service.auth.v3.CheckRequest`, with the fields that are read.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CheckRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) attributes: Option<Attributes>,
}

/// `envoy.service.auth.v3.AttributeContext`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Attributes {
    #[prost(message, optional, tag = "1")]
    source: Option<Peer>,
    #[prost(message, optional, tag = "4")]
    request: Option<AttributesRequest>,
    #[prost(map = "string, string", tag = "10")]
    context_extensions: HashMap<String, String>,
}

/// `AttributeContext.Peer`.
#[derive(Clone, PartialEq, prost::Message)]
struct Peer {
    #[prost(string, tag = "4")]
    principal: String,
}

/// `AttributeContext.Request`.
#[derive(Clone, PartialEq, prost::Message)]
struct AttributesRequest {
    #[prost(message, optional, tag = "2")]
    http: Option<HttpRequest>,
}

/// `AttributeContext.HttpRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HttpRequest {
    #[prost(string, tag = "2")]
    pub(crate) method: String,
    /// The headers with lower-case names; repeated ones are joined.
    #[prost(map = "string, string", tag = "3")]
    pub(crate) headers: HashMap<String, String>,
    /// The path with the query.
    #[prost(string, tag = "4")]
    pub(crate) path: String,
    #[prost(string, tag = "5")]
    pub(crate) host: String,
    #[prost(string, tag = "6")]
    pub(crate) scheme: String,
    #[prost(string, tag = "11")]
    pub(crate) body: String,
    #[prost(bytes = "vec", tag = "12")]
    pub(crate) raw_body: Vec<u8>,
    #[prost(message, optional, tag = "13")]
    pub(crate) header_map: Option<Unread>,
}

/// A message whose content is not read.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Unread {}

/// Maps a check to a preflight.
///
/// # Errors
///
/// Returns the first field that is missing, invalid or ambiguous.
pub(crate) fn read_check(check: CheckRequest) -> Result<Preflight, InvalidMember> {
    let attributes = check.attributes.ok_or_else(|| missing("attributes"))?;
    let http = attributes.request.and_then(|request| request.http);
    let http = http.ok_or_else(|| missing("attributes.request.http"))?;
    let mut extensions = attributes.context_extensions;
    extensions.retain(|name, _| name.starts_with(EXTENSION_PREFIX));
    let mut take = |name: &str| extensions.remove(&format!("{EXTENSION_PREFIX}{name}"));
    let (tool, goal, audience) = (take("tool"), take("goal"), take("audience"));
    if let Some(unknown) = extensions.into_keys().min() {
        let problem = "unknown; expected actpass.audience, actpass.goal or actpass.tool";
        return Err(InvalidMember::new(&format!("attributes.context_extensions.{unknown}"), problem));
    }
    let principal = attributes.source.map(|source| source.principal);
    let agent = principal.filter(|principal| principal.starts_with("spiffe://"));
    read_http(&http, Context { agent, tool, goal, audience })
        .map_err(|error| error.within("attributes.request.http"))
}

/// The parts of a check outside of the HTTP request.
#[derive(Debug, Default)]
pub(crate) struct Context {
    /// The SPIFFE id of the peer's certificate, which the proxy verified.
    pub(crate) agent: Option<String>,
    pub(crate) tool: Option<String>,
    pub(crate) goal: Option<String>,
    pub(crate) audience: Option<String>,
}

/// Maps an HTTP request to a preflight.
///
/// # Errors
///
/// Returns the first field that is missing, invalid or ambiguous.
pub(crate) fn read_http(http: &HttpRequest, context: Context) -> Result<Preflight, InvalidMember> {
    if http.header_map.is_some() {
        return Err(InvalidMember::new("header_map", "not supported; expected encode_raw_headers: false"));
    }
    if http.method.is_empty() || !http.method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
        return Err(InvalidMember::new("method", "expected upper-case letters"));
    }
    let host = http.host.to_ascii_lowercase();
    if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte))
    {
        return Err(InvalidMember::new("host", "expected a name or address with an optional port"));
    }
    if !["http", "https"].contains(&&*http.scheme) {
        return Err(InvalidMember::new("scheme", "expected http or https"));
    }
    let (path, query) = match http.path.split_once('?') {
        Some((path, query)) => (path, Some(fields(query.as_bytes(), "path")?)),
        None => (&*http.path, None),
    };
    check_path(path)?;
    let (body, form) = read_body(http)?;
    let text = |value: &str| Some(Json::from(value));
    let args = object([
        ("host", text(&host)),
        ("method", text(&http.method)),
        ("path", text(path)),
        ("query", query),
        ("body", body),
        ("form", form),
    ]);
    let tool = context.tool.unwrap_or_else(|| format!("http.{}", http.method.to_ascii_lowercase()));
    let preflight = object([
        ("agent_id", context.agent.map(Json::String)),
        ("args", Some(args)),
        ("audience", context.audience.map(Json::String)),
        ("goal", Some(Json::String(context.goal.unwrap_or_else(|| tool.clone())))),
        ("passport", http.headers.get(PASSPORT).map(|passport| Json::from(&**passport))),
        ("resource", Some(Json::String(format!("{}://{host}{path}", http.scheme)))),
        ("tool", Some(Json::String(tool))),
    ]);
    Ok(Preflight { protocol: Protocol::ExtAuthz, ..Preflight::read(preflight)? })
}

/// Rejects paths that servers normalize to different ones.
fn check_path(path: &str) -> Result<(), InvalidMember> {
    let is_ambiguous = |segment: &str| {
        let decoded = segment.to_ascii_lowercase().replace("%2e", ".");
        decoded == "."
            || decoded == ".."
            || ["%2f", "%5c", "%00", "\\", ";", "#"].iter().any(|part| decoded.contains(part))
    };
    let is_plain = path.starts_with('/') && !path.contains("//") && !path.split('/').any(is_ambiguous);
    match is_plain {
        true => Ok(()),
        false => Err(InvalidMember::new(
            "path",
            "ambiguous; expected a path without empty or dot segments, encoded slashes, and the \
            characters \\ ; #",
        )),
    }
}

/// Returns the JSON body, or the description of another body, and the fields of a form.
fn read_body(http: &HttpRequest) -> Result<(Option<Json>, Option<Json>), InvalidMember> {
    let header = |name: &str| http.headers.get(name).map(String::as_str);
    let invalid = |problem: &str| Err(InvalidMember::new("raw_body", problem));
    match header("x-envoy-auth-partial-body") {
        Some("false") => {}
        Some(_) => return invalid("truncated; expected the whole body: raise max_request_bytes"),
        None if ["GET", "HEAD", "OPTIONS"].contains(&&*http.method) && http.raw_body.is_empty() => {}
        None => return invalid("missing; expected the body: set with_request_body"),
    }
    if !http.body.is_empty() {
        return invalid("missing; expected the body as bytes: set pack_as_bytes");
    }
    if http.raw_body.is_empty() {
        return match has_body(http) {
            true => invalid("missing; expected the body: set with_request_body"),
            false => Ok((None, None)),
        };
    }
    if header("content-encoding").is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        return invalid("encoded; expected a body without content-encoding");
    }
    let kind = header("content-type").unwrap_or_default().split(';').next().unwrap_or_default();
    let kind = kind.trim().to_ascii_lowercase();
    if kind == "application/json" || kind.ends_with("+json") {
        let body = Json::parse(&http.raw_body).map_err(|error| InvalidMember::new("raw_body", error))?;
        return Ok((Some(body), None));
    }
    if kind == "application/x-www-form-urlencoded" {
        return Ok((None, Some(fields(&http.raw_body, "raw_body")?)));
    }
    let described = object([
        ("bytes", Some(Json::Number(Number::from(i64::try_from(http.raw_body.len()).unwrap_or(i64::MAX))))),
        ("sha256", Some(Json::String(hex::encode(Sha256::digest(&http.raw_body))))),
    ]);
    Ok((Some(described), None))
}

/// Returns whether the headers announce a body.
fn has_body(http: &HttpRequest) -> bool {
    let length = http.headers.get("content-length");
    length.is_some_and(|length| length != "0") || http.headers.contains_key("transfer-encoding")
}

/// Parses the fields of a query or a form. Servers differ in which of two equal names they use.
fn fields(text: &[u8], member: &str) -> Result<Json, InvalidMember> {
    let mut found: Vec<(String, Json)> = Vec::new();
    for (name, value) in form_urlencoded::parse(text) {
        if found.iter().any(|(known, _)| *known == name) {
            return Err(InvalidMember::new(member, format_args!("the field {name:?} is repeated")));
        }
        found.push((name.into_owned(), Json::String(value.into_owned())));
    }
    Ok(Json::Object(found))
}

fn missing(member: &str) -> InvalidMember {
    InvalidMember::new(member, "missing; expected an HTTP request")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> HttpRequest {
        let (scheme, rest) = url.split_once("://").unwrap();
        let (host, path) = rest.split_at(rest.find('/').unwrap());
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        HttpRequest {
            method: method.to_owned(),
            headers: headers.collect(),
            path: path.to_owned(),
            host: host.to_owned(),
            scheme: scheme.to_owned(),
            raw_body: body.to_owned(),
            ..HttpRequest::default()
        }
    }

    const WHOLE: (&str, &str) = ("x-envoy-auth-partial-body", "false");
    const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");
    const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

    #[test]
    fn request_maps_to_one_preflight() {
        let digest = hex::encode(Sha256::digest(b"x"));
        for (http, context, preflight) in [
            (
                request("POST", "https://API.example/v1/refunds?dry=1", &[WHOLE, JSON], br#"{"amount": 1}"#),
                Context { agent: Some("spiffe://a/b".to_owned()), ..Context::default() },
                r#"{"agent_id": "spiffe://a/b", "tool": "http.post", "goal": "http.post",
                    "resource": "https://api.example/v1/refunds", "args": {"host": "api.example", "method": "POST",
                    "path": "/v1/refunds", "query": {"dry": "1"}, "body": {"amount": 1}}}"#.to_owned(),
            ),
            (
                request("POST", "http://h:80/", &[WHOLE, FORM, (PASSPORT, "token")], b"amount=1&to=a%26b"),
                Context { tool: Some("pay".to_owned()), goal: Some("g".to_owned()), audience: Some("a".to_owned()), agent: None },
                r#"{"tool": "pay", "goal": "g", "audience": "a", "passport": "token", "resource": "http://h:80/", "args":
                    {"host": "h:80", "method": "POST", "path": "/", "form": {"amount": "1", "to": "a&b"}}}"#.to_owned(),
            ),
            (
                request("PUT", "http://h/a", &[WHOLE], b"x"),
                Context::default(),
                format!(r#"{{"tool": "http.put", "goal": "http.put", "resource": "http://h/a", "args": {{"host": "h",
                    "method": "PUT", "path": "/a", "body": {{"bytes": 1, "sha256": "{digest}"}}}}}}"#),
            ),
            (
                request("GET", "http://h/a", &[], b""),
                Context::default(),
                r#"{"tool": "http.get", "goal": "http.get", "resource": "http://h/a", "args": {"host": "h",
                    "method": "GET", "path": "/a"}}"#.to_owned(),
            ),
        ] {
            let expected = Preflight::read(Json::parse(preflight.as_bytes()).unwrap()).unwrap();
            let found = read_http(&http, context).unwrap();
            assert_eq!(found.request_hash, expected.request_hash, "{preflight}");
            assert_eq!(found.passport.map(|token| token.expose().to_owned()), expected.passport.map(|token| token.expose().to_owned()));
            assert_eq!(found.protocol, Protocol::ExtAuthz);
        }
    }

    #[test]
    fn incomplete_and_ambiguous_requests_name_the_field() {
        let json = |url: &str| request("POST", url, &[WHOLE, JSON], br#"{"amount": 1}"#);
        let of = |headers: &[(&str, &str)], body: &[u8]| request("POST", "http://h/a", headers, body);
        for (http, member, problem) in [
            (json("http://h/a//b"), "path", "ambiguous"),
            (json("http://h/./a"), "path", "ambiguous"),
            (json("http://h/a%00"), "path", "ambiguous"),
            (json("http://h/a\\b"), "path", "ambiguous"),
            (json("http://h/a#b"), "path", "ambiguous"),
            (HttpRequest { path: "a".to_owned(), ..json("http://h/a") }, "path", "ambiguous"),
            (json("http://h/a/../b"), "path", "ambiguous"),
            (json("http://h/a/%2E%2e/b"), "path", "ambiguous"),
            (json("http://h/a%2Fb"), "path", "ambiguous"),
            (json("http://h/a%5cb"), "path", "ambiguous"),
            (json("http://h/a;b"), "path", "ambiguous"),
            (json("http://h/a?b=1&b=2"), "path", "the field \"b\" is repeated"),
            (json("ftp://h/a"), "scheme", "expected http or https"),
            (json("http:///a"), "host", "expected a name"),
            (json("http://a@h/a"), "host", "expected a name"),
            (HttpRequest { method: "post".to_owned(), ..json("http://h/a") }, "method", "upper-case"),
            (HttpRequest { method: String::new(), ..json("http://h/a") }, "method", "upper-case"),
            (HttpRequest { header_map: Some(Unread {}), ..json("http://h/a") }, "header_map", "encode_raw"),
            (HttpRequest { body: "{}".to_owned(), ..of(&[WHOLE], b"") }, "raw_body", "pack_as_bytes"),
            (of(&[JSON], b"{}"), "raw_body", "with_request_body"),
            (of(&[], b""), "raw_body", "with_request_body"),
            (request("DELETE", "http://h/a", &[], b""), "raw_body", "with_request_body"),
            (of(&[("x-envoy-auth-partial-body", "false,true"), JSON], b"{}"), "raw_body", "truncated"),
            (of(&[WHOLE, JSON, ("content-length", "2")], b""), "raw_body", "with_request_body"),
            (of(&[WHOLE, JSON, ("transfer-encoding", "chunked")], b""), "raw_body", "with_request_body"),
            (of(&[("x-envoy-auth-partial-body", "true"), JSON], b"{"), "raw_body", "truncated"),
            (of(&[WHOLE, JSON, ("content-encoding", "gzip")], b"{}"), "raw_body", "content-encoding"),
            (of(&[WHOLE, JSON], br#"{"amount": 1, "amount": 2}"#), "raw_body", "amount"),
            (of(&[WHOLE, JSON], b"{"), "raw_body", ""),
            (of(&[WHOLE, FORM], b"a=1&a=2"), "raw_body", "the field \"a\" is repeated"),
            (of(&[WHOLE, ("content-type", "application/problem+json")], b"{"), "raw_body", ""),
            (request("GET", "http://h/", &[("content-length", "2")], b""), "raw_body", "with_request_body"),
            (request("GET", "http://h/", &[JSON], b"{}"), "raw_body", "with_request_body"),
            (
                request("GET", "http://h/", &[("transfer-encoding", "chunked")], b""),
                "raw_body",
                "with_request_body",
            ),
        ] {
            let error = read_http(&http, Context::default()).unwrap_err();
            assert_eq!(error.member, member, "{http:?}");
            assert!(error.problem.contains(problem), "{error}");
        }
    }

    #[test]
    fn absent_bodies_and_identity_encoding_are_complete() {
        for (method, headers, body) in [
            ("GET", &[("content-length", "0")][..], &b""[..]),
            ("HEAD", &[], b""),
            ("OPTIONS", &[], b""),
            ("DELETE", &[WHOLE], b""),
            ("POST", &[WHOLE, ("content-length", "0")], b""),
            ("POST", &[WHOLE, JSON, ("content-encoding", "Identity")], b"{}"),
        ] {
            let read = read_http(&request(method, "http://h/a", headers, body), Context::default());
            assert!(read.is_ok(), "{method} {headers:?}: {read:?}");
        }
    }

    #[test]
    fn agent_is_a_spiffe_id_and_extensions_are_known() {
        let check = |principal: &str, extensions: &[(&str, &str)]| {
            let extensions = extensions.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let http = Some(request("GET", "http://h/", &[("x-agent", "forged")], b""));
            read_check(CheckRequest {
                attributes: Some(Attributes {
                    source: Some(Peer { principal: principal.to_owned() }),
                    request: Some(AttributesRequest { http }),
                    context_extensions: extensions.collect(),
                }),
            })
        };
        for (principal, agent) in [("spiffe://a/b", Some("spiffe://a/b")), ("a.example", None), ("", None)] {
            let read = check(principal, &[("team", "x"), ("actpass.tool", "t")]).unwrap();
            assert_eq!(read.agent_id.as_ref().map(super::super::Text::as_str), agent);
            assert_eq!(read.tool.as_str(), "t");
        }
        let unknown = check("", &[("actpass.agent_id", "x")]).unwrap_err();
        assert_eq!(unknown.member, "attributes.context_extensions.actpass.agent_id");
        assert_eq!(read_check(CheckRequest::default()).unwrap_err().member, "attributes");
        for request in [None, Some(AttributesRequest { http: None })] {
            let attributes = Attributes { source: None, request, context_extensions: HashMap::new() };
            let error = read_check(CheckRequest { attributes: Some(attributes) }).unwrap_err();
            assert_eq!(error.member, "attributes.request.http");
        }
        // An error of the HTTP request names its place in the check.
        let mut http = request("GET", "http://h/", &[], b"");
        http.scheme = "ftp".to_owned();
        let attributes = Attributes {
            source: None,
            request: Some(AttributesRequest { http: Some(http) }),
            context_extensions: HashMap::new(),
        };
        let error = read_check(CheckRequest { attributes: Some(attributes) }).unwrap_err();
        assert_eq!(error.member, "attributes.request.http.scheme");
    }
}
