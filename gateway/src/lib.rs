//! The self-hosted ActPass gateway: it decides by policy whether an agent may act, and answers only after the decision
//! is durably recorded.
//!
//! The program `actpass-gateway` is [`cli::run`]; [`server::Server`] is the gateway inside of it. A request goes
//! through `http` (who calls, what they send), [`request`] (what it says) and `service` (what is done for it), which uses
//! [`decide`] and [`policy`] (what is decided) and [`ledger`] and [`store`] (what is recorded), and is then answered.
#![forbid(unsafe_code)]

pub mod approvals;
pub mod auth;
pub mod checkpoints;
pub mod cli;
pub mod clock;
pub mod config;
mod connections;
pub mod decide;
mod events;
pub mod evidence;
mod files;
pub mod hosts;
mod http;
pub mod ledger;
mod object_writer;
pub mod passport;
pub mod policy;
pub mod problems;
pub mod request;
pub mod seal;
pub mod server;
mod service;
pub mod store;
pub mod tools;
pub mod vault;
