//! Conversion between Python objects and JSON text, without an intermediate tree.

use std::borrow::Cow;
use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use actpass_core::json::{self, Builder, JsonWriter, MAX_DEPTH, ReadError, Step, Style};
use actpass_core::{Error, Json};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

use crate::error::raise;

/// Serializes `value` like Python's `json.dumps` with its defaults. Values that are not JSON, NaN,
/// infinities and lone surrogates are errors that name `member` and the path inside it.
pub(crate) fn to_json(member: &str, value: &Bound<'_, PyAny>) -> PyResult<String> {
    to_json_by(member, value, None)
}

/// Like [`to_json`], with a function that converts values that are not JSON, as the `default` of
/// `json.dumps`. Its result is validated like any other value; its exceptions propagate.
pub(crate) fn to_json_by(
    member: &str,
    value: &Bound<'_, PyAny>,
    default: Option<&Bound<'_, PyAny>>,
) -> PyResult<String> {
    let mut writer = Writer { text: JsonWriter::new(Style::PythonCompat), default };
    writer.value(value, 0).map_err(|error| error.named(value.py(), member))?;
    Ok(writer.text.into_string())
}

/// Parses a JSON text that the core has validated.
pub(crate) fn from_json<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    read_json(py, "json", text)
}

/// Parses a JSON text; `member` is its name in error messages.
pub(crate) fn read_json<'py>(py: Python<'py>, member: &str, text: &str) -> PyResult<Bound<'py, PyAny>> {
    json::read(text.as_bytes(), &mut PyBuilder { py }).map_err(|error| match error {
        ReadError::Builder(error) => error,
        error @ (ReadError::DuplicateKey(..)
        | ReadError::NumberOutOfRange(_)
        | ReadError::Syntax(..)
        | ReadError::TooDeep(_)) => raise(py, &json::argument_error(member, text, &error).into()),
    })
}

/// Converts a value to the core's JSON type.
pub(crate) fn json(member: &str, value: &Bound<'_, PyAny>) -> PyResult<Json> {
    json_by(member, value, None)
}

/// Like [`json`], with a function that converts values that are not JSON.
pub(crate) fn json_by(
    member: &str,
    value: &Bound<'_, PyAny>,
    default: Option<&Bound<'_, PyAny>>,
) -> PyResult<Json> {
    let text = to_json_by(member, value, default)?;
    json::parse_argument(member, &text).map_err(|error| raise(value.py(), &error.into()))
}

/// A string argument.
pub(crate) fn string(member: &str, value: &Bound<'_, PyAny>) -> PyResult<String> {
    let text = value.cast::<PyString>().map_err(|_| wrong_type(member, "a string", value))?;
    Ok(str_of(member, text)?.into_owned())
}

