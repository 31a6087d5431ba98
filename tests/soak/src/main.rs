//! Runs the soak test: starts gateways, proxies and workers, kills gateways, and checks the
//! results.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actpass_soak::Result;
use actpass_soak::call::Endpoint;
use actpass_soak::checks::{Journals, Ledger, RunSummary};
use actpass_soak::files::Damaged;
use actpass_soak::gateway::{GatewayConfig, Log, Running};
use actpass_soak::measure::{Sample, Series, grew, leaked};
use actpass_soak::passports::{Revocations, revoke_until};
use actpass_soak::proxy::Proxy;
use actpass_soak::report;
use actpass_soak::worker::Worker;
use clap::Parser;
use fastrand::Rng;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

/// Maximum number of read connections of a gateway's store.
const READERS: u64 = 4;

/// Concurrent calls per client.
const TASKS: usize = 4;
/// Permitted memory growth of a gateway and of this program, in KiB.
const ALLOWANCE: u64 = 8 * 1024;
/// Additional permitted memory growth of a gateway between the idle measurements before and after
/// the load, in KiB: the page caches of its connections (2 MiB each) and prepared statements fill
/// during the first quarter.
const CACHES: u64 = 16 * 1024;
/// Settling time before idle measurements.
const SETTLE: Duration = Duration::from_secs(4);
const BETWEEN_SAMPLES: Duration = Duration::from_millis(500);

/// Runs real clients and gateways for a long time over a bad network
#[derive(Debug, Parser)]
struct Soak {
    /// Duration in seconds, including warm-up
    #[arg(long, default_value_t = 1800)]
    seconds: u64,
    /// Seed of the faults; random if omitted
    #[arg(long)]
    seed: Option<u64>,
    /// Path of actpass-gateway
    #[arg(long)]
    gateway: PathBuf,
    /// Policy of the gateways: the refund example
    #[arg(long)]
    policy: PathBuf,
    /// Worker as NAME=COMMAND; the command is split at spaces
    #[arg(long = "worker", value_name = "NAME=COMMAND", required = true)]
    workers: Vec<String>,
    /// Directory for data and journals, kept on failure; must not exist
    #[arg(long)]
    keep: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let soak = Soak::parse();
    let ended = tokio::select! {
        ended = run(&soak) => ended,
        () = interrupted() => Err("interrupted".into()),
    };
    match ended {
        Ok(violations) if violations.is_empty() => {
            let _ = std::fs::remove_dir_all(&soak.keep);
            println!("\nsoak: passed");
            ExitCode::SUCCESS
        }
        Ok(violations) => {
            println!("\n{} violations; data and journals are in {}", violations.len(), soak.keep.display());
            for violation in violations.iter().take(50) {
                println!("- {violation}");
            }
            println!("soak: FAILED");
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("soak: FAILED: {error}; data and journals are in {}", soak.keep.display());
            ExitCode::FAILURE
        }
    }
}

/// Completes on SIGINT or SIGTERM; child processes are killed on drop.
async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

