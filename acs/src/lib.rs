//! Signed envelopes of the OWASP Agent Control Standard 0.1: session keys, requests and responses.
//!
//! The gateway answers with these envelopes, and the bridge for standard input and output answers
//! with the same ones when it cannot reach the gateway. No I/O.

#![forbid(unsafe_code)]

mod key;
mod request;
mod response;

pub use key::{InvalidSecret, SessionKey, read_secret};
pub use request::{Envelope, RpcError, Signature};
pub use response::{InvalidAnswer, Verdict, result, sign, verify};

/// The version of the standard.
pub const VERSION: &str = "0.1.0";

/// The signature algorithm.
pub const ALGORITHM: &str = "HMAC-SHA256";
