//! The definitions of a server's tools.

use std::collections::HashMap;

use actpass_core::{Json, hash_payload};

/// The hashes of the definitions that the client has received.
#[derive(Debug, Default)]
pub(crate) struct Definitions(HashMap<String, String>);

impl Definitions {
    /// Notes the result of a `tools/list`. The first page replaces the known definitions. A definition
    /// that has no hash, and one that is listed twice, is not known.
    pub(crate) fn note(&mut self, result: &str, is_first_page: bool) {
        if is_first_page {
            self.0.clear();
        }
        for (name, definition) in tools(result).unwrap_or_default() {
            match hash_payload(&definition) {
                Ok(hash) if !self.0.contains_key(&name) => self.0.insert(name, hash),
                Ok(_) | Err(_) => self.0.insert(name, String::new()),
            };
        }
    }

    /// The hash of the tool's definition, if known.
    pub(crate) fn hash(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|hash| !hash.is_empty())
    }
}

/// The tools of a list: name and definition.
pub(crate) fn tools(result: &str) -> Option<Vec<(String, Json)>> {
    let result = Json::parse(result.as_bytes()).ok()?;
    let Json::Array(tools) = result.member("tools")? else { return None };
    tools.iter().map(|tool| Some((tool.member("name")?.as_str()?.to_owned(), tool.clone()))).collect()
}
