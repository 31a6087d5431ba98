//! The parts of `actpass-hook` that run longer than one call: the [`acs`] bridge.

#![forbid(unsafe_code)]

pub mod acs;
mod frames;
