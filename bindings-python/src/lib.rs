//! `actpass._native`: what the Python face calls. It converts to the core and back, and means nothing of its own.

mod arguments;
#[cfg_attr(not(feature = "test-hooks"), path = "unbroken.rs")]
mod broken;
mod client;
mod convert;
mod enter;
mod error;
mod evidence;
mod guard;
mod interpreter;
mod mailbox;
mod passport;
mod runtime;
mod telemetry;

/// The private module of the package `actpass`.
#[pyo3::pymodule(gil_used = true)]
mod _native {
    #[pymodule_export]
    use crate::client::{Client, hash_payload, json_text, json_value, sign_payload};
    #[pymodule_export]
    use crate::guard::{GuardSession, block_texts, canonical_outcome};
    #[pymodule_export]
    use crate::mailbox::{Call, Mailbox};

    #[cfg(feature = "test-hooks")]
    #[pymodule_export]
    use crate::broken::break_next_call;

    #[pymodule_export]
    const DEFAULT_BASE_URL: &str = actpass_core::DEFAULT_BASE_URL;
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");

    #[pymodule_init]
    fn init(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        crate::interpreter::check(module.py())?;
        Ok(())
    }
}
