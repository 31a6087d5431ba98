//! Stored responses. A response repeats members of its event, and most of the rest is the same for
//! each decision by a rule, so that rows share it.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::Finder;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use sha2::{Digest, Sha256};

use super::answer_tables::name_of;
use super::schema::decisions;
use super::{from_sql, to_sql};
use crate::store::proof::StoredResponse;

/// A stored response with the events that it refers to.
const FIND: &str = concat!(
    "SELECT fingerprint, answer, (SELECT text FROM answer_texts WHERE answer_texts.id = answers.text),
    expires_at, seq, allowed_seq,
    (SELECT event FROM events WHERE chain = ",
    decisions!(),
    " AND events.seq = answers.seq), (SELECT event FROM events WHERE chain = ",
    decisions!(),
    " AND events.seq = answers.allowed_seq)
    FROM answers WHERE name = ?2"
);

/// The members of an event that shared texts omit, each up to its value. The character U+0001
/// represents the first one, U+0002 the second one; JSON escapes both in strings.
static MEMBERS: LazyLock<[(&str, Finder<'_>); 2]> = LazyLock::new(|| {
    [("\u{1}", Finder::new(r#""event_id":""#)), ("\u{2}", Finder::new(r#""request_hash":""#))]
});

/// A text is kept this much longer than its last response, in seconds. The time is written once for
/// the responses of that period, and a gateway whose clock is late finds the text.
const TEXT_MARGIN: i64 = 86_400;

/// Maximum number of texts in memory.
const MAX_TEXTS: usize = 1024;

/// The texts that the writer stored, and those that it may store.
#[derive(Debug, Default)]
pub(super) struct AnswerTexts {
    /// The id of a stored text, and how long it is needed, in seconds since 1970.
    stored: HashMap<String, (i64, i64)>,
    /// The ids of texts of one response. A response is stored whole if no other is alike.
    seen: HashSet<i64>,
}

impl AnswerTexts {
    /// Clears the texts. Required if their transaction failed.
    pub(super) fn clear(&mut self) {
        self.stored.clear();
        self.seen.clear();
    }

    /// Returns the id of `text`, which is kept for a response until `expires_at`; `None` if the
    /// response is stored whole.
    fn share(
        &mut self,
        transaction: &Transaction<'_>,
        text: String,
        expires_at: i64,
    ) -> rusqlite::Result<Option<i64>> {
        if let Some((id, needed_until)) = self.stored.get(&text)
            && *needed_until >= expires_at
        {
            return Ok(Some(*id));
        }
        let id = id_of(&text);
        if self.seen.len() >= MAX_TEXTS {
            self.seen.clear();
        }
        if self.seen.insert(id) && !self.stored.contains_key(&text) {
            return Ok(None);
        }
        let needed_until = expires_at.saturating_add(TEXT_MARGIN);
        let stored = transaction
            .prepare_cached(
                "INSERT INTO answer_texts (id, text, needed_until) VALUES (?1, ?2, ?3)
                 ON CONFLICT (id) DO UPDATE SET needed_until = max(needed_until, ?3) WHERE text = ?2",
            )?
            .execute(params![id, text, needed_until])?;
        // Another text has the id.
        if stored == 0 {
            return Ok(None);
        }
        if self.stored.len() >= MAX_TEXTS {
            self.stored.clear();
        }
        self.stored.insert(text, (id, needed_until));
        Ok(Some(id))
    }
}

/// Returns the stored response under an idempotency key, even if it has expired.
pub(super) fn find(
    connection: &Connection,
    tenant_id: &str,
    key_name: &str,
    idempotency_key: &str,
) -> rusqlite::Result<Option<StoredResponse>> {
    let name = name_of(tenant_id, key_name, idempotency_key);
    connection
        .prepare_cached(FIND)?
        .query_row(params![tenant_id, name], |row| {
            let event: Option<String> = row.get(6)?;
            let response = match row.get::<_, Option<Vec<u8>>>(1)? {
                Some(answer) => answer,
                None => {
                    let text: String = row.get::<_, Option<String>>(2)?.unwrap_or_default();
                    expand(text, event.as_deref().unwrap_or_default()).into_bytes()
                }
            };
            Ok(StoredResponse {
                fingerprint: row.get(0)?,
                response: Bytes::from(response),
                expires_at: row.get(3)?,
                seq: from_sql(row.get(4)?),
                event,
                allowed_seq: row.get::<_, Option<i64>>(5)?.map(from_sql),
                allowed_event: row.get(7)?,
            })
        })
        .optional()
}

/// Stores a response, replacing any other under its key. `chain` is the tenant's chain of decisions.
pub(super) fn store(
    transaction: &Transaction<'_>,
    texts: &mut AnswerTexts,
    chain: i64,
    [tenant_id, key_name, idempotency_key]: [&str; 3],
    kept: &StoredResponse,
) -> rusqlite::Result<()> {
    let text = match kept.event.as_deref().and_then(|event| shorten(&kept.response, event)) {
        Some(text) => texts.share(transaction, text, kept.expires_at)?,
        None => None,
    };
    let answer = text.is_none().then_some(kept.response.as_ref());
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO answers (name, chain, fingerprint, text, answer, expires_at, seq, allowed_seq)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            name_of(tenant_id, key_name, idempotency_key),
            chain,
            kept.fingerprint,
            text,
            answer,
            kept.expires_at,
            to_sql(kept.seq),
            kept.allowed_seq.map(to_sql)
        ])?;
    Ok(())
}

/// Removes up to `limit` responses that have expired at `now`, in seconds since 1970, oldest first,
/// and texts that no response needs. An expired response may wait for an older one with a longer
/// time.
pub(super) fn prune(transaction: &Transaction<'_>, now: i64, limit: usize) -> rusqlite::Result<()> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let oldest: Option<i64> = transaction
        .prepare_cached("SELECT expires_at FROM answers ORDER BY id LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    if oldest.is_none_or(|oldest| oldest > now) {
        return Ok(());
    }
    transaction
        .prepare_cached(
            "DELETE FROM answers WHERE id IN (
                 SELECT id FROM (SELECT id, expires_at FROM answers ORDER BY id LIMIT ?2) WHERE expires_at <= ?1
             )",
        )?
        .execute(params![now, limit])?;
    transaction
        .prepare_cached(
            "DELETE FROM answer_texts WHERE id IN (
                 SELECT id FROM answer_texts INDEXED BY answer_texts_by_end WHERE needed_until <= ?1 LIMIT ?2
             )",
        )?
        .execute(params![now.saturating_sub(TEXT_MARGIN), limit])?;
    Ok(())
}

