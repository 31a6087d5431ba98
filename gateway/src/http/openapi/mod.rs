//! The OpenAPI 3.1 description, generated from the routes and the types below.
//!
//! The router is built from described handlers, so every served route is described. Request bodies
//! are derived from [`requests`], response bodies from [`responses`]; common parts are added below.
//! Tests compare the description with the gateway's behaviour.

pub(super) mod authzen;
pub(super) mod requests;
pub(super) mod responses;

use std::sync::LazyLock;

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use utoipa::openapi::path::{Operation, Parameter, ParameterIn};
use utoipa::openapi::schema::{Object, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{Components, Content, Header, InfoBuilder, OpenApi, Ref, RefOr, ResponseBuilder};
use utoipa::{PartialSchema, ToSchema};

use self::requests::ToolName;
use super::error::json;

/// The served document, formatted for readers.
pub(crate) static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let (_, api) = super::routes().split_for_parts();
    // Serialization cannot fail.
    let mut text = complete(api).to_pretty_json().unwrap_or_default();
    text.push('\n');
    Bytes::from(text)
});

pub(super) async fn openapi() -> Response {
    json(StatusCode::OK, DOCUMENT.clone())
}

/// Adds the parts common to all routes.
fn complete(mut api: OpenApi) -> OpenApi {
    api.info = InfoBuilder::new()
        .title("ActPass gateway")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Decides whether an agent may act, and responds after the decision is recorded. A null member \
            is equivalent to an absent one. Unknown members are allowed in requests unless stated \
            otherwise, and clients must accept unknown members in responses. Duplicate keys are rejected. \
            The approvals page at / is not described.",
        ))
        .build();
    let components = api.components.get_or_insert_with(Components::new);
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(
        "An API key from the gateway's settings. It determines the tenant and the permissions.",
    ));
    components.add_security_scheme("key", SecurityScheme::Http(bearer.build()));
    // The DPoP scheme of the header `Authorization` has no name in OpenAPI.
    let proof = ApiKeyValue::with_description(
        "DPoP",
        "A DPoP proof (RFC 9449) for a key with `dpop_jkt`, next to `Authorization: DPoP <API key>`.",
    );
    components.add_security_scheme("dpop", SecurityScheme::ApiKey(ApiKey::Header(proof)));
    components.schemas.insert(Error::name().into_owned(), Error::schema());
    components.schemas.insert(authzen::Problem::name().into_owned(), authzen::Problem::schema());
    components.schemas.insert(ErrorBody::name().into_owned(), ErrorBody::schema());
    components.schemas.insert(ToolName::name().into_owned(), ToolName::schema());
    for item in api.paths.paths.values_mut() {
        for operation in [&mut item.get, &mut item.post, &mut item.delete].into_iter().flatten() {
            if let Some(security) = &mut operation.security {
                security.push(SecurityRequirement::new::<_, [&str; 0], &str>("dpop", []));
            }
            add_failures(operation);
        }
    }
    api
}

/// The operations whose errors are problem details (RFC 9457).
const ACCESS_REQUESTS: [&str; 2] = ["authzen_access_request", "authzen_request_access"];

