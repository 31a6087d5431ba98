//! Input from the TypeScript layer: the JSON text of an object, with members named as in
//! TypeScript.

use std::time::Duration;

use actpass_core::json::{RawObject, Step, path};
use actpass_core::{Error, ErrorKind, Json, Secret};

/// The input of a call, or the settings.
pub struct InputObject {
    document: RawObject,
    kind: ErrorKind,
}

impl InputObject {
    /// Parses the input of a call. Errors in it are argument errors.
    pub fn of_call(text: &Secret) -> Result<Self, Error> {
        Self::parse(text, ErrorKind::Argument)
    }

    /// Parses the settings of a client.
    pub fn of_settings(text: &Secret) -> Result<Self, Error> {
        Self::parse(text, ErrorKind::Config)
    }

    fn parse(text: &Secret, kind: ErrorKind) -> Result<Self, Error> {
        let document =
            RawObject::parse(text.expose().as_bytes()).map_err(|problem| Error::new(kind, problem))?;
        Ok(Self { document, kind })
    }

    /// A required string.
    pub fn string(&self, member: &str) -> Result<String, Error> {
        self.optional(member)?.ok_or_else(|| self.wrong(member, "expected a string, found nothing"))
    }

    /// An optional string.
    pub fn optional(&self, member: &str) -> Result<Option<String>, Error> {
        if self.document.member_text(member).is_none() {
            return Ok(None);
        }
        match self.document.string(member) {
            Some(text) => Ok(Some(text.into_owned())),
            None => Err(self.wrong_type(member, "a string")),
        }
    }

    /// A list of strings; empty if missing.
    pub fn strings(&self, member: &str) -> Result<Vec<String>, Error> {
        let Some(list) = self.document.member(member) else {
            return Ok(Vec::new());
        };
        let Json::Array(items) = list else {
            return Err(self.wrong_type(member, "a list of strings"));
        };
        let string = |(at, item): (usize, &Json)| match item.as_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(self.wrong(
                &path(member, [&Step::Index(at)]),
                format_args!("expected a string, found {}", item.kind()),
            )),
        };
        items.iter().enumerate().map(string).collect()
    }

    /// An optional number.
    pub fn number(&self, member: &str, expected: &str) -> Result<Option<f64>, Error> {
        match self.document.member(member) {
            None => Ok(None),
            Some(Json::Number(number)) => Ok(Some(number.as_f64())),
            Some(Json::Array(_) | Json::Bool(_) | Json::Null | Json::Object(_) | Json::String(_)) => {
                Err(self.wrong_type(member, expected))
            }
        }
    }

    /// An optional non-negative integer.
    pub fn whole(&self, member: &str) -> Result<Option<u32>, Error> {
        const EXPECTED: &str = "a non-negative integer";
        self.number(member, EXPECTED)?
            .map(|number| {
                number
                    .to_string()
                    .parse()
                    .map_err(|_| self.wrong(member, format_args!("expected {EXPECTED}, found {number}")))
            })
            .transpose()
    }

    /// The number of a call.
    pub fn call(&self, member: &str) -> Result<i64, Error> {
        self.document
            .member_text(member)
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| self.wrong_type(member, "the number of a call"))
    }

    /// An optional non-negative wait in milliseconds.
    pub fn wait(&self, member: &str) -> Result<Option<Duration>, Error> {
        const EXPECTED: &str = "non-negative milliseconds";
        self.number(member, EXPECTED)?
            .map(|number| {
                Duration::try_from_secs_f64(number / 1e3)
                    .map_err(|_| self.wrong(member, format_args!("expected {EXPECTED}, found {number}")))
            })
            .transpose()
    }

    /// An optional boolean; `false` if missing.
    pub fn switch(&self, member: &str) -> Result<bool, Error> {
        match self.document.member_text(member) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(self.wrong_type(member, "true or false")),
        }
    }

    /// The JSON text of a member.
    pub fn text(&self, member: &str) -> Option<&str> {
        self.document.member_text(member)
    }

    /// A member as a JSON value.
    pub fn json(&self, member: &str) -> Option<Json> {
        self.document.member(member)
    }

    /// The error of a member.
    pub fn wrong(&self, member: &str, problem: impl std::fmt::Display) -> Error {
        Error::new(self.kind, format!("{member}: {problem}"))
    }

    fn wrong_type(&self, member: &str, expected: &str) -> Error {
        let found = self.document.member(member);
        let found = found.as_ref().map_or("nothing", Json::kind);
        self.wrong(member, format_args!("expected {expected}, found {found}"))
    }
}
