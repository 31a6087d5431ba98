//! The cases: the published vectors, and the transport cases for guards with another wire protocol.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

include!(concat!(env!("OUT_DIR"), "/vectors.rs"));

/// The transport cases, with placeholders for the bodies of a [`Wire`].
const TRANSPORT: &str = include_str!("../transport.json");
/// Areas of vectors for this project's SDKs alone: they call no gateway, or set an option that other
/// guards lack.
const SDK_ONLY: [&str; 3] = ["dpop", "lost", "unmapped"];

/// One call of a guard against one script of the hostile gateway.
#[derive(Debug)]
pub(crate) struct Case {
    /// `area/vector/mode`, or `area/name` for a transport case.
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) script: Value,
    /// The members of the adapter's request that do not depend on the run.
    pub(crate) request: Map<String, Value>,
    /// Whether the client trusts the gateway's certificate authority.
    pub(crate) trust_ca: bool,
    pub(crate) expected: Expected,
}

impl Case {
    pub(crate) fn area(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }
}

/// The expected result. Of transport cases, only `executed` is known.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Expected {
    pub(crate) executed: bool,
    #[serde(default)]
    pub(crate) decision: Map<String, Value>,
    #[serde(default)]
    pub(crate) requests_sent: Option<usize>,
    #[serde(default)]
    pub(crate) credential: Option<String>,
}

/// Every published vector in each of its modes.
pub(crate) fn vectors() -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for (name, text) in VECTORS {
        let area = name.split('/').next().unwrap_or_default();
        if SDK_ONLY.contains(&area) {
            continue;
        }
        let vector: Vector = serde_json::from_str(text).map_err(|error| format!("{name}: {error}"))?;
        cases.extend(vector.cases(name));
    }
    Ok(cases)
}

/// The transport cases, with the bodies of `wire`.
pub(crate) fn transport(wire: &Wire) -> Result<Vec<Case>, String> {
    let cases: Vec<TransportCase> =
        serde_json::from_str(TRANSPORT).map_err(|error| format!("transport.json: {error}"))?;
    let bodies = wire.bodies();
    let cases = cases.into_iter().map(|case| {
        let mut script = case.gateway;
        fill(&mut script, &bodies);
        let options = json!({ "timeout": 1.0, "max_retries": 0 });
        Case {
            request: request("enforce", &options, &Map::new()),
            name: case.name,
            description: case.description,
            script,
            trust_ca: false,
            expected: Expected { executed: case.executed, ..Expected::default() },
        }
    });
    Ok(cases.collect())
}

/// The bodies of another wire protocol.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wire {
    /// The response that permits the action.
    allow: Value,
    /// The response that denies the action.
    deny: Value,
    /// The text of a response whose deciding member is given twice, first as a denial.
    duplicate: String,
    /// A response whose deciding member has the wrong type.
    mistyped: Value,
}

impl Wire {
    /// Reads a file; without one, the wire protocol of ActPass.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, String> {
        let text = match path {
            Some(path) => {
                std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?
            }
            None => include_str!("../wires/actpass.json").to_owned(),
        };
        let name = path.unwrap_or(Path::new("wires/actpass.json"));
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", name.display()))
    }

    fn bodies(&self) -> BTreeMap<&'static str, String> {
        let allow = self.allow.to_string();
        let mut head = allow.clone();
        head.pop();
        BTreeMap::from([
            ("{{allow_without_end}}", head),
            ("{{allow}}", allow),
            ("{{deny}}", self.deny.to_string()),
            ("{{duplicate}}", self.duplicate.clone()),
            ("{{mistyped}}", self.mistyped.to_string()),
        ])
    }
}

/// Replaces the placeholders in every string of `script`.
fn fill(script: &mut Value, bodies: &BTreeMap<&str, String>) {
    match script {
        Value::String(text) => {
            for (placeholder, body) in bodies {
                *text = text.replace(placeholder, body);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill(item, bodies)),
        Value::Object(members) => members.values_mut().for_each(|member| fill(member, bodies)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TransportCase {
    name: String,
    description: String,
    executed: bool,
    gateway: Value,
}

/// A file of `tests/vectors`; its README has the format.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    description: String,
    #[serde(default)]
    client: Map<String, Value>,
    #[serde(default)]
    action: Map<String, Value>,
    #[serde(default)]
    calls_before: u32,
    #[serde(default)]
    record_outcome: bool,
    ends: Option<String>,
    changed_args: Option<Value>,
    #[serde(rename = "unmapped", default)]
    _unmapped: bool,
    #[serde(rename = "gateway_echoes", default)]
    _gateway_echoes: bool,
    gateway: Value,
    expect: BTreeMap<String, Expected>,
}

impl Vector {
    fn cases(mut self, name: &str) -> Vec<Case> {
        let trust_ca = self.client.remove("trust_ca") == Some(Value::Bool(true));
        let mut options = json!({ "timeout": 5.0, "max_retries": 0 });
        merge(&mut options, &self.client);
        let expect = std::mem::take(&mut self.expect);
        let case = |(mode, expected): (String, Expected)| {
            let mut request = request(&mode, &options, &self.action);
            request.insert("calls_before".to_owned(), self.calls_before.into());
            request.insert("record_outcome".to_owned(), self.record_outcome.into());
            if let Some(ends) = &self.ends {
                request.insert("ends".to_owned(), ends.as_str().into());
            }
            if let Some(args) = &self.changed_args {
                request.insert("changed_args".to_owned(), args.clone());
            }
            Case {
                name: format!("{name}/{mode}"),
                description: self.description.clone(),
                script: self.gateway.clone(),
                request,
                trust_ca,
                expected,
            }
        };
        expect.into_iter().map(case).collect()
    }
}

/// The members of an adapter's request, with their defaults.
fn request(mode: &str, options: &Value, action: &Map<String, Value>) -> Map<String, Value> {
    let mut defaults = json!({
        "goal": "resolve_refund_request",
        "tool": "stripe.refund.create",
        "resource": "stripe:charge:ch_123",
        "args": {"amount": 4900, "currency": "usd"},
        "idempotency_key": "vector_key",
    });
    merge(&mut defaults, action);
    Map::from_iter([
        ("api_key".to_owned(), "apk_vector_secret".into()),
        ("agent_id".to_owned(), "vectors".into()),
        ("mode".to_owned(), mode.into()),
        ("options".to_owned(), options.clone()),
        ("action".to_owned(), defaults),
        ("calls_before".to_owned(), 0.into()),
        ("record_outcome".to_owned(), false.into()),
        ("ends".to_owned(), "returned".into()),
        ("changed_args".to_owned(), Value::Null),
    ])
}

fn merge(object: &mut Value, members: &Map<String, Value>) {
    if let Value::Object(object) = object {
        object.extend(members.clone());
    }
}
