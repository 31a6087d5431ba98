//! Secrets that cross the border: keys, passports and credentials.
//!
//! In Swift and Kotlin each is a type of its own, `Secret`, whose text no form of printing shows. So no generated record
//! that holds one can print it.

use actpass_core::Secret;

uniffi::custom_type!(Secret, String, {
    remote,
    lower: |secret| secret.expose().to_owned(),
    try_lift: |text| Ok(Secret::new(text)),
});
