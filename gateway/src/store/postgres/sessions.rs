//! Sessions of the page, and sign-ins in progress.

use tokio_postgres::{Client, Row};

use super::super::sessions::{IdHash, MAX_SIGN_INS, SessionChange, StoredSession};
use super::text::{StoredText, Text};

/// Tables of the schema version that added sessions.
pub(super) const SESSIONS: &str = r#"
CREATE TABLE actpass.sessions (
    id               bytea PRIMARY KEY,
    opener           text COLLATE "C" NOT NULL,
    tenant_id        text COLLATE "C" NOT NULL,
    identity         text,
    token            text NOT NULL,
    secure           boolean NOT NULL,
    opened           bigint NOT NULL,
    used             bigint NOT NULL,
    until            bigint NOT NULL,
    provider_session text COLLATE "C"
);
CREATE INDEX sessions_by_opener ON actpass.sessions (opener, used);

CREATE TABLE actpass.sign_ins (
    state bytea PRIMARY KEY,
    data  text NOT NULL,
    until bigint NOT NULL
);
CREATE INDEX sign_ins_by_end ON actpass.sign_ins (until);
"#;

/// Applies a change; returns `false` if it is not possible.
pub(super) async fn change(
    client: &mut Client,
    change: &SessionChange,
) -> Result<bool, tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    let changed = match change {
        SessionChange::Open { session, limit, idle_since } => {
            let opener = Text(&session.opener);
            transaction
                .execute(
                    "DELETE FROM actpass.sessions WHERE until <= $1 OR used <= $2",
                    &[&session.opened, idle_since],
                )
                .await?;
            transaction
                .execute(
                    "DELETE FROM actpass.sessions WHERE id IN (
                         SELECT id FROM actpass.sessions WHERE opener = $1 ORDER BY used DESC, id OFFSET $2
                     )",
                    &[&opener, &i64::from(limit.saturating_sub(1))],
                )
                .await?;
            transaction
                .execute(
                    "INSERT INTO actpass.sessions (id, opener, tenant_id, identity, token, secure, opened, used,
                         until, provider_session) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                    &[
                        &session.id.as_slice(),
                        &opener,
                        &Text(&session.tenant_id),
                        &session.identity.as_deref().map(Text),
                        &session.token,
                        &session.secure,
                        &session.opened,
                        &session.used,
                        &session.until,
                        &session.provider_session.as_deref().map(Text),
                    ],
                )
                .await?
        }
        SessionChange::Touch { id, now } => {
            let touch = "UPDATE actpass.sessions SET used = $2 WHERE id = $1 AND used < $2";
            transaction.execute(touch, &[&id.as_slice(), now]).await?
        }
        SessionChange::Close { id } => {
            transaction.execute("DELETE FROM actpass.sessions WHERE id = $1", &[&id.as_slice()]).await?
        }
        SessionChange::CloseAll { opener, provider_session } => {
            transaction
                .execute(
                    "DELETE FROM actpass.sessions
                     WHERE identity IS NOT NULL AND ($1::text IS NULL OR opener = $1)
                     AND ($2::text IS NULL OR provider_session = $2)",
                    &[&opener.as_deref().map(Text), &provider_session.as_deref().map(Text)],
                )
                .await?
        }
        SessionChange::Begin { state, data, now, until } => {
            transaction.execute("DELETE FROM actpass.sign_ins WHERE until <= $1", &[now]).await?;
            transaction
                .execute(
                    "DELETE FROM actpass.sign_ins WHERE state IN (
                         SELECT state FROM actpass.sign_ins ORDER BY until DESC OFFSET $1
                     )",
                    &[&(MAX_SIGN_INS - 1)],
                )
                .await?;
            transaction
                .execute(
                    "INSERT INTO actpass.sign_ins (state, data, until) VALUES ($1, $2, $3)",
                    &[&state.as_slice(), data, until],
                )
                .await?
        }
        SessionChange::End { state } => {
            transaction.execute("DELETE FROM actpass.sign_ins WHERE state = $1", &[&state.as_slice()]).await?
        }
    };
    transaction.commit().await?;
    Ok(changed > 0)
}

/// Finds the session $1.
pub(super) const FIND: &str = "
SELECT opener, tenant_id, identity, token, secure, opened, used, until, provider_session
FROM actpass.sessions WHERE id = $1";

/// Finds the sign-in $1.
pub(super) const FIND_SIGN_IN: &str = "SELECT data, until FROM actpass.sign_ins WHERE state = $1";

pub(super) fn session_of(id: &IdHash, row: &Row) -> Result<StoredSession, tokio_postgres::Error> {
    let text = |text: StoredText| text.0;
    Ok(StoredSession {
        id: *id,
        opener: text(row.try_get(0)?),
        tenant_id: text(row.try_get(1)?).into(),
        identity: row.try_get::<_, Option<StoredText>>(2)?.map(text),
        token: row.try_get(3)?,
        secure: row.try_get(4)?,
        opened: row.try_get(5)?,
        used: row.try_get(6)?,
        until: row.try_get(7)?,
        provider_session: row.try_get::<_, Option<StoredText>>(8)?.map(text),
    })
}
