//! Settings: what is wrong is named.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::net::SocketAddr;

use actpass_gateway::auth::{KeyHash, Role};
use actpass_gateway::config::{LogFormat, Settings};
use actpass_gateway::policy::{Cases, Policy};
use actpass_gateway::store::Location;
use tempfile::TempDir;

#[test]
fn a_whole_file_is_read() {
    let folder = TempDir::new().unwrap();
    let text = common::config("body_bytes = 5000\nrequests_per_second = 10\nburst = 20")
        .replace("[limits]", "log = \"json\"\ndanger_allow_plain_http = true\n[limits]")
        .replace("127.0.0.1:0", "0.0.0.0:8787");
    let settings = Settings::parse(&text, folder.path()).unwrap();
    assert_eq!(settings.listen, "0.0.0.0:8787".parse::<SocketAddr>().unwrap());
    assert!(matches!(&settings.data, Location::File(path) if *path == folder.path().join("data.db")));
    assert_eq!(settings.log, LogFormat::Json);
    assert_eq!(settings.body_bytes, 5000);
    let bound = settings.keyring.find("apk_bound").unwrap();
    assert_eq!((&*bound.name, bound.role), ("name-of-apk-bound", Role::Agent));
    assert_eq!(bound.agent.as_ref().and_then(|agent| agent.as_str()), Some("support"));
    assert!(bound.limiter.is_some());
    assert_eq!(settings.keyring.find("apdv_one").unwrap().role, Role::Operator);
    assert_eq!(&*settings.keyring.find("apk_two").unwrap().tenant.id, "two");
    assert!(settings.keyring.find("apk_three").is_none());
}

#[test]
fn a_database_is_kept_out_of_sight_and_its_gateways_issue_as_one() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("master.key"), "07".repeat(32)).unwrap();
    let certificate = rcgen::generate_simple_self_signed(["db.example".to_owned()]).unwrap().cert.pem();
    std::fs::write(folder.path().join("ca.pem"), certificate).unwrap();
    let url =
        "database_url = \"postgresql://u:pg_password_secret@db.example/ledger\"\ndatabase_ca = \"ca.pem\"";
    let text = common::config("").replace("data = \"data.db\"", url);
    let settings = Settings::parse(&text, folder.path()).unwrap();
    assert!(format!("{settings:?}").contains("data: Database(Database(db.example:5432/ledger))"));
    assert!(!format!("{settings:?}").contains("_password_secret"));

    let with_key = text.replace("[limits]", "master_key_file = \"master.key\"\n[limits]");
    let problems = Settings::parse(&with_key, folder.path()).unwrap_err().to_string();
    assert!(problems.starts_with("issuer: missing; with a database it is needed"), "{problems}");
    let whole = with_key.replace("[limits]", "issuer = \"https://gateway.example\"\n[limits]");
    Settings::parse(&whole, folder.path()).unwrap();

    let plain = text.replace("/ledger", "/ledger?sslmode=disable").replace("\ndatabase_ca = \"ca.pem\"", "");
    let allowed = plain.replace("[limits]", "danger_allow_plain_database = true\n[limits]");
    Settings::parse(&allowed, folder.path()).unwrap();
}

#[test]
fn what_is_not_said_has_its_default() {
    let folder = TempDir::new().unwrap();
    let settings = Settings::parse(&common::config(""), folder.path()).unwrap();
    assert_eq!(settings.body_bytes, 1_048_576);
    assert_eq!(settings.log, LogFormat::Text);
    assert!(settings.tls.is_none());
    assert!(settings.keyring.find("apk_one").unwrap().limiter.is_none());
}

