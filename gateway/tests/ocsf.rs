//! Exports for a SIEM: each event is valid in the published schema.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use actpass_gateway::{ledger, ocsf};
use actpass_protocol::Json;
use common::{EVIDENCE, Gateway, json, refund, text};
use serde_json::Value;

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_actpass-gateway"));
    command.current_dir(folder).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// The classes and objects of the schema.
struct Schema(Value);

impl Schema {
    fn read() -> Self {
        let schema: Value = serde_json::from_str(include_str!("ocsf/schema-1.8.0.json")).unwrap();
        assert_eq!(schema["version"], ocsf::VERSION);
        Self(schema)
    }

    /// Returns the problems of an event.
    fn problems(&self, event: &Value) -> Vec<String> {
        let uid = &event["class_uid"];
        let classes = self.0["classes"].as_object().unwrap();
        let Some(class) = classes.values().find(|class| class["class_uid"] == *uid) else {
            return vec![format!("class_uid: {uid}")];
        };
        let mut found = Vec::new();
        if event["category_uid"] != class["category_uid"] {
            found.push(format!("category_uid: {}", event["category_uid"]));
        }
        let type_uid = uid.as_i64().zip(event["activity_id"].as_i64()).map(|(uid, id)| uid * 100 + id);
        if event["type_uid"].as_i64() != type_uid {
            found.push(format!("type_uid: {}", event["type_uid"]));
        }
        let profiles = event["metadata"]["profiles"].as_array().cloned().unwrap_or_default();
        self.examine(class, event, &profiles, "", &mut found);
        found
    }

    fn examine(
        &self,
        definition: &Value,
        object: &Value,
        profiles: &[Value],
        path: &str,
        found: &mut Vec<String>,
    ) {
        let attributes = definition["attributes"].as_object().unwrap();
        for (name, attribute) in attributes {
            let is_used = attribute.get("profile").is_none_or(|profile| profiles.contains(profile));
            if is_used && attribute["requirement"] == "required" && object.get(name).is_none() {
                found.push(format!("{path}{name}: missing"));
            }
        }
        if let Some(names) = definition["constraints"]["at_least_one"].as_array()
            && !names.iter().any(|name| object.get(name.as_str().unwrap()).is_some())
        {
            found.push(format!("{path}: none of {names:?}"));
        }
        for (name, value) in object.as_object().unwrap() {
            let path = format!("{path}{name}");
            let attribute = attributes.get(name);
            match attribute.filter(|one| one.get("profile").is_none_or(|used| profiles.contains(used))) {
                None => found.push(format!("{path}: unknown")),
                Some(attribute) => self.examine_value(attribute, value, profiles, &path, found),
            }
        }
    }

    fn examine_value(
        &self,
        attribute: &Value,
        value: &Value,
        profiles: &[Value],
        path: &str,
        found: &mut Vec<String>,
    ) {
        let values = match (attribute["is_array"] == true, value) {
            (true, Value::Array(values)) => values.iter().collect(),
            (true, _) => return found.push(format!("{path}: not an array")),
            (false, value) => vec![value],
        };
        for value in values {
            let is_valid = match attribute["type"].as_str().unwrap() {
                "string_t" => value.is_string(),
                "integer_t" => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
                "long_t" => value.is_i64(),
                "boolean_t" => value.is_boolean(),
                "object" => value.is_object(),
                object => {
                    let definition = self.0["objects"].get(object);
                    assert!(definition.is_some(), "{path}: {object} is not in the copy of the schema");
                    if value.is_object() {
                        self.examine(definition.unwrap(), value, profiles, &format!("{path}."), found);
                    }
                    value.is_object()
                }
            };
            let is_uid = ["category_uid", "class_uid", "type_uid"].contains(&path);
            let ids = attribute.get("enum").and_then(Value::as_array).filter(|_| !is_uid);
            if !is_valid || ids.is_some_and(|ids| !ids.contains(value)) {
                found.push(format!("{path}: {value}"));
            }
        }
    }
}

fn to_value(event: &Json) -> Value {
    serde_json::from_str(&event.to_string()).unwrap()
}

