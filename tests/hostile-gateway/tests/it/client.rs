//! A raw test client.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use actpass_hostile_gateway::{HostileGateway, Script};
use serde_json::Value;

pub(crate) fn start(script: Value) -> HostileGateway {
    HostileGateway::start(Script::from_json(script).unwrap()).unwrap()
}

pub(crate) fn address(url: &str) -> &str {
    let (_, address) = url.split_once("://").unwrap();
    address
}

pub(crate) fn connect(gateway: &HostileGateway) -> Client {
    Client::new(open(address(&gateway.base_url())))
}

pub(crate) fn open(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
    stream
}

/// Sends a request on its own connection and returns the response.
pub(crate) fn ask(gateway: &HostileGateway, path: &str) -> Answer {
    let mut client = connect(gateway);
    client.get(path);
    client.answer()
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(n, _)| n == name);
        let header = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "duplicate header {name}");
        header
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// The end of a connection.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum End {
    Fin,
    Rst,
    NotYet,
}

pub(crate) struct Client<S: Read + Write = TcpStream> {
    pub(crate) stream: BufReader<S>,
}

impl<S: Read + Write> Client<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    pub(crate) fn get(&mut self, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: gateway\r\n\r\n").as_bytes());
    }

    /// Reads a response with a content-length.
    pub(crate) fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        let len = answer.header("content-length").map_or(0, |len| len.parse().unwrap());
        answer.body = vec![0; len];
        self.stream.read_exact(&mut answer.body).unwrap();
        answer
    }

    pub(crate) fn head(&mut self) -> Answer {
        let status = self.line();
        let status = status.strip_prefix("HTTP/1.1 ").unwrap();
        let status = status.split(' ').next().unwrap().parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").unwrap();
            headers.push((name.to_owned(), value.to_owned()));
        }
        Answer { status, headers, body: Vec::new() }
    }

    /// Reads until the connection ends; returns its end.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, End) {
        let mut rest = Vec::new();
        let end = match self.stream.read_to_end(&mut rest) {
            Ok(_) => End::Fin,
            Err(err) if err.kind() == ErrorKind::ConnectionReset => End::Rst,
            Err(err) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&err.kind()) => End::NotYet,
            Err(err) => panic!("{err}"),
        };
        (rest, end)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.strip_suffix("\r\n").unwrap().to_owned()
    }
}

impl Client {
    pub(crate) fn read_timeout(&mut self, read_timeout: Duration) {
        let stream = self.stream.get_ref();
        stream.set_read_timeout(Some(read_timeout)).unwrap();
    }
}

/// Timeout of expected events.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Time after which nothing more is expected to arrive.
pub(crate) const SHORT_TIMEOUT: Duration = Duration::from_millis(200);