#[test]
fn every_wrong_member_is_named() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("bad.json"), r#"{"id": "p", "version": 1, "rules": [{"name": "r"}]}"#)
        .unwrap();
    let whole = common::config("");
    let (one, two) = (KeyHash::of("apk_one").to_string(), KeyHash::of("apk_two").to_string());
    let refunds = format!("{}/../policies/refunds.json", env!("CARGO_MANIFEST_DIR"));
    let table: &[(&str, &str, &str)] = &[
        ("listen = \"127.0.0.1:0\"", "", "listen: missing"),
        ("listen = \"127.0.0.1:0\"", "listen = 8787", "listen: expected a non-empty string, found integer"),
        ("127.0.0.1:0", "localhost", "listen: expected an address and a port"),
        ("127.0.0.1:0", "0.0.0.0:0", "listen: is not a loopback address, so it needs [tls]"),
        ("data = \"data.db\"", "", "data: missing"),
        ("\"data.db\"", "\"\"", "data: expected a non-empty string"),
        (
            "data = \"data.db\"",
            "data = \"data.db\"\ndatabase_url = \"postgresql://u:secret@h/l\"",
            "data: there is database_url too",
        ),
        (
            "data = \"data.db\"",
            "database_url = \"postgresql:secret\"",
            "database_url: expected postgresql://",
        ),
        (
            "data = \"data.db\"",
            "database_url = \"postgresql://u:secret@h/l?sslmode=disable\"",
            "database_url: sslmode=disable would send",
        ),
        ("data = \"data.db\"", "database_url = [\"secret\"]", "database_url: expected a non-empty string"),
        ("[limits]", "database_ca = \"bad.json\"\n[limits]", "database_ca: needs database_url"),
        (
            "data = \"data.db\"",
            "database_url = \"postgresql://u:secret@h/l\"\ndatabase_ca = \"bad.json\"",
            "bad.json: holds no PEM certificate",
        ),
        (
            "[limits]",
            "danger_allow_plain_database = true\n[limits]",
            "danger_allow_plain_database: needs database_url",
        ),
        ("[limits]", "log = \"xml\"\n[limits]", "log: expected \"text\" or \"json\""),
        (
            "[limits]",
            "danger_allow_plain_http = 1\n[limits]",
            "danger_allow_plain_http: expected true or false",
        ),
        ("[limits]", "issuer = \"gateway.example\"\n[limits]", "issuer: expected a URL"),
        ("[limits]", "issuer = \"https://gateway.example/\"\n[limits]", "issuer: expected a URL"),
        ("[limits]", "master_key_file = \"none.key\"\n[limits]", "master_key_file: "),
        ("[limits]", "master_key_file = \"bad.json\"\n[limits]", "bad.json: expected 32 bytes"),
        ("[limits]", "[idempotency]\nkeep = \"0s\"\n[limits]", "idempotency.keep: expected"),
        ("[limits]", "[idempotency]\nkeep = \"366d\"\n[limits]", "idempotency.keep: expected"),
        ("[limits]", "[idempotency]\nkeep = \"soon\"\n[limits]", "idempotency.keep: expected"),
        ("[limits]", "[idempotency]\nkeep = \"\"\n[limits]", "idempotency.keep: expected"),
        ("[limits]", "[idempotency]\nkeep = \"1.5s\"\n[limits]", "idempotency.keep: expected"),
        ("[limits]", "[idempotency]\nkeep = \"500ms\"\n[limits]", "idempotency.keep: expected"),
        ("[limits]", "[idempotency]\nkeep = 86400\n[limits]", "idempotency.keep: expected"),
        ("[limits]", "[idempotency]\nkeep = \"-1h\"\n[limits]", "idempotency.keep: expected"),
        ("[limits]", "[idempotency]\nkept = \"1h\"\n[limits]", "idempotency.kept: unknown member"),
        ("[limits]", "[approvals]\nreuse = 1\n[limits]", "approvals.reuse: expected true or false"),
        (
            "[limits]",
            "[ledger]\ncheckpoint_events = 0\n[limits]",
            "ledger.checkpoint_events: expected an integer of 1",
        ),
        (
            "[limits]",
            "[ledger]\ncheckpoint_seconds = -5\n[limits]",
            "ledger.checkpoint_seconds: expected an integer of 1",
        ),
        ("[limits]", "[ledger]\nevents = 1\n[limits]", "ledger.events: unknown member"),
        (
            "[limits]",
            "[approvals]\ndeadline_seconds = 9\n[limits]",
            "approvals.deadline_seconds: expected an integer of 10",
        ),
        (
            "[limits]",
            "[approvals]\ndeadline_seconds = 86401\n[limits]",
            "approvals.deadline_seconds: expected an integer of 10",
        ),
        ("[limits]", "[approvals]\ndeadline = 60\n[limits]", "approvals.deadline: unknown member"),
        ("[limits]", "lisen = 1\n[limits]", "lisen: unknown member"),
        ("[limits]", "[limits]\nbody_bytes = 0", "limits.body_bytes: expected an integer of 1"),
        ("[limits]", "[limits]\nbody_bytes = \"1\"", "limits.body_bytes: expected an integer"),
        ("[limits]", "[limits]\nrequests_per_second = -1", "limits.requests_per_second: expected an integer"),
        (
            "[limits]",
            "[limits]\nrequests_per_second = 1.5",
            "limits.requests_per_second: expected an integer",
        ),
        ("[limits]", "[limits]\nburst = 5", "limits.burst: needs limits.requests_per_second"),
        ("[limits]", "[limits]\nbody = 5", "limits.body: unknown member"),
        ("[limits]", "[tls]\nkey = \"k.pem\"\n[limits]", "tls.certificate: missing"),
        ("[limits]", "[tls]\ncertificate = \"c.pem\"\n[limits]", "tls.key: missing"),
        ("[limits]", "[tls]\nca = \"c.pem\"\n[limits]", "tls.ca: unknown member"),
        ("[limits]", "tls = true\n[limits]", "tls: expected a table"),
        ("id = \"two\"", "", "tenants[1].id: missing"),
        ("id = \"two\"", "id = \"one\"", "tenants[1].id: the tenant \"one\" is given twice"),
        ("id = \"two\"", "id = \"two\"\nname = \"x\"", "tenants[1].name: unknown member"),
        (&refunds, "none.json", "tenants[0].policy: "),
        (&refunds, "bad.json", "tenants[0].policy: "),
        (&refunds, "bad.json", "rule \"r\": decision: missing"),
        ("name = \"name-of-apk-two\"", "", "keys[3].name: missing"),
        (
            "name-of-apk-two",
            "name-of-apk-one",
            "keys[3].name: the key name \"name-of-apk-one\" is given twice",
        ),
        (&two, &one, "keys[3].hash: another key has this hash"),
        (&two, "apk_two", "keys[3].hash: expected \"sha256:\" and 64 hex digits"),
        (&two, "sha256:00", "keys[3].hash: expected \"sha256:\" and 64 hex digits"),
        ("tenant = \"two\"", "tenant = \"three\"", "keys[3].tenant: there is no tenant \"three\""),
        ("tenant = \"two\"", "", "keys[3].tenant: missing"),
        ("role = \"operator\"", "role = \"admin\"", "keys[2].role: expected \"agent\" or \"operator\""),
        ("role = \"operator\"", "", "keys[2].role: missing"),
        ("agent = \"support\"", "agent = \"\"", "keys[1].agent: expected a non-empty string"),
        ("agent = \"support\"", "agents = \"support\"", "keys[1].agents: unknown member"),
        ("[[keys]]", "[[key]]", "keys: missing; expected at least one [[keys]]"),
        ("[[tenants]]", "[[tenant]]", "tenants: missing; expected at least one [[tenants]]"),
    ];
    for (from, to, expected) in table {
        assert!(whole.contains(from), "{from}");
        let problems = Settings::parse(&whole.replace(from, to), folder.path()).unwrap_err().to_string();
        assert!(problems.contains(expected), "{from} -> {to}\nexpected: {expected}\nfound:    {problems}");
    }
}

