//! The time that the proxy adds to a call. `scripts/mcp-speed` runs it with an optimised build.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "tests"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

const WARM_UP: usize = 200;
const CALLS: usize = 2000;
const ROUNDS: usize = 5;
const AT_ONCE: usize = 64;
const ALLOW: &str = r#"{"decision":"allow"}"#;

/// A gateway that allows each request immediately.
fn gateway() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                while read_http(&mut reader).is_some() {
                    let length = ALLOW.len();
                    let text = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{ALLOW}"
                    );
                    if reader.get_mut().write_all(text.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

/// Reads a message of HTTP with `content-length`, and returns its body.
fn read_http(reader: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut length = 0;
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(body)
}

/// The scripted server, or the proxy before it.
struct Target {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Target {
    fn start(gateway: Option<&str>, options: &[&str]) -> Self {
        let server = env!("CARGO_BIN_EXE_actpass-mcp-test-server");
        let mut command = match gateway {
            None => Command::new(server),
            Some(url) => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_actpass-mcp"));
                command.args(["proxy", "--server", "stripe"]).args(options).args(["--", server]);
                command.env("ACTPASS_API_KEY", "apk_dev").env("ACTPASS_API_BASE_URL", url);
                command
            }
        };
        let mut child =
            command.arg("/dev/null").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    fn read(&mut self) -> String {
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).unwrap() > 0);
        line
    }

    fn call(&mut self, id: usize) {
        self.input.write_all(format!("{}\n", call(id)).as_bytes()).unwrap();
    }

    /// The resident memory, in KiB.
    fn memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // The proxy ends its server.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.child.wait();
    }
}

fn call(id: usize) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"refunds.create","arguments":{{"amount":4900,"currency":"usd","reason":"duplicate"}}}}}}"#
    )
}

/// The times of `run`, sorted, as p50 and p99 in microseconds.
fn times(mut run: impl FnMut(usize)) -> (f64, f64) {
    let mut times: Vec<Duration> = (0..WARM_UP + CALLS)
        .map(|at| {
            let start = Instant::now();
            run(at);
            start.elapsed()
        })
        .skip(WARM_UP)
        .collect();
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e6;
    (at(50), at(99))
}

/// The best of several rounds: other processes only add to a time.
fn best(mut round: impl FnMut() -> (f64, f64)) -> (f64, f64) {
    (0..ROUNDS).map(|_| round()).min_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}

#[test]
#[ignore = "measures times, which need an optimised build and an idle machine"]
fn proxy_adds_little_to_a_call() {
    let url = gateway();
    let mut direct = Target::start(None, &[]);
    let mut stdio = Target::start(Some(&url), &[]);
    let mut http = Target::start(Some(&url), &["--listen", "127.0.0.1:0"]);
    let address = http.read();
    let address =
        address.trim().strip_prefix("listening on http://").unwrap().strip_suffix("/mcp").unwrap().to_owned();
    let connect = |address: &str| {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        BufReader::new(stream)
    };
    let mut gateway = connect(url.strip_prefix("http://").unwrap());
    let asked = best(|| {
        times(|_| {
            gateway
                .get_mut()
                .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
                .unwrap();
            read_http(&mut gateway).unwrap();
        })
    });
    let over_lines = |target: &mut Target| {
        best(|| {
            times(|id| {
                target.call(id);
                assert!(target.read().contains("ran"));
            })
        })
    };
    let without = over_lines(&mut direct);
    let with = over_lines(&mut stdio);
    let mut client = connect(&address);
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\nmcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: refunds.create\r\n"
    );
    let over_http = best(|| {
        times(|id| {
            let body = call(id).replace(
                r#""name":"refunds.create""#,
                r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}},"name":"refunds.create""#,
            );
            let text = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
            client.get_mut().write_all(text.as_bytes()).unwrap();
            let body = String::from_utf8(read_http(&mut client).unwrap()).unwrap();
            assert!(body.contains("ran"), "{body}");
        })
    });
    println!("| microseconds | p50 | p99 |\n|---|---|---|");
    for (name, (p50, p99)) in [
        ("the gateway's answer alone", asked),
        ("a call without the proxy, stdio", without),
        ("a call through the proxy, stdio", with),
        ("a call through the proxy, HTTP to stdio", over_http),
        ("the proxy adds, stdio", (with.0 - without.0, with.1 - without.1)),
        ("the proxy adds, HTTP", (over_http.0 - without.0, over_http.1 - without.1)),
    ] {
        println!("| {name} | {p50:.0} | {p99:.0} |");
    }

    let before = stdio.memory();
    for round in 0..5 {
        let start = Instant::now();
        let (mut sent, mut answered) = (0, 0);
        while answered < 1000 {
            while sent < 1000 && sent - answered < AT_ONCE {
                stdio.call(sent);
                sent += 1;
            }
            assert!(stdio.read().contains("ran"));
            answered += 1;
        }
        let (took, memory) = (start.elapsed().as_secs_f64(), stdio.memory());
        println!(
            "1000 calls, {AT_ONCE} concurrent, round {round}: {:.0} calls/s, {memory} KiB",
            1000.0 / took
        );
    }
    let after = stdio.memory();
    println!("memory before {before} KiB, after {after} KiB");
    assert!(after < before + 4096, "{before} KiB, {after} KiB");
    let limit = std::env::var("ACTPASS_MCP_SPEED_LIMIT").ok().map(|limit| limit.parse::<f64>().unwrap());
    if let Some(limit) = limit {
        assert!(with.0 - without.0 < limit, "the proxy adds {:.0} µs", with.0 - without.0);
    }
}
