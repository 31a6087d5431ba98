//! Hides tools from the list that the client receives: those that the policy can never permit, and
//! with pinned definitions the tools without an approved definition.

use actpass_core::{Json, hash_payload};
use serde_json::value::RawValue;

use crate::edit::{Members, replace};
use crate::gateway::{Gateway, GatewayError};
use crate::warn;

/// Returns the message `text`, a response with a list of tools, without the hidden ones. `None` if
/// it is no such list.
pub(crate) async fn hide(
    gateway: &Gateway,
    tool_prefix: &str,
    is_pinned: bool,
    text: &str,
) -> Result<Option<String>, GatewayError> {
    let Some((tools, part)) = tools(text) else { return Ok(None) };
    let names: Vec<_> = tools.iter().map(|tool| format!("{tool_prefix}{}", tool.name)).collect();
    let states = gateway.states(&names).await?;
    let mut kept = Vec::new();
    for ((tool, name), state) in tools.iter().zip(&names).zip(states) {
        let is_approved = !is_pinned || (state.approved.is_some() && state.approved == tool.hash);
        match state.may_permit && is_approved {
            true => kept.push(tool.text),
            false => warn(format_args!(
                "hidden: {}: {}",
                name.escape_debug(),
                if state.may_permit {
                    "its definition is not approved"
                } else {
                    "the policy permits no call"
                }
            )),
        }
    }
    Ok(replace(text, part, &format!("[{}]", kept.join(","))))
}

/// A tool of a list.
struct Listed<'t> {
    name: String,
    hash: Option<String>,
    text: &'t str,
}

/// The tools of a response, and the text of their array.
fn tools(text: &str) -> Option<(Vec<Listed<'_>>, &str)> {
    let part = Members::parse(Members::parse(text)?.text("result")?)?.text("tools")?;
    let items: Vec<&RawValue> = serde_json::from_str(part).ok()?;
    let tool = |item: &&'_ RawValue| -> Option<(String, Option<String>)> {
        let definition = Json::parse(item.get().as_bytes()).ok()?;
        Some((definition.member("name")?.as_str()?.to_owned(), hash_payload(&definition).ok()))
    };
    let listed = items.iter().map(|item| {
        let (name, hash) = tool(item)?;
        Some(Listed { name, hash, text: item.get() })
    });
    Some((listed.collect::<Option<_>>()?, part))
}
