//! Secrets as stored: sealed under a master key that the store does not have.

/// A stored signing key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedKey {
    /// The public key's JWK thumbprint (RFC 7638).
    pub kid: String,
    /// Nonce and private key under AES-256-GCM; the `kid` is authenticated.
    pub sealed: Vec<u8>,
    /// Whether it signs new passports.
    pub active: bool,
    /// When its last passport expires, in seconds since 1970; 0 if it signed none.
    pub needed_until: i64,
}

/// A stored credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedCredential {
    /// The id: `cr_` followed by a UUIDv7 in hex; new each time the credential is set.
    pub id: String,
    /// The tool that it belongs to.
    pub tool_id: String,
    /// Nonce and secret under AES-256-GCM; the tenant and all other members are authenticated.
    pub sealed: Vec<u8>,
    /// When it was set, in seconds since 1970.
    pub set_at: i64,
    /// Expiry, in seconds since 1970; `None` for no expiry.
    pub expires_at: Option<i64>,
}

impl SealedCredential {
    /// Returns whether it has expired at `now`, in seconds since 1970.
    pub fn has_expired(&self, now: i64) -> bool {
        self.expires_at.is_some_and(|expires_at| now >= expires_at)
    }
}
