//! ActPass: an agent acts only when it may.
//!
//! [`ActPass`] requests an ActPass gateway's decision about an action. [`ActPass::guard`] runs the
//! action only if the gateway allows it. In every other case (a denial, a pending approval, a
//! changed tool, an unreachable gateway) the action does not run.
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
//! `http`, on by default: HTTP/1.1 and HTTP/2 over hyper and rustls, on tokio. Without it, a client
//! needs its own [transport](transport::Transport) and [clock](Clock), and this crate depends on
//! neither tokio nor C code.
//!
//! This crate contains the behaviour of all SDKs; the packages for Python, Node, Swift and Kotlin
//! only convert. [`guard`] lists the guarantees.

#![forbid(unsafe_code)]
#![cfg_attr(not(feature = "http"), allow(dead_code, reason = "used by the HTTP transport only"))]

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
mod dpop;
#[cfg(feature = "http")]
mod endpoint;
pub mod engine;
mod error;
mod evidence;
mod explanation;
pub mod guard;
mod halt_watch;
mod halts;
#[cfg(feature = "http")]
mod http;
mod http_requests;
mod observe;
mod offline;
mod passport;
mod prepared;
mod redact;
mod request;
mod retry;
mod settings;
mod signed_approvals;
#[cfg(feature = "scripted")]
pub mod testing;
mod trace;
pub mod transport;

pub use actpass_protocol::{
    ACTION_OUTCOME, ActionEnd, DecisionWord, ErrorKind, Fault, InvalidArgument, Json, Mode, Operation,
    Secret, canonical_json, hash_payload, json, sha256_hex, sign_payload, signed_approval, token,
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
pub use dpop::dpop_thumbprint;
#[cfg(feature = "http")]
pub use endpoint::Endpoint;
pub use error::Error;
pub use evidence::{EvidenceEvent, RecordedEvidence};
pub use guard::{
    Blocked, ExecutionContext, Outcome, PERMIT_VALIDITY, Permit, Recording, Settlement, Verdict,
    canonical_outcome,
};
pub use halts::{HALT_WATCH_DELAY, HaltSignal, HaltWatch, HaltWatcher, Halted, WatchFuture};
#[cfg(feature = "http")]
pub use http::CaVariable;
pub use http_requests::{HttpFailure, HttpRequests};
pub use passport::{
    IssuedPassport, OfflineVerifyRequest, PassportRequest, Revocation, Verification, VerifyRequest,
};
pub use prepared::PreparedAction;
pub use settings::Settings;
pub use trace::Traceparent;
