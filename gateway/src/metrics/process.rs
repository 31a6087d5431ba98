//! Metrics of the process, with the names that other programs use. Linux only.

use prometheus_client::registry::Registry;

#[cfg(target_os = "linux")]
pub(super) fn register(registry: &mut Registry) {
    use std::sync::atomic::AtomicU64;

    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::registry::Unit;
    use rustix::param::{clock_ticks_per_second, page_size};
    use rustix::process::{Resource, getrlimit};

    use super::float;

    let gauge = |value: u64| {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(float(value));
        gauge
    };
    let own = registry.sub_registry_with_prefix("process");
    // The fields after the name, which may contain spaces.
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit_once(") ").map(|(_, fields)| fields.split(' ')).into_iter().flatten();
    let numbers: Vec<u64> = fields.map(|field| field.parse().unwrap_or(0)).collect();
    let number = |at: usize| numbers.get(at).copied().unwrap_or(0);
    let cpu = Counter::<f64, AtomicU64>::default();
    cpu.inc_by(float(number(11) + number(12)) / float(clock_ticks_per_second().max(1)));
    own.register_with_unit("cpu", "CPU time of the process", Unit::Seconds, cpu);
    let page = u64::try_from(page_size()).unwrap_or(4096);
    let (help, memory) = ("Resident memory of the process", gauge(number(21).saturating_mul(page)));
    own.register_with_unit("resident_memory", help, Unit::Bytes, memory);
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    own.register("open_fds", "Open file descriptors", gauge(u64::try_from(open).unwrap_or(u64::MAX)));
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    own.register("max_fds", "Maximum number of file descriptors", gauge(limit));
}

#[cfg(not(target_os = "linux"))]
pub(super) fn register(_: &mut Registry) {}
