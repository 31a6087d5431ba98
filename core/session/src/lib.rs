//! Drivers for languages that bind ActPass. Not for users: `actpass-core` is the Rust SDK.
//!
//! [`BlockingClient`] makes calls on the calling thread, so that a call costs no thread switch. [`BackgroundClient`] makes
//! them on one background thread of the process, for event loops, and [`BackgroundRuntime`] runs other tasks on that thread.
//! All are safe across `fork()`: a child process inherits the parent's descriptors and connections, and two processes that
//! read one connection take each other's answers. Each call therefore looks at the process it is in; a child builds
//! everything again and never uses, nor drops, its parent's values. There is no lock that a fork could leave held.

#![forbid(unsafe_code)]

mod background;
mod blocking;
mod call_log;
mod guard;
mod idle;
mod process;
mod runtime;
#[doc(hidden)]
pub mod test_hooks;

pub use background::{BackgroundClient, CallHandle};
pub use blocking::{BlockingClient, INTERRUPT_INTERVAL};
pub use call_log::{CallLog, LogLine};
pub use guard::GuardSession;
pub use runtime::BackgroundRuntime;
