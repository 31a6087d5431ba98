//! Traces: spans exported to a collector of OTLP over HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use actpass_gateway::config::Settings;
use actpass_gateway::server::Server;
use actpass_gateway::store::Location;
use actpass_gateway::traces::{ExportHeaders, TraceSettings};
use axum::http::{HeaderMap, StatusCode};
use common::{Gateway, PREFLIGHT, refund};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// A collector.
struct Collector {
    endpoint: String,
    exports: mpsc::UnboundedReceiver<(HeaderMap, ExportTraceServiceRequest)>,
    serving: JoinHandle<()>,
}

impl Collector {
    async fn start() -> Self {
        Self::answering(StatusCode::OK).await
    }

    async fn answering(status: StatusCode) -> Self {
        let (received, exports) = mpsc::unbounded_channel();
        let collect = move |headers: HeaderMap, body: axum::body::Bytes| {
            received.send((headers, ExportTraceServiceRequest::decode(body).unwrap())).unwrap();
            async move { status }
        };
        let router = axum::Router::new().route("/v1/traces", axum::routing::post(collect));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let serving = tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        Self { endpoint, exports, serving }
    }

    fn settings(&self, sample_percent: u8) -> TraceSettings {
        settings(self.endpoint.clone(), sample_percent)
    }

    /// Returns all spans after the gateway has stopped.
    async fn stop(mut self) -> Vec<Span> {
        self.serving.abort();
        let _ = self.serving.await;
        let mut spans = Vec::new();
        while let Ok((_, export)) = self.exports.try_recv() {
            for resource in export.resource_spans {
                assert!(format!("{:?}", resource.resource).contains("actpass-gateway"));
                spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        }
        spans
    }
}

fn settings(endpoint: String, sample_percent: u8) -> TraceSettings {
    TraceSettings { endpoint, authorities: None, sample_percent, headers: ExportHeaders::default() }
}

async fn decide(gateway: &Gateway, traceparent: Option<&str>) {
    let mut request = gateway.post(PREFLIGHT, "apk_one").body(refund("1", r#", "user_id": "secret""#));
    if let Some(traceparent) = traceparent {
        request = request.header("traceparent", traceparent);
    }
    assert_eq!(request.send().await.unwrap().status(), 200);
}

/// Returns the only span of this name.
#[track_caller]
fn named<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "{name}: {spans:?}");
    found[0]
}

/// Returns whether `inner` is a child of `outer` and within its times.
fn is_within(inner: &Span, outer: &Span) -> bool {
    inner.parent_span_id == outer.span_id
        && inner.trace_id == outer.trace_id
        && outer.start_time_unix_nano <= inner.start_time_unix_nano
        && inner.start_time_unix_nano <= inner.end_time_unix_nano
        && inner.end_time_unix_nano <= outer.end_time_unix_nano
}

#[tokio::test]
async fn spans_continue_the_callers_trace_to_the_transaction() {
    let collector = Collector::start().await;
    let traces = collector.settings(0);
    let gateway = Gateway::start_with("", |settings| settings.traces = Some(traces)).await;
    for traceparent in [
        Some(format!("00-{TRACE}-{CALLER}-01")),
        // Not sampled, invalid, and missing.
        Some(format!("00-{TRACE}-{CALLER}-00")),
        Some("00-00000000000000000000000000000000-b7ad6b7169203331-01".to_owned()),
        Some(format!("00-{TRACE}-0000000000000000-01")),
        None,
    ] {
        decide(&gateway, traceparent.as_deref()).await;
    }
    let system = match &gateway.data {
        Location::Database(_) => "postgresql",
        Location::File(_) => "sqlite",
    };
    gateway.stop().await;
    let spans = collector.stop().await;

    let server = named(&spans, &format!("POST {PREFLIGHT}"));
    assert_eq!(hex::encode(&server.trace_id), TRACE);
    assert_eq!(hex::encode(&server.parent_span_id), CALLER);
    let attributes = format!("{:?}", server.attributes);
    for expected in
        ["actpass.decision", "allow", "actpass.evidence_event_id", "http.route", "name-of-apk-one"]
    {
        assert!(attributes.contains(expected), "{attributes}");
    }
    for name in ["receive", "decide", "record"] {
        assert!(is_within(named(&spans, name), server), "{name}: {spans:?}");
    }
    assert!(named(&spans, "decide").end_time_unix_nano <= named(&spans, "record").start_time_unix_nano);
    let transaction = named(&spans, "transaction");
    assert!(is_within(transaction, named(&spans, "record")), "{spans:?}");
    let attributes = format!("{:?}", transaction.attributes);
    assert!(attributes.contains("db.system.name") && attributes.contains(system), "{attributes}");
    assert_eq!(spans.len(), 5, "{spans:?}");
}

/// Neither accepted nor refused requests put a secret, an argument, a path or a query into a span.
#[tokio::test]
async fn spans_contain_no_argument_key_or_path() {
    let collector = Collector::start().await;
    let traces = collector.settings(100);
    let gateway = Gateway::start_with("", |settings| settings.traces = Some(traces)).await;
    decide(&gateway, None).await;
    let body = r#"{"agent_id": "hidden", "goal": "hidden", "tool": "hidden.", "args": {"hidden": "hidden"}"#;
    for (path, key, body) in [
        (PREFLIGHT, "apk_hidden", body),
        (PREFLIGHT, "apk_one", body),
        ("/hidden/apk_hidden?token=hidden", "apk_one", "{}"),
        ("/api/v1/evidence/chains/hidden", "apk_hidden", ""),
    ] {
        let response = gateway.post(path, key).body(body).send().await.unwrap();
        assert!(response.status().is_client_error(), "{path}");
    }
    gateway.stop().await;
    let spans = collector.stop().await;
    let names: BTreeSet<_> = spans.iter().map(|span| span.name.as_str()).collect();
    let expected = [
        "POST (none)",
        "POST /api/v1/actions/preflight",
        "POST /api/v1/evidence/chains/{chain_id}",
        "decide",
        "receive",
        "record",
        "transaction",
    ];
    assert_eq!(names, BTreeSet::from(expected));
    let all = format!("{spans:?}");
    for secret in ["hidden", "apk_one", "secret", "currency", "refund an order", "sdk"] {
        assert!(!all.contains(secret), "{secret}: {all}");
    }
    assert!(all.contains("error.type"), "{all}");
}

/// With a collector that never answers, refuses, or is unreachable, decisions and stops succeed.
#[tokio::test]
async fn failed_exports_change_no_decision_and_are_counted() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hanging = format!("http://{}/v1/traces", silent.local_addr().unwrap());
    let refusing = Collector::answering(StatusCode::UNAUTHORIZED).await;
    let closed = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}/v1/traces", listener.local_addr().unwrap())
    };
    for (endpoint, is_counted) in [(hanging, false), (refusing.endpoint.clone(), true), (closed, true)] {
        let gateway =
            Gateway::start_with("", |gateway| gateway.traces = Some(settings(endpoint.clone(), 100))).await;
        // More spans than fit into an export start the export.
        for _ in 0..110 {
            decide(&gateway, None).await;
        }
        let count = async || {
            let metrics = gateway.get("/metrics", "apdv_one").send().await.unwrap().text().await.unwrap();
            let line = metrics
                .lines()
                .find_map(|line| line.strip_prefix("actpass_gateway_trace_export_failures_total "));
            line.unwrap().parse::<f64>().unwrap()
        };
        while is_counted && count().await < 1.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The stop is bounded, even if the collector never answers.
        gateway.stop().await;
    }
}

