//! Metrics and health checks over HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use actpass_gateway::access_log::AccessLogTarget;
use actpass_gateway::auth::ApiKeyHash;
use actpass_gateway::config::{MetricsSettings, Settings};
use actpass_protocol::Json;
use common::{EVIDENCE, Gateway, PREFLIGHT, json, refund, text};
use reqwest::StatusCode;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0";

/// A policy with a budget: two refunds of any amount.
const POLICY: &str = r#"{"id": "p", "version": 1,
    "budgets": [{"name": "two", "when": [], "per": ["agent_id"], "count": true, "limit": 2, "window": "24h",
        "on_exceed": "deny", "reason": "refund.too_many"}],
    "rules": [
        {"name": "large", "when": [{"path": "args.amount", "operator": ">", "value": 100}],
         "decision": "require_approval", "reason": "refund.large"},
        {"name": "small", "when": [], "decision": "allow", "reason": "refund.small"}]}"#;

/// Starts a gateway with a listener for metrics, an unreachable webhook, and keys that expire.
async fn start() -> Gateway {
    Gateway::start_with("", |settings| {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("policy.json"), POLICY).unwrap();
        let text = common::config_with("", "policy.json")
            + &format!(
                "expires_at = \"2099-01-01T00:00:00Z\"\n[[webhooks]]\nname = \"w\"\n\
                 url = \"http://127.0.0.1:1/none\"\nform = \"slack\"\ndanger_allow_private_address = true\n\
                 [metrics]\nlisten = \"127.0.0.1:0\"\n[[keys]]\nname = \"auditor\"\nhash = \"{}\"\n\
                 tenant = \"one\"\nrole = \"auditor\"\n",
                ApiKeyHash::of("apdv_auditor")
            );
        let data = settings.data.clone();
        *settings = Settings::parse(&text, folder.path()).unwrap_or_else(|problems| panic!("{problems}"));
        settings.data = data;
    })
    .await
}

fn metrics_url(gateway: &Gateway, path: &str) -> String {
    format!("http://{}{path}", gateway.server.as_ref().unwrap().metrics_address().unwrap())
}

