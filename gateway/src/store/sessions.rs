//! Sessions of the page, and sign-ins in progress.

use std::sync::Arc;

/// The SHA-256 of a secret id. The lookup time reveals only the hash of the sent id.
pub type IdHash = [u8; 32];

/// A session of the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSession {
    /// The hash of its id.
    pub id: IdHash,
    /// Its opener: `key:` and the hash of an API key, or `person:` and issuer and subject.
    pub opener: String,
    /// The tenant.
    pub tenant_id: Arc<str>,
    /// The signed-in person as JSON; `None` for an API key.
    pub identity: Option<String>,
    /// CSRF token of its forms.
    pub token: String,
    /// Whether its cookie is sent over https only.
    pub secure: bool,
    /// When it was opened, in seconds since 1970.
    pub opened: i64,
    /// The last activity, in seconds since 1970.
    pub used: i64,
    /// When it ends regardless of activity, in seconds since 1970.
    pub until: i64,
    /// Id of the session at the identity provider.
    pub provider_session: Option<String>,
}

/// A change of sessions.
#[derive(Clone, Debug)]
pub enum SessionChange {
    /// Opens a session. Ended sessions are removed, and the least recently used ones of its opener
    /// beyond `limit`.
    Open {
        /// The session.
        session: Box<StoredSession>,
        /// Maximum number of sessions of an opener.
        limit: u32,
        /// Sessions without activity since then have ended, in seconds since 1970.
        idle_since: i64,
    },
    /// Records activity.
    Touch {
        /// The session.
        id: IdHash,
        /// The time, in seconds since 1970.
        now: i64,
    },
    /// Ends a session.
    Close {
        /// The session.
        id: IdHash,
    },
    /// Ends the sessions of an opener, or one that began with a session at the provider.
    CloseAll {
        /// Their opener; `None` for any.
        opener: Option<String>,
        /// The session at the provider; `None` for any.
        provider_session: Option<String>,
    },
    /// Begins a sign-in.
    Begin {
        /// The hash of its state.
        state: IdHash,
        /// The data for its end.
        data: String,
        /// The time, in seconds since 1970.
        now: i64,
        /// When it expires, in seconds since 1970.
        until: i64,
    },
    /// Ends a sign-in; possible once.
    End {
        /// The hash of its state.
        state: IdHash,
    },
}

/// Maximum number of sign-ins in progress. The oldest ones end beyond it.
pub(super) const MAX_SIGN_INS: i64 = 10_000;
