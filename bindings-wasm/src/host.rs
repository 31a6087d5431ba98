//! Time, randomness, timers and `fetch` of the host.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use actpass_core::{Clock, Error, Moment, Sleep};

#[link(wasm_import_module = "host")]
unsafe extern "C" {
    /// Starts a request; `fetched` completes it. `head` is JSON: `[method, url, [[name, value], …]]`.
    pub(crate) safe fn fetch(
        operation: u32,
        head: *const u8,
        head_length: usize,
        body: *const u8,
        body_length: usize,
    );
    /// Aborts a request. It is not completed.
    pub(crate) safe fn abort(operation: u32);
    /// Starts a timer of `milliseconds`; `fired` completes it.
    pub(crate) safe fn start_timer(operation: u32, milliseconds: f64);
    /// Stops a timer. It is not completed.
    pub(crate) safe fn stop_timer(operation: u32);
    /// Milliseconds of a monotonic clock.
    safe fn monotonic() -> f64;
    /// Milliseconds since 1970.
    safe fn wall_clock() -> f64;
    /// 32 bits of the host's cryptographic generator.
    safe fn random() -> u32;
    /// Reports the place of a panic, before the module traps.
    pub(crate) safe fn panicked(place: *const u8, length: usize);
}

/// An operation of the host: a future that the host completes. Dropping it stops the operation.
pub(crate) struct Operation<T: 'static> {
    number: u32,
    slots: &'static std::thread::LocalKey<Slots<T>>,
    stop: fn(u32),
}

/// The operations in progress, by their number.
pub(crate) type Slots<T> = RefCell<HashMap<u32, Slot<T>>>;

/// An operation in progress.
#[derive(Debug)]
pub(crate) enum Slot<T> {
    Waiting(Option<Waker>),
    Completed(T),
}

thread_local! {
    static LAST: RefCell<u32> = const { RefCell::new(0) };
    static TIMERS: Slots<()> = RefCell::default();
}

impl<T: 'static> Operation<T> {
    /// Registers an operation, to be started by the caller.
    pub(crate) fn new(slots: &'static std::thread::LocalKey<Slots<T>>, stop: fn(u32)) -> Self {
        let number = LAST.with_borrow_mut(|last| {
            // Numbers of operations that ended long ago are reused.
            *last = last.wrapping_add(1);
            *last
        });
        slots.with_borrow_mut(|slots| slots.insert(number, Slot::Waiting(None)));
        Self { number, slots, stop }
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }
}

impl<T: 'static> Future for Operation<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        self.slots.with_borrow_mut(|slots| match slots.remove(&self.number) {
            Some(Slot::Completed(value)) => Poll::Ready(value),
            Some(Slot::Waiting(_)) | None => {
                slots.insert(self.number, Slot::Waiting(Some(context.waker().clone())));
                Poll::Pending
            }
        })
    }
}

impl<T: 'static> Drop for Operation<T> {
    fn drop(&mut self) {
        let slot = self.slots.with_borrow_mut(|slots| slots.remove(&self.number));
        if matches!(slot, Some(Slot::Waiting(_))) {
            (self.stop)(self.number);
        }
    }
}

/// Completes an operation, unless it was stopped.
pub(crate) fn complete<T>(slots: &'static std::thread::LocalKey<Slots<T>>, number: u32, value: T) {
    let waiting = slots.with_borrow_mut(|slots| match slots.remove(&number) {
        Some(Slot::Waiting(waker)) => {
            slots.insert(number, Slot::Completed(value));
            waker
        }
        Some(completed @ Slot::Completed(_)) => {
            slots.insert(number, completed);
            None
        }
        None => None,
    });
    if let Some(waker) = waiting {
        waker.wake();
    }
}

/// Completes a timer.
pub(crate) fn fired(number: u32) {
    complete(&TIMERS, number, ());
}

/// The host's clock and generator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostClock;

/// The origin of moments is one day before the host's, whose clock may start at 0.
const ORIGIN: Duration = Duration::from_secs(24 * 60 * 60);

fn milliseconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value / 1e3).unwrap_or_default()
}

impl Clock for HostClock {
    fn now(&self) -> Moment {
        Moment::after_origin(ORIGIN + milliseconds(monotonic()))
    }

    fn wall_clock(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + milliseconds(wall_clock())
    }

    fn random(&self) -> Result<[u8; 16], Error> {
        let mut bytes = [0; 16];
        for part in bytes.chunks_exact_mut(4) {
            part.copy_from_slice(&random().to_le_bytes());
        }
        Ok(bytes)
    }

    fn sleep_until(&self, until: Moment) -> Sleep<'_> {
        Box::pin(async move {
            // Timers of hosts may fire early, and have a maximum.
            loop {
                let left = until.saturating_since(HostClock.now());
                if left.is_zero() {
                    return;
                }
                let timer = Operation::new(&TIMERS, |number| stop_timer(number));
                start_timer(timer.number(), left.as_secs_f64() * 1e3);
                timer.await;
            }
        })
    }
}
