//! The self-hosted ActPass gateway. It decides by policy whether an agent may act and responds only
//! after the decision is durably recorded.
//!
//! The program `actpass-gateway` is [`cli::run`], which runs a [`server::Server`]. `http`
//! authenticates and parses a request, [`request`] validates it, and `service` runs the use case
//! with [`decide`] and [`policy`] for decisions, and [`ledger`] and [`store`] for records.
#![forbid(unsafe_code)]

pub mod access_log;
pub mod acs;
pub mod admission;
pub mod announcement;
pub mod approvals;
pub mod auth;
pub mod budget;
pub mod capture;
pub mod checkpoints;
pub mod cli;
pub mod client_certificates;
pub mod clock;
pub mod config;
mod connections;
mod coverage;
pub mod decide;
pub mod delegation;
pub mod dpop;
mod events;
pub mod evidence;
mod files;
pub mod halts;
pub mod history;
pub mod hosts;
mod http;
pub mod ledger;
pub mod merkle;
mod metrics;
mod object_writer;
pub mod ocsf;
pub mod passkeys;
pub mod passport;
pub mod policy;
pub mod policy_replay;
pub mod problems;
pub mod proofs;
pub mod quorum;
mod reload;
pub mod replay;
pub mod request;
pub mod seal;
pub mod server;
mod service;
mod shadow;
pub mod sign_in;
pub mod signed_note;
pub mod store;
pub mod traces;
pub mod vault;
pub mod webhooks;
