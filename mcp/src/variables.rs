//! The variables that options name: those of this process, or of a client's configuration.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsString;

thread_local! {
    /// The variables of the configuration whose options are being parsed.
    static CONFIGURED: RefCell<HashMap<String, String>> = RefCell::default();
}

/// Runs `parse` with the variables of a client's configuration, which win.
pub(crate) fn with<T>(configured: HashMap<String, String>, parse: impl FnOnce() -> T) -> T {
    CONFIGURED.set(configured);
    let parsed = parse();
    CONFIGURED.take();
    parsed
}

/// The value of a variable.
pub(crate) fn value(name: &str) -> Option<OsString> {
    let configured = CONFIGURED.with_borrow(|configured| configured.get(name).map(OsString::from));
    configured.or_else(|| std::env::var_os(name))
}

/// The value of a variable, if it is text.
pub(crate) fn text(name: &str) -> Option<String> {
    value(name)?.into_string().ok()
}
