//! Settings and their errors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::net::SocketAddr;

use actpass_gateway::auth::{ApiKeyHash, Role};
use actpass_gateway::config::{LogFormat, Settings};
use actpass_gateway::policy::{Cases, Policy};
use actpass_gateway::store::Location;
use tempfile::TempDir;

#[test]
fn reads_complete_settings() {
    let folder = TempDir::new().unwrap();
    let text = common::config("body_bytes = 5000\nrequests_per_second = 10\nburst = 20")
        .replace("[limits]", "log = \"json\"\ndanger_allow_plain_http = true\n[limits]")
        .replace("127.0.0.1:0", "0.0.0.0:8787");
    let settings = Settings::parse(&text, folder.path()).unwrap();
    assert_eq!(settings.listen, "0.0.0.0:8787".parse::<SocketAddr>().unwrap());
    assert!(matches!(&settings.data, Location::File(path) if *path == folder.path().join("data.db")));
    assert_eq!(settings.log, LogFormat::Json);
    assert_eq!(settings.body_bytes, 5000);
    let bound = settings.keyring.find("apk_bound", 0).unwrap();
    assert_eq!((&*bound.name, bound.role), ("name-of-apk-bound", Role::Agent));
    assert_eq!(bound.agent.as_ref().and_then(|agent| agent.as_str()), Some("support"));
    assert!(bound.limiter.is_some());
    assert_eq!(settings.keyring.find("apdv_one", 0).unwrap().role, Role::Operator);
    assert_eq!(&*settings.keyring.find("apk_two", 0).unwrap().tenant.id, "two");
    assert!(settings.keyring.find("apk_three", 0).is_none());
}

#[test]
fn database_url_is_hidden_and_requires_issuer() {
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
    assert!(problems.starts_with("issuer: missing; required with a database"), "{problems}");
    let whole = with_key.replace("[limits]", "issuer = \"https://gateway.example\"\n[limits]");
    Settings::parse(&whole, folder.path()).unwrap();

    let plain = text.replace("/ledger", "/ledger?sslmode=disable").replace("\ndatabase_ca = \"ca.pem\"", "");
    let allowed = plain.replace("[limits]", "danger_allow_plain_database = true\n[limits]");
    Settings::parse(&allowed, folder.path()).unwrap();
}

#[test]
fn unset_settings_have_defaults() {
    let folder = TempDir::new().unwrap();
    let settings = Settings::parse(&common::config(""), folder.path()).unwrap();
    assert_eq!(settings.body_bytes, 1_048_576);
    assert_eq!(settings.log, LogFormat::Text);
    assert!(settings.tls.is_none());
    assert!(settings.keyring.find("apk_one", 0).unwrap().limiter.is_none());
}