/// An optional string argument.
pub(crate) fn optional(member: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<String>> {
    value.map(|value| string(member, value)).transpose()
}

/// A number, but not a bool.
pub(crate) fn number(value: &Bound<'_, PyAny>) -> Option<f64> {
    let is_number = value.is_instance_of::<PyFloat>() || value.is_instance_of::<PyInt>();
    value.extract::<f64>().ok().filter(|_| is_number && !is_bool(value))
}

/// Optional non-negative seconds of a call.
pub(crate) fn seconds_argument(member: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Duration>> {
    let Some(value) = value else {
        return Ok(None);
    };
    let seconds = number(value).ok_or_else(|| wrong_type(member, "seconds as a number", value))?;
    actpass_core::wait_seconds(member, seconds).map(Some).map_err(|error| raise(value.py(), &error))
}

/// An integer argument of a call.
pub(crate) fn whole_number(member: &str, value: &Bound<'_, PyAny>) -> PyResult<i64> {
    let number = value.extract::<i64>().ok().filter(|_| value.is_instance_of::<PyInt>() && !is_bool(value));
    number.ok_or_else(|| wrong_type(member, "a non-negative integer", value))
}

pub(crate) fn is_bool(value: &Bound<'_, PyAny>) -> bool {
    value.is_instance_of::<PyBool>()
}

/// A list or tuple of strings.
pub(crate) fn strings(member: &str, value: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    if !(value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>()) {
        return Err(wrong_type(member, "a list of strings", value));
    }
    let item = |(at, item): (usize, PyResult<Bound<'_, PyAny>>)| {
        string(&json::path(member, [&Step::Index(at)]), &item?)
    };
    value.try_iter()?.enumerate().map(item).collect()
}

pub(crate) fn argument(py: Python<'_>, member: &str, problem: impl fmt::Display) -> PyErr {
    raise(py, &Error::argument(member, problem))
}

pub(crate) fn wrong_type(member: &str, expected: &str, found: &Bound<'_, PyAny>) -> PyErr {
    argument(found.py(), member, expected_found(expected, found))
}

fn expected_found(expected: &str, found: &Bound<'_, PyAny>) -> String {
    format!("expected {expected}, found {}", type_name(found))
}

/// The name of a value's class, with its module unless built in: `numpy.bool` is not `bool`.
pub(crate) fn type_name(value: &Bound<'_, PyAny>) -> String {
    let module = value.py().import("actpass._json");
    let name = module.and_then(|module| module.call_method1("name_of", (value,))?.extract());
    // A metaclass may raise on any access.
    name.unwrap_or_else(|_| "an object whose class has no name".to_owned())
}

/// How to convert a value that is not JSON.
fn advice(value: &Bound<'_, PyAny>) -> Option<String> {
    let module = value.py().import("actpass._json");
    module.and_then(|module| module.call_method1("advice", (value,))?.extract()).ok()
}

fn str_of<'s>(member: &str, text: &'s Bound<'_, PyString>) -> PyResult<Cow<'s, str>> {
    text.to_cow().map_err(|_| argument(text.py(), member, SURROGATE))
}

const SURROGATE: &str = "expected text in Unicode, found a lone surrogate";

/// Why a value cannot be encoded.
enum EncodeError {
    Problem {
        problem: String,
        /// The path from the value to the problem, innermost first.
        steps: Vec<Step>,
        advice: Option<String>,
    },
    /// A function of the program raised this.
    Raised(PyErr),
}

impl From<PyErr> for EncodeError {
    fn from(error: PyErr) -> Self {
        Self::Raised(error)
    }
}

impl EncodeError {
    fn new(problem: impl Into<String>) -> Self {
        Self::Problem { problem: problem.into(), steps: Vec::new(), advice: None }
    }

    fn not_json(value: &Bound<'_, PyAny>) -> Self {
        let problem = expected_found("a value that is JSON", value);
        Self::Problem { problem, steps: Vec::new(), advice: advice(value) }
    }

    fn too_deep() -> Self {
        Self::new(format!("nested deeper than {MAX_DEPTH} levels"))
    }

    /// Adds an outer step to the path.
    fn inside(mut self, step: Step) -> Self {
        if let Self::Problem { steps, .. } = &mut self {
            steps.push(step);
        }
        self
    }

    fn named(self, py: Python<'_>, member: &str) -> PyErr {
        let (problem, steps, advice) = match self {
            Self::Problem { problem, steps, advice } => (problem, steps, advice),
            Self::Raised(error) => return error,
        };
        let how = advice.map(|advice| format!("; {advice}")).unwrap_or_default();
        argument(py, &json::path(member, steps.iter().rev()), format_args!("{problem}{how}"))
    }
}

struct Writer<'a, 'py> {
    text: JsonWriter,
    default: Option<&'a Bound<'py, PyAny>>,
}

impl Writer<'_, '_> {
    fn value(&mut self, value: &Bound<'_, PyAny>, depth: usize) -> Result<(), EncodeError> {
        if let Ok(text) = value.cast::<PyString>() {
            self.text.string(&Self::str_of(text)?);
        } else if value.is_none() {
            self.text.raw("null");
        } else if let Ok(value) = value.cast::<PyBool>() {
            self.text.raw(if value.is_true() { "true" } else { "false" });
        } else if let Ok(number) = value.cast::<PyInt>() {
            self.integer(number)?;
        } else if let Ok(number) = value.cast::<PyFloat>() {
            self.float(number)?;
        } else if let Ok(members) = value.cast::<PyDict>() {
            self.object(members, Self::deeper(depth)?)?;
        } else if let Ok(items) = value.cast_exact::<PyList>() {
            self.items(items.iter(), Self::deeper(depth)?)?;
        } else if let Ok(items) = value.cast_exact::<PyTuple>() {
            self.items(items.iter(), Self::deeper(depth)?)?;
        } else if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
            // A subclass is iterated, as in `json.dumps`.
            self.items(list_of(value)?.iter(), Self::deeper(depth)?)?;
        } else {
            self.converted(value, depth)?;
        }
        Ok(())
    }

    /// Converts a value that is not JSON with `default`. Each conversion counts as a nesting level,
    /// so that endless conversions fail.
    fn converted(&mut self, value: &Bound<'_, PyAny>, depth: usize) -> Result<(), EncodeError> {
        let Some(default) = self.default else {
            return Err(EncodeError::not_json(value));
        };
        let depth = Self::deeper(depth).map_err(|_| EncodeError::Problem {
            problem: format!(
                "{} nested deeper than {MAX_DEPTH} levels",
                expected_found("a value that is JSON", value)
            ),
            steps: Vec::new(),
            advice: Some("default= has to return a value that is JSON".to_owned()),
        })?;
        let converted = default.call1((value,))?;
        self.value(&converted, depth)
    }

    fn deeper(depth: usize) -> Result<usize, EncodeError> {
        match depth < MAX_DEPTH {
            true => Ok(depth + 1),
            false => Err(EncodeError::too_deep()),
        }
    }

    fn str_of<'s>(text: &'s Bound<'_, PyString>) -> Result<Cow<'s, str>, EncodeError> {
        text.to_cow().map_err(|_| EncodeError::new(SURROGATE))
    }

    fn items<'py>(
        &mut self,
        items: impl Iterator<Item = Bound<'py, PyAny>>,
        depth: usize,
    ) -> Result<(), EncodeError> {
        self.text.raw("[");
        for (at, item) in items.enumerate() {
            self.text.comma(at);
            self.value(&item, depth).map_err(|error| error.inside(Step::Index(at)))?;
        }
        self.text.raw("]");
        Ok(())
    }

    fn object(&mut self, members: &Bound<'_, PyDict>, depth: usize) -> Result<(), EncodeError> {
        self.text.raw("{");
        for (at, member) in members_of(members)?.iter().enumerate() {
            let (key, value) = member.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>().map_err(|_| {
                EncodeError::new(format!("expected pairs from items() of {}", type_name(members)))
            })?;
            self.text.comma(at);
            let name = match key.cast::<PyString>() {
                Ok(key) => Self::str_of(key)?,
                Err(_) => Self::non_string_key(&key)?.into(),
            };
            self.text.key(&name);
            self.value(&value, depth).map_err(|error| error.inside(Step::Key(name.into_owned())))?;
        }
        self.text.raw("}");
        Ok(())
    }

    /// Like `json.dumps`, writes `None`, booleans and numbers as keys by their JSON text.
    fn non_string_key(key: &Bound<'_, PyAny>) -> Result<String, EncodeError> {
        let is_plain = key.is_none() || key.is_instance_of::<PyInt>() || key.is_instance_of::<PyFloat>();
        if !is_plain {
            return Err(EncodeError::new(expected_found("strings as keys", key)));
        }
        let mut writer = Writer { text: JsonWriter::new(Style::PythonCompat), default: None };
        writer.value(key, 0)?;
        Ok(writer.text.into_string())
    }

    fn integer(&mut self, number: &Bound<'_, PyInt>) -> Result<(), EncodeError> {
        if let Ok(small) = number.extract::<i64>() {
            self.text.raw(&small.to_string());
            return Ok(());
        }
        // Of `int` itself, because a subclass may override its representation.
        let text = number.py().get_type::<PyInt>().call_method1("__repr__", (number,));
        let text = text.and_then(|text| text.extract::<String>());
        self.text.raw(&text.map_err(|_| EncodeError::new("expected a number within the range of a double"))?);
        Ok(())
    }

    fn float(&mut self, number: &Bound<'_, PyFloat>) -> Result<(), EncodeError> {
        let value = number.value();
        let text = PyFloat::new(number.py(), value).repr().and_then(|text| text.extract::<String>());
        match text {
            Ok(text) if value.is_finite() => self.text.raw(&text),
            _ => return Err(EncodeError::new(json::not_finite(value))),
        }
        Ok(())
    }
}

