//! Reads HTTP/1.1 requests, with a content-length or chunked.

use std::io::{self, Read};
use std::mem;
use std::net::TcpStream;
use std::time::Duration;

use httparse::{EMPTY_HEADER, Status};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::client_stream::ClientStream;

/// A request as received.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Seen {
    /// The number of its connection, counted from 1.
    pub connection: u64,
    /// The method, or `?` for an invalid request.
    pub method: String,
    /// The request target, with its query.
    pub path: String,
    /// The headers in order, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The decoded body, with invalid UTF-8 replaced. For method `?`, all bytes read.
    pub body: String,
}

impl Seen {
    pub(crate) fn unreadable(connection: u64, bytes: &[u8]) -> Self {
        Self {
            connection,
            method: "?".into(),
            path: String::new(),
            headers: Vec::new(),
            body: String::from_utf8_lossy(bytes).into_owned(),
        }
    }
}

pub(crate) enum Incoming {
    Request(Request),
    /// An invalid or truncated request.
    Unreadable(Vec<u8>),
    /// The peer closed the connection.
    End,
}

pub(crate) struct Request {
    pub(crate) method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    pub(crate) fn asks_to_close(&self) -> bool {
        values(&self.headers, "connection")
            .flat_map(|value| value.split(','))
            .any(|option| option.trim().eq_ignore_ascii_case("close"))
    }

    /// The SHA-256 of the body's canonical JSON, in hex; empty if it is not JSON.
    pub(crate) fn hash(&self) -> String {
        hash(&self.body)
    }

    pub(crate) fn seen(self, connection: u64) -> Seen {
        Seen {
            connection,
            method: self.method,
            path: self.path,
            headers: self.headers,
            body: String::from_utf8_lossy(&self.body).into_owned(),
        }
    }
}

/// The SHA-256 of the canonical JSON of `body`, in hex; empty if it is not JSON.
pub(crate) fn hash(body: &[u8]) -> String {
    let body = serde_json::from_slice::<serde_json::Value>(body).ok();
    let canonical = body.and_then(|body| serde_json_canonicalizer::to_vec(&body).ok());
    canonical.map(|canonical| hex::encode(Sha256::digest(canonical))).unwrap_or_default()
}

/// Reads the requests of one connection.
#[derive(Default)]
pub(crate) struct RequestReader {
    buf: Vec<u8>,
}

impl RequestReader {
    pub(crate) fn next(&mut self, stream: &mut ClientStream<'_>) -> Incoming {
        let head = loop {
            match parse_head(&self.buf) {
                Ok(Some(head)) => break head,
                Ok(None) if self.buf.len() > HEAD_CAP => return self.unreadable(),
                Ok(None) if self.fill(stream) => {}
                Ok(None) if self.buf.is_empty() => return Incoming::End,
                Ok(None) | Err(Malformed) => return self.unreadable(),
            }
        };
        let body = match body_of(&head.headers) {
            Ok(BodyForm::Sized(len)) => self.sized_body(head.len, len, stream),
            Ok(BodyForm::Chunked) => self.chunked_body(head.len, stream),
            Err(malformed) => Err(malformed),
        };
        match body {
            Ok(body) => Incoming::Request(Request {
                method: head.method,
                path: head.path,
                headers: head.headers,
                body,
            }),
            Err(Malformed) => self.unreadable(),
        }
    }

    /// Waits at most `idle` for the next request or for the peer to close. Returns whether either
    /// happened.
    pub(crate) fn more_within(
        &mut self,
        idle: Duration,
        socket: &TcpStream,
        stream: &mut ClientStream<'_>,
    ) -> io::Result<bool> {
        if !self.buf.is_empty() {
            return Ok(true);
        }
        // A timeout of zero would mean no timeout.
        if idle.is_zero() {
            return Ok(false);
        }
        socket.set_read_timeout(Some(idle))?;
        let read = self.read(stream);
        socket.set_read_timeout(None)?;
        match read {
            Ok(_) => Ok(true),
            Err(err) if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&err.kind()) => {
                Ok(false)
            }
            Err(err) => Err(err),
        }
    }

    fn sized_body(
        &mut self,
        start: usize,
        len: usize,
        stream: &mut ClientStream<'_>,
    ) -> Result<Vec<u8>, Malformed> {
        let end = start.saturating_add(len);
        while self.buf.len() < end {
            if !self.fill(stream) {
                return Err(Malformed);
            }
        }
        let rest = self.buf.split_off(end);
        let mut body = mem::replace(&mut self.buf, rest);
        body.drain(..start);
        Ok(body)
    }

    fn chunked_body(&mut self, start: usize, stream: &mut ClientStream<'_>) -> Result<Vec<u8>, Malformed> {
        let mut body = Vec::new();
        let mut at = start;
        loop {
            match parse_chunk(self.buf.get(at..).unwrap_or_default())? {
                Chunk::Data { data, len } => {
                    if body.len() + data.len() > BODY_CAP {
                        return Err(Malformed);
                    }
                    body.extend_from_slice(data);
                    at += len;
                }
                Chunk::Last { len } => {
                    self.buf.drain(..at + len);
                    return Ok(body);
                }
                Chunk::Partial => {
                    if !self.fill(stream) {
                        return Err(Malformed);
                    }
                }
            }
        }
    }

    fn unreadable(&mut self) -> Incoming {
        Incoming::Unreadable(mem::take(&mut self.buf))
    }

    /// Reads more bytes. Returns whether it read any; errors count as the end.
    fn fill(&mut self, stream: &mut ClientStream<'_>) -> bool {
        self.read(stream).is_ok_and(|n| n > 0)
    }

    fn read(&mut self, stream: &mut ClientStream<'_>) -> io::Result<usize> {
        let mut bytes = [0; 16 * 1024];
        loop {
            match stream.read(&mut bytes) {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
                Ok(n) => {
                    self.buf.extend_from_slice(bytes.get(..n).unwrap_or_default());
                    return Ok(n);
                }
            }
        }
    }
}

