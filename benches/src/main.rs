//! The Rust parts of the benchmark, which `benches/bench.py` (`make bench`) runs.

use std::io::{Read, Write};
use std::path::Path;

use actpass_benches::{Failure, pure, samples, server, worker};

const USAGE: &str = "usage: actpass-benches serve AUTHORITY | worker URL [AUTHORITY] | pure | policy RULES | arguments BYTES | postgres
  serve      answers every request alike, over HTTP, TLS and gRPC; writes its certificate authority to the file AUTHORITY
  worker     runs the measurements named on its standard input
  pure       prints the cost of calls without a network, in nanoseconds
  policy     prints a policy of so many rules; arguments: arguments of so many bytes
  postgres   starts a PostgreSQL and prints its URL
serve, worker and postgres end with their standard input.";

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["serve", authority] => {
            let (plain, secure) = server::in_threads(Path::new(authority))?;
            let grpc = server::grpc()?;
            say(&format!("http://{plain}\nhttps://{secure}\n{grpc}"))?;
            until_input_ends()
        }
        ["worker", url] => worker::run(url, None),
        ["worker", url, authority] => worker::run(url, Some(&std::fs::read(authority)?)),
        ["pure"] => say(&serde_json::to_string(&pure::measure()?)?),
        ["policy", rules] => say(&samples::policy(rules.parse()?)?),
        ["arguments", bytes] => say(&samples::arguments(bytes.parse()?)),
        ["postgres"] => {
            let server = actpass_test_postgres::server()?.ok_or("no PostgreSQL")?;
            say(&server.database()?)?;
            until_input_ends()
        }
        _ => Err(USAGE.into()),
    }
}

fn say(line: &str) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    Ok(output.flush()?)
}

fn until_input_ends() -> Result<(), Failure> {
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
