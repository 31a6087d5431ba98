//! What the gateway does over the wire, once more, with its data in PostgreSQL.
#![cfg(unix)]
#![allow(clippy::duplicate_mod, reason = "each file of tests is whole in itself")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "approvals.rs"]
mod approvals;
#[path = "http.rs"]
mod http;
#[path = "idempotency.rs"]
mod idempotency;
#[path = "passports.rs"]
mod passports;
#[path = "vault.rs"]
mod vault;