/// A ledger event with all members.
fn stored(event_type: &str, more: &str) -> Json {
    let text = format!(
        r#"{{"event_id": "ev_1", "tenant_id": "one", "chain_id": "decisions", "seq": 3,
            "event_type": "{event_type}", "created_at": "2026-11-29T07:00:00.123Z", "key_name": "ops",
            "previous_event_hash": "00", "current_event_hash": "01"{more}}}"#
    );
    Json::parse(text.as_bytes()).unwrap()
}

#[test]
fn every_event_type_is_valid_in_the_schema() {
    let schema = Schema::read();
    let decided = r#", "agent_id": "sdk", "tool_id": "pay", "reason_code": "r", "request_hash": "h",
        "matched_rules": ["small"], "policy_id": "p", "policy_version": 1, "policy_hash": "sha256:0",
        "approval_request_id": "apr_1""#;
    let words = ["allow", "deny", "require_approval", "require_tool_reapproval", "ask", "defer", "modify"];
    let modes = ["enforce", "strict", "monitor", "warn"];
    let mut count = 0;
    let mut check = |event: &Json| {
        let converted = to_value(&ocsf::event(event).unwrap());
        assert_eq!(schema.problems(&converted), Vec::<String>::new(), "{event}: {converted}");
        assert_eq!(converted["unmapped"]["actpass"], to_value(event));
        assert_eq!(converted["time"], 1_795_935_600_123_i64);
        count += 1;
    };
    for event_type in ledger::RESERVED.iter().chain(&["action.outcome", "custom"]) {
        check(&stored(event_type, ""));
        for (word, mode) in words.iter().flat_map(|word| modes.iter().map(move |mode| (word, mode))) {
            check(&stored(event_type, &format!(r#"{decided}, "decision": "{word}", "mode": "{mode}""#)));
        }
        for ended in ["returned", "failed", "cancelled", "suspended", "other"] {
            check(&stored(event_type, &format!(r#"{decided}, "metadata": {{"ended": "{ended}"}}"#)));
        }
    }
    assert_eq!(count, (ledger::RESERVED.len() + 2) * (1 + words.len() * modes.len() + 5));

    // The examination finds an invalid event.
    let valid = to_value(&ocsf::event(&stored("decision", decided)).unwrap());
    for (path, value, problem) in [
        ("/class_uid", Value::from(2005), "class_uid: 2005"),
        ("/type_uid", Value::from(1), "type_uid: 1"),
        ("/severity_id", Value::from(42), "severity_id: 42"),
        ("/time", Value::from("now"), "time: \"now\""),
        ("/finding_info", serde_json::json!({"title": "t"}), "finding_info.uid: missing"),
        ("/actor", serde_json::json!({}), "actor.: none of"),
        ("/metadata/product", serde_json::json!({"vendor": "v"}), "metadata.product.vendor: unknown"),
        ("/metadata/profiles", serde_json::json!(["host"]), "action_id: unknown"),
    ] {
        let mut event = valid.clone();
        *event.pointer_mut(path).unwrap() = value;
        let found = schema.problems(&event).join("\n");
        assert!(found.contains(problem), "{path}: {found}");
    }
}

#[test]
fn decisions_and_tool_calls_have_the_classes_of_the_agent_control_standard() {
    let decision = |decision: &str, mode: &str| {
        let more =
            format!(r#", "agent_id": "sdk", "tool_id": "pay", "decision": "{decision}", "mode": "{mode}""#);
        to_value(&ocsf::event(&stored("decision", &more)).unwrap())
    };
    for (word, mode, severity, action, disposition) in [
        ("allow", "enforce", 1, 1, 1),
        ("deny", "enforce", 4, 2, 2),
        ("deny", "strict", 4, 2, 2),
        // The action ran in spite of the decision.
        ("deny", "monitor", 4, 3, 17),
        ("require_approval", "enforce", 3, 0, 23),
        ("require_approval", "warn", 3, 3, 17),
    ] {
        let event = decision(word, mode);
        let found =
            ["class_uid", "type_uid", "severity_id", "action_id", "disposition_id"].map(|name| &event[name]);
        assert_eq!(found, [2004, 200_401, severity, action, disposition], "{word}, {mode}");
        let user = &event["actor"]["user"];
        assert_eq!((&user["type_id"], &user["type"]), (&99.into(), &"AI Agent".into()));
    }
    let ended = |end: &str| {
        let more = format!(r#", "tool_id": "pay", "request_hash": "h", "metadata": {{"ended": "{end}"}}"#);
        to_value(&ocsf::event(&stored("action.outcome", &more)).unwrap())
    };
    for (end, status) in [("returned", 1), ("failed", 2), ("suspended", 99)] {
        let event = ended(end);
        let found = ["class_uid", "type_uid", "status_id"].map(|name| &event[name]);
        assert_eq!(found, [1007, 100_702, status], "{end}");
        assert_eq!(event["process"], serde_json::json!({"name": "pay", "uid": "h"}));
        assert_eq!(event["actor"]["user"]["type_id"], 99);
    }
    let problem = ocsf::event(&Json::parse(br#"{"event_id": "ev_1"}"#).unwrap()).unwrap_err();
    assert_eq!(problem.to_string(), "the event ev_1 has no created_at");
}

#[tokio::test]
async fn exports_a_chain_for_a_siem_and_continues_after_an_event() {
    let mut gateway = Gateway::start().await;
    let server = gateway.server.take().unwrap();
    let post = async |path: &str, key: &str, body: &str| {
        let response = gateway.post(path, key).body(body.to_owned()).send().await.unwrap();
        let (status, body) = json(response).await;
        assert_eq!(status, 200, "{body}");
        body
    };
    let allowed = gateway.decide("apk_one", &refund("1", "")).await;
    let outcome = format!(
        r#"{{"event_type": "action.outcome", "chain_id": "decisions", "tool_id": "refunds.create",
            "request_hash": "{}", "metadata": {{"ended": "returned"}}}}"#,
        text(&allowed, "request_hash").unwrap()
    );
    post(EVIDENCE, "apk_one", &outcome).await;
    let waiting = gateway.decide("apk_one", &refund("20000", "")).await;
    let approval = text(&waiting, "approval_request_id").unwrap();
    post(&format!("/api/v1/approvals/{approval}/approve"), "apdv_one", "{}").await;
    gateway.decide("apk_one", &refund("60000", "")).await;
    let data = match &gateway.data {
        actpass_gateway::store::Location::File(path) => path.display().to_string(),
        actpass_gateway::store::Location::Database(_) => panic!("these tests do not use a database"),
    };
    let folder = gateway.folder.path();
    let export = |more: &[&str]| {
        let of = ["evidence", "export", "decisions", "--data", &data, "--tenant", "one"];
        run(folder, &[&of[..], more].concat())
    };
    let lines = |output: &Output| -> Vec<Value> {
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let schema = Schema::read();
    let events = lines(&export(&["--format", "ocsf"]));
    for event in &events {
        assert_eq!(schema.problems(event), Vec::<String>::new(), "{event}");
    }
    let classes: Vec<_> = events.iter().map(|event| event["type_uid"].as_i64().unwrap()).collect();
    assert_eq!(classes, [200_401, 100_702, 200_401, 200_402, 200_401]);
    // An approval and the decision that opened it have the same correlation.
    assert_eq!(events[2]["metadata"]["correlation_uid"], events[3]["metadata"]["correlation_uid"]);
    assert_eq!(events[0]["evidences"][0]["process"], events[1]["process"]);
    assert_eq!(events[4]["policy"]["name"], "refunds");

    let after = lines(&export(&["--format", "ocsf", "--after", "3"]));
    assert_eq!(after, events[3..]);
    let stored = lines(&export(&[]));
    assert_eq!(events[0]["unmapped"]["actpass"], stored[0]);
    let refused = export(&["--after", "3"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--after needs --format ocsf"), "{refused:?}");

    // A chain with an edited event is exported, but with an error.
    server.stop().await.unwrap();
    let bytes = std::fs::read(&data).unwrap();
    let (from, to) = (b"refund.over_limit".as_slice(), b"refund.over_LIMIT".as_slice());
    let found = bytes.windows(from.len()).any(|window| window == from);
    assert!(found);
    let mut edited = bytes;
    let at: Vec<_> = edited
        .windows(from.len())
        .enumerate()
        .filter(|(_, window)| *window == from)
        .map(|(at, _)| at)
        .collect();
    for at in at {
        edited[at..at + to.len()].copy_from_slice(to);
    }
    std::fs::write(&data, edited).unwrap();
    let broken = export(&["--format", "ocsf"]);
    assert!(!broken.status.success(), "{broken:?}");
    assert!(String::from_utf8_lossy(&broken.stderr).contains("event 5 is broken"), "{broken:?}");
}
