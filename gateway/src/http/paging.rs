//! Query parameters of lists that are read page by page.

use crate::request::InvalidMember;

/// Default and maximum number of items per page.
pub(super) const DEFAULT_PAGE_SIZE: u32 = 100;
const MAX_PAGE_SIZE: u32 = 1000;

/// The problem of an invalid `after`.
pub(super) const NOT_NEXT: &str = "expected the `next` of the previous page";

/// Reads the parameters, each at most once, and returns the page size. `read` reads one of the `known`
/// parameters other than `limit`, or returns the problem.
///
/// # Errors
///
/// Returns the first problem with the name of its parameter.
pub(super) fn read_query(
    query: &[(String, String)],
    known: &[&str],
    mut read: impl FnMut(&str, &str) -> Result<(), String>,
) -> Result<u32, InvalidMember> {
    let mut limit = DEFAULT_PAGE_SIZE;
    for (at, (name, value)) in query.iter().enumerate() {
        let is_repeated = query.iter().take(at).any(|(other, _)| other == name);
        let result = match name.as_str() {
            _ if is_repeated => Err("expected one value, found two".to_owned()),
            "limit" => match value.parse().ok().filter(|size| (1..=MAX_PAGE_SIZE).contains(size)) {
                Some(size) => {
                    limit = size;
                    Ok(())
                }
                None => Err(format!("expected an integer of 1 to {MAX_PAGE_SIZE}")),
            },
            name if known.contains(&name) => read(name, value),
            _ => Err(format!("unknown parameter; expected {} or limit", known.join(", "))),
        };
        result.map_err(|problem| InvalidMember { member: name.clone(), problem })?;
    }
    Ok(limit)
}

/// Reads the place and size of a page of a list with numeric ids.
pub(super) fn read_page(query: &[(String, String)]) -> Result<(i64, u32), InvalidMember> {
    let mut after = 0;
    let limit = read_query(query, &["after"], |_, value| {
        let id = value.parse().ok().filter(|id| *id >= 0 && value.len() <= 18);
        after = id.ok_or(NOT_NEXT)?;
        Ok(())
    })?;
    Ok((after, limit))
}
