//! The watch for stops, on the background thread.

use std::sync::{Arc, OnceLock};

use actpass_core::{ActPass, HaltWatch, HaltWatcher, Settings, WatchFuture};

use crate::runtime::BackgroundRuntime;

/// Starts the watch of a client whose calls run on the background thread: for
/// [`spawn_watch`](actpass_core::ActPassBuilder::spawn_watch).
pub fn spawn_watch(watch: WatchFuture) {
    // Without a thread nothing is watched, and the next function tries again.
    if let Ok(background) = BackgroundRuntime::current() {
        drop(background.spawn(watch));
    }
}

/// Runs a client's watch on the background thread of the process, with its own connections: those
/// of a blocking client are driven only while it calls.
pub(crate) struct BackgroundWatcher {
    settings: Settings,
    client: Arc<OnceLock<ActPass>>,
}

impl BackgroundWatcher {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self { settings: settings.clone(), client: Arc::default() }
    }
}

impl HaltWatcher for BackgroundWatcher {
    fn spawn(&self, watch: HaltWatch) {
        let (settings, client) = (self.settings.clone(), Arc::clone(&self.client));
        spawn_watch(Box::pin(async move { watch.run(client.get_or_init(|| settings.connect())).await }));
    }
}
