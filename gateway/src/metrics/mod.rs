//! Metrics of a running gateway, and their text.
//!
//! [`Metrics`] has the counters and histograms, which requests update. [`Gauges`] has the values of one
//! scrape. The number of series is bounded: labels have the tenants, keys, webhooks and budgets of the
//! settings, fixed words, or at most [`MAX_DECISION_SERIES`] reason codes.

mod gauges;
mod process;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::{EncodeLabelSet, prometheus_text, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

pub(crate) use self::gauges::{Gauges, Measured, MeasuredBudget, ReloadCounts};
use crate::store::{WriteTimings, duration_histogram};

/// Prefix of the gateway's metrics.
pub(crate) const PREFIX: &str = "actpass_gateway";

/// Maximum number of series of decisions. Others are counted with the reason code [`OTHER`], which adds at
/// most one series for each tenant, mode and decision.
const MAX_DECISION_SERIES: usize = 1000;

/// Label value for everything beyond a limit.
const OTHER: &str = "(other)";

/// Methods that a request's series names.
const METHODS: [&str; 7] = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct DecisionLabels {
    tenant: Arc<str>,
    mode: &'static str,
    decision: String,
    reason_code: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct TenantLabel {
    tenant: Arc<str>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct BudgetLabels {
    tenant: Arc<str>,
    budget: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct StageLabel {
    stage: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct RequestLabels {
    route: String,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct KindLabel {
    kind: &'static str,
}

type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

/// Kind of a failed store operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StoreFailure {
    Busy,
    NotCanonical,
    Timeout,
    Unavailable,
}

impl StoreFailure {
    const ALL: [Self; 4] = [Self::Busy, Self::NotCanonical, Self::Timeout, Self::Unavailable];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::NotCanonical => "not_canonical",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Durations of the stages of an answered preflight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stages {
    /// From the headers to the complete body.
    pub(crate) receive: Duration,
    /// Parsing, loading the context, evaluating the policy.
    pub(crate) decide: Duration,
    /// In the write queue and the transaction, until it is durable.
    pub(crate) record: Duration,
}

/// Counters and histograms of a gateway since its start.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    decisions: Family<DecisionLabels, Counter>,
    /// The number of series of decisions, at least.
    decision_series: AtomicUsize,
    replays: Family<TenantLabel, Counter>,
    shed: Family<TenantLabel, Counter>,
    budgets_exceeded: Family<BudgetLabels, Counter>,
    requests: Family<RequestLabels, Counter>,
    receive: Histogram,
    decide: Histogram,
    record: Histogram,
    whole: Histogram,
    store_errors: Family<KindLabel, Counter>,
    trace_export_failures: Counter,
    /// In seconds since 1970.
    started: f64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(&WriteTimings::default())
    }
}

impl Metrics {
    pub(crate) fn new(timings: &WriteTimings) -> Self {
        let mut registry = Registry::default();
        let (decisions, replays, shed, budgets_exceeded) = Default::default();
        let (requests, store_errors, trace_export_failures) = Default::default();
        let stages: Durations<StageLabel> = Family::new_with_constructor(duration_histogram);
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();

        let start = Gauge::<f64, AtomicU64>::default();
        start.set(started);
        registry.register_with_unit(
            "process_start_time",
            "When the gateway started, since 1970",
            Unit::Seconds,
            start,
        );
        let own = registry.sub_registry_with_prefix(PREFIX);
        let build = Family::<[(&'static str, &'static str); 1], Gauge>::default();
        build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        own.register("build_info", "The version, always 1", build);
        own.register("decisions", "Recorded decisions", Family::clone(&decisions));
        own.register("replays", "Responses repeated for an idempotency key", Family::clone(&replays));
        let help = "Preflights refused because too many decisions were in progress";
        own.register("shed", help, Family::clone(&shed));
        let help = "Decisions that a budget denied or referred to people";
        own.register("budget_exceeded", help, Family::clone(&budgets_exceeded));
        own.register("requests", "Answered requests", Family::clone(&requests));
        let help = "Duration of the stages of answered preflights";
        own.register_with_unit("preflight_duration", help, Unit::Seconds, stages.clone());
        own.register("store_errors", "Failed operations of the store", Family::clone(&store_errors));
        let help = "Exports of spans that failed";
        own.register("trace_export_failures", help, Counter::clone(&trace_export_failures));
        let help = "Duration of the transactions of the writer";
        own.register_with_unit("store_batch_duration", help, Unit::Seconds, timings.batch.clone());
        let help = "Duration of the commits of the writer, with the sync to disk";
        own.register_with_unit("store_commit_duration", help, Unit::Seconds, timings.commit.clone());
        own.register(
            "store_batch_records",
            "Records of a transaction of the writer",
            timings.records.clone(),
        );
        for failure in StoreFailure::ALL {
            let _ = Family::<KindLabel, Counter>::get_or_create_owned(
                &store_errors,
                &KindLabel { kind: failure.as_str() },
            );
        }
        let stage = |stage| stages.get_or_create_owned(&StageLabel { stage });
        let [receive, decide, record, whole] = ["receive", "decide", "record", "whole"].map(stage);
        Self {
            registry,
            decisions,
            decision_series: AtomicUsize::new(0),
            replays,
            shed,
            budgets_exceeded,
            requests,
            receive,
            decide,
            record,
            whole,
            store_errors,
            trace_export_failures,
            started,
        }
    }

    /// When the gateway started, in seconds since 1970.
    pub(crate) fn started(&self) -> f64 {
        self.started
    }

    /// Counts a recorded decision.
    pub(crate) fn decided(&self, tenant: &Arc<str>, mode: &'static str, decision: &str, reason_code: &str) {
        let (tenant, decision) = (Arc::clone(tenant), decision.to_owned());
        let labels = DecisionLabels { tenant, mode, decision, reason_code: reason_code.to_owned() };
        if let Some(counter) = self.decisions.get(&labels) {
            counter.inc();
            return;
        }
        let labels = match self.decision_series.fetch_add(1, Ordering::Relaxed) < MAX_DECISION_SERIES {
            true => labels,
            false => DecisionLabels { reason_code: OTHER.to_owned(), ..labels },
        };
        self.decisions.get_or_create(&labels).inc();
    }

    /// Counts a repeated response.
    pub(crate) fn replayed(&self, tenant: &Arc<str>) {
        self.replays.get_or_create(&TenantLabel { tenant: Arc::clone(tenant) }).inc();
    }

    /// Counts a preflight that was refused because of the load.
    pub(crate) fn shed(&self, tenant: &Arc<str>) {
        self.shed.get_or_create(&TenantLabel { tenant: Arc::clone(tenant) }).inc();
    }

    /// Counts a decision for which a budget was exceeded.
    pub(crate) fn exceeded(&self, tenant: &Arc<str>, budget: &str) {
        let labels = BudgetLabels { tenant: Arc::clone(tenant), budget: budget.to_owned() };
        self.budgets_exceeded.get_or_create(&labels).inc();
    }

    /// Measures an answered preflight.
    pub(crate) fn preflight(&self, stages: Stages) {
        self.receive.observe(stages.receive.as_secs_f64());
        self.decide.observe(stages.decide.as_secs_f64());
        self.record.observe(stages.record.as_secs_f64());
        self.whole.observe((stages.receive + stages.decide + stages.record).as_secs_f64());
    }

    /// Counts a failed store operation.
    pub(crate) fn store_failed(&self, failure: StoreFailure) {
        self.store_errors.get_or_create(&KindLabel { kind: failure.as_str() }).inc();
    }

    /// Counts a failed export of spans.
    pub(crate) fn trace_export_failed(&self) {
        self.trace_export_failures.inc();
    }

    /// Counts an answered request; `route` is the matched route.
    pub(crate) fn answered(&self, route: &str, method: &str, status: u16) {
        let method = METHODS.into_iter().find(|known| *known == method).unwrap_or(OTHER);
        self.requests.get_or_create(&RequestLabels { route: route.to_owned(), method, status }).inc();
    }

    /// Writes all metrics in OpenMetrics.
    pub(crate) fn open_metrics(&self, gauges: &Gauges) -> Result<String, std::fmt::Error> {
        let mut written = String::new();
        text::encode_registry(&mut written, &self.registry)?;
        text::encode_registry(&mut written, gauges.registry())?;
        text::encode_eof(&mut written)?;
        Ok(written)
    }

    /// Writes all metrics in Prometheus's text format.
    pub(crate) fn prometheus_text(&self, gauges: &Gauges) -> Result<String, std::fmt::Error> {
        let mut written = String::new();
        prometheus_text::encode(&mut written, &self.registry)?;
        prometheus_text::encode(&mut written, gauges.registry())?;
        Ok(written)
    }
}

/// Removes the series of other tenants. The tenant is the first label of each series that has one.
pub(crate) fn of_tenant(written: &str, tenant_id: &str) -> String {
    const MARK: &str = "{tenant=\"";
    let escaped = tenant_id.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let own = format!("{escaped}\"");
    let is_visible = |line: &&str| match line.split_once(MARK) {
        Some((name, rest)) => name.starts_with('#') || name.contains('{') || rest.starts_with(&own),
        None => true,
    };
    let lines = written.split_inclusive('\n');
    lines.filter(is_visible).collect()
}

/// A number as the value of a gauge.
fn float(number: u64) -> f64 {
    // Numbers of events stay far below 2^53.
    #[expect(clippy::cast_precision_loss, reason = "no number of a gateway reaches 2^53")]
    let float = number as f64;
    float
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_codes_are_bounded() {
        let metrics = Metrics::default();
        let tenant: Arc<str> = "one".into();
        for number in 0..3 * MAX_DECISION_SERIES {
            metrics.decided(&tenant, "enforce", "deny", &format!("reason.{number}"));
        }
        let written = metrics.prometheus_text(&Gauges::default()).unwrap();
        let series = written.lines().filter(|line| line.contains("decisions_total{")).count();
        assert_eq!(series, MAX_DECISION_SERIES + 1);
        let other = r#"reason_code="(other)"} 2000"#;
        assert!(written.contains(other), "{written}");
    }

    #[test]
    fn unknown_methods_share_a_series() {
        let metrics = Metrics::default();
        for method in ["GET", "BREW", "STEEP"] {
            metrics.answered("/healthz", method, 405);
        }
        let written = metrics.prometheus_text(&Gauges::default()).unwrap();
        assert_eq!(written.lines().filter(|line| line.contains("requests_total{")).count(), 2);
    }

    #[test]
    fn tenants_see_their_own_series() {
        let metrics = Metrics::default();
        // Names that look like labels, quotes or other tenants.
        let names = ["one", "one\"", "one\",x=\"", "o\\ne", "o\nne", "two", "{tenant=\"one\""];
        for name in names {
            metrics.decided(&name.into(), "enforce", "deny", "{tenant=\"one\"");
        }
        let all = metrics.open_metrics(&Gauges::default()).unwrap();
        let decisions = |text: &str| text.lines().filter(|line| line.contains("decisions_total")).count();
        assert_eq!(decisions(&all), names.len());
        for name in names {
            let own = of_tenant(&all, name);
            assert_eq!(decisions(&own), 1, "{name}: {own}");
            assert!(own.contains("actpass_gateway_build_info"));
            assert!(own.ends_with("# EOF\n"));
        }
        assert_eq!(decisions(&of_tenant(&all, "three")), 0);
    }
}