#[test]
fn a_key_in_the_file_is_never_shown() {
    let folder = TempDir::new().unwrap();
    for hash in [
        "hash = \"apk_very_secret\"",
        "hash = apk_very_secret",
        "hash = \"apk_very_secret",
        "apk_very_secret",
    ] {
        let text = format!("listen = \"127.0.0.1:0\"\n[[keys]]\n{hash}\n");
        let problems = Settings::parse(&text, folder.path()).unwrap_err().to_string();
        assert!(!problems.is_empty() && !problems.contains("very_secret"), "{problems}");
    }
}

#[test]
fn a_file_that_is_not_toml_says_where() {
    let folder = TempDir::new().unwrap();
    let problems = Settings::parse("listen = \"127.0.0.1:0\"\ndata = [\n= 1", folder.path()).unwrap_err();
    assert!(problems.to_string().starts_with("line "), "{problems}");
    let missing = Settings::load(&folder.path().join("none.toml")).unwrap_err().to_string();
    assert!(missing.contains("none.toml"), "{missing}");
}

#[test]
fn dev_listens_on_loopback_only() {
    for address in ["0.0.0.0:0", "192.0.2.1:80", "[::]:0"] {
        let problems =
            Settings::dev(address.parse().unwrap(), Some("x.db".into()), None).unwrap_err().to_string();
        assert!(problems.starts_with("--listen: "), "{problems}");
    }
    for address in ["127.0.0.1:0", "127.9.9.9:1", "[::1]:0"] {
        Settings::dev(address.parse().unwrap(), Some("x.db".into()), None).unwrap();
    }
}

