//! Drivers for language bindings. Not for users: `actpass-core` is the Rust SDK.
//!
//! [`BlockingClient`] makes calls on the calling thread, which avoids a thread switch.
//! [`BackgroundClient`] makes them on one background thread per process, for event loops;
//! [`BackgroundRuntime`] runs other tasks on that thread.
//!
//! Without the feature `drivers`, only [`GuardSession`] and [`CallLog`] are left, for a host that drives
//! the client on its own event loop.
//!
//! All are safe across `fork()`. A child process inherits the parent's descriptors and connections,
//! and two processes that read one connection receive each other's responses. Each call therefore
//! checks the current process. A child recreates everything and neither uses nor drops its parent's
//! values, so it takes no lock that the fork could have left held.

#![forbid(unsafe_code)]

#[cfg(feature = "drivers")]
mod background;
#[cfg(feature = "drivers")]
mod blocking;
mod call_log;
#[cfg(feature = "drivers")]
mod drivers;
mod guard;
#[cfg(feature = "drivers")]
mod halts;
#[cfg(feature = "drivers")]
mod idle;
#[cfg(feature = "drivers")]
mod process;
#[cfg(feature = "drivers")]
mod runtime;
#[doc(hidden)]
pub mod test_hooks;

#[cfg(feature = "drivers")]
pub use background::{BackgroundClient, CallHandle};
#[cfg(feature = "drivers")]
pub use blocking::{BlockingClient, INTERRUPT_INTERVAL};
pub use call_log::{CallLog, LogLine};
pub use guard::GuardSession;
#[cfg(feature = "drivers")]
pub use halts::spawn_watch;
#[cfg(feature = "drivers")]
pub use runtime::BackgroundRuntime;
