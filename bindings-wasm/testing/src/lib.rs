//! `actpass-testing.wasm`: the scripted gateway of `@actpass/sdk/testing`, for programs whose engine
//! is `actpass.wasm`. An instance is one gateway; `ts/scripted-state.ts` is its host.

#![cfg(target_family = "wasm")]

#[path = "../../src/buffers.rs"]
mod buffers;

use actpass_core::json::{JsonWriter, RawObject, Style};
use actpass_core::testing::{Answer, ReceivedRequest, ScriptedGateway};
use actpass_core::{Error, ErrorKind};

use crate::buffers::{take, text, texts};

thread_local! {
    static GATEWAY: ScriptedGateway = ScriptedGateway::new();
}

/// Calls a method of the gateway. The input is a JSON object with the method's `name` and its
/// arguments. Returns whether it succeeded; the JSON text of the result or the error is at `output`.
#[unsafe(no_mangle)]
extern "C" fn call(length: usize) -> bool {
    texts(|| {
        let input = text(take(length))?;
        let arguments =
            RawObject::parse(input.as_bytes()).map_err(|problem| Error::new(ErrorKind::Internal, problem))?;
        GATEWAY.with(|gateway| apply(gateway, &arguments))
    })
}

fn apply(gateway: &ScriptedGateway, arguments: &RawObject) -> Result<String, Error> {
    let string = |name: &str| arguments.string(name).map(std::borrow::Cow::into_owned);
    let required = |name: &str| string(name).unwrap_or_default();
    let answer = || {
        let status = arguments.member_text("status").and_then(|text| text.parse().ok());
        Answer::from_text(status.unwrap_or(0), string("answer").as_deref())
    };
    let name = required("name");
    Ok(match name.as_str() {
        "script" => {
            match string("tool") {
                Some(tool) => gateway.script(tool, answer()?),
                None => gateway.script_all(answer()?),
            }
            "null".to_owned()
        }
        "scriptNext" => {
            gateway.script_next(answer()?);
            "null".to_owned()
        }
        "decide" if arguments.member_text("approved") == Some("true") => {
            quoted(&gateway.approve(&required("approval"))?)
        }
        "decide" => quoted(&gateway.reject(&required("approval"))?),
        "expire" => quoted(&gateway.expire(&required("approval"))?),
        "halt" => gateway.halt(&required("scope"), string("id").as_deref(), &required("reason"))?.to_string(),
        "lift" => gateway.lift().to_string(),
        "approvals" => {
            let approvals: Vec<_> = gateway.approvals().iter().map(|approval| approval.to_json()).collect();
            format!("[{}]", approvals.join(","))
        }
        "requests" => {
            let requests: Vec<_> = gateway.requests().iter().map(received).collect();
            format!("[{}]", requests.join(","))
        }
        "hold" => gateway.hold(&required("method"), &required("path")).as_millis().to_string(),
        "reply" => {
            let body = required("body");
            match gateway.reply(&required("method"), &required("path"), body.as_bytes()) {
                Some((status, body)) => format!(r#"{{"status":{status},"body":{}}}"#, quoted(&body)),
                None => "null".to_owned(),
            }
        }
        _ => return Err(Error::new(ErrorKind::Internal, format!("unknown method {name}"))),
    })
}

fn received(request: &ReceivedRequest) -> String {
    let ReceivedRequest { method, path, body } = request;
    format!(r#"{{"method":{},"path":{},"body":{}}}"#, quoted(method), quoted(path), quoted(body))
}

fn quoted(text: &str) -> String {
    let mut json = JsonWriter::new(Style::Compact);
    json.string(text);
    json.into_string()
}
