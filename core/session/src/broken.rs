//! Calls that break, for the tests of what happens then. The feature `test-hooks` makes them; a package has none.

/// The tool whose calls panic.
pub const PANICS: &str = "actpass.test.panic";
/// The tool whose action panics while it is converted.
pub const PANICS_IN_CONVERSION: &str = "actpass.test.panic_in_conversion";
/// The tool whose calls never end.
pub const NEVER_ENDS: &str = "actpass.test.never_ends";

/// Breaks the conversion of an action that uses `tool`, if it is to break.
#[cfg_attr(feature = "test-hooks", expect(clippy::panic, reason = "that is what is tested"))]
pub fn conversion(tool: &str) {
    #[cfg(feature = "test-hooks")]
    if tool == PANICS_IN_CONVERSION {
        panic!("broken on purpose");
    }
    let _ = tool;
}

/// Breaks a call about `tool`, if it is to break.
#[cfg_attr(feature = "test-hooks", expect(clippy::panic, reason = "that is what is tested"))]
pub async fn call(tool: &str) {
    #[cfg(feature = "test-hooks")]
    match tool {
        PANICS => panic!("broken on purpose"),
        NEVER_ENDS => std::future::pending().await,
        _ => {}
    }
    let _ = tool;
}
