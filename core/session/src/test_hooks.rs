//! Fault injection for tests. Enabled by the feature `test-hooks`; packages never include it.

/// Calls about this tool panic.
pub const PANIC_TOOL: &str = "actpass.test.panic";
/// Converting an action with this tool panics.
pub const CONVERSION_PANIC_TOOL: &str = "actpass.test.panic_in_conversion";
/// Calls about this tool hang.
pub const HANG_TOOL: &str = "actpass.test.never_ends";

/// Panics if `tool` is [`CONVERSION_PANIC_TOOL`].
#[cfg_attr(feature = "test-hooks", expect(clippy::panic, reason = "injected for tests"))]
pub fn before_conversion(tool: &str) {
    #[cfg(feature = "test-hooks")]
    if tool == CONVERSION_PANIC_TOOL {
        panic!("broken on purpose");
    }
    let _ = tool;
}

/// Panics or hangs according to `tool`.
#[cfg_attr(feature = "test-hooks", expect(clippy::panic, reason = "injected for tests"))]
pub async fn before_call(tool: &str) {
    #[cfg(feature = "test-hooks")]
    match tool {
        PANIC_TOOL => panic!("broken on purpose"),
        HANG_TOOL => std::future::pending().await,
        _ => {}
    }
    let _ = tool;
}