#[test]
fn each_invalid_setting_is_named() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("bad.json"), r#"{"id": "p", "version": 1, "rules": [{"name": "r"}]}"#)
        .unwrap();
    let whole = common::config("");
    let (one, two) = (ApiKeyHash::of("apk_one").to_string(), ApiKeyHash::of("apk_two").to_string());
    let refunds = format!("{}/../policies/dev.json", env!("CARGO_MANIFEST_DIR"));
    let table: &[(&str, &str, &str)] = &[
        ("listen = \"127.0.0.1:0\"", "", "listen: missing"),
        ("listen = \"127.0.0.1:0\"", "listen = 8787", "listen: expected a non-empty string, found integer"),
        ("127.0.0.1:0", "localhost", "listen: expected an address and a port"),
        ("127.0.0.1:0", "0.0.0.0:0", "listen: is not a loopback address, so [tls] is required"),
        ("data = \"data.db\"", "", "data: missing"),
        ("\"data.db\"", "\"\"", "data: expected a non-empty string"),
        (
            "data = \"data.db\"",
            "data = \"data.db\"\ndatabase_url = \"postgresql://u:secret@h/l\"",
            "data: conflicts with database_url",
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
            "bad.json: contains no PEM certificate",
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
        ("[limits]", "[halts]\nlift_by = []\n[limits]", "halts.lift_by: is empty"),
        (
            "[limits]",
            "[halts]\nlift_by = [\"nobody\"]\n[limits]",
            "halts.lift_by: expected names of operator keys",
        ),
        (
            "[limits]",
            "[halts]\nlift_by = [\"name-of-apk-one\"]\n[limits]",
            "halts.lift_by: expected names of operator keys, found \"name-of-apk-one\"",
        ),
        ("[limits]", "[halts]\nlift = 1\n[limits]", "halts.lift: unknown member"),
        (
            "role = \"agent\"",
            "role = \"agent\"\nhalt_all = true",
            "keys[0].halt_all: needs the role operator",
        ),
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
        ("id = \"two\"", "id = \"one\"", "tenants[1].id: duplicate tenant id \"one\""),
        ("id = \"two\"", "id = \"two\"\nname = \"x\"", "tenants[1].name: unknown member"),
        (&refunds, "none.json", "tenants[0].policy: "),
        (&refunds, "bad.json", "tenants[0].policy: "),
        (&refunds, "bad.json", "rule \"r\": decision: missing"),
        ("name = \"name-of-apk-two\"", "", "keys[3].name: missing"),
        ("name-of-apk-two", "name-of-apk-one", "keys[3].name: duplicate key name \"name-of-apk-one\""),
        (&two, &one, "keys[3].hash: duplicate hash: another key has it"),
        (&two, "apk_two", "keys[3].hash: expected \"sha256:\" and 64 hex digits"),
        (&two, "sha256:00", "keys[3].hash: expected \"sha256:\" and 64 hex digits"),
        ("tenant = \"two\"", "tenant = \"three\"", "keys[3].tenant: unknown tenant \"three\""),
        ("tenant = \"two\"", "", "keys[3].tenant: missing"),
        (
            "role = \"operator\"",
            "role = \"admin\"",
            "keys[2].role: expected one of agent, approver, auditor, operator",
        ),
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
fn plaintext_key_in_settings_is_never_shown() {
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
fn toml_syntax_error_names_line() {
    let folder = TempDir::new().unwrap();
    let problems = Settings::parse("listen = \"127.0.0.1:0\"\ndata = [\n= 1", folder.path()).unwrap_err();
    assert!(problems.to_string().starts_with("line "), "{problems}");
    let missing = Settings::load(&folder.path().join("none.toml")).unwrap_err().to_string();
    assert!(missing.contains("none.toml"), "{missing}");
}

#[test]
fn dev_requires_loopback_address() {
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
fn dev_loads_policy() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("policy.json");
    std::fs::write(&path, r#"{"id": "mine", "version": 1, "rules": []}"#).unwrap();
    let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let settings = Settings::dev(listen, Some("x.db".into()), Some(&path)).unwrap();
    assert_eq!(settings.keyring.find("apk_dev", 0).unwrap().tenant.policy.id(), "mine");
    assert_eq!(settings.keyring.find("apdv_dev", 0).unwrap().role, Role::Operator);
    std::fs::write(&path, "{}").unwrap();
    let problems = Settings::dev(listen, Some("x.db".into()), Some(&path)).unwrap_err().to_string();
    assert!(problems.starts_with("--policy: "), "{problems}");
}

#[test]
fn example_policies_pass_their_cases() {
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

/// Parses the default settings with additional top-level lines and files.
fn with(lines: &str, files: &[(&str, &[u8])]) -> Result<Settings, String> {
    let folder = TempDir::new().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let text = common::config("").replacen("[limits]", &format!("{lines}\n[limits]"), 1);
    std::fs::write(folder.path().join("gateway.toml"), text).unwrap();
    Settings::load(&folder.path().join("gateway.toml")).map_err(|problems| problems.to_string())
}

#[test]
fn validates_optional_settings() {
    for (lines, expected) in [
        ("hosts = \"gateway.example\"", "hosts: expected a list of non-empty strings, found string"),
        ("hosts = [\"https://gateway.example\"]", "hosts: expected host names"),
        ("hosts = [\"*.example\"]", "hosts: expected host names"),
        ("hosts = [\"user@gateway.example\"]", "hosts: expected host names"),
        ("hosts = [1]", "hosts: expected a list of non-empty strings, found another list"),
        ("trusted_proxies = [\"10.0.0.0/33\"]", "trusted_proxies: expected addresses or networks"),
        ("trusted_proxies = [\"proxy.example\"]", "trusted_proxies: expected addresses or networks"),
        ("trusted_proxies = [\"0.0.0.0/0\"]", "trusted_proxies: \"0.0.0.0/0\" covers every address"),
        ("log_level = \"trace\"", "log_level: expected one of error, warn, info, debug"),
        ("signing_algorithm = \"RS256\"", "signing_algorithm: expected one of EdDSA, ES256"),
        ("page = 1", "page: expected a table"),
    ] {
        let problems = with(lines, &[]).unwrap_err();
        assert!(problems.contains(expected), "{lines}: {problems}");
    }
    for path in ["actpass", "/actpass/", "/", "//x", "/a/../b", "/a b", "/a?b", "/\u{e9}"] {
        let text = common::config("") + &format!("\n[page]\nbase_path = \"{path}\"\n");
        let problems = Settings::parse(&text, TempDir::new().unwrap().path()).unwrap_err().to_string();
        assert!(problems.contains("page.base_path: expected a path"), "{path}: {problems}");
    }
    for (members, expected) in [
        ("modes = []", "modes: expected at least one of enforce, strict, warn, monitor"),
        (
            "modes = [\"observe\"]",
            "modes: expected some of enforce, strict, warn, monitor, found \"observe\"",
        ),
        ("modes = \"strict\"", "modes: expected a list"),
        ("tools = [\"\"]", "tools: expected a list of non-empty strings"),
        ("risk_tiers = [\"extreme\"]", "risk_tiers: expected some of low, medium, high, critical"),
        ("users = [1]", "users: expected a list"),
        ("max_ttl_seconds = 3601", "max_ttl_seconds: expected an integer of 1 to 3600"),
        ("max_ttl_seconds = 0", "max_ttl_seconds: expected an integer"),
        ("allowed_tool = [\"t\"]", "allowed_tool: unknown member"),
    ] {
        let hash = ApiKeyHash::of("k");
        let key = format!("[[keys]]\nname = \"k\"\nhash = \"{hash}\"\ntenant = \"one\"\nrole = \"agent\"\n");
        let text = common::config("") + &key + members;
        let problems = Settings::parse(&text, TempDir::new().unwrap().path()).unwrap_err().to_string();
        assert!(problems.contains(&format!("keys[4].{expected}")), "{members}: {problems}");
    }
}

#[test]
fn parses_listen_addresses() {
    use actpass_gateway::config::parse_listen;

    for (text, expected) in [
        ("localhost:8787", "127.0.0.1:8787"),
        ("127.0.0.1:8787", "127.0.0.1:8787"),
        ("[::1]:8787", "[::1]:8787"),
        ("0.0.0.0:1", "0.0.0.0:1"),
    ] {
        assert_eq!(parse_listen(text).map(|address| address.to_string()).as_deref(), Ok(expected));
    }
    for (text, expected) in [
        ("localhost", "found \"localhost\""),
        ("localhost:99999", "expected an address and a port"),
        ("gateway.example:8787", "so give an IP address"),
        ("::1:8787", "in brackets"),
        ("8787", "expected an address and a port"),
        ("", "expected an address and a port"),
    ] {
        assert!(parse_listen(text).unwrap_err().contains(expected), "{text}");
    }
}

#[test]
fn reads_settings_with_bom_and_rejects_utf16() {
    let plain = common::config("");
    let utf_16: Vec<u8> = format!("\u{feff}{plain}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("gateway.toml");
    for (bytes, expected) in [
        (format!("\u{feff}{plain}").into_bytes(), None),
        (plain.replace('\n', "\r\n").into_bytes(), None),
        (utf_16, Some("is UTF-16; save it as UTF-8")),
        (b"listen = \"\xff\"".to_vec(), Some("is not UTF-8")),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let found = Settings::load(&file).err().map(|problems| problems.to_string());
        assert_eq!(found.is_none(), expected.is_none(), "{found:?}");
        assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()));
    }
    let key: String = (0..32).map(|byte| format!("{:02x}", byte * 5)).collect();
    let lines = "master_key_file = \"master.key\"";
    for text in [format!("\u{feff}{key}\r\n"), format!("{key}\n")] {
        with(lines, &[("master.key", text.as_bytes())]).unwrap();
    }
    let utf_16: Vec<u8> = key.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let problems = with(lines, &[("master.key", &utf_16)]).unwrap_err();
    assert!(problems.contains("master_key_file: ") && problems.contains("UTF-16"), "{problems}");
    assert!(!problems.contains(&key));
}

/// Creates a certificate valid for these days from now, with its key.
fn certificate(from: i64, until: i64) -> (String, String) {
    let mut parameters = rcgen::CertificateParams::new(vec!["gateway.example".to_owned()]).unwrap();
    let day = |days: i64| {
        let now = std::time::SystemTime::now();
        let seconds = std::time::Duration::from_secs(days.unsigned_abs() * 86_400);
        if days < 0 { now - seconds } else { now + seconds }.into()
    };
    (parameters.not_before, parameters.not_after) = (day(from), day(until));
    let key = rcgen::KeyPair::generate().unwrap();
    (parameters.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn validates_certificates_and_keys() {
    let tls = |certificate: &[u8], key: &[u8]| {
        let folder = TempDir::new().unwrap();
        for (name, bytes) in [("certificate.pem", certificate), ("key.pem", key)] {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        let table = "[tls]\ncertificate = \"certificate.pem\"\nkey = \"key.pem\"\n";
        let text = common::config("").replacen("[limits]", &format!("{table}[limits]"), 1);
        let found = Settings::parse(&text, folder.path());
        found.map(|settings| settings.warnings.join("\n")).map_err(|problems| problems.to_string())
    };
    let (good, key) = certificate(-1, 365);
    let warnings = tls(good.as_bytes(), key.as_bytes()).unwrap();
    assert!(!warnings.contains("tls.certificate"), "{warnings}");
    assert!(tls(format!("\u{feff}{good}").replace('\n', "\r\n").as_bytes(), key.as_bytes()).is_ok());
    for (from, until, expected) in
        [(-10, -1, "expired at"), (-1, 29, "expires soon: "), (1, 365, "is not valid before")]
    {
        let (certificate, key) = certificate(from, until);
        let warnings = tls(certificate.as_bytes(), key.as_bytes()).unwrap();
        assert!(
            warnings.contains("tls.certificate: certificate 1 in the file") && warnings.contains(expected),
            "{warnings}"
        );
    }
    let pkcs_8 = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let pkcs_1 = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMIIB\n-----END RSA PRIVATE KEY-----\n";
    for encrypted in [pkcs_8, pkcs_1] {
        let problems = tls(good.as_bytes(), encrypted.as_bytes()).unwrap_err();
        assert!(
            problems.contains("tls.key: ")
                && problems.contains("is encrypted")
                && problems.contains("openssl pkey"),
            "{problems}"
        );
    }
    let utf_16: Vec<u8> = key.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(tls(good.as_bytes(), &utf_16).unwrap_err().contains("UTF-16"));
    assert!(tls(good.as_bytes(), good.as_bytes()).unwrap_err().contains("contains no PEM private key"));
}

#[test]
fn warns_about_suspicious_settings() {
    let warnings = |text: &str| {
        Settings::parse(text, TempDir::new().unwrap().path())
            .unwrap_or_else(|problems| panic!("{problems}"))
            .warnings
            .join("\n")
    };
    assert_eq!(warnings(&common::config("")), "");
    for (limits, expected) in [
        ("body_bytes = 100000000", "limits.body_bytes: "),
        ("body_bytes = 10", "limits.body_bytes: "),
        ("requests_per_second = 1000000", "limits.requests_per_second: "),
        ("requests_per_second = 10\nburst = 1", "limits.burst: "),
        ("connections = 10\nconnections_per_address = 11", "limits.connections_per_address: "),
        ("pending_approvals = 1000000", "limits.pending_approvals: "),
    ] {
        assert!(warnings(&common::config(limits)).starts_with(expected), "{limits}");
    }
    let public = common::config("")
        .replace(&ApiKeyHash::of("apk_one").to_string(), &ApiKeyHash::of("apk_dev").to_string());
    assert!(warnings(&public).contains("keys[0].hash: is the hash of apk_dev, a publicly known key"));

    let key: String = (0..32).map(|byte| format!("{:02x}", byte * 5)).collect();
    let master = [("master.key", key.as_bytes())];
    let of = |lines: &str| {
        with(&format!("master_key_file = \"master.key\"\n{lines}"), &master).unwrap().warnings.join("\n")
    };
    assert!(
        of("issuer = \"https://0.0.0.0:8443\"")
            .contains("issuer: \"https://0.0.0.0:8443\" is an unreachable address")
    );
    assert!(of("issuer = \"https://[::]:8443\"").contains("is an unreachable address"));
    assert!(!of("issuer = \"https://gateway.example\"").contains("issuer"));
    for weak in ["00".repeat(32), "07".repeat(32), "0123456789abcdef".repeat(4)] {
        let found = with("master_key_file = \"master.key\"", &[("master.key", weak.as_bytes())])
            .unwrap()
            .warnings
            .join("\n");
        assert!(found.contains("few distinct bytes") && !found.contains(&weak), "{found}");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;

        for (mode, open) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true)] {
            let folder = TempDir::new().unwrap();
            let file = folder.path().join("master.key");
            std::fs::write(&file, &key).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            let text =
                common::config("").replacen("[limits]", "master_key_file = \"master.key\"\n[limits]", 1);
            let found = Settings::parse(&text, folder.path()).unwrap().warnings.join("\n");
            assert_eq!(found.contains("accessible to other users"), open, "{mode:o}: {found}");
        }
    }
}

#[test]
fn reads_retention_approval_and_checkpoint_settings() {
    let folder = TempDir::new().unwrap();
    let read = |text: &str| {
        let text = common::config("").replacen("[limits]", &format!("{text}[limits]"), 1);
        let settings = Settings::parse(&text, folder.path()).unwrap_or_else(|problems| panic!("{problems}"));
        let checkpoints = (settings.checkpoints.events, settings.checkpoints.seconds);
        (settings.retention_seconds, settings.reuse_approvals, checkpoints)
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

#[test]
fn webhook_problems_name_the_member_and_no_secret() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("good"), "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=").unwrap();
    std::fs::write(folder.path().join("bad"), "MDEyMzQ1Njc4OTAx-hidden").unwrap();
    std::fs::write(folder.path().join("url"), "https://hooks.example/services/hidden\n").unwrap();
    let parse = |webhook: &str| {
        let text = format!("{}[[webhooks]]\n{webhook}\n", common::config(""));
        Settings::parse(&text, folder.path()).map_err(|problems| problems.to_string())
    };
    let url = "name = \"w\"\nurl = \"https://hooks.example/hidden\"\n";
    let secret = "secret_file = \"good\"\n";
    for good in [
        format!("{url}{secret}"),
        format!("{url}form = \"slack\""),
        format!("name = \"w\"\nurl_file = \"url\"\n{secret}"),
        format!("{url}{secret}tenants = [\"one\"]\nevents = [\"approval.expired\"]\ngive_up_hours = 720"),
    ] {
        let settings = parse(&good).unwrap_or_else(|problems| panic!("{good}: {problems}"));
        assert_eq!(settings.webhooks.len(), 1);
        assert!(!format!("{settings:?}").contains("hidden"), "{settings:?}");
    }
    for (webhook, problem) in [
        (url.to_owned(), "webhooks[0].secret_file: missing"),
        (format!("{url}secret_file = \"bad\""), "webhooks[0].secret_file: expected \"whsec_\""),
        (format!("{url}secret_file = \"none\""), "webhooks[0].secret_file: "),
        (format!("{url}{secret}form = \"slack\""), "webhooks[0].secret_file: not used"),
        (format!("{url}form = \"teams\""), "webhooks[0].form: expected \"standard\" or \"slack\""),
        (format!("name = \"w\"\n{secret}"), "webhooks[0].url: missing"),
        (format!("{url}{secret}url_file = \"url\""), "webhooks[0].url_file: conflicts with url"),
        (url.replace("https", "http") + secret, "webhooks[0].url: expected https"),
        (url.replace("hooks.example", "10.0.0.1") + secret, "webhooks[0].url: is a private address"),
        (format!("{url}{secret}tenants = [\"three\"]"), "webhooks[0].tenants: unknown tenant \"three\""),
        (format!("{url}{secret}events = [\"all\"]"), "webhooks[0].events: expected some of approval.decided"),
        (
            format!("{url}{secret}timeout_seconds = 15"),
            "webhooks[0].timeout_seconds: expected an integer of 1 to 14",
        ),
        (format!("{url}{secret}ca = \"none.pem\""), "webhooks[0].ca: "),
        (format!("{url}{secret}retry = 1"), "webhooks[0].retry: unknown member"),
        (
            format!("{url}{secret}[[webhooks]]\n{url}{secret}"),
            "webhooks[1].name: duplicate webhook name \"w\"",
        ),
    ] {
        let found = parse(&webhook).unwrap_err();
        assert!(found.contains(problem), "{webhook}: {found}");
        assert!(!found.contains("hidden"), "{found}");
    }
}

/// Reports where a value does not match a JSON Schema, for the keywords of the schema of settings.
fn mismatches(schema: &serde_json::Value, value: &toml::Value, path: &str, found: &mut Vec<String>) {
    let kind = match value {
        toml::Value::Table(_) => "object",
        toml::Value::Array(_) => "array",
        toml::Value::String(_) => "string",
        toml::Value::Integer(_) => "integer",
        toml::Value::Boolean(_) => "boolean",
        toml::Value::Float(_) | toml::Value::Datetime(_) => "other",
    };
    if schema["type"] != kind {
        found.push(format!("{path}: {kind} instead of {}", schema["type"]));
        return;
    }
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                match schema["properties"].get(name) {
                    Some(member) => mismatches(member, value, &format!("{path}.{name}"), found),
                    None => found.push(format!("{path}.{name}: unknown")),
                }
            }
            for name in schema["required"].as_array().into_iter().flatten() {
                if path != "root" && !table.contains_key(name.as_str().unwrap()) {
                    found.push(format!("{path}.{name}: missing"));
                }
            }
        }
        toml::Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                mismatches(&schema["items"], item, &format!("{path}[{at}]"), found);
            }
        }
        toml::Value::String(text) => {
            let is_word =
                |words: &serde_json::Value| words.as_array().unwrap().iter().any(|word| word == text);
            let matches = |pattern: &str| regex::Regex::new(pattern).unwrap().is_match(text);
            if schema.get("enum").is_some_and(|words| !is_word(words))
                || schema["pattern"].as_str().is_some_and(|pattern| !matches(pattern))
            {
                found.push(format!("{path}: {text:?}"));
            }
        }
        toml::Value::Integer(number) => {
            let bounds = [&schema["minimum"], &schema["maximum"]].map(|bound| bound.as_i64().unwrap());
            if !(bounds[0]..=bounds[1]).contains(number) {
                found.push(format!("{path}: {number}"));
            }
        }
        toml::Value::Boolean(_) | toml::Value::Float(_) | toml::Value::Datetime(_) => {}
    }
}

