//! Values that are not shared with forked processes.

use std::mem;
use std::ops::Deref;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

/// One value per process, created by the first [`get`](PerProcess::get). A forked child creates its
/// own value and never drops its parent's, because a drop would affect resources that the parent
/// still uses.
pub(crate) struct PerProcess<T>(ArcSwapOption<Owned<T>>);

impl<T> PerProcess<T> {
    /// Creates an empty cell.
    pub(crate) const fn new() -> Self {
        Self(ArcSwapOption::const_empty())
    }

    /// The value of this process, if it exists.
    pub(crate) fn existing(&self) -> Option<Arc<Owned<T>>> {
        self.0.load_full().filter(|owned| owned.is_current_process())
    }

    /// Returns the value of this process, created by `make` if necessary. If several threads create
    /// one, the first wins.
    pub(crate) fn get<E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<Arc<Owned<T>>, E> {
        let current = self.0.load_full();
        if let Some(mine) = current.as_ref().filter(|owned| owned.is_current_process()) {
            return Ok(Arc::clone(mine));
        }
        let mine = Arc::new(Owned::new(make()?));
        let before = self.0.compare_and_swap(&current, Some(Arc::clone(&mine)));
        Ok(before.as_ref().filter(|first| first.is_current_process()).map_or(mine, Arc::clone))
    }
}

/// A value and the process that created it.
pub(crate) struct Owned<T> {
    process: u32,
    value: Arc<T>,
}

impl<T> Owned<T> {
    /// Wraps a value of this process.
    pub(crate) fn new(value: T) -> Self {
        Self { process: std::process::id(), value: Arc::new(value) }
    }

    pub(crate) fn is_current_process(&self) -> bool {
        self.process == std::process::id()
    }
}

impl<T> Deref for Owned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if !self.is_current_process() {
            // Leak one reference, so that the value is never dropped.
            mem::forget(Arc::clone(&self.value));
        }
    }
}
