//! Arguments of a call, passed by the Python layer as a dict.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

/// Declares the arguments of a call: required ones, then optional ones that may be missing or
/// `None`.
///
/// An undeclared name is an error, so no argument is ignored.
macro_rules! arguments {
    ($(#[$doc:meta])* $name:ident { $($required:ident),*; $($optional:ident),* $(,)? }) => {
        $(#[$doc])*
        pub(crate) struct $name<'py> {
            $(pub(crate) $required: Bound<'py, PyAny>,)*
            $(pub(crate) $optional: Option<Bound<'py, PyAny>>,)*
        }

        impl<'py> FromPyObject<'_, 'py> for $name<'py> {
            type Error = PyErr;

            fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
                let mut given = $crate::arguments::ArgumentDict::new(given)?;
                let arguments = Self {
                    $($required: given.required(pyo3::intern!(given.py(), stringify!($required)))?,)*
                    $($optional: given.optional(pyo3::intern!(given.py(), stringify!($optional)))?,)*
                };
                given.reject_unknown()?;
                Ok(arguments)
            }
        }
    };
}
pub(crate) use arguments;

/// A dict of arguments being consumed.
pub(crate) struct ArgumentDict<'a, 'py> {
    arguments: Borrowed<'a, 'py, PyDict>,
    taken: usize,
}

impl<'a, 'py> ArgumentDict<'a, 'py> {
    pub(crate) fn new(given: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self { arguments: given.cast::<PyDict>()?, taken: 0 })
    }

    pub(crate) fn py(&self) -> Python<'py> {
        self.arguments.py()
    }

    pub(crate) fn required(&mut self, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        let value = self.arguments.get_item(name)?;
        self.taken += 1;
        value.ok_or_else(|| PyTypeError::new_err(format!("missing the argument {name}")))
    }

    pub(crate) fn optional(&mut self, name: &Bound<'py, PyString>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if self.taken == self.arguments.len() {
            return Ok(None);
        }
        let value = self.arguments.get_item(name)?;
        self.taken += usize::from(value.is_some());
        Ok(value.filter(|value| !value.is_none()))
    }

    pub(crate) fn reject_unknown(&self) -> PyResult<()> {
        match self.arguments.len() == self.taken {
            true => Ok(()),
            false => Err(PyTypeError::new_err(format!("unknown arguments among {}", self.arguments.keys()))),
        }
    }
}