/// All members of the schema, as a path with `[0]` after lists of tables.
fn members(schema: &serde_json::Value, path: &str, found: &mut Vec<String>) {
    for (name, member) in schema["properties"].as_object().unwrap() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        found.push(path.clone());
        if member["type"] == "object" {
            members(member, &path, found);
        } else if member["items"]["type"] == "object" {
            members(&member["items"], &format!("{path}[0]"), found);
        }
    }
}

#[test]
fn mail_problems_name_the_member_and_no_secret() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("password"), "mail-secret").unwrap();
    let parse = |mail: &str| {
        let text = format!("{}[[mail]]\n{mail}\n", common::config(""));
        Settings::parse(&text, folder.path()).map_err(|problems| problems.to_string())
    };
    let server = "name = \"m\"\nserver = \"smtp.example\"\n";
    let addresses = "from = \"a@one.example\"\nto = [\"Bob <b@one.example>\"]\n";
    let sign_in = "user = \"u\"\npassword_file = \"password\"\n";
    let settings = parse(&format!("{server}{addresses}{sign_in}")).unwrap();
    assert_eq!(settings.webhooks.len(), 1);
    assert!(!format!("{settings:?} {:?}", settings.webhooks[0].form).contains("mail-secret"));
    for (mail, problem) in [
        (format!("name = \"m\"\n{addresses}"), "mail[0].server: missing"),
        (format!("{server}{addresses}port = 65536"), "mail[0].port: expected an integer of 1 to 65535"),
        (
            format!("{server}{addresses}encryption = \"ssl\""),
            "mail[0].encryption: expected \"tls\", \"starttls\"",
        ),
        (format!("{server}{addresses}encryption = \"none\""), "mail[0].server: expected encryption"),
        (
            format!("{server}{addresses}").replace("smtp.example", "10.0.0.1"),
            "mail[0].server: is a private address",
        ),
        (
            format!("{server}{addresses}").replace("smtp.example", "smtp.example:25"),
            "mail[0].server: expected a host",
        ),
        (format!("{server}{addresses}").replace("a@one", "a"), "mail[0].from: expected an address"),
        (
            format!("{server}{addresses}").replace("a@one.example", "a@one.example, c@one.example"),
            "mail[0].from: ",
        ),
        (
            format!("{server}{addresses}").replace("Bob", "B\\r\\nBcc: e@evil.example"),
            "mail[0].to: expected an address",
        ),
        (format!("{server}from = \"a@one.example\"\nto = []"), "mail[0].to: missing"),
        (format!("{server}{addresses}user = \"u\""), "mail[0].password_file: missing"),
        (format!("{server}{addresses}password_file = \"password\""), "mail[0].user: missing"),
        (format!("{server}{addresses}user = \"u\"\npassword_file = \"none\""), "mail[0].password_file: "),
        (format!("{server}{addresses}url = \"https://hooks.example\""), "mail[0].url: unknown member"),
        (
            format!("{server}{addresses}events = [\"all\"]"),
            "mail[0].events: expected some of approval.decided",
        ),
        (
            format!("{server}{addresses}[[mail]]\n{server}{addresses}"),
            "mail[1].name: duplicate webhook name \"m\"",
        ),
    ] {
        let found = parse(&mail).unwrap_err();
        assert!(found.contains(problem), "{mail}: {found}");
        assert!(!found.contains("mail-secret"), "{found}");
    }
}

