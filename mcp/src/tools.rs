//! The definitions of a server's tools.

use std::collections::HashMap;

use actpass_core::{Json, hash_payload};
use reqwest::header::{HeaderName, HeaderValue};

use crate::header_value;

/// The prefix of the headers of tool parameters.
pub(crate) const PARAMETER: &str = "mcp-param-";

/// The definitions that the client has received.
#[derive(Debug, Default)]
pub(crate) struct Definitions {
    /// The hash of each definition; empty without a canonical form.
    hashes: HashMap<String, String>,
    /// The parameters that a request over HTTP repeats in headers: 2026-07-28.
    parameters: HashMap<String, Vec<Parameter>>,
}

/// A parameter with `x-mcp-header`.
#[derive(Debug)]
struct Parameter {
    header: HeaderName,
    path: Vec<String>,
}

impl Definitions {
    /// Notes the result of a `tools/list`. The first page replaces the known definitions. A definition
    /// that has no hash, and one that is listed twice, is not known.
    pub(crate) fn note(&mut self, result: &str, is_first_page: bool) {
        if is_first_page {
            *self = Self::default();
        }
        for (name, definition) in tools(result).unwrap_or_default() {
            match hash_payload(&definition) {
                Ok(hash) if !self.hashes.contains_key(&name) => self.hashes.insert(name.clone(), hash),
                Ok(_) | Err(_) => self.hashes.insert(name.clone(), String::new()),
            };
            let mut parameters = Vec::new();
            if let Some(schema) = definition.member("inputSchema") {
                find_parameters(schema, &mut Vec::new(), &mut parameters);
            }
            if !parameters.is_empty() {
                self.parameters.insert(name, parameters);
            }
        }
    }

    /// The hash of the tool's definition, if known.
    pub(crate) fn hash(&self, name: &str) -> Option<&str> {
        self.hashes.get(name).map(String::as_str).filter(|hash| !hash.is_empty())
    }
}

impl Definitions {
    /// The headers that repeat parameters of a call of the tool with `arguments`, a JSON text.
    pub(crate) fn headers(&self, name: &str, arguments: &str) -> Vec<(HeaderName, HeaderValue)> {
        let Some(parameters) = self.parameters.get(name) else { return Vec::new() };
        let Ok(arguments) = Json::parse(arguments.as_bytes()) else { return Vec::new() };
        let header = |parameter: &Parameter| {
            let mut value = &arguments;
            for name in &parameter.path {
                value = value.member(name)?;
            }
            let text = match value {
                Json::String(text) => text.as_str(),
                Json::Number(number) => number.as_str(),
                Json::Bool(true) => "true",
                Json::Bool(false) => "false",
                Json::Array(_) | Json::Null | Json::Object(_) => return None,
            };
            Some((parameter.header.clone(), header_value::encode(text)))
        };
        parameters.iter().filter_map(header).collect()
    }
}

/// Adds the parameters of a schema with `x-mcp-header`.
fn find_parameters(schema: &Json, path: &mut Vec<String>, found: &mut Vec<Parameter>) {
    let Some(Json::Object(properties)) = schema.member("properties") else { return };
    for (name, property) in properties {
        path.push(name.clone());
        let header = property.member("x-mcp-header").and_then(Json::as_str).filter(|name| !name.is_empty());
        let header = header.and_then(|name| HeaderName::try_from(format!("{PARAMETER}{name}")).ok());
        found.extend(header.map(|header| Parameter { header, path: path.clone() }));
        find_parameters(property, path, found);
        path.pop();
    }
}

/// The tools of a list: name and definition.
pub(crate) fn tools(result: &str) -> Option<Vec<(String, Json)>> {
    let result = Json::parse(result.as_bytes()).ok()?;
    let Json::Array(tools) = result.member("tools")? else { return None };
    tools.iter().map(|tool| Some((tool.member("name")?.as_str()?.to_owned(), tool.clone()))).collect()
}
