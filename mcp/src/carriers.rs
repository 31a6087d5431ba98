//! The goal, the user and the passport of a call, and their carriers.

/// Values that the transport carries beside a message, because an intermediary may strip `_meta`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Carriers {
    pub(crate) goal: Option<String>,
    pub(crate) user_id: Option<String>,
    pub(crate) passport: Option<String>,
    /// The authenticated client; `None` without authentication.
    pub(crate) principal: Option<String>,
}