#[test]
fn dev_reads_its_policy() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("policy.json");
    std::fs::write(&path, r#"{"id": "mine", "version": 1, "rules": []}"#).unwrap();
    let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let settings = Settings::dev(listen, Some("x.db".into()), Some(&path)).unwrap();
    assert_eq!(settings.keyring.find("apk_dev").unwrap().tenant.policy.id(), "mine");
    assert_eq!(settings.keyring.find("apdv_dev").unwrap().role, Role::Operator);
    std::fs::write(&path, "{}").unwrap();
    let problems = Settings::dev(listen, Some("x.db".into()), Some(&path)).unwrap_err().to_string();
    assert!(problems.starts_with("--policy: "), "{problems}");
}

#[test]
fn the_packs_decide_as_their_cases_say() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies");
    for (name, least) in [("refunds", 30), ("email", 30), ("deploys", 30), ("crm", 30)] {
        let policy = Policy::parse(&std::fs::read(format!("{folder}/{name}.json")).unwrap()).unwrap();
        let cases = Cases::parse(&std::fs::read(format!("{folder}/{name}.cases.json")).unwrap()).unwrap();
        assert!(cases.iter().count() >= least);
        let mut decided = std::collections::HashSet::new();
        for case in cases.iter() {
            assert_eq!(case.run(&policy), [], "{name}: {}", case.name());
            decided.extend(case.decided_by(&policy));
        }
        let untested: Vec<_> = policy.rules().iter().filter(|rule| !decided.contains(rule.name())).collect();
        assert!(untested.is_empty(), "no case of {name} is decided by {untested:?}");
    }
}

#[test]
fn answers_approvals_and_checkpoints_are_as_they_are_set() {
    let folder = TempDir::new().unwrap();
    let read = |text: &str| {
        let text = common::config("").replacen("[limits]", &format!("{text}[limits]"), 1);
        let settings = Settings::parse(&text, folder.path()).unwrap_or_else(|problems| panic!("{problems}"));
        let checkpoints = (settings.checkpoints.events, settings.checkpoints.seconds);
        (settings.keep_seconds, settings.finds_approvals, checkpoints)
    };
    assert_eq!(read(""), (86_400, true, (1000, 3600)));
    for (keep, seconds) in
        [("24h", 86_400), ("1s", 1), ("90m", 5_400), ("365d", 31_536_000), ("1h 30m", 5_400)]
    {
        assert_eq!(read(&format!("[idempotency]\nkeep = \"{keep}\"\n")).0, seconds, "{keep}");
    }
    assert!(!read("[approvals]\nreuse = false\n").1);
    assert_eq!(read("[ledger]\ncheckpoint_events = 7\ncheckpoint_seconds = 9\n").2, (7, 9));
}
