//! Signed approvals: the vectors of `tests/vectors/signed`, which every language runs, and their
//! reasons.
//!
//! `ACTPASS_WRITE_VECTORS=1 cargo test -p actpass-protocol --test signed_approval` writes the files.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use actpass_protocol::signed_approval::{ApprovalKeys, SignatureError, Statement};
use actpass_protocol::token::{Algorithm, PublicKey, encode};
use actpass_protocol::{Json, hash_payload};
use p256::ecdsa::Signature;
use p256::ecdsa::signature::Signer;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/signed");
const NOW: i64 = 1_800_000_000;
const ORIGIN: &str = "https://gateway.example";
const RP_ID: &str = "gateway.example";

/// Present, verified.
const FLAGS: u8 = 5;

/// An assertion, before it is signed.
struct Assertion {
    seed: u8,
    key_id: &'static str,
    statement: Statement,
    /// The statement in the answer, if it is not the one that was signed.
    shown: Option<Statement>,
    rp_id: &'static str,
    origin: &'static str,
    flags: u8,
    ceremony: &'static str,
    frame: Option<Value>,
}

fn assertion() -> Assertion {
    Assertion {
        seed: 7,
        key_id: "alice",
        statement: Statement {
            action_hash: action_hash(4900, "vectors"),
            approval_request_id: "apr_1".to_owned(),
            tenant_id: "acme".to_owned(),
            nonce: "n1".to_owned(),
            shown_hash: "c".repeat(64),
            expires_at: 4_102_444_800,
        },
        shown: None,
        rp_id: RP_ID,
        origin: ORIGIN,
        flags: FLAGS,
        ceremony: "webauthn.get",
        frame: None,
    }
}