#[test]
fn schema_has_exactly_the_settings_that_are_read() {
    let schema: serde_json::Value = serde_json::from_str(include_str!("../gateway.schema.json")).unwrap();
    let mut known = Vec::new();
    members(&schema, "", &mut known);
    assert!(known.len() >= 90, "{}", known.len());

    // The names in the reader.
    let read = regex::Regex::new(
        r#"(?:\.(?:text|name|hash|role|optional_[a-z]+|positive|sections?)|texts|bounded)\(\s*"([a-z_]+)""#,
    );
    let sources = [
        include_str!("../src/config.rs"),
        include_str!("../src/config/sign_in.rs"),
        include_str!("../src/config/webhooks.rs"),
    ];
    let read = read.unwrap();
    let names: std::collections::BTreeSet<&str> = sources
        .iter()
        .flat_map(|source| read.captures_iter(source))
        .map(|found| found.get(1).unwrap().as_str())
        .collect();
    let of_schema: std::collections::BTreeSet<&str> =
        known.iter().map(|path| path.rsplit('.').next().unwrap()).collect();
    assert_eq!(names, of_schema);

    // The reader knows each member at its place: it reports a wrong type.
    let folder = TempDir::new().unwrap();
    for path in &known {
        let mut root: toml::Table = common::config("").parse().unwrap();
        let mut place = toml::Value::Table(std::mem::take(&mut root));
        let mut slot = &mut place;
        for step in path.split('.') {
            let (name, is_list) = match step.strip_suffix("[0]") {
                Some(name) => (name, true),
                None => (step, false),
            };
            let table = slot.as_table_mut().unwrap();
            let is_last = path.ends_with(step) && path.split('.').next_back() == Some(step);
            let fresh = if is_list {
                toml::Value::Array(vec![toml::Table::new().into()])
            } else {
                toml::Table::new().into()
            };
            slot = table.entry(name).or_insert(fresh);
            if is_list {
                slot = &mut slot.as_array_mut().unwrap()[0];
            }
            if is_last {
                *slot = toml::Value::Float(1.5);
            }
        }
        let text = toml::to_string(&place).unwrap();
        let problems = Settings::parse(&text, folder.path()).unwrap_err().to_string();
        let reported = problems.lines().any(|line| {
            line.starts_with(&format!("{path}: ")) && (line.contains("float") || line.contains("found 1.5"))
        });
        assert!(reported && !problems.contains("unknown member"), "{path}: {problems}");
    }
}