/// Adds the error responses that follow from a route's inputs, and their schema.
fn add_failures(operation: &mut Operation) {
    let mut add = |status: &str, description: &str| {
        let described = &mut operation.responses.responses;
        if !described.contains_key(status) {
            described
                .insert(status.to_owned(), ResponseBuilder::new().description(description).build().into());
        }
    };
    let parameters = operation.parameters.iter().flatten();
    let (mut path, mut query) = (false, false);
    for parameter in parameters {
        match parameter {
            RefOr::T(Parameter { parameter_in: ParameterIn::Path, .. }) => path = true,
            RefOr::T(Parameter { parameter_in: ParameterIn::Cookie | ParameterIn::Header, .. }) => {}
            RefOr::T(Parameter { parameter_in: ParameterIn::Query | ParameterIn::QueryString, .. })
            | RefOr::Ref(_) => query = true,
        }
    }
    let is_authzen = operation.tags.iter().flatten().any(|tag| tag == "authzen");
    let is_oauth = operation.tags.iter().flatten().any(|tag| tag == "oauth");
    if operation.request_body.is_some() && is_oauth {
        add("403", "The role of the key may not use passports");
        add("408", "The body was not received in time");
        add("413", "The body exceeds the size limit");
    } else if operation.request_body.is_some() && is_authzen {
        add(
            "400",
            "The content type is not application/json; the body is compressed, not JSON, has a duplicate \
            key or is nested deeper than 128 levels; or a member is missing, has the wrong type, is too long \
            or reserved; the message names it",
        );
        add("403", "The role of the key may not request decisions");
        add("408", "The body was not received in time");
        add("413", "The body exceeds the size limit");
    } else if operation.request_body.is_some() {
        add(
            "400",
            "The body is not JSON, has a duplicate key, is nested deeper than 128 levels, or ended \
            unexpectedly; the path is not percent-encoded UTF-8; or the Host header is invalid",
        );
        add("408", "The body was not received in time");
        add("413", "The body exceeds the size limit");
        add("415", "The content type is not application/json, or the body is compressed");
        add("422", "A member is missing, has the wrong type, is too long or reserved; the message names it");
    }
    if path || query {
        add("400", "The path or query is not percent-encoded UTF-8, or the Host header is invalid");
    }
    if query {
        add("422", "A query parameter is invalid; the message names it");
    }
    if operation.security.is_some() {
        add("401", "The API key is missing, duplicate or unknown, or its DPoP proof is missing or invalid");
        add("429", "The rate limit of the key is exceeded, or too many invalid keys came from this address");
    }
    add("400", "The Host header is missing, duplicate, or does not match the request target");
    add("421", "The gateway does not serve this host");
    add("500", "Internal error; search the gateway's log for the request id");
    add("503", "The gateway is temporarily unavailable; it is unknown whether anything was recorded");
    let has_problems = operation.operation_id.as_deref().is_some_and(|id| ACCESS_REQUESTS.contains(&id));
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        if status.starts_with('2') {
            continue;
        }
        // The standard defines errors as messages.
        let content = match (is_authzen, is_oauth) {
            (true, _) => Content::new(Some(Object::with_type(Type::String))),
            (false, true) => Content::new(Some(Ref::from_schema_name(responses::OAuthFailure::name()))),
            (false, false) => Content::new(Some(Ref::from_schema_name(Error::name()))),
        };
        response.content.insert("application/json".to_owned(), content.into());
        if has_problems && matches!(status.as_str(), "400" | "404" | "410") {
            let problem = Content::new(Some(Ref::from_schema_name(authzen::Problem::name())));
            response.content.insert("application/problem+json".to_owned(), problem.into());
        }
        let header = match status.as_str() {
            "401" => ("WWW-Authenticate", "The schemes, or the error of DPoP", Type::String),
            "429" => ("Retry-After", "Seconds to wait before a retry", Type::Integer),
            "503" => ("Retry-After", "Seconds to wait before a retry, if the gateway is busy", Type::Integer),
            _ => continue,
        };
        let (name, description, kind) = header;
        let mut header = Header::new(Object::with_type(kind));
        header.description = Some(description.to_owned());
        response.headers.insert(name.to_owned(), header.into());
    }
}

/// An error response.
#[derive(ToSchema)]
#[expect(dead_code, reason = "used for the OpenAPI description only")]
struct Error {
    error: ErrorBody,
    /// The halt epoch; with the code `halted`.
    #[schema(nullable = false)]
    halt_epoch: Option<u64>,
}

/// Details of an error.
#[derive(ToSchema)]
#[expect(dead_code, reason = "used for the OpenAPI description only")]
struct ErrorBody {
    /// Stable error code.
    #[schema(pattern = "^[a-z_.]+$")]
    code: String,
    /// Description for people. Starts with the member's name if a member is invalid.
    message: String,
}

/// Risk of an action.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "used for the OpenAPI description only")]
enum RiskWord {
    Low,
    Medium,
    High,
    Critical,
}

#[cfg(test)]
mod tests {
    use actpass_protocol::Json;
    use actpass_protocol::json::Number;

    use super::DOCUMENT;
    use crate::request::{
        Acknowledge, DecisionNote, DelegationRequest, Evidence, InvalidMember, Issue, LiftHalt, Preflight,
        Revoke, ToolApproval, VerifyPassport,
    };

    type Read = fn(&Json) -> Result<(), InvalidMember>;

