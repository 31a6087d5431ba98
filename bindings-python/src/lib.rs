//! `actpass._native`: what the Python face calls. It converts to the core and back, and means nothing of its own.

mod client;
mod convert;
mod error;
mod evidence;
mod guard;
mod passport;
mod runtime;

/// The private module of the package `actpass`.
#[pyo3::pymodule(gil_used = true)]
mod _native {
    #[pymodule_export]
    use crate::client::{Client, hash_payload, sign_payload};
    #[pymodule_export]
    use crate::guard::{Permit, canonical_outcome};

    #[pymodule_export]
    const DEFAULT_BASE_URL: &str = actpass_core::DEFAULT_BASE_URL;
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}
