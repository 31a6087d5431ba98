//! The tables of stored responses, and their migration.

use rusqlite::types::Value;
use rusqlite::{Transaction, params};
use sha2::{Digest, Sha256};

/// The tables. `name` is [`name_of`], `chain` the tenant's chain of decisions. The response is
/// `answer`, otherwise the text `text` with members of the event `seq`. A row that is
/// replaced gets a new `id`, so `id` orders rows by the time of the decision.
///
/// A gateway creates the indexes of events again, which this version defines otherwise.
pub(super) const ANSWERS: &str = "
ALTER TABLE answers RENAME TO old_answers;
DROP INDEX answers_by_end;

CREATE TABLE answers (
    id          INTEGER PRIMARY KEY,
    name        BLOB NOT NULL UNIQUE,
    chain       INTEGER NOT NULL,
    fingerprint BLOB NOT NULL,
    text        INTEGER,
    answer      BLOB,
    expires_at  INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    allowed_seq INTEGER
) STRICT;

CREATE TABLE answer_texts (
    id           INTEGER PRIMARY KEY,
    text         TEXT NOT NULL,
    needed_until INTEGER NOT NULL
) STRICT;

CREATE INDEX answer_texts_by_end ON answer_texts (needed_until);

DROP INDEX IF EXISTS events_asked;
DROP INDEX IF EXISTS events_decided;
";

/// Bytes of [`name_of`].
const NAME: usize = 16;

/// Moves the responses of the previous schema version to the table of [`ANSWERS`].
pub(super) fn migrate(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let mut old = transaction.prepare(
        "SELECT tenant_id, key_name, idempotency_key, coalesce((
             SELECT id FROM chains WHERE chains.tenant_id = old_answers.tenant_id AND chain_id = 'decisions'
         ), 0), fingerprint, answer, expires_at, seq, allowed_seq
         FROM old_answers ORDER BY expires_at, rowid",
    )?;
    let mut new = transaction.prepare(
        "INSERT INTO answers (name, chain, fingerprint, answer, expires_at, seq, allowed_seq)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    let mut rows = old.query([])?;
    while let Some(row) = rows.next()? {
        let text = |column| row.get_ref(column).and_then(|value| Ok(value.as_str()?));
        let name = name_of(text(0)?, text(1)?, text(2)?);
        let value = |column| row.get::<_, Value>(column);
        new.execute(params![name, value(3)?, value(4)?, value(5)?, value(6)?, value(7)?, value(8)?])?;
    }
    drop(rows);
    transaction.execute_batch("DROP TABLE old_answers")
}

/// Returns the name of the row of an idempotency key: a part of the SHA-256 of the tenant, the API
/// key's name and the key.
pub(super) fn name_of(tenant_id: &str, key_name: &str, idempotency_key: &str) -> [u8; NAME] {
    let mut hash = Sha256::new();
    for part in [tenant_id, key_name] {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    hash.update(idempotency_key);
    let mut name = [0; NAME];
    for (byte, hashed) in name.iter_mut().zip(hash.finalize()) {
        *byte = hashed;
    }
    name
}
