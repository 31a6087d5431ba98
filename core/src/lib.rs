//! ActPass: an agent acts only when it may.
//!
//! [`ActPass`] asks an ActPass gateway about an action and, with [`ActPass::guard`], runs it only when the gateway
//! allows it. Anything else (a denial, a pending approval, a tool that changed, a gateway that cannot be reached) and
//! the code does not run.
//!
//! ```
//! # use actpass_core::transport::{Request, Response, SendFuture, Transport};
//! # #[derive(Debug)] struct Gateway;
//! # impl Transport for Gateway { fn send(&self, request: Request) -> SendFuture<'_> {
//! #     let small = String::from_utf8_lossy(&request.body).contains("4900");
//! #     Box::pin(async move { Ok(Response::new(200, match small {
//! #         true => r#"{"decision":"allow","reason_code":"refund.small_in_scope"}"#,
//! #         false => r#"{"decision":"deny","reason_code":"refund.over_limit"}"#,
//! #     })) }) } }
//! use actpass_core::{ActPass, Action, Outcome};
//! use serde_json::json;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let actpass = ActPass::builder().api_key("apk_dev").agent_id("support_agent").build()?;
//! # let actpass = ActPass::builder().api_key("apk_dev").transport(Gateway).build()?;
//! let refund = |amount: u64| {
//!     Action::new("resolve_refund_request", "stripe.refund.create").args(json!({"amount": amount, "currency": "usd"}))
//! };
//!
//! let small = actpass.guard(&refund(4900), |_| async { Ok::<_, std::io::Error>("refunded") }).await?;
//! assert!(matches!(small, Outcome::Returned { result: "refunded", .. }));
//!
//! let large = actpass.guard(&refund(90_000), |_| async { Ok::<_, std::io::Error>("refunded") }).await?;
//! assert!(!large.executed());
//! assert_eq!(large.decision().reason_code(), "refund.over_limit");
//! # Ok::<(), actpass_core::Error>(())
//! # }).unwrap();
//! ```
//!
//! # Features
//!
//! `http`, on by default: HTTP/1.1 and HTTP/2 over hyper and rustls, on tokio. Without it a client needs a
//! [transport](transport::Transport) and a [clock](Clock) of its own, and this crate has neither tokio nor C code.
//!
//! All meaning of the SDKs is in this crate; the Python package and the others convert to it and from it. What the
//! guard promises is listed in [`guard`].

#![forbid(unsafe_code)]
#![cfg_attr(not(feature = "http"), allow(dead_code, reason = "what only HTTP uses"))]

mod action;
mod approval;
mod base_url;
mod block_texts;
mod breaker;
mod builder;
mod cause;
mod client;
mod clock;
mod config;
mod decision;
pub mod engine;
mod error;
mod evidence;
mod explanation;
pub mod guard;
#[cfg(feature = "http")]
mod http;
mod observe;
mod offline;
mod passport;
mod prepared;
mod redact;
mod request;
mod retry;
mod settings;
mod trace;
pub mod transport;

pub use actpass_protocol::{
    ACTION_OUTCOME, ActionEnd, DecisionWord, ErrorKind, Fault, InvalidArgument, Json, Mode, Operation,
    Secret, canonical_json, hash_payload, json, sha256_hex, sign_payload, token,
};

pub use action::{Action, SetString};
pub use approval::{Approval, ApprovalStatus, PendingApproval};
pub use base_url::DEFAULT_BASE_URL;
pub use block_texts::{BlockFailure, BlockTexts};
pub use breaker::{Circuit, DEFAULT_CIRCUIT_FAILURES};
pub use builder::ActPassBuilder;
pub use client::ActPass;
#[cfg(feature = "http")]
pub use clock::TokioClock;
pub use clock::{Clock, Moment, Sleep};
pub use config::{
    CallOptions, DEFAULT_CONNECT_TIMEOUT, DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT, seconds, wait_seconds,
    whole_number,
};
pub use decision::{Credential, Decision, Explain};
pub use error::Error;
pub use evidence::{EvidenceEvent, RecordedEvidence};
pub use guard::{
    Blocked, ExecutionContext, Outcome, PERMIT_VALIDITY, Permit, Recording, Settlement, Verdict,
    canonical_outcome,
};
#[cfg(feature = "http")]
pub use http::CaVariable;
pub use passport::{
    IssuedPassport, OfflineVerifyRequest, PassportRequest, Revocation, Verification, VerifyRequest,
};
pub use prepared::PreparedAction;
pub use settings::Settings;
pub use trace::Traceparent;