/// Returns the id of a text: 47 bits of its SHA-256, which SQLite stores in 6 bytes.
fn id_of(text: &str) -> i64 {
    let hash = Sha256::digest(text);
    hash.iter().take(6).fold(0, |id, byte| id << 8 | i64::from(*byte)) >> 1
}

/// Returns the response without the members of its event. `None` if [`expand`] would not restore it.
fn shorten(response: &[u8], event: &str) -> Option<String> {
    let mut text =
        str::from_utf8(response).ok().filter(|text| !text.contains(['\u{1}', '\u{2}']))?.to_owned();
    for (mark, value) in members(event) {
        if let Some(value) = value
            && let Some(at) = text.find(value)
        {
            text.replace_range(at..at + value.len(), mark);
        }
    }
    Some(text)
}

/// Restores a response from its text and its event.
fn expand(mut text: String, event: &str) -> String {
    for (mark, value) in members(event) {
        if let Some(value) = value
            && let Some(at) = text.find(mark)
        {
            text.replace_range(at..at + mark.len(), value);
        }
    }
    text
}

/// Returns the marks of [`MEMBERS`], with the value of the first such member in the event's text.
fn members(event: &str) -> [(&'static str, Option<&str>); 2] {
    MEMBERS.each_ref().map(|(mark, name)| {
        let start = name.find(event.as_bytes()).map(|at| at + name.needle().len());
        let value = start.and_then(|start| event.get(start..)?.split_once('"'));
        (*mark, value.map(|(value, _)| value).filter(|value| !value.is_empty()))
    })
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::store::sqlite::schema;

    fn row(text: Option<&str>, expires_at: i64) -> StoredResponse {
        StoredResponse {
            fingerprint: vec![1; 32],
            response: Bytes::from(text.unwrap_or("r").to_owned()),
            expires_at,
            seq: 1,
            event: Some("{}".to_owned()),
            allowed_seq: None,
            allowed_event: None,
        }
    }

    #[test]
    fn expansion_restores_any_response() {
        let event = r#"{"event_id":"ev_1","metadata":{"request_hash":"x"},"request_hash":"ab\\"}"#;
        for (response, text) in [
            (
                r#"{"evidence_event_id":"ev_1","x":"x"}"#,
                Some("{\"evidence_event_id\":\"\u{1}\",\"\u{2}\":\"x\"}"),
            ),
            ("ev_1ev_1", Some("\u{1}ev_1")),
            ("ev_", Some("ev_")),
            ("", Some("")),
            ("a\u{1}ev_1", None),
            ("\u{2}", None),
        ] {
            assert_eq!(shorten(response.as_bytes(), event).as_deref(), text);
            if let Some(text) = text {
                assert_eq!(expand(text.to_owned(), event), response);
            }
        }
        assert_eq!(shorten(b"\xff", event), None);
        assert_eq!(shorten(b"a", "").as_deref(), Some("a"));
        assert_eq!(expand("\u{1}".to_owned(), ""), "\u{1}");
    }

    #[test]
    fn names_differ_by_each_part() {
        let names = [["t", "k", "i"], ["tk", "", "i"], ["t", "ki", ""], ["", "tk", "i"], ["t", "k", "j"]];
        let names: HashSet<_> = names.iter().map(|[t, k, i]| name_of(t, k, i)).collect();
        assert_eq!(names.len(), 5);
    }

    #[test]
    fn expired_responses_and_their_texts_are_removed() {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::prepare(&mut connection).unwrap();
        let transaction = connection.transaction().unwrap();
        let mut texts = AnswerTexts::default();
        let count = |table: &str| {
            let query = format!("SELECT count(*) FROM {table}");
            transaction.query_one(&query, [], |row| row.get::<_, u32>(0)).unwrap()
        };
        for (key, expires_at) in [("a", 10), ("b", 20), ("c", 15), ("a", 30)] {
            store(&transaction, &mut texts, 1, ["t", "k", key], &row(None, expires_at)).unwrap();
        }
        assert_eq!((count("answers"), count("answer_texts")), (3, 1));
        // `c` waits for `b`, and `a` was replaced.
        for (now, left) in [(10, 3), (19, 3), (20, 1), (29, 1), (30, 0)] {
            prune(&transaction, now, 64).unwrap();
            assert_eq!(count("answers"), left, "{now}");
        }
        // The text of a response is stored again if it was removed.
        let later = 30 + 3 * TEXT_MARGIN;
        store(&transaction, &mut texts, 1, ["t", "k", "d"], &row(Some("other"), later)).unwrap();
        prune(&transaction, later, 64).unwrap();
        assert_eq!(count("answer_texts"), 0);
        store(&transaction, &mut texts, 1, ["t", "k", "e"], &row(None, later + 10)).unwrap();
        let found = find(&transaction, "t", "k", "e").unwrap().unwrap();
        assert_eq!((&*found.response, count("answer_texts")), (&b"r"[..], 1));
    }

    #[test]
    fn a_text_whose_id_is_taken_is_stored_whole() {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::prepare(&mut connection).unwrap();
        let transaction = connection.transaction().unwrap();
        let taken = "INSERT INTO answer_texts (id, text, needed_until) VALUES (?1, 'other', 0)";
        transaction.execute(taken, [id_of("r")]).unwrap();
        let mut texts = AnswerTexts::default();
        for key in ["a", "b", "c"] {
            store(&transaction, &mut texts, 1, ["t", "k", key], &row(None, 10)).unwrap();
            assert_eq!(&*find(&transaction, "t", "k", key).unwrap().unwrap().response, b"r");
        }
    }
}
