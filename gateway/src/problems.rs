//! What is wrong with a file that a person wrote: everything at once, each with its place.

use std::fmt;

/// A list of problems, never empty where it is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<String>);

impl Problems {
    /// A list of one.
    pub fn one(place: impl fmt::Display, problem: impl fmt::Display) -> Self {
        let mut problems = Self::default();
        problems.add(place, problem);
        problems
    }

    /// Adds a problem of the member at `place`.
    pub fn add(&mut self, place: impl fmt::Display, problem: impl fmt::Display) {
        self.0.push(format!("{place}: {problem}"));
    }

    /// Adds all of `other`, each at `place`.
    pub fn add_all(&mut self, place: impl fmt::Display, other: &Self) {
        for problem in &other.0 {
            self.add(&place, problem);
        }
    }

    /// Adds all of `other` as they are.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Each problem: its place, a colon, what is wrong.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `value`, if nothing is wrong with it.
    ///
    /// # Errors
    ///
    /// Itself, if there is a problem.
    pub fn or<T>(self, value: T) -> Result<T, Self> {
        match self.is_empty() {
            true => Ok(value),
            false => Err(self),
        }
    }
}

/// One problem a line.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}
