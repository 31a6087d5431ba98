//! The HTTP tests again, with the data in PostgreSQL.
#![cfg(unix)]
#![allow(clippy::duplicate_mod, reason = "test files share the module")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "acs.rs"]
mod acs;
#[path = "approvals.rs"]
mod approvals;
#[path = "archive.rs"]
mod archive;
#[path = "budgets.rs"]
mod budgets;
#[path = "exchange.rs"]
mod exchange;
#[path = "halts.rs"]
mod halts;
#[path = "history.rs"]
mod history;
#[path = "http.rs"]
mod http;
#[path = "idempotency.rs"]
mod idempotency;
#[path = "interfaces.rs"]
mod interfaces;
#[path = "limits.rs"]
mod limits;
#[path = "metrics.rs"]
mod metrics;
#[path = "passports.rs"]
mod passports;
#[path = "people.rs"]
mod people;
#[path = "sign_in.rs"]
mod sign_in;
#[path = "traces.rs"]
mod traces;
#[path = "vault.rs"]
mod vault;
#[path = "webhooks.rs"]
mod webhooks;
