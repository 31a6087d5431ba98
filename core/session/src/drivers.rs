//! The runtimes of a blocking client, each with its own connections.
//!
//! A call takes a runtime that no other call uses and drives its connections alone. Threads that
//! shared a runtime would pass the role of the driving thread on at the end of each call, which
//! costs a thread switch.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use actpass_core::{ActPass, Error, Settings};

use crate::halts::BackgroundWatcher;
use crate::idle::reap_closed_connections;
use crate::process::Owned;
use crate::runtime::OwnedRuntime;

/// The most runtimes of one client, without the shared one. Each needs three file descriptors and one
/// per connection. Further concurrent calls share a runtime.
const MAX_DRIVERS: usize = 64;
/// A runtime that is unused for this time is dropped with its connections: the time after which idle
/// connections are closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// The runtimes of a blocking client in one process.
pub(crate) struct Drivers {
    settings: Settings,
    // Drop order matters: a client before its runtime.
    client: ActPass,
    shared: OnceLock<OwnedRuntime>,
    own: Mutex<OwnDrivers>,
}

#[derive(Default)]
struct OwnDrivers {
    /// Last used, last.
    idle: VecDeque<(Driver, Instant)>,
    /// The idle ones and those in use.
    count: usize,
}

struct Driver {
    // Drop order matters.
    client: ActPass,
    runtime: OwnedRuntime,
}

impl Drivers {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            settings: settings.clone(),
            client: settings.connect_with_watcher(BackgroundWatcher::new(settings)),
            shared: OnceLock::new(),
            own: Mutex::default(),
        }
    }

    /// The client whose state the clients of all runtimes share.
    pub(crate) fn client(&self) -> &ActPass {
        &self.client
    }

    fn own(&self) -> MutexGuard<'_, OwnDrivers> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the runtime that was used last, or a new one if all are in use. `None` if there are too
    /// many, or if the system has no descriptors for another.
    fn take(&self) -> Option<Driver> {
        let mut own = self.own();
        if let Some((driver, _)) = own.idle.pop_back() {
            return Some(driver);
        }
        if own.count == MAX_DRIVERS {
            return None;
        }
        own.count += 1;
        drop(own);
        let driver = new_runtime().map(|runtime| {
            let client = self.settings.connect_sharing(&self.client);
            Driver { client, runtime }
        });
        if driver.is_err() {
            self.own().count -= 1;
        }
        driver.ok()
    }

    fn give_back(&self, driver: Driver) {
        let mut own = self.own();
        own.idle.push_back((driver, Instant::now()));
        let longest_idle = own.idle.front().map(|(_, since)| since.elapsed());
        let unused = if longest_idle > Some(IDLE_TIMEOUT) { own.idle.pop_front() } else { None };
        own.count -= usize::from(unused.is_some());
        drop(own);
        drop(unused);
    }

    fn shared_runtime(&self) -> Result<&Runtime, Error> {
        if let Some(runtime) = self.shared.get() {
            return runtime.get();
        }
        let runtime = new_runtime()?;
        // If several threads create one, the first wins.
        self.shared.get_or_init(|| runtime).get()
    }
}

fn new_runtime() -> Result<OwnedRuntime, Error> {
    OwnedRuntime::build(&mut Builder::new_current_thread())
}

/// The runtime of one call.
pub(crate) struct CallDriver<'d> {
    drivers: &'d Owned<Drivers>,
    own: Option<Driver>,
}

impl<'d> CallDriver<'d> {
    pub(crate) fn take(drivers: &'d Owned<Drivers>) -> Self {
        Self { drivers, own: drivers.take() }
    }

    pub(crate) fn client(&self) -> &ActPass {
        self.own.as_ref().map_or(&self.drivers.client, |driver| &driver.client)
    }

    pub(crate) fn runtime(&self) -> Result<&Runtime, Error> {
        match &self.own {
            Some(driver) => driver.runtime.get(),
            None => self.drivers.shared_runtime(),
        }
    }

    /// Removes closed connections from the pool. Called on the runtime.
    pub(crate) async fn reap_closed_connections(&self) {
        match self.own {
            Some(_) => reap_closed_connections().await,
            // As a task, so that any thread that drives the runtime can run it.
            None => drop(tokio::spawn(reap_closed_connections()).await),
        }
    }
}

impl Drop for CallDriver<'_> {
    fn drop(&mut self) {
        match self.own.take() {
            // A child that was forked in the call has its parent's driver, whose lock may be held.
            Some(driver) if !self.drivers.is_current_process() => mem::forget(driver),
            Some(driver) => self.drivers.give_back(driver),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn unused_driver_is_dropped_after_the_idle_timeout() {
        let drivers = drivers();
        let taken: Vec<_> = (0..3).map(|_| drivers.take().unwrap()).collect();
        taken.into_iter().for_each(|driver| drivers.give_back(driver));
        assert_eq!(sizes(&drivers), (3, 3));
        drivers.own().idle.front_mut().unwrap().1 -= IDLE_TIMEOUT + Duration::from_secs(1);
        let used = drivers.take().unwrap();
        assert_eq!(sizes(&drivers), (2, 3), "the last used is taken");
        drivers.give_back(used);
        assert_eq!(sizes(&drivers), (2, 2));
    }

    #[test]
    fn further_calls_share_a_driver() {
        let drivers = Owned::new(drivers());
        let calls: Vec<_> = (0..MAX_DRIVERS + 3).map(|_| CallDriver::take(&drivers)).collect();
        let own = calls.iter().filter(|call| call.own.is_some()).count();
        assert_eq!((own, sizes(&drivers)), (MAX_DRIVERS, (0, MAX_DRIVERS)));
        for call in &calls {
            call.runtime().unwrap();
        }
        drop(calls);
        assert_eq!(sizes(&drivers), (MAX_DRIVERS, MAX_DRIVERS));
    }

    fn drivers() -> Drivers {
        let settings = ActPass::builder().api_key("apk_test").base_url("http://127.0.0.1:9").settings();
        Drivers::new(&settings.unwrap())
    }

    /// The number of idle drivers, and of all.
    fn sizes(drivers: &Drivers) -> (usize, usize) {
        let own = drivers.own();
        (own.idle.len(), own.count)
    }
}
