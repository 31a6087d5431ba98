//! Tools of an agent: templates over their arguments, and the check that each has an action.

use actpass_core::{Error, Json};

use crate::error::NativeError;
use crate::runtime::catch_panic;

/// The largest integer that every language represents exactly.
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// Validates a template such as `stripe:charge:{charge}`; `{{` and `}}` are braces. `member` is its
/// name in error messages.
#[uniffi::export]
pub(crate) fn native_check_template(member: String, template: String) -> Result<(), NativeError> {
    catch_panic(|| Ok(fill(&member, &template, |_| Ok(String::new())).map(drop)?))
}

/// Fills a template with the arguments, the JSON text of an object.
#[uniffi::export]
pub(crate) fn native_fill_template(
    member: String,
    template: String,
    args: String,
) -> Result<String, NativeError> {
    catch_panic(|| {
        let args = actpass_core::json::parse_argument("args", &args)?;
        Ok(fill(&member, &template, |name| match args.member(name) {
            Some(Json::String(text)) => Ok(text.clone()),
            Some(Json::Number(number)) if is_safe_integer(number.as_str()) => Ok(number.as_str().to_owned()),
            found => {
                let found = found.map_or("nothing", Json::kind);
                let problem = format_args!("expected {name} as a string or an integer, found {found}");
                Err(Error::argument(&member, problem))
            }
        })?)
    })
}

/// Checks that the tools of an agent and the mapped actions have the same names.
#[uniffi::export]
pub(crate) fn native_check_mapping(tools: Vec<String>, actions: Vec<String>) -> Result<(), NativeError> {
    catch_panic(|| {
        let missing = |of: &[String], from: &[String]| {
            let mut names: Vec<_> = of.iter().filter(|name| !from.contains(name)).cloned().collect();
            names.sort();
            names.join(", ")
        };
        let (unmapped, unknown) = (missing(&tools, &actions), missing(&actions, &tools));
        let problem = match (unmapped.as_str(), unknown.as_str()) {
            ("", "") => return Ok(()),
            (_, "") => format!("tools without an action: {unmapped}"),
            ("", _) => format!("actions without a tool: {unknown}"),
            _ => format!("tools without an action: {unmapped}; actions without a tool: {unknown}"),
        };
        let expected = "expected an action, or the marker for an unguarded tool, for each tool";
        Err(Error::argument("actions", format_args!("{expected}; {problem}")).into())
    })
}

/// Replaces the names in braces in `template` by their values.
fn fill(
    member: &str,
    template: &str,
    value: impl Fn(&str) -> Result<String, Error>,
) -> Result<String, Error> {
    let invalid = || {
        let expected = "expected names of arguments in braces, such as \"charge:{id}\"";
        Error::argument(
            member,
            format_args!("{expected}, found {template:?}; write {{{{ and }}}} for braces"),
        )
    };
    let mut filled = String::new();
    let mut rest = template;
    while let Some((text, tail)) = rest.split_once(['{', '}']) {
        filled.push_str(text);
        let is_open = rest.as_bytes().get(text.len()) == Some(&b'{');
        let brace = if is_open { '{' } else { '}' };
        rest = match tail.strip_prefix(brace) {
            Some(tail) => {
                filled.push(brace);
                tail
            }
            None => {
                let (name, tail) = tail.split_once('}').filter(|_| is_open).ok_or_else(invalid)?;
                if !is_name(name) {
                    return Err(invalid());
                }
                filled.push_str(&value(name)?);
                tail
            }
        };
    }
    filled.push_str(rest);
    Ok(filled)
}

fn is_name(name: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphabetic() || c == '_' || c == '$';
    name.starts_with(is_letter) && name.chars().all(|c| is_letter(c) || c.is_ascii_digit())
}

fn is_safe_integer(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    digits.parse().is_ok_and(|value: u64| value <= MAX_SAFE_INTEGER)
}
