//! Values that a process does not share with the processes it forks.

use std::mem;
use std::ops::Deref;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

/// One value per process, made with the first [`get`](PerProcess::get). A forked child makes its own and never drops its
/// parent's: a drop would reach into what the parent still uses.
pub(crate) struct PerProcess<T>(ArcSwapOption<Owned<T>>);

impl<T> PerProcess<T> {
    /// An empty cell.
    pub(crate) const fn new() -> Self {
        Self(ArcSwapOption::const_empty())
    }

    /// The value of this process, if it was made.
    pub(crate) fn existing(&self) -> Option<Arc<Owned<T>>> {
        self.0.load_full().filter(|owned| owned.is_current_process())
    }

    /// The value of this process, made by `make` if need be. Of several threads that make one, the first wins.
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

/// A value and the process that made it.
pub(crate) struct Owned<T> {
    process: u32,
    value: Arc<T>,
}

impl<T> Owned<T> {
    /// A value of this process.
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
            // An owner more than there are, so that the value is never dropped.
            mem::forget(Arc::clone(&self.value));
        }
    }
}