/// The members of a dict as a new list, because `default` may change the dict. For a subclass, the
/// result of the subclass's `items()`, as in `json.dumps`.
fn members_of<'py>(members: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyList>> {
    if members.is_exact_instance_of::<PyDict>() {
        return Ok(members.items());
    }
    list_of(&members.call_method0(intern!(members.py(), "items"))?)
}

fn list_of<'py>(items: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
    items.py().get_type::<PyList>().call1((items,))?.cast_into().map_err(PyErr::from)
}

/// An object of a Python module, looked up once.
///
/// It uses no lock that is held during an import: a fork in that moment would leave it locked in
/// the child.
pub(crate) struct CachedObject {
    module: &'static str,
    name: &'static str,
    found: OnceLock<Py<PyAny>>,
}

impl CachedObject {
    pub(crate) const fn of(module: &'static str, name: &'static str) -> Self {
        Self { module, name, found: OnceLock::new() }
    }

    pub(crate) fn bound<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(found) = self.found.get() {
            return Ok(found.bind(py).clone());
        }
        let found = py.import(self.module)?.getattr(self.name)?;
        // Another thread may have set the same value first.
        let _ = self.found.set(found.clone().unbind());
        Ok(found)
    }
}

/// The present class `name` of the package's module `module`: the package may be imported again, for example by a test.
pub(crate) fn class<'py>(
    module: &Bound<'py, PyString>,
    name: &Bound<'py, PyString>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = module.py();
    let imported = imported_modules(py)?.get_item(module)?;
    let found = imported.map(|imported| imported.getattr_opt(name)).transpose()?.flatten();
    // Another thread may be importing the module: wait for it.
    found.map_or_else(|| py.import(module)?.getattr(name), Ok)
}