impl Assertion {
    fn sign(&self) -> Value {
        let mut client = json!({
            "type": self.ceremony, "challenge": self.statement.challenge(), "origin": self.origin,
            "crossOrigin": false,
        });
        if let Some(frame) = &self.frame {
            client["crossOrigin"] = frame.clone();
        }
        let client = client.to_string();
        let data = [&Sha256::digest(self.rp_id)[..], &[self.flags], &[0, 0, 0, 9]].concat();
        let message = [&data[..], &Sha256::digest(&client)].concat();
        let signature: Signature = pair(self.seed).sign(&message);
        let statement = self.shown.as_ref().unwrap_or(&self.statement).to_json().to_string();
        json!({
            "statement": serde_json::from_str::<Value>(&statement).unwrap(),
            "key_id": self.key_id,
            "authenticator_data": encode(data),
            "client_data_json": encode(client),
            "signature": encode(signature.to_der()),
        })
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Value {
        change(&mut self);
        self.sign()
    }
}

fn pair(seed: u8) -> p256::ecdsa::SigningKey {
    p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap()
}

fn jwk(seed: u8, kid: &str) -> Value {
    let point = pair(seed).verifying_key().to_sec1_point(false);
    let key = PublicKey::new(kid, Algorithm::Es256, point.as_bytes()).unwrap();
    serde_json::from_str(&key.to_jwk().to_string()).unwrap()
}

fn trusted() -> Value {
    json!({
        "rp_id": RP_ID, "origins": [ORIGIN], "tenant_id": "acme",
        "keys": [jwk(7, "alice"), jwk(8, "bob")],
    })
}

fn action_hash(amount: i64, agent: &str) -> String {
    let action = json!({
        "agent_id": agent, "args": {"amount": amount, "currency": "usd"}, "goal": "resolve_refund_request",
        "resource": "stripe:charge:ch_123", "tool": "stripe.refund.create", "user_id": null,
    });
    hash_payload(&Json::from(action)).unwrap()
}

struct Case {
    name: &'static str,
    description: &'static str,
    keys: Value,
    signatures: Option<Value>,
    reason: &'static str,
    /// The reason of the signatures; `None` if the action runs.
    expected: Option<SignatureError>,
    calls_before: u8,
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name, description, signatures: Option<Value>, expected| {
        cases.push(Case {
            name,
            description,
            keys: trusted(),
            signatures,
            reason: "approval.approved",
            expected,
            calls_before: 0,
        });
    };
    let one = |signature: Value| Some(json!([signature]));
    let other_statement =
        |change: &dyn Fn(&mut Statement)| assertion().with(|assertion| change(&mut assertion.statement));
    add("signed", "The approval is signed by a trusted passkey.", one(assertion().sign()), None);
    add("unsigned", "An approval without a signature.", None, Some(SignatureError::Malformed));
    add("empty", "An empty list of signatures.", Some(json!([])), Some(SignatureError::Malformed));
    add(
        "not_a_list",
        "The signature is not in a list.",
        Some(assertion().sign()),
        Some(SignatureError::Malformed),
    );
    add(
        "another_action",
        "A signature for another amount.",
        one(other_statement(&|statement| statement.action_hash = action_hash(490_000, "vectors"))),
        Some(SignatureError::Action),
    );
    add(
        "another_agent",
        "A signature for the same action of another agent.",
        one(other_statement(&|statement| statement.action_hash = action_hash(4900, "other"))),
        Some(SignatureError::Action),
    );
    add(
        "another_tenant",
        "A signature for the same action of another tenant.",
        one(other_statement(&|statement| statement.tenant_id = "other".to_owned())),
        Some(SignatureError::Action),
    );
    add(
        "expired",
        "A signature that has expired.",
        one(other_statement(&|statement| statement.expires_at = 1_700_000_000)),
        Some(SignatureError::Expired),
    );
    add(
        "altered_statement",
        "The statement was replaced after the signature.",
        one(assertion().with(|assertion| {
            let statement = assertion.statement.clone();
            assertion.statement.action_hash = action_hash(1, "vectors");
            assertion.shown = Some(statement);
        })),
        Some(SignatureError::Challenge),
    );
    add(
        "foreign_origin",
        "The signature was made on another site of the same relying party.",
        one(assertion().with(|assertion| assertion.origin = "https://evil.gateway.example")),
        Some(SignatureError::Origin),
    );
    add(
        "foreign_rp",
        "The signature was made for another relying party.",
        one(assertion().with(|assertion| assertion.rp_id = "evil.example")),
        Some(SignatureError::RelyingParty),
    );
    add(
        "in_a_frame",
        "The signature was made in a frame of another site.",
        one(assertion().with(|assertion| assertion.frame = Some(json!(true)))),
        Some(SignatureError::Origin),
    );
    for (name, description, flags) in [
        ("person_not_verified", "The authenticator did not verify the person.", 1),
        ("person_not_present", "The authenticator did not test the presence of a person.", 4),
    ] {
        let signature = assertion().with(|assertion| assertion.flags = flags);
        add(name, description, one(signature), Some(SignatureError::Presence));
    }
    add(
        "invalid_flags",
        "A passkey that is backed up, but cannot be.",
        one(assertion().with(|assertion| assertion.flags = FLAGS | 16)),
        Some(SignatureError::Malformed),
    );
    add(
        "a_registration",
        "The response to a registration instead of a signature.",
        one(assertion().with(|assertion| assertion.ceremony = "webauthn.create")),
        Some(SignatureError::Malformed),
    );
    add(
        "unknown_passkey",
        "A signature by a passkey that is not trusted.",
        one(assertion().with(|assertion| (assertion.seed, assertion.key_id) = (9, "mallory"))),
        Some(SignatureError::UnknownKey),
    );
    add(
        "forged",
        "A signature by another key under the id of a trusted passkey.",
        one(assertion().with(|assertion| assertion.seed = 9)),
        Some(SignatureError::Signature),
    );
    let mut raw = assertion().sign();
    raw["signature"] = json!(encode([1; 64]));
    add("not_der", "A signature of 64 bytes instead of DER.", one(raw), Some(SignatureError::Signature));
    let mut wider = assertion().sign();
    wider["statement"]["scope"]["uses"] = json!(1000);
    add("wider_scope", "The scope was widened.", one(wider), Some(SignatureError::Malformed));
    let mut unknown = assertion().sign();
    unknown["statement"]["if"] = json!("the customer agrees");
    add(
        "unknown_condition",
        "An unknown member of the statement.",
        one(unknown),
        Some(SignatureError::Malformed),
    );

