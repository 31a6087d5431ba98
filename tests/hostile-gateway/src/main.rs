//! The gateway as a process, for tests in any language: one line of JSON in, one line of JSON out.
//!
//! At the end of standard input it stops all gateways and exits, so it does not outlive its test.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

use actpass_hostile_gateway::{HostileGateway, Script};
use serde_json::{Map, Value, json};

fn main() -> io::Result<()> {
    let mut input = io::stdin().lock();
    let mut output = io::stdout().lock();
    let mut gateways = Gateways::default();
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        let answer = gateways.execute(&line).unwrap_or_else(|what| json!({ "error": what }));
        writeln!(output, "{answer}")?;
        output.flush()?;
        line.clear();
    }
    Ok(())
}

#[derive(Default)]
struct Gateways {
    running: BTreeMap<u64, HostileGateway>,
    last_id: u64,
}

impl Gateways {
    fn execute(&mut self, line: &[u8]) -> Result<Value, String> {
        let command: Map<String, Value> =
            serde_json::from_slice(line).map_err(|err| format!("line: {err}"))?;
        let mut members = command.into_iter();
        let (Some((name, argument)), None) = (members.next(), members.next()) else {
            return Err(format!("line: must have exactly one member, {COMMANDS}"));
        };
        match name.as_str() {
            "close" => self.close(&argument),
            "release" => self.release(&argument),
            "seen" => self.seen(&argument),
            "start" => self.start(argument),
            "stop" => self.stop(&argument),
            _ => Err(format!("unknown command, expected {COMMANDS}")),
        }
        .map_err(|what| format!("{name}: {what}"))
    }

    fn start(&mut self, script: Value) -> Result<Value, String> {
        let gateway =
            Script::from_json(script).and_then(HostileGateway::start).map_err(|err| err.to_string())?;
        self.last_id += 1;
        let answer = json!({
            "id": self.last_id,
            "base_url": gateway.base_url(),
            "ca_pem": gateway.ca_pem(),
        });
        self.running.insert(self.last_id, gateway);
        Ok(answer)
    }

    fn close(&self, id: &Value) -> Result<Value, String> {
        self.running(id)?.close_connections();
        Ok(json!({ "closed": id }))
    }

    fn release(&self, id: &Value) -> Result<Value, String> {
        self.running(id)?.release();
        Ok(json!({ "released": id }))
    }

    fn running(&self, id: &Value) -> Result<&HostileGateway, String> {
        id.as_u64().and_then(|id| self.running.get(&id)).ok_or_else(|| no_gateway(id))
    }

    fn seen(&self, id: &Value) -> Result<Value, String> {
        let gateway = self.running(id)?;
        Ok(json!({ "seen": gateway.seen(), "other_seen": gateway.other_seen() }))
    }

    fn stop(&mut self, id: &Value) -> Result<Value, String> {
        let gateway = id.as_u64().and_then(|id| self.running.remove(&id));
        drop(gateway.ok_or_else(|| no_gateway(id))?);
        Ok(json!({ "stopped": id }))
    }
}

fn no_gateway(id: &Value) -> String {
    format!("no gateway with the id {id} is running")
}

const COMMANDS: &str = "one of `close`, `release`, `seen`, `start`, `stop`";