async fn run(soak: &Soak) -> Result<Vec<String>> {
    std::fs::create_dir_all(&soak.keep)?;
    let seed = soak.seed.unwrap_or_else(|| fastrand::u64(..));
    let mut rng = Rng::with_seed(seed);
    println!("soak: {} seconds, seed {seed}", soak.seconds);

    let (tls, certificate) = GatewayConfig::tls(&soak.gateway, &soak.policy, &soak.keep)?;
    let plain = GatewayConfig::plain(&soak.gateway, &soak.keep);
    let mut deployments = Vec::new();
    for (name, config, ca) in [("plain", plain, None), ("tls", tls, Some(certificate))] {
        deployments.push(Deployment::start(name, config, ca, rng.u64(..)).await?);
    }
    let endpoints: Vec<_> = deployments.iter().map(Deployment::endpoint).collect();
    let mut workers = Vec::new();
    for worker in &soak.workers {
        let (name, command) = worker.split_once('=').ok_or("--worker: expected NAME=COMMAND")?;
        let command: Vec<_> = command.split(' ').map(str::to_owned).collect();
        workers.push(Worker::start(name, &command, &endpoints, TASKS, &soak.keep).await?);
    }

    // Everything that is created once is created before measurements begin.
    let warm_up = Duration::from_secs((soak.seconds / 8).clamp(10, 90));
    let load = Duration::from_secs(soak.seconds).saturating_sub(warm_up);
    let mut before = LoadMonitor::new(&workers);
    under_load("warming up, ", &mut workers, &mut deployments, &mut rng, &mut before, warm_up).await?;
    let rest_before = at_rest(&mut workers, &mut deployments).await?;
    let mut during = LoadMonitor::new(&workers);
    let revoking = Revoking::start(&endpoints)?;
    under_load("", &mut workers, &mut deployments, &mut rng, &mut during, load).await?;
    let revocations = revoking.end().await?;
    let rest_after = at_rest(&mut workers, &mut deployments).await?;

    let mut violations = revocations.violations.clone();
    if revocations.used == 0 || revocations.denied == 0 {
        violations.push(format!("too few revocations: {revocations:?}"));
    }
    let mut processes = Vec::new();
    let rests = rest_before.workers.iter().zip(&rest_after.workers);
    for ((worker, (before, after)), load) in workers.iter().zip(rests).zip(during.workers) {
        violations.extend(leaked(worker.name(), before, after, worker.allowance(), 0));
        violations.extend(grew(worker.name(), &load, worker.allowance()));
        processes.push(report::Process {
            name: worker.name().to_owned(),
            load,
            rest: Some((*before, *after)),
        });
    }
    let rests = rest_before.gateways.iter().zip(&rest_after.gateways);
    for ((deployment, (before, after)), load) in deployments.iter().zip(rests).zip(during.gateways) {
        let name = format!("gateway {}, since its last restart", deployment.name);
        violations.extend(leaked(&name, before, after, ALLOWANCE + CACHES, READERS));
        violations.extend(grew(&name, &load, ALLOWANCE));
        processes.push(report::Process { name, load, rest: Some((*before, *after)) });
    }
    violations.extend(grew("the proxy", &during.proxy, ALLOWANCE));
    processes.push(report::Process { name: "the proxy".to_owned(), load: during.proxy, rest: None });

    let mut journals = Journals::default();
    for worker in workers {
        journals.read(&worker.end().await?)?;
    }
    let mut ledgers = Vec::new();
    let mut said = Vec::new();
    for deployment in &mut deployments {
        let (ledger, verified) = deployment.close(&soak.keep).await?;
        let log = deployment.config.read_log()?;
        violations.extend(log.complaints.iter().map(|line| format!("gateway {}: {line}", deployment.name)));
        violations.extend(deployment.check_damage(&ledger, &log));
        ledgers.push(ledger);
        said.push((verified, log));
    }
    let summary = RunSummary::of(&journals, &ledgers)?;
    let gateways: Vec<_> = deployments
        .iter()
        .zip(&ledgers)
        .zip(&said)
        .map(|((deployment, ledger), (verified, log))| report::Gateway {
            name: deployment.name,
            proxy: &deployment.proxy,
            kills: deployment.kills.load(Ordering::Relaxed),
            log,
            events: ledger.length(),
            verified,
        })
        .collect();
    println!("\n{}\n{}", report::calls(&summary), report::reasons(&summary));
    println!("{}\n{}", report::network(&gateways, &summary), report::processes(&processes));
    println!(
        "{}",
        report::safeguards(
            &revocations,
            &deployments.iter().map(|deployment| (deployment.name, &deployment.harmed)).collect::<Vec<_>>()
        )
    );
    for gateway in &gateways {
        if gateway.kills == 0 || gateway.proxy.faults().total() == 0 {
            violations.push(format!("{}: no faults occurred", gateway.name));
        }
    }
    violations.extend(summary.violations);
    Ok(violations)
}

/// A gateway with its proxy and the task that kills it.
struct Deployment {
    name: &'static str,
    ca: Option<String>,
    config: GatewayConfig,
    proxy: Arc<Proxy>,
    running: Option<Running>,
    kills: Arc<AtomicU64>,
    harmed: Damaged,
}

/// A task that revokes passports over TLS, where corruption is detected.
struct Revoking {
    ended: Arc<AtomicBool>,
    task: JoinHandle<Result<Revocations>>,
}