/// Whether the program has imported `module`.
pub(crate) fn is_imported(module: &Bound<'_, PyString>) -> PyResult<bool> {
    imported_modules(module.py())?.contains(module)
}

fn imported_modules(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    static MODULES: CachedObject = CachedObject::of("sys", "modules");
    MODULES.bound(py)?.cast_into().map_err(PyErr::from)
}

/// Copies a value of [`from_json`]; cheaper than parsing its text again.
pub(crate) fn copy_json<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    if let Ok(members) = value.cast_exact::<PyDict>() {
        let copy = members.copy()?;
        for (key, member) in members {
            if member.is_exact_instance_of::<PyDict>() || member.is_exact_instance_of::<PyList>() {
                copy.set_item(key, copy_json(&member)?)?;
            }
        }
        return Ok(copy.into_any());
    }
    match value.cast_exact::<PyList>() {
        Ok(items) => {
            let items: Vec<_> = items.iter().map(|item| copy_json(&item)).collect::<PyResult<_>>()?;
            Ok(PyList::new(value.py(), items)?.into_any())
        }
        Err(_) => Ok(value.clone()),
    }
}

/// A key of an object.
enum Key<'py> {
    /// A member of a response of the gateway: its Python string exists once.
    Known(&'static str, &'py Bound<'py, PyString>),
    Other(String),
}

impl AsRef<str> for Key<'_> {
    fn as_ref(&self) -> &str {
        match self {
            Self::Known(text, _) => text,
            Self::Other(text) => text,
        }
    }
}

/// The key for `text`, which need not be listed: a listed one is cheaper to create and to look up.
macro_rules! key_of {
    ($py:expr, $text:expr; $($known:literal)*) => {
        match $text {
            $($known => Key::Known($known, pyo3::intern!($py, $known)),)*
            other => Key::Other(other.to_owned()),
        }
    };
}

/// Builds Python objects.
struct PyBuilder<'py> {
    py: Python<'py>,
}

impl<'py> Builder for PyBuilder<'py> {
    type Value = Bound<'py, PyAny>;
    type Key = Key<'py>;
    type Error = PyErr;

    fn null(&mut self) -> PyResult<Self::Value> {
        Ok(self.py.None().into_bound(self.py))
    }

    fn bool(&mut self, value: bool) -> PyResult<Self::Value> {
        Ok(PyBool::new(self.py, value).to_owned().into_any())
    }

    fn number(&mut self, text: &str) -> PyResult<Self::Value> {
        if let Ok(small) = text.parse::<i64>() {
            return Ok(PyInt::new(self.py, small).into_any());
        }
        if text.contains(['.', 'e', 'E']) {
            let value = text.parse().map_err(|error| argument(self.py, "json", error))?;
            return Ok(PyFloat::new(self.py, value).into_any());
        }
        self.py.get_type::<PyInt>().call1((text,))
    }

    fn string(&mut self, text: &str) -> PyResult<Self::Value> {
        Ok(PyString::new(self.py, text).into_any())
    }

    fn array(&mut self, items: Vec<Self::Value>) -> PyResult<Self::Value> {
        Ok(PyList::new(self.py, items)?.into_any())
    }

    fn key(&mut self, text: &str) -> Key<'py> {
        key_of!(self.py, text; "decision" "reason_code" "risk_tier" "explain" "summary" "matched_rules" "next_steps"
            "evidence_event_id" "request_hash" "halt_epoch" "replayed" "replay_age_ms" "approval_request_id" "token"
            "expires_at")
    }

    fn object(&mut self, members: Vec<(Key<'py>, Self::Value)>) -> PyResult<Self::Value> {
        let object = PyDict::new(self.py);
        for (key, value) in members {
            match key {
                Key::Known(_, key) => object.set_item(key, value)?,
                Key::Other(key) => object.set_item(key, value)?,
            }
        }
        Ok(object.into_any())
    }
}
