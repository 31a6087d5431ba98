//! Drivers for language bindings. Not for users: `actpass-core` is the Rust SDK.
//!
//! [`BlockingClient`] makes calls on the calling thread, which avoids a thread switch.
//! [`BackgroundClient`] makes them on one background thread per process, for event loops;
//! [`BackgroundRuntime`] runs other tasks on that thread.
//!
//! All are safe across `fork()`. A child process inherits the parent's descriptors and connections,
//! and two processes that read one connection receive each other's responses. Each call therefore
//! checks the current process. A child recreates everything and neither uses nor drops its parent's
//! values. There is no lock that a fork could leave held.

#![forbid(unsafe_code)]

mod background;
mod blocking;
mod call_log;
mod guard;
mod halts;
mod idle;
mod process;
mod runtime;
#[doc(hidden)]
pub mod test_hooks;

pub use background::{BackgroundClient, CallHandle};
pub use blocking::{BlockingClient, INTERRUPT_INTERVAL};
pub use call_log::{CallLog, LogLine};
pub use guard::GuardSession;
pub use halts::spawn_watch;
pub use runtime::BackgroundRuntime;
