//! Where in a JSON text something is wrong, as a path that the caller recognises: `args.order.items[2]`.

use actpass_core::json::{MAX_DEPTH, ReadError};
use actpass_core::{Error, Json};

/// A longer path is cut after this many steps.
const STEPS: usize = 8;
/// A longer key is cut after this many characters.
const KEY: usize = 64;
/// What faces write for a number that JSON does not have.
const NOT_FINITE: [&str; 8] = ["NaN", "nan", "Infinity", "-Infinity", "infinity", "-infinity", "inf", "-inf"];

/// A JSON value from its text; `member` is its name in messages.
pub(crate) fn json(member: &str, text: &str) -> Result<Json, Error> {
    Json::parse(text.as_bytes()).map_err(|problem| error(member, text, &problem, 0))
}

/// What is wrong with `text`, the JSON text of the member `args` of a request; `None` if it can be read.
pub(crate) fn wrong_args(text: &str) -> Option<Error> {
    const BEFORE: &str = r#"{"args":"#;
    let request = format!("{BEFORE}{text}}}");
    let problem = Json::parse(request.as_bytes()).err()?;
    Some(error("args", text, &problem, BEFORE.len()))
}

fn error<E: std::fmt::Display>(member: &str, text: &str, problem: &ReadError<E>, before: usize) -> Error {
    let at = match problem {
        ReadError::Builder(_) | ReadError::DuplicateKey(_) => return Error::argument(member, problem),
        ReadError::NumberOutOfRange(at) | ReadError::Syntax(_, at) | ReadError::TooDeep(at) => {
            at.saturating_sub(before)
        }
    };
    let place = Place::of(text, at);
    let path = place.path(member);
    let token = text.get(place.token..).unwrap_or_default();
    let token = token.split([',', '}', ']']).next().unwrap_or_default().trim();
    match problem {
        ReadError::TooDeep(_) => Error::argument(&path, format_args!("nested past {MAX_DEPTH} levels")),
        ReadError::NumberOutOfRange(_) => {
            Error::argument(&path, "expected a number within the range of a double")
        }
        ReadError::Syntax(..) if NOT_FINITE.contains(&token) => {
            Error::argument(&path, format_args!("expected a finite number, found {token}"))
        }
        ReadError::Syntax(..) if token.contains(r"\ud") => {
            Error::argument(&path, "expected text in Unicode, found a lone surrogate")
        }
        ReadError::Builder(_) | ReadError::DuplicateKey(_) | ReadError::Syntax(..) => {
            Error::argument(&path, problem)
        }
    }
}

/// The value that stands at a byte of a text.
#[derive(Default)]
struct Place {
    steps: Vec<Step>,
    /// Where the value, or the key that names it, begins.
    token: usize,
}

enum Step {
    Item(usize),
    /// Without a name as long as it has not been read.
    Member(Option<String>),
}

impl Place {
    /// Reads `text`, which is JSON up to the byte `at`.
    fn of(text: &str, at: usize) -> Self {
        let bytes = text.as_bytes();
        let mut place = Self::default();
        let mut next = 0;
        while let Some(byte) = bytes.get(next).filter(|_| next < at) {
            match byte {
                b'{' => place.steps.push(Step::Member(None)),
                b'[' => place.steps.push(Step::Item(0)),
                b'}' | b']' => drop(place.steps.pop()),
                b',' => match place.steps.last_mut() {
                    Some(Step::Item(index)) => *index += 1,
                    Some(Step::Member(name)) => *name = None,
                    None => {}
                },
                b'"' => {
                    let end = end_of_string(bytes, next);
                    if end > at {
                        place.token = next;
                        return place;
                    }
                    if let Some(Step::Member(name @ None)) = place.steps.last_mut() {
                        let key = text.get(next..end).and_then(|key| Json::parse(key.as_bytes()).ok());
                        *name = key.as_ref().and_then(Json::as_str).map(str::to_owned);
                    }
                    next = end;
                    place.token = next;
                    continue;
                }
                _ => {
                    next += 1;
                    continue;
                }
            }
            next += 1;
            place.token = next;
        }
        // After a key comes a colon, and the value.
        if let Some(rest) = text.get(place.token..) {
            place.token += rest.len() - rest.trim_start_matches([':', ' ']).len();
        }
        place
    }

    fn path(&self, member: &str) -> String {
        let mut path = member.to_owned();
        for (count, step) in self.steps.iter().enumerate() {
            if count == STEPS {
                path.push('…');
                break;
            }
            match step {
                Step::Item(index) => path.push_str(&format!("[{index}]")),
                Step::Member(None) => {}
                Step::Member(Some(name)) => {
                    path.push('.');
                    path.extend(name.chars().take(KEY).filter(|c| !c.is_control()));
                }
            }
        }
        path
    }
}

/// The byte after the string that begins at `start`.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut next = start + 1;
    while let Some(byte) = bytes.get(next) {
        next += match byte {
            b'"' => return next + 1,
            b'\\' => 2,
            _ => 1,
        };
    }
    bytes.len()
}
