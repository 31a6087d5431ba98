//! The ActPass wire protocol.
//!
//! This crate contains the strict JSON reader and canonical form ([`json`]), hashes
//! ([`hash_payload`]), passport tokens ([`token`]), DPoP proofs ([`dpop`]), and the closed tables
//! shared by all parts of ActPass: [modes](Mode), [decision words](DecisionWord), [operations and
//! their paths](Operation), [error kinds and codes](ErrorKind).
//!
//! It does no I/O. The client (`actpass-core`) and the gateway (`actpass-gateway`) are built on it.
//! It builds for `wasm32-unknown-unknown`.
//!
//! ```
//! use actpass_protocol::{Json, Operation, hash_payload};
//!
//! let request = Json::parse(br#"{"tool": "stripe.refund.create", "args": {"amount": 4900}}"#).unwrap();
//! assert_eq!(Operation::Preflight.path(), "/api/v1/actions/preflight");
//! assert_eq!(hash_payload(&request)?.len(), 64);
//! # Ok::<(), actpass_protocol::InvalidArgument>(())
//! ```

#![forbid(unsafe_code)]

mod decision;
pub mod dpop;
mod error;
mod evidence;
mod hash;
pub mod json;
mod mode;
mod operation;
mod secret;
pub mod signed_approval;
pub mod token;
pub mod tools;

pub use decision::DecisionWord;
pub use error::{ErrorKind, Fault, InvalidArgument};
pub use evidence::{ACTION_OUTCOME, ActionEnd, DECISIONS};
pub use hash::{canonical_json, hash_payload, sha256_hex, sign_payload};
pub use json::Json;
pub use mode::Mode;
pub use operation::Operation;
pub use secret::Secret;
