//! The ledger outside of the gateway: chains exported as JSON Lines, and checked by whoever has them.

use std::io::{self, BufRead, Write};

use actpass_core::Json;

use crate::ledger::{Defect, Head, Verifier};
use crate::store::{Location, OpenError, read_chain};

/// Why a chain was not exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The tenant has no such chain.
    #[error("the tenant {tenant_id:?} has no chain {chain_id:?}")]
    NoSuchChain {
        /// The tenant.
        tenant_id: String,
        /// The chain.
        chain_id: String,
    },
    /// The data file has not all of its events.
    #[error(
        "the chain has {found} events in the data file where it must have {expected}: the file was changed"
    )]
    Incomplete {
        /// How many events there are.
        found: u64,
        /// How many there must be.
        expected: u64,
    },
    /// The data file cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The events could not be written.
    #[error("the export could not be written: {0}")]
    Write(#[from] io::Error),
}

/// Writes the chain to `out`, an event a line, as it is kept. It only reads the data file, and works beside a running
/// gateway.
///
/// # Errors
///
/// If there is no such chain, the data file cannot be read, or `out` not written.
pub fn export(
    data: &Location,
    tenant_id: &str,
    chain_id: &str,
    out: &mut impl Write,
) -> Result<Head, ExportError> {
    let mut found = 0;
    let head = read_chain(data, tenant_id, chain_id, |event| {
        found += 1;
        out.write_all(event.text.as_bytes())?;
        out.write_all(b"\n").map_err(ExportError::Write)
    })?;
    out.flush()?;
    let unknown =
        || ExportError::NoSuchChain { tenant_id: tenant_id.to_owned(), chain_id: chain_id.to_owned() };
    let head = head.filter(|head| head.length > 0).ok_or_else(unknown)?;
    match found == head.length {
        true => Ok(head),
        false => Err(ExportError::Incomplete { found, expected: head.length }),
    }
}

/// Why an export is not a whole chain.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// An event is not what was recorded in its place.
    #[error("line {line}: event {seq}{name}: {defect}")]
    Broken {
        /// Which line it is on, from 1.
        line: u64,
        /// Which event of the chain it should be.
        seq: u64,
        /// What it is called itself, in parentheses.
        name: String,
        /// In what way it is broken.
        defect: Defect,
    },
    /// There is nothing to check.
    #[error("there are no events")]
    Empty,
    /// The chain ends elsewhere than it must.
    #[error("the chain ends with event {} and the head {}, not with the head {expected}: events are missing at its end", .found.length, .found.hash)]
    Head {
        /// How the chain ends.
        found: Head,
        /// The hash that its last event must have.
        expected: String,
    },
    /// The export could not be read.
    #[error("the export could not be read: {0}")]
    Read(#[from] io::Error),
}

/// Checks an export: that its events are those that were recorded, from the first, all of them and in their order. That
/// the newest are all there only `head` can tell, if the reader has it from elsewhere.
///
/// # Errors
///
/// The first event that breaks the chain and in what way.
pub fn verify(export: impl BufRead, head: Option<&str>) -> Result<Head, VerifyError> {
    let mut verifier = Verifier::default();
    for (line, text) in (1..).zip(export.split(b'\n')) {
        let text = text?;
        // What is no text is no event, and must not become one by being mended.
        let text = str::from_utf8(&text).unwrap_or_default();
        let seq = verifier.head().length.saturating_add(1);
        verifier.examine(text).map_err(|defect| VerifyError::Broken {
            line,
            seq,
            name: name(text),
            defect,
        })?;
    }
    let found = verifier.head().clone();
    match head {
        _ if found.length == 0 => Err(VerifyError::Empty),
        Some(expected) if found.hash != expected => {
            Err(VerifyError::Head { found, expected: expected.to_owned() })
        }
        Some(_) | None => Ok(found),
    }
}

fn name(text: &str) -> String {
    let event = Json::parse(text.as_bytes()).ok();
    let id = event.as_ref().and_then(|event| event.member("event_id")).and_then(Json::as_str);
    id.map(|id| format!(" ({})", id.escape_debug())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;
    use tempfile::TempDir;

    use super::*;
    use crate::ledger::Draft;
    use crate::store::{Append, SqliteStore, Store};

    #[tokio::test]
    async fn a_data_file_that_lost_events_is_not_exported_as_whole() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("data.db");
        let store = SqliteStore::open(&path).unwrap();
        for number in 0..3 {
            let event = Draft {
                event_id: format!("ev_{number}"),
                tenant_id: "t".into(),
                chain_id: "c".to_owned(),
                ..Draft::default()
            };
            store.append(Append::of(event)).await.unwrap();
        }
        store.close().await;
        drop(store);
        let data = Location::File(path.clone());
        let whole = export(&data, "t", "c", &mut io::sink()).unwrap();
        assert_eq!(whole.length, 3);

        let file = Connection::open(&path).unwrap();
        file.execute_batch("DROP TRIGGER events_are_not_removed; DELETE FROM events WHERE seq = 3").unwrap();
        drop(file);
        let error = export(&data, "t", "c", &mut io::sink()).unwrap_err();
        assert!(matches!(error, ExportError::Incomplete { found: 2, expected: 3 }), "{error}");
    }
}