    let bob = assertion().with(|assertion| (assertion.seed, assertion.key_id) = (8, "bob"));
    let bob_elsewhere = assertion().with(|assertion| {
        (assertion.seed, assertion.key_id) = (8, "bob");
        assertion.statement.approval_request_id = "apr_2".to_owned();
    });
    let mut two = trusted();
    two["quorum"] = json!(2);
    for (name, description, signatures, expected) in [
        ("quorum_of_two", "Two passkeys must sign, and have.", json!([assertion().sign(), bob]), None),
        (
            "quorum_missed",
            "Two passkeys must sign, one has.",
            json!([assertion().sign()]),
            Some(SignatureError::Malformed),
        ),
        (
            "quorum_by_one",
            "Two passkeys must sign, one has twice.",
            json!([assertion().sign(), assertion().with(|it| it.statement.nonce = "n2".to_owned())]),
            Some(SignatureError::Replayed),
        ),
        (
            "quorum_of_two_approvals",
            "Two passkeys must sign, and have signed different approvals.",
            json!([assertion().sign(), bob_elsewhere]),
            Some(SignatureError::Malformed),
        ),
    ] {
        cases.push(Case {
            name,
            description,
            keys: two.clone(),
            signatures: Some(signatures),
            reason: "approval.approved",
            expected,
            calls_before: 0,
        });
    }
    let mut covered = trusted();
    covered["tools"] = json!(["stripe.refund.create"]);
    for (name, description, keys, signatures, expected) in [
        (
            "covered_tool",
            "An allow without an approval, for a tool that needs one.",
            covered.clone(),
            None,
            Some(SignatureError::Malformed),
        ),
        (
            "covered_tool_signed",
            "A signed allow of a tool that needs one.",
            covered,
            Some(json!([assertion().sign()])),
            None,
        ),
        ("other_tool", "An allow by a rule, for a tool that needs no approval.", trusted(), None, None),
    ] {
        cases.push(Case {
            name,
            description,
            keys,
            signatures,
            reason: "refund.small_in_scope",
            expected,
            calls_before: 0,
        });
    }
    cases.push(Case {
        name: "replayed",
        description: "The signature approved an earlier call.",
        keys: trusted(),
        signatures: Some(json!([assertion().sign()])),
        reason: "approval.approved",
        expected: None,
        calls_before: 1,
    });
    cases
}

fn vector(case: &Case) -> Value {
    let mut answer = json!({
        "decision": "allow", "reason_code": case.reason, "evidence_event_id": "ev_1",
        "evidence_chain_id": "decisions",
    });
    // The hash of a request with a generated key differs in each run; mode strict requires it.
    if case.calls_before == 0 {
        answer["request_hash"] = json!("{{request_hash}}");
    }
    if let Some(signatures) = &case.signatures {
        answer["approval_signatures"] = signatures.clone();
    }
    let steps = vec![json!({"do": "respond", "json": answer}); usize::from(case.calls_before) + 1];
    let runs = case.expected.is_none() && case.calls_before == 0;
    let because = match (&case.signatures, case.expected) {
        _ if case.calls_before > 0 => "the signature was used before".to_owned(),
        (None, _) => "no passkey has signed it".to_owned(),
        (Some(_), expected) => expected.map(|error| format!("the signature {error}")).unwrap_or_default(),
    };
    let requests = case.calls_before + 1;
    let mut expect = serde_json::Map::new();
    let modes = ["enforce", "warn"].into_iter().chain((case.calls_before == 0).then_some("strict"));
    for mode in modes {
        let (decision, reason) = match runs {
            true => ("allow", case.reason),
            false => ("deny", "actpass.approval_unsigned"),
        };
        let mut expected = json!({
            "executed": runs, "error": null, "requests_sent": requests,
            "decision": {"decision": decision, "reason_code": reason, "evidence_event_id": "ev_1"},
        });
        if !runs {
            expected["blocked"] = json!({
                "approval": null, "code": "actpass.approval_unsigned", "retryable": false, "tool": "stripe.refund.create",
                "developer": format!(
                    "stripe.refund.create was not run: deny (actpass.approval_unsigned). The gateway allowed the action by an \
                     approval that no trusted passkey has signed, so it did not run: {because}. Check that the rule requires a \
                     signed approval, and that the signer's passkey is in approval_keys. If both are so, the gateway or its \
                     answer may have been tampered with: do not run the action."
                ),
                "message": "stripe.refund.create was not run: deny (actpass.approval_unsigned). Its approval is not signed by a \
                    trusted person. Do not call it again: an operator must fix this first.",
            });
        }
        expect.insert(mode.to_owned(), expected);
    }
    let monitored = json!({
        "executed": true, "error": null, "requests_sent": requests,
        "decision": {"decision": "allow", "reason_code": case.reason},
    });
    expect.insert("monitor".to_owned(), monitored);
    let mut vector = json!({
        "description": case.description,
        "client": {"approval_keys": case.keys.to_string()},
        "gateway": {"steps": steps},
        "expect": expect,
    });
    if case.calls_before > 0 {
        vector["calls_before"] = json!(case.calls_before);
        // With the key of the first call, the gateway would repeat its answer.
        vector["action"] = json!({"idempotency_key": null});
    }
    vector
}

#[test]
fn files_have_the_vectors() {
    let mut names: Vec<_> = Vec::new();
    for case in cases() {
        let path = format!("{FOLDER}/{}.json", case.name);
        let text = format!("{}\n", serde_json::to_string_pretty(&vector(&case)).unwrap());
        if std::env::var_os("ACTPASS_WRITE_VECTORS").is_some() {
            std::fs::create_dir_all(FOLDER).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap();
        assert!(found == text, "{} differs: set ACTPASS_WRITE_VECTORS=1", case.name);
        names.push(format!("{}.json", case.name));
    }
    let mut found: Vec<_> = std::fs::read_dir(FOLDER)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort_unstable();
    names.sort_unstable();
    assert_eq!(found, names);
}

#[test]
fn each_signature_has_its_reason() {
    for case in cases() {
        let keys = ApprovalKeys::parse(&case.keys.to_string()).unwrap();
        let Some(signatures) = &case.signatures else { continue };
        let verified = keys.verify_all(&Json::from(signatures.clone()), &action_hash(4900, "vectors"), NOW);
        assert_eq!(verified.err(), case.expected, "{}", case.name);
    }
}

/// Any changed byte of any part invalidates it.
#[test]
fn any_changed_byte_invalidates_a_signature() {
    let keys = ApprovalKeys::parse(&trusted().to_string()).unwrap();
    let whole = assertion().sign();
    let verify =
        |signature: &Value| keys.verify(&Json::from(signature.clone()), &action_hash(4900, "vectors"), NOW);
    assert_eq!(verify(&whole).unwrap().sign_count, 9);
    for part in ["authenticator_data", "client_data_json", "signature"] {
        let text = whole[part].as_str().unwrap();
        for at in 0..text.len() {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let mut changed = whole.clone();
            changed[part] = json!(String::from_utf8(bytes).unwrap());
            assert!(verify(&changed).is_err(), "{part} {at}");
        }
    }
    for member in ["action_hash", "approval_request_id", "nonce", "shown_hash", "expires_at"] {
        let mut changed = whole.clone();
        changed["statement"][member] =
            if member == "expires_at" { json!(4_102_444_801_i64) } else { json!("x") };
        assert!(verify(&changed).is_err(), "{member}");
    }
}

#[test]
fn names_invalid_member_of_keys() {
    for (change, expected) in [
        (json!({"rp_id": ""}), "rp_id: expected a host name"),
        (json!({"origins": []}), "origins: expected at least one"),
        (json!({"origins": "https://gateway.example"}), "origins: expected a list"),
        (json!({"keys": []}), "keys: expected at least one JWK"),
        (json!({"keys": [{"kty": "RSA"}]}), "keys[0]: expected a P-256 JWK"),
        (json!({"quorum": 3}), "quorum: expected an integer of 1 to 2"),
        (json!({"quorum": 0}), "quorum: expected an integer of 1 to 2"),
        (json!({"tenant_id": 1}), "tenant_id: expected a string"),
        (json!({"tools": [1]}), "tools: expected a list"),
        (json!({"tool": ["x"]}), "tool: unknown member"),
    ] {
        let mut keys = trusted();
        let Value::Object(members) = change else { panic!() };
        for (name, value) in members {
            keys[name] = value;
        }
        let problem = ApprovalKeys::parse(&keys.to_string()).unwrap_err();
        assert!(problem.starts_with(expected), "{problem}");
    }
    assert!(ApprovalKeys::parse("[]").unwrap_err().starts_with("expected an object"));
    let whole = ApprovalKeys::parse(&trusted().to_string()).unwrap();
    assert_eq!(ApprovalKeys::parse(&whole.to_json().to_string()).unwrap(), whole);
}