impl Revoking {
    fn start(endpoints: &[Endpoint]) -> Result<Self> {
        let gateway = endpoints.iter().find(|gateway| gateway.ca.is_some()).ok_or("no gateway with TLS")?;
        let ended = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(revoke_until(gateway.clone(), Arc::clone(&ended)));
        Ok(Self { ended, task })
    }

    async fn end(self) -> Result<Revocations> {
        self.ended.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

impl Deployment {
    async fn start(name: &'static str, config: GatewayConfig, ca: Option<String>, seed: u64) -> Result<Self> {
        let proxy = Arc::new(Proxy::start(seed).await?);
        let running = config.start().await?;
        proxy.set_target(Some(running.address()));
        let (running, kills, harmed) = (Some(running), Arc::default(), Damaged::default());
        Ok(Self { name, ca, config, proxy, running, kills, harmed })
    }

    fn endpoint(&self) -> Endpoint {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", self.proxy.address());
        Endpoint { name: self.name.to_owned(), url, ca: self.ca.clone() }
    }

    /// Kills and restarts the gateway at intervals until `until`; damages its files in every second
    /// run.
    fn kill_until(
        &mut self,
        until: Instant,
        rng: &mut Rng,
    ) -> Result<JoinHandle<Result<(Running, Damaged)>>> {
        let mut running = self.running.take().ok_or("the gateway is not running")?;
        let (config, proxy, kills) = (self.config.clone(), Arc::clone(&self.proxy), Arc::clone(&self.kills));
        let (mut harmed, ca) = (std::mem::take(&mut self.harmed), self.ca.clone());
        let mut rng = rng.fork();
        Ok(tokio::spawn(async move {
            for number in 0_u64.. {
                let life = Duration::from_millis(rng.u64(1_000..12_000));
                if Instant::now() + life > until {
                    tokio::time::sleep(until.saturating_duration_since(Instant::now())).await;
                    break;
                }
                tokio::time::sleep(life).await;
                if number % 2 == 0 {
                    harmed.damage(&config.data, running.address(), ca.as_deref(), number / 2).await?;
                }
                running.kill().await?;
                kills.fetch_add(1, Ordering::Relaxed);
                proxy.set_target(None);
                tokio::time::sleep(Duration::from_millis(rng.u64(..2_500))).await;
                running = config.start().await?;
                proxy.set_target(Some(running.address()));
            }
            Ok((running, harmed))
        }))
    }

    fn check_damage(&self, ledger: &Ledger, log: &Log) -> Vec<String> {
        let Self { name, harmed, .. } = self;
        let lost = harmed.events.iter().filter(|event| !ledger.has(event));
        let mut violations: Vec<_> =
            lost.map(|event| format!("{name}: {event} was returned but is not in the ledger")).collect();
        violations.extend(harmed.violations.iter().map(|violation| format!("{name}: {violation}")));
        if harmed.times == 0 || log.harmed == 0 {
            violations.push(format!("{name}: {} harms to files, {} logged", harmed.times, log.harmed));
        }
        violations
    }

    async fn close(&mut self, folder: &Path) -> Result<(Ledger, String)> {
        self.running.take().ok_or("the gateway is not running")?.end().await?;
        let (export, said) = self.config.export(folder).await?;
        Ok((Ledger::read(self.name, self.ca.is_some(), &export)?, said))
    }
}

/// Samples of all processes under load.
struct LoadMonitor {
    workers: Vec<Series>,
    gateways: Vec<Series>,
    proxy: Series,
}

impl LoadMonitor {
    fn new(workers: &[Worker]) -> Self {
        let none = |count| vec![Series::default(); count];
        Self { workers: none(workers.len()), gateways: none(2), proxy: Series::default() }
    }

    fn look(&mut self, workers: &[Worker], deployments: &[Deployment], at: Duration) -> Result<()> {
        for (series, worker) in self.workers.iter_mut().zip(workers) {
            let sample = Sample::take(worker.process(), at);
            series.push(sample.map_err(|error| format!("{} is gone: {error}", worker.name()))?);
        }
        for (series, deployment) in self.gateways.iter_mut().zip(deployments) {
            if let Some(running) = &deployment.running {
                let sample = Sample::take(running.process(), at);
                series.push(sample.map_err(|error| format!("gateway {} is gone: {error}", deployment.name))?);
            }
        }
        self.proxy.push(Sample::take(std::process::id(), at)?);
        Ok(())
    }
}

/// Runs all workers for `time`. Gateways are killed during the first two thirds; afterwards they
/// run on, so that leaks become visible.
async fn under_load(
    phase: &str,
    workers: &mut [Worker],
    deployments: &mut [Deployment],
    rng: &mut Rng,
    watch: &mut LoadMonitor,
    time: Duration,
) -> Result<()> {
    let began = Instant::now();
    let killed_until = began + time * 2 / 3;
    let mut killers = Vec::new();
    for deployment in deployments.iter_mut() {
        deployment.proxy.set_calm(false);
        killers.push(Some(deployment.kill_until(killed_until, rng)?));
    }
    for worker in workers.iter_mut() {
        worker.start_load().await?;
    }
    let mut minute = 1;
    while began.elapsed() < time {
        tokio::time::sleep(BETWEEN_SAMPLES).await;
        for (deployment, killer) in deployments.iter_mut().zip(&mut killers) {
            let Some(finished) = killer.take_if(|killer| killer.is_finished()) else { continue };
            let (running, harmed) = finished.await??;
            (deployment.running, deployment.harmed) = (Some(running), harmed);
        }
        watch.look(workers, deployments, began.elapsed())?;
        if began.elapsed().as_secs() >= minute * 60 {
            println!("{phase}{}", minute_line(minute, workers, deployments, watch)?);
            minute += 1;
        }
    }
    for (deployment, killer) in deployments.iter_mut().zip(killers) {
        if let Some(killer) = killer {
            let (running, harmed) = killer.await??;
            (deployment.running, deployment.harmed) = (Some(running), harmed);
        }
    }
    Ok(())
}

fn minute_line(
    minute: u64,
    workers: &[Worker],
    deployments: &[Deployment],
    watch: &LoadMonitor,
) -> Result<String> {
    let mut line = format!("minute {minute}:");
    let faults: u64 = deployments.iter().map(|deployment| deployment.proxy.faults().total()).sum();
    let kills: u64 = deployments.iter().map(|deployment| deployment.kills.load(Ordering::Relaxed)).sum();
    line.push_str(&format!(" {faults} faults, {kills} kills;"));
    for (worker, series) in workers.iter().zip(&watch.workers) {
        let lines = std::fs::metadata(worker.journal())?.len() / 1024;
        let sample = series.last().unwrap_or_default();
        let Sample { memory, descriptors, threads, .. } = sample;
        line.push_str(&format!(
            " {} journal {lines} KiB, memory {memory} KiB, {descriptors} descriptors, {threads} threads;",
            worker.name()
        ));
    }
    Ok(line)
}

/// Samples of all processes at idle.
struct IdleSamples {
    workers: Vec<Sample>,
    gateways: Vec<Sample>,
}

/// Stops the load and samples with all clients open and one connection each.
async fn at_rest(workers: &mut [Worker], deployments: &mut [Deployment]) -> Result<IdleSamples> {
    for deployment in deployments.iter() {
        deployment.proxy.set_calm(true);
    }
    // Let open circuits close.
    tokio::time::sleep(SETTLE).await;
    for worker in workers.iter_mut() {
        worker.stop_load().await?;
    }
    // Idle clients may not notice closed connections, so each makes a call.
    for deployment in deployments.iter() {
        deployment.proxy.close_all();
    }
    for worker in workers.iter_mut() {
        worker.call().await?;
    }
    tokio::time::sleep(SETTLE).await;
    let take = |process| Sample::take(process, Duration::ZERO);
    let workers = workers.iter().map(|worker| take(worker.process())).collect::<std::io::Result<_>>()?;
    let gateways = deployments.iter().filter_map(|deployment| deployment.running.as_ref());
    let gateways = gateways.map(|running| take(running.process())).collect::<std::io::Result<_>>()?;
    Ok(IdleSamples { workers, gateways })
}
