//! Calls that break, for the tests of what happens then. The feature `test-hooks` makes them; a package has none.

/// The tool whose calls panic.
pub const PANIC_TOOL: &str = "actpass.test.panic";
/// The tool whose action panics while it is converted.
pub const CONVERSION_PANIC_TOOL: &str = "actpass.test.panic_in_conversion";
/// The tool whose calls never end.
pub const HANG_TOOL: &str = "actpass.test.never_ends";

/// Breaks the conversion of an action that uses `tool`, if it is to break.
#[cfg_attr(feature = "test-hooks", expect(clippy::panic, reason = "that is what is tested"))]
pub fn before_conversion(tool: &str) {
    #[cfg(feature = "test-hooks")]
    if tool == CONVERSION_PANIC_TOOL {
        panic!("broken on purpose");
    }
    let _ = tool;
}

/// Breaks a call about `tool`, if it is to break.
#[cfg_attr(feature = "test-hooks", expect(clippy::panic, reason = "that is what is tested"))]
pub async fn before_call(tool: &str) {
    #[cfg(feature = "test-hooks")]
    match tool {
        PANIC_TOOL => panic!("broken on purpose"),
        HANG_TOOL => std::future::pending().await,
        _ => {}
    }
    let _ = tool;
}