#[test]
fn schema_accepts_the_documented_settings() {
    let schema: serde_json::Value = serde_json::from_str(include_str!("../gateway.schema.json")).unwrap();
    let pages = [
        include_str!("../../docs/gateway/configuration.md"),
        include_str!("../../docs/gateway/sign-in.md"),
        include_str!("../../docs/gateway/webhooks.md"),
        include_str!("../../docs/gateway/policy-life.md"),
        include_str!("../../docs/gateway/high-availability.md"),
    ];
    let hash = ApiKeyHash::of("any").to_string();
    let mut count = 0;
    for block in pages.iter().flat_map(|page| page.split("```toml\n").skip(1)) {
        let block = block.split("```").next().unwrap().replace("sha256:…", &hash);
        for with_optional in [false, true] {
            // Optional members are comments.
            let lines = block.lines().map(|line| match line.strip_prefix("# ") {
                Some(optional)
                    if with_optional && (optional.contains(" = ") || optional.starts_with('[')) =>
                {
                    optional
                }
                Some(_) | None => line,
            });
            let text = lines.collect::<Vec<_>>().join("\n");
            let table: toml::Table = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            let mut found = Vec::new();
            mismatches(&schema, &table.into(), "root", &mut found);
            assert_eq!(found, Vec::<String>::new(), "{text}");
            count += 1;
        }
    }
    assert!(count >= 10, "{count}");
    // It rejects invalid settings.
    for (text, problem) in [
        ("lisen = \"x\"", "root.lisen: unknown"),
        ("watch = \"yes\"", "root.watch: string instead of \"boolean\""),
        ("[[tenants]]\nid = \"a\"", "root.tenants[0].\"policy\": missing"),
        ("[approvals]\ndeadline_seconds = 5", "root.approvals.deadline_seconds: 5"),
        ("log = \"xml\"", "root.log: \"xml\""),
    ] {
        let mut found = Vec::new();
        mismatches(&schema, &text.parse::<toml::Table>().unwrap().into(), "root", &mut found);
        assert_eq!(found, [problem]);
    }
}
