//! Traces: spans of the gateway in the caller's trace, exported by OTLP over HTTP.
//!
//! The spans of a request are created when it is answered, from its measured times. Without a
//! configured collector nothing is measured for them.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use actpass_protocol::Secret;
use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use http_body_util::Full;
use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
    Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use rustls::pki_types::CertificateDer;

use crate::access_log::{Access, Answered};
use crate::metrics::Metrics;
use crate::webhooks::Target;

/// Timeout of an export.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum time to export the remaining spans when the gateway stops.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum size of a collector's response, in bytes.
const MAX_RESPONSE: usize = 64 * 1024;

/// A collector of traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSettings {
    /// The URL for traces.
    pub endpoint: String,
    /// The only trusted authorities; `None` for the system's.
    pub authorities: Option<Vec<CertificateDer<'static>>>,
    /// Percentage of the requests without a caller's trace that are traced. Default: 100.
    pub sample_percent: u8,
    /// Headers of each export. Their values are secret.
    pub headers: ExportHeaders,
}

/// Headers of exports, with redacted values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportHeaders(HeaderMap);

impl ExportHeaders {
    /// Adds a header.
    ///
    /// # Errors
    ///
    /// Returns the invalid member of the settings and the expectation.
    pub fn add(&mut self, name: &str, value: &Secret) -> Result<(), (&'static str, &'static str)> {
        let name = HeaderName::try_from(name).map_err(|_| ("name", "expected the name of an HTTP header"))?;
        if [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::HOST].contains(&name) {
            return Err(("name", "expected a header other than content-type, content-length and host"));
        }
        let value = HeaderValue::try_from(value.expose());
        let mut value = value.map_err(|_| ("file", "expected one line of visible characters"))?;
        value.set_sensitive(true);
        self.0.insert(name, value);
        Ok(())
    }

    /// Returns whether it contains no header.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The spans of a gateway. Dropping it exports the remaining ones in the background.
#[derive(Debug)]
pub(crate) struct Traces {
    settings: TraceSettings,
    runtime: tokio::runtime::Handle,
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    /// Name of the database system.
    system: &'static str,
}

impl Traces {
    /// Starts the export. Must be called within an async runtime.
    ///
    /// # Errors
    ///
    /// Returns an error if the authorities or the URL are unusable.
    pub(crate) fn start(
        settings: TraceSettings,
        system: &'static str,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        let target = Target::new(settings.authorities.as_deref(), true, TIMEOUT)?;
        let runtime = tokio::runtime::Handle::current();
        let headers = settings.headers.0.clone();
        let client = Collector { target: Arc::new(target), headers, runtime: runtime.clone(), metrics };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&settings.endpoint)
            .with_timeout(TIMEOUT)
            .build();
        let exporter = exporter.map_err(|error| error.to_string())?;
        let ratio = f64::from(settings.sample_percent) / 100.0;
        let resource = Resource::builder_empty()
            .with_attribute(KeyValue::new("service.name", "actpass-gateway"))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))))
            .with_resource(resource)
            .build();
        let tracer = provider.tracer("actpass-gateway");
        Ok(Self { settings, runtime, provider, tracer, system })
    }

    /// Returns whether these are the settings in use.
    pub(crate) fn has(&self, settings: &TraceSettings) -> bool {
        self.settings == *settings
    }

    /// Creates the spans of a request that was answered now.
    pub(crate) fn answered(&self, answered: &Answered<'_>, access: &Access) {
        let (end, now) = (SystemTime::now(), Instant::now());
        let begin = end.checked_sub(answered.duration).unwrap_or(end);
        let parent = match access.traceparent().and_then(remote) {
            Some(remote) => Context::new().with_remote_span_context(remote),
            None => Context::new(),
        };
        let text = |name, value: &str| KeyValue::new(name, value.to_owned());
        let mut attributes = vec![
            text("http.request.method", answered.method),
            text("http.route", answered.route),
            KeyValue::new("http.response.status_code", i64::from(answered.status)),
            text("actpass.request_id", answered.request_id),
        ];
        attributes.extend(access.decided().map(|(name, value)| text(name, value)));
        attributes.extend(answered.code.map(|code| text("error.type", code)));
        let mut span = self
            .tracer
            .span_builder(format!("{} {}", answered.method, answered.route))
            .with_kind(SpanKind::Server)
            .with_start_time(begin)
            .with_attributes(attributes)
            .start_with_context(&self.tracer, &parent);
        if answered.status >= 500 {
            span.set_status(Status::error(""));
        }
        let context = parent.with_span(span);
        let at = |instant| end.checked_sub(now.duration_since(instant)).unwrap_or(end);
        for stage in access.stages() {
            let builder = self.tracer.span_builder(stage.name).with_kind(SpanKind::Internal);
            let span = builder.with_start_time(at(stage.begun)).start_with_context(&self.tracer, &context);
            let within = context.with_span(span);
            if let Some(begun) = stage.transaction {
                let transaction = self.tracer.span_builder("transaction").with_kind(SpanKind::Client);
                transaction
                    .with_start_time(at(begun))
                    .with_attributes([KeyValue::new("db.system.name", self.system)])
                    .start_with_context(&self.tracer, &within)
                    .end_with_timestamp(at(stage.ended));
            }
            within.span().end_with_timestamp(at(stage.ended));
        }
        context.span().end_with_timestamp(end);
    }

    /// Exports the remaining spans. Blocks for up to [`FLUSH_TIMEOUT`].
    pub(crate) fn stop(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH_TIMEOUT) {
            tracing::warn!(%error, "the last traces were not exported");
        }
    }
}

impl Drop for Traces {
    /// The last request of replaced settings drops this on a thread that must not block.
    fn drop(&mut self) {
        let provider = self.provider.clone();
        // An error is reported by the failed export, or the provider was already stopped.
        self.runtime.spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_TIMEOUT));
    }
}

/// Returns the caller's span from a valid `traceparent`.
fn remote(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = u8::from_str_radix(parts.next()?, 16).ok()?;
    let found = SpanContext::new(trace, span, TraceFlags::new(flags), true, TraceState::default());
    found.is_valid().then_some(found)
}

/// Sends exports on the gateway's runtime, because the exporter has a thread without one.
#[derive(Clone, Debug)]
struct Collector {
    target: Arc<Target>,
    headers: HeaderMap,
    runtime: tokio::runtime::Handle,
    metrics: Arc<Metrics>,
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        for (name, value) in &self.headers {
            request.headers_mut().insert(name, value.clone());
        }
        let target = Arc::clone(&self.target);
        let sending = async move { target.send(request.map(Full::new), MAX_RESPONSE).await };
        let sent = self.runtime.spawn(sending).await;
        let response = sent.map_err(HttpError::from).and_then(|sent| sent.map_err(HttpError::from));
        let problem = match &response {
            Ok(response) if response.status().is_success() => return Ok(response.clone()),
            Ok(response) => format!("the collector answered with status {}", response.status().as_u16()),
            Err(error) => error.to_string(),
        };
        self.metrics.trace_export_failed();
        tracing::warn!(problem, "exporting traces failed; their spans are lost");
        response
    }
}
