//! In place of `broken.rs`, in wheels that are shipped.

#[derive(Clone, Copy)]
pub(crate) struct Break;

pub(crate) fn next() -> Break {
    Break
}

pub(crate) fn conversion() {}

pub(crate) fn call<F>(_how: Break, call: F) -> F {
    call
}

pub(crate) fn answer(_how: Break) {}