/// Returns the metrics of all tenants.
async fn scrape(gateway: &Gateway) -> String {
    let response = gateway.client.get(metrics_url(gateway, "/metrics")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    response.text().await.unwrap()
}

/// Returns the value of a series, or the sum of all series that start like this.
fn value(metrics: &str, series: &str) -> f64 {
    let values: Vec<f64> = metrics
        .lines()
        .filter(|line| line.starts_with(series))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
        .collect();
    assert!(!values.is_empty(), "{series} is missing:\n{metrics}");
    values.iter().sum()
}

/// Makes the gateway do everything that is counted once.
async fn exercise(gateway: &Gateway) {
    for amount in ["1", "1", "1"] {
        gateway.decide("apk_one", &refund(amount, "")).await;
    }
    let large = refund("1000", r#", "idempotency_key": "k""#);
    gateway.decide("apk_two", &large).await;
    let small = refund("1", r#", "idempotency_key": "s""#);
    for _ in 0..3 {
        gateway.decide("apk_two", &small).await;
    }
    gateway.decide("apk_one", &refund("1", r#", "mode": "monitor""#)).await;
    let halt = r#"{"scope": "tool", "id": "t", "reason": "r"}"#;
    let response = gateway.post("/api/v1/halts", "apdv_one").body(halt).send().await.unwrap();
    assert_eq!(response.status(), 201);
}

#[tokio::test]
async fn counts_decisions_stages_and_data() {
    let gateway = start().await;
    exercise(&gateway).await;
    let metrics = scrape(&gateway).await;
    for (series, expected) in [
        (
            r#"actpass_gateway_decisions_total{tenant="one",mode="enforce",decision="allow",reason_code="refund.small"}"#,
            2.0,
        ),
        (
            r#"actpass_gateway_decisions_total{tenant="one",mode="enforce",decision="deny",reason_code="refund.too_many"}"#,
            1.0,
        ),
        (
            r#"actpass_gateway_decisions_total{tenant="one",mode="monitor",decision="deny",reason_code="refund.too_many"}"#,
            1.0,
        ),
        (r#"actpass_gateway_decisions_total{tenant="two",mode="enforce",decision="require_approval""#, 1.0),
        (r#"actpass_gateway_decisions_total{tenant="two",mode="enforce",decision="allow""#, 1.0),
        (r#"actpass_gateway_replays_total{tenant="two"}"#, 2.0),
        (r#"actpass_gateway_budget_exceeded_total{tenant="one",budget="two"}"#, 2.0),
        (r#"actpass_gateway_budget_accounts{tenant="one",budget="two",state="exhausted"}"#, 1.0),
        (r#"actpass_gateway_budget_accounts{tenant="two",budget="two",state="open"}"#, 1.0),
        (r#"actpass_gateway_budget_lowest_remaining_ratio{tenant="one",budget="two"}"#, 0.0),
        (r#"actpass_gateway_budget_lowest_remaining_ratio{tenant="two",budget="two"}"#, 0.5),
        (r#"actpass_gateway_approvals_pending{tenant="two",age="under_1m"}"#, 1.0),
        (r#"actpass_gateway_approvals_pending{tenant="two",age="over_1h"}"#, 0.0),
        (r#"actpass_gateway_approvals_pending{tenant="one""#, 0.0),
        (r#"actpass_gateway_halts{tenant="one",scope="tool"}"#, 1.0),
        (r#"actpass_gateway_halts{tenant="two""#, 0.0),
        ("actpass_gateway_halts_of_all_tenants", 0.0),
        (r#"actpass_gateway_preflight_duration_seconds_count{stage="whole"}"#, 8.0),
        (r#"actpass_gateway_preflight_duration_seconds_count{stage="record"}"#, 8.0),
        (
            r#"actpass_gateway_requests_total{route="/api/v1/actions/preflight",method="POST",status="200"}"#,
            8.0,
        ),
        (
            r#"actpass_gateway_key_expiry_timestamp_seconds{tenant="two",key="name-of-apk-two"}"#,
            4_070_908_800.0,
        ),
        ("actpass_gateway_store_up", 1.0),
        ("actpass_gateway_store_errors_total", 0.0),
        ("actpass_gateway_draining", 0.0),
        ("actpass_gateway_write_queue_jobs", 0.0),
        ("actpass_gateway_write_queue_capacity", 4096.0),
        (r#"actpass_gateway_reloads_total{result="failed"}"#, 0.0),
        ("actpass_gateway_reload_last_failed", 0.0),
        (r#"actpass_gateway_build_info{version="2.0.0"}"#, 1.0),
    ] {
        assert!((value(&metrics, series) - expected).abs() < f64::EPSILON, "{series}:\n{metrics}");
    }
    let events = gateway.events("apk_one", "decisions").await.len();
    let events = f64::from(u32::try_from(events).unwrap());
    assert!(value(&metrics, r#"actpass_gateway_ledger_events{tenant="one"}"#) >= events);
    assert!(value(&metrics, r#"actpass_gateway_webhook_waiting_events{tenant="one",webhook="w"}"#) >= 1.0);
    assert!(value(&metrics, "actpass_gateway_store_commit_duration_seconds_count") >= 1.0);
    let batches = value(&metrics, "actpass_gateway_store_batch_duration_seconds_count");
    assert!(value(&metrics, "actpass_gateway_store_batch_records_sum") >= batches);
    gateway.stop().await;
}

/// Names in a text of metrics, each with its samples' suffixes removed.
fn names(metrics: &str) -> BTreeSet<String> {
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.map(|line| line.split_once(' ').unwrap().0.to_owned()).collect()
}

#[tokio::test]
async fn documentation_lists_each_metric() {
    let gateway = start().await;
    exercise(&gateway).await;
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/telemetry.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let documented: BTreeSet<_> = docs
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.starts_with("actpass_gateway_") || name.starts_with("process_"))
        .collect();
    let mut found = names(&scrape(&gateway).await);
    // This gateway has no certificate, no access log and no excess load.
    found.insert("actpass_gateway_certificate_expiry_timestamp_seconds".to_owned());
    found.insert("actpass_gateway_access_log_dropped_lines_total".to_owned());
    found.insert("actpass_gateway_shed_total".to_owned());
    assert_eq!(found, documented, "docs/telemetry.md");
    let name = regex::Regex::new(r"\b(?:actpass_gateway|process)_\w+").unwrap();
    for file in ["grafana/actpass-gateway.json", "prometheus/alerts.yaml", "prometheus/alerts.test.yaml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file);
        let text = std::fs::read_to_string(path).unwrap();
        let used: BTreeSet<_> = name.find_iter(&text).map(|name| name.as_str()).collect();
        assert!(used.len() > 10, "{file}");
        for used in used {
            let ends = ["_bucket", "_sum", "_count"].into_iter();
            let mut families = ends.map(|end| used.strip_suffix(end).unwrap_or(used));
            assert!(families.any(|family| found.contains(family)), "{file}: unknown metric {used}");
        }
    }
    gateway.stop().await;
}

/// Runs promtool with `input`; `None` if it is missing, which is an error if CI=true.
fn promtool(arguments: &[&str], input: &str) -> Option<(bool, String)> {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "promtool is missing");
        eprintln!("SKIPPED: promtool (install Debian's package prometheus)");
        return None;
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

#[tokio::test]
async fn promtool_accepts_metrics() {
    let gateway = start().await;
    exercise(&gateway).await;
    let metrics = scrape(&gateway).await;
    if let Some((is_valid, problems)) = promtool(&["check", "metrics"], &metrics) {
        assert!(is_valid && problems.trim().is_empty(), "{problems}");
        let (is_valid, problems) = promtool(&["check", "metrics"], "Broken{ 1\n").unwrap();
        assert!(!is_valid, "{problems}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn answers_openmetrics_if_accepted() {
    let gateway = start().await;
    exercise(&gateway).await;
    let request = gateway.client.get(metrics_url(&gateway, "/metrics"));
    // As Prometheus 2 sends it.
    let accept = format!("{OPEN_METRICS};q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1");
    let response = request.header("accept", accept).send().await.unwrap();
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with(OPEN_METRICS));
    let metrics = response.text().await.unwrap();
    assert!(metrics.ends_with("\n# EOF\n"));
    assert_eq!(metrics.matches("# EOF").count(), 1);
    assert!(metrics.contains("# TYPE actpass_gateway_decisions counter\n"), "{metrics}");
    assert!(metrics.contains("# UNIT actpass_gateway_preflight_duration_seconds seconds\n"), "{metrics}");
    let plain: BTreeSet<_> = names(&scrape(&gateway).await)
        .iter()
        .map(|name| name.trim_end_matches("_total").to_owned())
        .collect();
    assert_eq!(names(&metrics), plain);
    gateway.stop().await;
}

#[tokio::test]
async fn key_reads_metrics_of_its_tenant() {
    let gateway = start().await;
    exercise(&gateway).await;
    let response = gateway.client.get(format!("{}/metrics", gateway.url)).send().await.unwrap();
    assert_eq!(response.status(), 401);
    for key in ["apk_one", "apk_two"] {
        assert_eq!(gateway.get("/metrics", key).send().await.unwrap().status(), 403, "{key}");
    }
    for key in ["apdv_one", "apdv_auditor"] {
        let response = gateway.get("/metrics", key).send().await.unwrap();
        assert_eq!(response.status(), 200, "{key}");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let metrics = response.text().await.unwrap();
        assert!(metrics.contains(r#"tenant="one""#));
        assert!(!metrics.contains(r#"tenant="two""#) && !metrics.contains("name-of-apk-two"), "{metrics}");
        assert!(value(&metrics, "actpass_gateway_store_up") > 0.5);
    }
    gateway.stop().await;
}

#[tokio::test]
async fn listener_requires_its_token() {
    let mut gateway = start().await;
    let token = "metrics-token-0123456789abcdef0123456789";
    gateway
        .restart(|settings| {
            let listen = "127.0.0.1:0".parse().unwrap();
            settings.metrics = Some(MetricsSettings { listen, token: Some(ApiKeyHash::of(token)) });
        })
        .await;
    for (presented, status) in
        [(None, 401), (Some("other"), 401), (Some("apdv_one"), 401), (Some(token), 200)]
    {
        let mut request = gateway.client.get(metrics_url(&gateway, "/metrics"));
        if let Some(presented) = presented {
            request = request.bearer_auth(presented);
        }
        assert_eq!(request.send().await.unwrap().status(), status, "{presented:?}");
    }
    // It serves nothing else, and health without a token.
    for (path, status) in [("/livez", 200), ("/readyz", 200), ("/openapi.json", 404), ("/", 404)] {
        let response = gateway.client.get(metrics_url(&gateway, path)).send().await.unwrap();
        assert_eq!(response.status(), status, "{path}");
    }
    let request = gateway.client.post(metrics_url(&gateway, PREFLIGHT)).bearer_auth("apk_one");
    assert_eq!(request.body(refund("1", "")).send().await.unwrap().status(), 404);
    let request = gateway.client.get(metrics_url(&gateway, "/livez")).header("host", "evil.example");
    assert_eq!(request.send().await.unwrap().status(), 421);
    gateway.stop().await;
}

#[test]
fn open_listener_is_refused() {
    let folder = TempDir::new().unwrap();
    let hash = ApiKeyHash::of("x");
    let problems = |metrics: &str, more: &str| {
        let text = common::config("").replace("[limits]", &format!("{more}\n[limits]"));
        let parsed = Settings::parse(&format!("{text}[metrics]\n{metrics}\n"), folder.path());
        parsed.err().map(|problems| problems.to_string()).unwrap_or_default()
    };
    let plain = "danger_allow_plain_http = true";
    assert!(problems("", "").contains("metrics.listen: missing"));
    assert!(problems("listen = \"0.0.0.0:9464\"", plain).contains("metrics.hash is required"));
    let with_hash = format!("listen = \"0.0.0.0:9464\"\nhash = \"{hash}\"");
    assert!(problems(&with_hash, "").contains("[tls] is required"));
    assert!(problems("listen = \"127.0.0.1:0\"\nhash = \"sha256:0\"", "").contains("metrics.hash: expected"));
    assert!(
        problems("listen = \"127.0.0.1:0\"\ntoken = \"t\"", "").contains("metrics.token: unknown member")
    );
    assert_eq!(problems(&with_hash, plain), "");
    assert_eq!(problems("listen = \"0.0.0.0:9464\"\ndanger_allow_open_metrics = true", plain), "");
    assert_eq!(problems("listen = \"localhost:9464\"", ""), "");
}

/// While requests in flight complete, the gateway is alive but not ready, which its metrics show.
#[tokio::test]
async fn is_not_ready_while_it_drains() {
    let mut gateway = start().await;
    for path in ["/livez", "/readyz"] {
        let response = gateway.client.get(format!("{}{path}", gateway.url)).send().await.unwrap();
        let (status, body) = json(response).await;
        assert_eq!((status.as_u16(), body.to_string().as_str()), (200, r#"{"status":"ok"}"#), "{path}");
    }
    let (ready, live) = (metrics_url(&gateway, "/readyz"), metrics_url(&gateway, "/livez"));
    let metrics = metrics_url(&gateway, "/metrics");
    let mut stream =
        tokio::net::TcpStream::connect(gateway.url.strip_prefix("http://").unwrap()).await.unwrap();
    let body = refund("1", "");
    let head = format!(
        "POST {PREFLIGHT} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer apk_one\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The gateway reads the body, so the request is in flight.
    let mut continued = [0; 25];
    stream.read_exact(&mut continued).await.unwrap();
    assert_eq!(&continued, b"HTTP/1.1 100 Continue\r\n\r\n");
    let stopping = tokio::spawn(gateway.server.take().unwrap().stop());
    let client = gateway.client.clone();
    let not_ready = async {
        loop {
            let response = client.get(&ready).send().await.unwrap();
            if response.status() != StatusCode::OK {
                return json(response).await;
            }
        }
    };
    let (status, body_of_error) = tokio::time::timeout(Duration::from_secs(60), not_ready).await.unwrap();
    assert_eq!(status, 503);
    assert_eq!(text(&body_of_error, "error.code"), Some("not_ready"));
    assert_eq!(client.get(&live).send().await.unwrap().status(), 200);
    let written = client.get(&metrics).send().await.unwrap().text().await.unwrap();
    assert!(value(&written, "actpass_gateway_draining") > 0.5);
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.unwrap();
    assert!(response.starts_with(b"HTTP/1.1 200 OK"), "{}", String::from_utf8_lossy(&response));
    stopping.await.unwrap().unwrap();
    assert!(client.get(&live).send().await.is_err(), "the listener ends after the drain");
}

#[tokio::test]
async fn unmatched_routes_share_a_series() {
    let gateway = start().await;
    for path in ["/a", "/b?apk_secret", "/api/v1/evidence/chains/one", "/api/v1/evidence/chains/two"] {
        gateway.get(path, "apk_one").send().await.unwrap();
    }
    gateway.post(EVIDENCE, "apk_one").body("{").send().await.unwrap();
    let metrics = scrape(&gateway).await;
    let series = |prefix: &str| value(&metrics, &format!("actpass_gateway_requests_total{{route=\"{prefix}"));
    assert!((series("(none)") - 2.0).abs() < f64::EPSILON, "{metrics}");
    assert!((series("/api/v1/evidence/chains/{chain_id}") - 2.0).abs() < f64::EPSILON, "{metrics}");
    assert!(!metrics.contains("apk_secret"));
    gateway.stop().await;
}

#[tokio::test]
async fn access_log_has_a_line_for_each_request() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("access.log");
    let gateway = Gateway::start_with("", |settings| {
        settings.access_log = Some(AccessLogTarget::File(file.clone()));
    })
    .await;
    let decision = gateway.decide("apk_one", &refund("1", r#", "user_id": "secret-user""#)).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let query = "/api/v1/approvals?status=pending&secret-query=1";
    let request = gateway.get(query, "apdv_one").header("traceparent", trace);
    let answered = request.header("user-agent", "secret-agent").send().await.unwrap();
    let request_id = answered.headers()["x-request-id"].to_str().unwrap().to_owned();
    gateway.get("/secret-path", "apk_secret").send().await.unwrap();
    gateway.post(PREFLIGHT, "apk_secret").body("{}").send().await.unwrap();
    gateway.stop().await;
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(!written.contains("secret"), "{written}");
    let lines: Vec<_> = written.lines().map(|line| Json::parse(line.as_bytes()).unwrap()).collect();
    assert_eq!(lines.len(), 4, "{written}");
    for (line, expected) in lines.iter().zip([
        [("route", PREFLIGHT), ("key", "name-of-apk-one"), ("decision", "allow"), ("method", "POST")],
        [("route", "/api/v1/approvals"), ("key", "name-of-apdv-one"), ("tenant", "one"), ("method", "GET")],
        [("route", "(none)"), ("code", "not_found"), ("method", "GET"), ("peer", "127.0.0.1")],
        [("route", PREFLIGHT), ("code", "unauthenticated"), ("method", "POST"), ("peer", "127.0.0.1")],
    ]) {
        for (name, value) in expected {
            assert_eq!(text(line, name), Some(value), "{line}");
        }
        assert!(humantime::parse_rfc3339(text(line, "time").unwrap()).is_ok(), "{line}");
        assert!(line.member("duration_us").is_some(), "{line}");
    }
    assert_eq!(text(&lines[0], "event_id"), text(&decision, "evidence_event_id"));
    assert_eq!(text(&lines[0], "tool"), Some("refunds.create"));
    assert_eq!(text(&lines[1], "trace_id"), Some("0af7651916cd43dd8448eb211c80319c"));
    assert_eq!(text(&lines[1], "request_id"), Some(&*request_id));
    let statuses: Vec<_> = lines.iter().map(|line| line.member("status").unwrap().to_string()).collect();
    assert_eq!(statuses, ["200", "422", "404", "401"]);
}