    /// Every request type with its parser, except `StartHalt`, whose members depend on each other.
    const REQUESTS: [(&str, Read); 10] = [
        ("Acknowledge", |body| Acknowledge::read(body.clone()).map(|_| ())),
        ("LiftHalt", |body| LiftHalt::read(body.clone()).map(|_| ())),
        ("Evidence", |body| Evidence::read(body.clone()).map(|_| ())),
        ("Issue", |body| Issue::read(body.clone()).map(|_| ())),
        ("DecisionNote", |body| DecisionNote::read(body.clone()).map(|_| ())),
        ("DelegationRequest", |body| DelegationRequest::read(body.clone()).map(|_| ())),
        ("Preflight", |body| Preflight::read(body.clone()).map(|_| ())),
        ("Revoke", |body| Revoke::read(body.clone()).map(|_| ())),
        ("ToolApproval", |body| ToolApproval::read(body.clone()).map(|_| ())),
        ("VerifyPassport", |body| VerifyPassport::read(body.clone()).map(|_| ())),
    ];

    #[test]
    fn request_parsers_match_openapi_schemas() {
        let document = Json::parse(&DOCUMENT).unwrap();
        let schemas = at(&document, &["components", "schemas"]);
        let described = at(&document, &["paths"]).to_string();
        assert_eq!(described.matches("\"requestBody\"").count(), 17, "approve and reject share a schema");
        let mut checked = 0;
        for (name, read) in REQUESTS {
            assert!(described.contains(&format!("\"#/components/schemas/{name}\"")), "{name}");
            let schema = at(schemas, &[name]);
            let required: Vec<&str> =
                items(schema.member("required")).map(|name| name.as_str().unwrap()).collect();
            let properties = at(schema, &["properties"]).as_object().unwrap();
            let all: Vec<_> = properties
                .iter()
                .map(|(name, schema)| (name.clone(), sample(resolve(schemas, schema))))
                .collect();
            let with = |name: &str, value: Option<Json>| {
                let mut body = all.clone();
                body.retain(|(member, _)| member != name);
                body.extend(value.map(|value| (name.to_owned(), value)));
                Json::Object(body)
            };
            let takes = |member: &str, value: Option<Json>, takes: bool| {
                let shown =
                    value.as_ref().map(|value| value.to_string().chars().take(60).collect::<String>());
                let outermost = |member: String| member.split('.').next().unwrap_or_default().to_owned();
                let found = read(&with(member, value)).map_err(|invalid| outermost(invalid.member));
                let expected = if takes { Ok(()) } else { Err(member.to_owned()) };
                assert_eq!(found, expected, "{name}.{member}: {shown:?}");
            };
            let is_open = schema.member("additionalProperties") != Some(&Json::Bool(false));
            assert_eq!(
                is_open,
                !["DecisionNote", "DelegationRequest", "LiftHalt", "ToolApproval"].contains(&name),
                "operator requests reject unknown members"
            );
            takes("described nowhere", Some(Json::Null), is_open);
            takes("described nowhere", Some(Json::Bool(false)), is_open);
            read(&Json::Array(Vec::new())).unwrap_err();
            let mut minimal = all.clone();
            minimal.retain(|(name, _)| required.contains(&&**name));
            assert_eq!(read(&Json::Object(minimal)), Ok(()), "{name}");

            for (member, schema) in properties {
                checked += 1;
                let optional = !required.contains(&&**member);
                takes(member, None, optional);
                takes(member, Some(Json::Null), optional);
                let schema = resolve(schemas, schema);
                let limit = |name| match schema.member(name) {
                    Some(Json::Number(number)) => number.as_str().parse::<usize>().ok(),
                    _ => None,
                };
                let text = |length: usize| Json::String("é".repeat(length));
                let number = |number: usize| Json::Number(Number::from(i64::try_from(number).unwrap()));
                takes(member, Some(Json::Bool(true)), false);
                match kind(schema) {
                    "string" if schema.member("enum").is_some() => {
                        items(schema.member("enum")).for_each(|word| takes(member, Some(word.clone()), true));
                        takes(member, Some(Json::from("another")), false);
                    }
                    "string" if schema.member("format") == Some(&Json::from("date-time")) => {
                        for (time, is_taken) in
                            [("2027-01-31T00:00:00Z", true), ("tomorrow", false), ("", false)]
                        {
                            takes(member, Some(Json::from(time)), is_taken);
                        }
                    }
                    "string" if schema.member("pattern").is_some() => {
                        takes(member, Some(sample(schema)), true);
                        for wrong in [Json::from(""), Json::from("x"), number(7)] {
                            takes(member, Some(wrong), false);
                        }
                    }
                    "string" => {
                        takes(member, Some(Json::from("")), limit("minLength").is_none());
                        match limit("maxLength") {
                            None => takes(member, Some(text(100_000)), true),
                            Some(limit) => {
                                takes(member, Some(text(limit)), true);
                                takes(member, Some(text(limit + 1)), false);
                            }
                        }
                        takes(member, Some(number(7)), false);
                    }
                    "integer" => {
                        let (least, most) = (limit("minimum").unwrap(), limit("maximum").unwrap());
                        for (value, is_taken) in [(least, true), (most, true), (most + 1, false)] {
                            takes(member, Some(number(value)), is_taken);
                        }
                        let below = i64::try_from(least).unwrap() - 1;
                        takes(member, Some(Json::Number(Number::from(below))), false);
                        // An integer by value, in any notation.
                        for (text, is_taken) in [
                            ("2.0", true),
                            ("2e0", true),
                            ("2.5", false),
                            ("2.00000000000000000000001", false),
                        ] {
                            takes(member, Some(Json::parse(text.as_bytes()).unwrap()), is_taken);
                        }
                    }
                    "array" => {
                        let list = |count, item: Json| Some(Json::Array(vec![item; count]));
                        let longest = at(schema, &["items", "maxLength"]).to_string().parse().unwrap();
                        let most = limit("maxItems").unwrap();
                        for (value, is_taken) in [
                            (list(most, text(longest)), true),
                            (list(most + 1, text(1)), false),
                            (list(1, text(longest + 1)), false),
                            (list(1, Json::Null), false),
                        ] {
                            takes(member, value, is_taken);
                        }
                    }
                    "object" if schema.member("properties").is_some() => {
                        takes(member, Some(sample(schema)), true);
                        takes(member, Some(Json::Object(Vec::new())), false);
                    }
                    "object" => {
                        takes(member, Some(Json::Array(Vec::new())), false);
                        takes(member, Some(Json::parse(br#"{"a": [{}, null, 1.5]}"#).unwrap()), true);
                    }
                    other => panic!("{name}.{member}: {other}"),
                }
            }
        }
        assert_eq!(checked, 4 + 1 + 12 + 8 + 2 + 12 + 7 + 1 + 2 + 1 + 5);
    }

    fn at<'j>(json: &'j Json, path: &[&str]) -> &'j Json {
        path.iter().fold(json, |json, name| json.member(name).unwrap_or_else(|| panic!("{name} of {path:?}")))
    }

    fn items(list: Option<&Json>) -> impl Iterator<Item = &Json> {
        match list {
            Some(Json::Array(items)) => items.iter(),
            _ => [].iter(),
        }
    }

    /// Resolves references and strips the alternative of null.
    fn resolve<'j>(schemas: &'j Json, schema: &'j Json) -> &'j Json {
        let schema = items(schema.member("oneOf")).next().unwrap_or(schema);
        match schema.member("$ref").and_then(Json::as_str) {
            Some(name) => at(schemas, &[name.rsplit('/').next().unwrap()]),
            None => schema,
        }
    }

    fn kind(schema: &Json) -> &str {
        let kind = at(schema, &["type"]);
        kind.as_str().or_else(|| items(Some(kind)).find_map(Json::as_str)).unwrap()
    }

    fn sample(schema: &Json) -> Json {
        match kind(schema) {
            "array" => Json::Array(Vec::new()),
            "integer" => at(schema, &["minimum"]).clone(),
            "object" => {
                let members = schema.member("properties").and_then(Json::as_object).unwrap_or_default();
                Json::Object(members.iter().map(|(name, schema)| (name.clone(), sample(schema))).collect())
            }
            _ if schema.member("pattern").is_some() => {
                let examples = items(schema.member("examples")).next();
                examples.or(schema.member("example")).unwrap().clone()
            }
            _ if schema.member("format") == Some(&Json::from("date-time")) => {
                Json::from("2027-01-31T00:00:00Z")
            }
            _ => items(schema.member("enum")).next().cloned().unwrap_or_else(|| Json::from("x")),
        }
    }
}
