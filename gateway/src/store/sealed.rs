//! Secrets as a store keeps them: sealed by a master key that it does not have.

/// A signing key as the data store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedKey {
    /// The public key's JWK thumbprint (RFC 7638).
    pub kid: String,
    /// A nonce, and the private key under AES-256-GCM, with the `kid` authenticated.
    pub sealed: Vec<u8>,
    /// Whether new passports are signed with it.
    pub active: bool,
    /// When the last passport that it signed expires, in seconds since 1970; 0 if it signed none.
    pub needed_until: i64,
}

/// A credential as the data store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedCredential {
    /// `cr_` and a UUIDv7, new each time the tool's credential is set.
    pub id: String,
    /// The tool that it belongs to.
    pub tool_id: String,
    /// A nonce, and the secret under AES-256-GCM, with the tenant and all other members authenticated.
    pub sealed: Vec<u8>,
    /// When it was set, in seconds since 1970.
    pub set_at: i64,
    /// Until when it holds, in seconds since 1970; `None` if nobody said.
    pub expires_at: Option<i64>,
}

impl SealedCredential {
    /// Whether it no longer holds at `now`, in seconds since 1970.
    pub fn has_expired(&self, now: i64) -> bool {
        self.expires_at.is_some_and(|expires_at| now >= expires_at)
    }
}
