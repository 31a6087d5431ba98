//! `actpass._native`, called by the Python layer. It only converts to and from the core.

mod arguments;
mod client;
mod completion_queue;
mod convert;
mod error;
mod evidence;
mod guard;
mod halts;
mod interpreter;
mod panic;
mod passport;
mod runtime;
mod scripted;
mod telemetry;
#[cfg_attr(not(feature = "test-hooks"), path = "test_hooks_disabled.rs")]
mod test_hooks;

/// The native module of the package `actpass`.
#[pyo3::pymodule(gil_used = true)]
mod _native {
    #[pymodule_export]
    use crate::client::{Client, dpop_thumbprint, hash_payload, json_text, json_value, sign_payload};
    #[pymodule_export]
    use crate::completion_queue::{Call, CompletionQueue};
    #[pymodule_export]
    use crate::guard::{
        GuardSession, block_texts, canonical_outcome, invalid_argument, invalid_passport, unmapped_tool,
    };

    #[pymodule_export]
    use crate::halts::NativeHaltSignal;

    #[pymodule_export]
    use crate::scripted::ScriptedGatewayState;

    #[cfg(feature = "test-hooks")]
    #[pymodule_export]
    use crate::test_hooks::break_next_call;

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
