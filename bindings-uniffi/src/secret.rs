//! Secrets in the bindings: keys, passports and credentials.
//!
//! Swift and Kotlin each have a `Secret` type that no form of printing reveals, so no generated
//! record with a secret can print it.

use actpass_core::Secret;

uniffi::custom_type!(Secret, String, {
    remote,
    lower: |secret| secret.expose().to_owned(),
    try_lift: |text| Ok(Secret::new(text)),
});
