//! Validation problems of user-written files: all at once, each with its location.

use std::fmt;

/// A list of problems; not empty when used as an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<String>);

impl Problems {
    /// Creates a list with one problem.
    pub fn one(place: impl fmt::Display, problem: impl fmt::Display) -> Self {
        let mut problems = Self::default();
        problems.add(place, problem);
        problems
    }

    /// Adds a problem at `place`.
    pub fn add(&mut self, place: impl fmt::Display, problem: impl fmt::Display) {
        self.0.push(format!("{place}: {problem}"));
    }

    /// Adds all problems of `other` under `place`.
    pub fn add_all(&mut self, place: impl fmt::Display, other: &Self) {
        for problem in &other.0 {
            self.add(&place, problem);
        }
    }

    /// Adds all problems of `other`.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Iterates over the problems: location, colon, description.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Number of problems.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are no problems.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns `value` if there are no problems.
    ///
    /// # Errors
    ///
    /// Returns the list if it is not empty.
    pub fn or<T>(self, value: T) -> Result<T, Self> {
        match self.is_empty() {
            true => Ok(value),
            false => Err(self),
        }
    }
}

/// Formats one problem per line.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}