struct Head {
    len: usize,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
}

struct Malformed;

/// Parses the head at the start of `bytes`, if it is complete.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    let mut headers = vec![EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let len = match request.parse(bytes) {
        Ok(Status::Complete(len)) if len <= HEAD_CAP => len,
        Ok(Status::Partial) => return Ok(None),
        Ok(Status::Complete(_)) | Err(_) => return Err(Malformed),
    };
    let (Some(method), Some(path), Some(1)) = (request.method, request.path, request.version) else {
        return Err(Malformed);
    };
    Ok(Some(Head {
        len,
        method: method.to_owned(),
        path: path.to_owned(),
        headers: request
            .headers
            .iter()
            .map(|header| {
                let value = String::from_utf8_lossy(header.value).into_owned();
                (header.name.to_ascii_lowercase(), value)
            })
            .collect(),
    }))
}

enum BodyForm {
    Sized(usize),
    Chunked,
}

fn body_of(headers: &[(String, String)]) -> Result<BodyForm, Malformed> {
    let mut codings = values(headers, "transfer-encoding");
    if let Some(coding) = codings.next() {
        let chunked = coding.trim().eq_ignore_ascii_case("chunked") && codings.next().is_none();
        return if chunked { Ok(BodyForm::Chunked) } else { Err(Malformed) };
    }

    let mut lengths = values(headers, "content-length");
    let Some(length) = lengths.next() else {
        return Ok(BodyForm::Sized(0));
    };
    let digits = length.bytes().all(|b| b.is_ascii_digit());
    match length.parse() {
        Ok(len) if digits && len <= BODY_CAP && lengths.all(|l| l == length) => Ok(BodyForm::Sized(len)),
        _ => Err(Malformed),
    }
}

enum Chunk<'a> {
    Data {
        data: &'a [u8],
        /// Including its size line and line end.
        len: usize,
    },
    Last {
        /// Including the trailers.
        len: usize,
    },
    Partial,
}

fn parse_chunk(bytes: &[u8]) -> Result<Chunk<'_>, Malformed> {
    let (start, size) = match httparse::parse_chunk_size(bytes) {
        Ok(Status::Complete(found)) => found,
        Ok(Status::Partial) if bytes.len() <= HEAD_CAP => return Ok(Chunk::Partial),
        Ok(Status::Partial) | Err(_) => return Err(Malformed),
    };
    let rest = bytes.get(start..).unwrap_or_default();

    if size == 0 {
        let mut trailers = vec![EMPTY_HEADER; MAX_HEADERS];
        return match httparse::parse_headers(rest, &mut trailers) {
            Ok(Status::Complete((len, _))) => Ok(Chunk::Last { len: start + len }),
            Ok(Status::Partial) if rest.len() <= HEAD_CAP => Ok(Chunk::Partial),
            Ok(Status::Partial) | Err(_) => Err(Malformed),
        };
    }

    let size = usize::try_from(size).ok().filter(|size| *size <= BODY_CAP).ok_or(Malformed)?;
    match rest.split_at_checked(size) {
        Some((data, after)) if after.starts_with(b"\r\n") => Ok(Chunk::Data { data, len: start + size + 2 }),
        Some((_, after)) if !b"\r\n".starts_with(after) => Err(Malformed),
        Some(_) | None => Ok(Chunk::Partial),
    }
}

fn values<'a>(headers: &'a [(String, String)], name: &'a str) -> impl Iterator<Item = &'a str> {
    headers.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
}

const HEAD_CAP: usize = 64 * 1024;
const BODY_CAP: usize = 4 * 1024 * 1024;
const MAX_HEADERS: usize = 1024;
