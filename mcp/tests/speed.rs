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

/// Calls over HTTP and waits for the result.
fn over_http(client: &mut BufReader<TcpStream>, address: &str, id: usize) {
    let body = call(id).replace(
        r#""name":"refunds.create""#,
        r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}},"name":"refunds.create""#,
    );
    let text = format!(
        "POST /mcp HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\nmcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: refunds.create\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    client.get_mut().write_all(text.as_bytes()).unwrap();
    let body = String::from_utf8(read_http(client).unwrap()).unwrap();
    assert!(body.contains("ran"), "{body}");
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

/// The p50 and p99 of each series: the gateway alone, without the proxy, over stdio, over HTTP.
type Round = [(f64, f64); 4];

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
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
    let mut client = connect(&address);
    let over_lines = |target: &mut Target| {
        times(|id| {
            target.call(id);
            assert!(target.read().contains("ran"));
        })
    };
    // The rounds alternate, so that a change of the machine's load affects each figure.
    let rounds: Vec<Round> = (0..ROUNDS)
        .map(|_| {
            let asked = times(|_| {
                gateway
                    .get_mut()
                    .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
                    .unwrap();
                read_http(&mut gateway).unwrap();
            });
            let over_http = times(|id| over_http(&mut client, &address, id));
            [asked, over_lines(&mut direct), over_lines(&mut stdio), over_http]
        })
        .collect();
    let over_rounds = |of: &dyn Fn(&Round) -> f64| median(rounds.iter().map(of).collect());
    println!("| microseconds, median of {ROUNDS} rounds | p50 | p99 |\n|---|---|---|");
    for (at, name) in [
        "the gateway's answer alone",
        "a call without the proxy, stdio",
        "a call through the proxy, stdio",
        "a call through the proxy, HTTP to stdio",
    ]
    .iter()
    .enumerate()
    {
        println!(
            "| {name} | {:.0} | {:.0} |",
            over_rounds(&|round| round[at].0),
            over_rounds(&|round| round[at].1)
        );
    }
    let adds = over_rounds(&|round| round[2].0 - round[1].0);
    for (at, name) in [(2, "stdio"), (3, "HTTP")] {
        let p50 = over_rounds(&|round| round[at].0 - round[1].0);
        let p99 = over_rounds(&|round| round[at].1 - round[1].1);
        println!("| the proxy adds, {name} | {p50:.0} | {p99:.0} |");
        let p50 = over_rounds(&|round| round[at].0 / round[1].0);
        let p99 = over_rounds(&|round| round[at].1 / round[1].1);
        println!("| ratio, {name} | {p50:.1} | {p99:.1} |");
    }

    let burst = |target: &mut Target| {
        let start = Instant::now();
        let (mut sent, mut answered) = (0, 0);
        while answered < 1000 {
            while sent < 1000 && sent - answered < AT_ONCE {
                target.call(sent);
                sent += 1;
            }
            assert!(target.read().contains("ran"));
            answered += 1;
        }
        1000.0 / start.elapsed().as_secs_f64()
    };
    let mut clients: Vec<_> = (0..AT_ONCE).map(|_| connect(&address)).collect();
    let http_burst = |clients: &mut Vec<BufReader<TcpStream>>| {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for (at, client) in clients.iter_mut().enumerate() {
                let address = &address;
                scope.spawn(move || {
                    (at..1000).step_by(AT_ONCE).for_each(|id| over_http(client, address, id));
                });
            }
        });
        1000.0 / start.elapsed().as_secs_f64()
    };
    let rates: Vec<[f64; 3]> =
        (0..ROUNDS).map(|_| [burst(&mut direct), burst(&mut stdio), http_burst(&mut clients)]).collect();
    for (at, name) in
        ["without the proxy, stdio", "through the proxy, stdio", "through the proxy, HTTP to stdio"]
            .iter()
            .enumerate()
    {
        let rate = median(rates.iter().map(|rates| rates[at]).collect());
        println!("1000 calls, {AT_ONCE} concurrently, {name}: {rate:.0} calls/s");
    }
    for (name, target) in [("stdio", &mut stdio), ("HTTP", &mut http)] {
        let before = target.memory();
        for _ in 0..20 {
            match name {
                "stdio" => burst(target),
                _ => http_burst(&mut clients),
            };
        }
        let after = target.memory();
        println!("memory, {name}, 20000 calls: before {before} KiB, after {after} KiB");
        assert!(after < before + 4096, "{before} KiB, {after} KiB");
    }
    let limit = std::env::var("ACTPASS_MCP_SPEED_LIMIT").ok().map(|limit| limit.parse::<f64>().unwrap());
    if let Some(limit) = limit {
        assert!(adds < limit, "the proxy adds {adds:.0} µs");
    }
}