/// A reload applies changed settings and header files; the spans before it go to the previous collector.
#[tokio::test]
async fn reload_replaces_the_collector_and_the_headers() {
    common::install_provider();
    let [first, second] = [Collector::start().await, Collector::start().await];
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("gateway.toml");
    let write = |endpoint: &str, token: &str| {
        std::fs::write(folder.path().join("token"), token).unwrap();
        let traces = format!(
            "[traces]\nendpoint = \"{endpoint}\"\n[[traces.headers]]\nname = \"authorization\"\nfile = \"token\"\n"
        );
        std::fs::write(&file, format!("{}{traces}", common::config(""))).unwrap();
    };
    write(&first.endpoint, "Bearer one\n");
    let read = Settings::load(&file).unwrap();
    assert!(!format!("{read:?}").contains("Bearer"), "{read:?}");
    let server = Server::start(read).await.unwrap();
    let client = common::client();
    let url = server.url();
    let post = async |path: &str, key: &str| {
        let request = client.post(format!("{url}{path}")).bearer_auth(key);
        let request = request.header("content-type", "application/json").body(refund("1", ""));
        assert_eq!(request.send().await.unwrap().status(), 200);
    };
    let mut collectors = [first, second];
    post(PREFLIGHT, "apk_one").await;
    write(&collectors[0].endpoint, "Bearer two\n");
    post("/api/v1/reload", "apdv_one").await;
    post(PREFLIGHT, "apk_one").await;
    write(&collectors[1].endpoint, "Bearer three\n");
    post("/api/v1/reload", "apdv_one").await;
    post(PREFLIGHT, "apk_one").await;
    server.stop().await.unwrap();
    for (collector, expected) in [(0, &["Bearer one", "Bearer two"][..]), (1, &["Bearer three"])] {
        let exports = &mut collectors[collector].exports;
        let mut found = BTreeSet::new();
        while found.len() < expected.len() {
            // A missing export fails the test in place of a hang.
            let export = tokio::time::timeout(Duration::from_secs(60), exports.recv()).await;
            let (headers, _) = export.unwrap().unwrap();
            found.insert(headers["authorization"].to_str().unwrap().to_owned());
        }
        assert_eq!(found, expected.iter().map(|one| (*one).to_owned()).collect());
    }
}

#[test]
fn problems_name_the_member_and_no_secret() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("token"), "Bearer hidden").unwrap();
    std::fs::write(folder.path().join("lines"), "hidden\nhidden").unwrap();
    let url = "endpoint = \"https://collector.example/v1/traces\"\n";
    let header = "[[traces.headers]]\nname = \"authorization\"\n";
    for (traces, problem) in [
        ("", "traces.endpoint: missing"),
        ("endpoint = \"collector:4318\"", "traces.endpoint: expected a URL such as"),
        (
            &format!("endpoint = \"http://collector/v1/traces\"\n{header}file = \"token\""),
            "traces.endpoint: headers are secret",
        ),
        (&format!("{url}sample_percent = 101"), "traces.sample_percent: expected an integer of 0 to 100"),
        (&format!("{url}ca = \"none.pem\""), "traces.ca: "),
        (&format!("{url}protocol = \"grpc\""), "traces.protocol: unknown member"),
        (&format!("{url}{header}file = \"lines\""), "traces.headers[0].file: expected one line"),
        (&format!("{url}{header}file = \"none\""), "traces.headers[0].file: "),
        (
            &format!("{url}[[traces.headers]]\nname = \"Content-Type\"\nfile = \"token\""),
            "traces.headers[0].name: expected a header other than",
        ),
    ] {
        let text = format!("{}[traces]\n{traces}\n", common::config(""));
        let found = Settings::parse(&text, folder.path()).unwrap_err().to_string();
        assert!(found.contains(problem), "{traces}: {found}");
        assert!(!found.contains("hidden"), "{found}");
    }
}
