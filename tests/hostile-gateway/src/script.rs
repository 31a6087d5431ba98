//! Scripts, and how they are read from JSON.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// The behaviour of a [`HostileGateway`](crate::HostileGateway).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// Whether the port is open.
    pub listen: Listen,
    /// The gateway's certificate.
    pub tls: Tls,
    /// The URL is `https://`, but the gateway speaks plain HTTP.
    pub plain_on_https: bool,
    /// The URL is `http://`, but the gateway speaks TLS.
    pub tls_on_http: bool,
    /// Only HTTP/2 is spoken, over TLS.
    pub http2: bool,
    /// Connections are accepted by the system but never served; with TLS the handshake hangs.
    pub hang_accept: bool,
    /// Connections are reset immediately.
    pub reset_accept: bool,
    /// Closes a kept-alive connection that is idle this long after a response.
    pub idle_close_ms: Option<u64>,
    /// Requests without a valid DPoP proof for this key get a 401 and use no step.
    pub dpop: Option<Dpop>,
    /// The response to the n-th request, counted over all connections. The last step repeats;
    /// without steps, every response is [`Respond::default`].
    pub steps: Vec<Step>,
}

impl Script {
    /// Parses a script.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`], naming the member.
    pub fn from_json(script: Value) -> io::Result<Self> {
        serde_path_to_error::deserialize(script).map_err(invalid)
    }

    pub(crate) fn check(&self) -> io::Result<()> {
        if self.plain_on_https && self.tls != Tls::None {
            return Err(invalid("plain_on_https: cannot go with `tls`"));
        }
        if self.tls_on_http && self.tls == Tls::None {
            return Err(invalid("tls_on_http: needs `tls`"));
        }
        if self.http2 && matches!(self.tls, Tls::None | Tls::OldProtocol) {
            return Err(invalid("http2: needs `tls` that a client can agree on"));
        }
        if self.hang_accept && self.reset_accept {
            return Err(invalid("reset_accept: cannot go with `hang_accept`"));
        }
        if self.listen == Listen::Refused && (self.hang_accept || self.reset_accept) {
            return Err(invalid("listen: `refused` cannot go with `hang_accept` or `reset_accept`"));
        }
        for (n, step) in self.steps.iter().enumerate() {
            step.check()
                .and_then(|()| step.check_version(self.http2))
                .map_err(|what| invalid(format!("steps[{n}].{what}")))?;
        }
        Ok(())
    }
}

/// The API key of every request, and the key that it is bound to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dpop {
    /// The API key.
    pub api_key: String,
    /// The thumbprint of the public key (RFC 7638).
    pub jkt: String,
}

/// Replaced in bodies by the SHA-256 of the request's canonical JSON.
pub(crate) const REQUEST_HASH: &str = "{{request_hash}}";

/// Whether the gateway's port is open.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Listen {
    /// The port accepts connections.
    #[default]
    Open,
    /// Connections are refused.
    Refused,
}

/// The gateway's certificate, for a client that trusts [`ca_pem`](crate::HostileGateway::ca_pem).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Tls {
    /// No certificate: plain HTTP.
    #[default]
    None,
    /// Signed by that authority, for 127.0.0.1 and localhost.
    Trusted,
    /// Self-signed.
    SelfSigned,
    /// Like [`Tls::Trusted`], but expired.
    Expired,
    /// Like [`Tls::Trusted`], with the name `example.test`.
    WrongHost,
    /// Never presented: the handshake is answered with TLS 1.1, as by an old server.
    OldProtocol,
}

/// The response to one request. In JSON, an object whose member `do` names the step, next to the
/// step's members.
#[derive(Clone, Debug)]
pub enum Step {
    /// A valid response.
    Respond(Respond),
    /// Raw bytes, then close.
    Raw(Raw),
    /// A response that never arrives, or never ends.
    Hang(Hang),
    /// A valid response, one byte at a time.
    Trickle(Trickle),
    /// A connection reset.
    Reset(Reset),
    /// A response shorter than its content-length.
    Truncate(Truncate),
    /// A redirect to another host.
    Redirect(Redirect),
    /// HTTP/2: GOAWAY closes the connection.
    Goaway(Goaway),
    /// HTTP/2: RST_STREAM resets the request's stream.
    RstStream(RstStream),
}

impl Step {
    pub(crate) fn delay_ms(&self) -> u64 {
        match self {
            Self::Respond(step) => step.delay_ms,
            Self::Raw(step) => step.delay_ms,
            Self::Hang(step) => step.delay_ms,
            Self::Trickle(step) => step.delay_ms,
            Self::Reset(step) => step.delay_ms,
            Self::Truncate(step) => step.delay_ms,
            Self::Redirect(step) => step.delay_ms,
            Self::Goaway(step) => step.delay_ms,
            Self::RstStream(step) => step.delay_ms,
        }
    }

    /// The step for a request with this hash: replaces [`REQUEST_HASH`] in its bodies.
    pub(crate) fn about(mut self, request_hash: &str) -> Self {
        match &mut self {
            Self::Respond(Respond { body, .. }) => {
                if let Body::Json(json) = body {
                    *body = Body::Text(json.to_string());
                }
                if let Body::Text(text) = body {
                    *text = text.replace(REQUEST_HASH, request_hash);
                }
            }
            Self::Raw(Raw { bytes, .. }) => {
                // Binary bodies have no placeholder.
                if let Ok(text) = std::str::from_utf8(bytes) {
                    *bytes = text.replace(REQUEST_HASH, request_hash).into_bytes();
                }
            }
            Self::Trickle(Trickle { body, .. }) | Self::Truncate(Truncate { body, .. }) => {
                *body = body.replace(REQUEST_HASH, request_hash);
            }
            Self::Hang(_) | Self::Reset(_) | Self::Redirect(_) | Self::Goaway(_) | Self::RstStream(_) => {}
        }
        self
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Respond(step) => {
                check_status(step.status)?;
                check_headers(step.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())))?;
                if let Some(HeaderRepeat { name, text, .. }) = &step.header_repeat {
                    check_headers([(name.as_str(), text.as_str())])?;
                }
                step.body.check()
            }
            Self::Trickle(step) => check_status(step.status),
            Self::Truncate(step) if step.missing == 0 => Err("missing: must be at least 1".into()),
            Self::Truncate(step) => check_status(step.status),
            Self::Redirect(step) => check_status(step.status),
            Self::Raw(_) | Self::Hang(_) | Self::Reset(_) | Self::Goaway(_) | Self::RstStream(_) => Ok(()),
        }
    }

    /// Whether the step is available in HTTP/2, or in HTTP/1.1.
    fn check_version(&self, http2: bool) -> Result<(), String> {
        match (self, http2) {
            (Self::Raw(_), true) => Err("do: `raw` cannot go with `http2`".into()),
            (Self::Hang(Hang { at: HangAt::Headers, .. }), true) => {
                Err("at: `headers` cannot go with `http2`".into())
            }
            (Self::Respond(Respond { status: 100..=199, .. }), true) => {
                Err("status: below 200 cannot go with `http2`".into())
            }
            (Self::Respond(Respond { close: true, .. }), true) => Err("close: cannot go with `http2`".into()),
            (Self::Goaway(_), false) => Err("do: `goaway` needs `http2`".into()),
            (Self::RstStream(_), false) => Err("do: `rst_stream` needs `http2`".into()),
            _ => Ok(()),
        }
    }
}

impl<'de> Deserialize<'de> for Step {
    // Manual, because the derived code for tagged enums loses the member name in errors.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut members = Map::deserialize(deserializer)?;
        let name = match members.remove("do") {
            Some(Value::String(name)) => name,
            Some(_) => return Err(D::Error::custom("do: must be a string")),
            None => return Err(D::Error::missing_field("do")),
        };
        match name.as_str() {
            "respond" => read(members).map(Self::Respond),
            "raw" => read(members).map(Self::Raw),
            "hang" => read(members).map(Self::Hang),
            "trickle" => read(members).map(Self::Trickle),
            "reset" => read(members).map(Self::Reset),
            "truncate" => read(members).map(Self::Truncate),
            "redirect" => read(members).map(Self::Redirect),
            "goaway" => read(members).map(Self::Goaway),
            "rst_stream" => read(members).map(Self::RstStream),
            _ => Err(format!(
                "do: unknown step `{name}`, expected one of `respond`, `raw`, `hang`, `trickle`, `reset`, \
                 `truncate`, `redirect`, `goaway`, `rst_stream`"
            )),
        }
        .map_err(D::Error::custom)
    }
}

/// [`Step::Respond`]: a valid response on a kept-alive connection.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "RespondMembers")]
pub struct Respond {
    /// The status code. Default: 200.
    pub status: u16,
    /// Header names and values. `content-length` is added unless they contain `content-length` or
    /// `transfer-encoding`, and `content-type: application/json` unless they contain
    /// `content-type`.
    pub headers: BTreeMap<String, String>,
    /// A repeated or very long header, after the others.
    pub header_repeat: Option<HeaderRepeat>,
    /// The body, written unchanged even if the headers announce another length.
    pub body: Body,
    /// Announces `connection: close` and closes the connection.
    pub close: bool,
    /// The delay before the response.
    pub delay_ms: u64,
}

impl Respond {
    /// Whether the headers contain `name`.
    pub(crate) fn names(&self, name: &str) -> bool {
        self.headers.keys().any(|given| given.eq_ignore_ascii_case(name))
    }
}

impl Default for Respond {
    fn default() -> Self {
        Self {
            status: 200,
            headers: BTreeMap::new(),
            header_repeat: None,
            body: Body::Empty,
            close: false,
            delay_ms: 0,
        }
    }
}

/// `header_repeat` of a [`Respond`]: `lines` headers with this name, each with `text` repeated
/// `times` times.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderRepeat {
    /// The header's name.
    pub name: String,
    /// The repeated text.
    pub text: String,
    /// The number of repetitions. Default: 1.
    #[serde(default = "once")]
    pub times: usize,
    /// The number of headers. Default: 1.
    #[serde(default = "once")]
    pub lines: usize,
}

/// The body of a [`Respond`].
#[derive(Clone, Debug, Default)]
pub enum Body {
    /// No body.
    #[default]
    Empty,
    /// Text: `body` in JSON.
    Text(String),
    /// JSON without spaces: `json`.
    Json(Value),
    /// Bytes: `body_base64`.
    Bytes(Vec<u8>),
    /// `first`, then `unit` repeated `times` times: `body_repeat`. Generated while sending, so it
    /// may exceed the memory.
    Repeat {
        /// The prefix.
        first: Vec<u8>,
        /// The repeated unit.
        unit: Vec<u8>,
        /// The number of repetitions.
        times: u64,
    },
}

impl Body {
    fn check(&self) -> Result<(), String> {
        let Self::Repeat { first, unit, times } = self else {
            return Ok(());
        };
        let len = |bytes: &[u8]| u64::try_from(bytes.len()).ok();
        len(unit)
            .and_then(|unit| unit.checked_mul(*times)?.checked_add(len(first)?))
            .map(|_| ())
            .ok_or_else(|| "body_repeat: exceeds the maximum content-length".into())
    }
}

/// [`Step::Raw`]: reads the request, writes these bytes and closes the connection.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(try_from = "RawMembers")]
pub struct Raw {
    /// The bytes: `text` or `base64` in JSON.
    pub bytes: Vec<u8>,
    /// Keeps the connection open for the next request, regardless of the bytes.
    pub keep_alive: bool,
    /// The delay before writing.
    pub delay_ms: u64,
}

/// [`Step::Hang`]: stops at a point and waits until the peer closes or the gateway stops.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hang {
    /// Where it stops.
    pub at: HangAt,
    /// The delay before it starts.
    #[serde(default)]
    pub delay_ms: u64,
}

/// Where a [`Hang`] stops.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum HangAt {
    /// After the request was read; nothing is written.
    Request,
    /// In the middle of the response headers.
    Headers,
    /// In the middle of the response body.
    Body,
}

/// [`Step::Trickle`]: a valid response whose body is sent one byte at a time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trickle {
    /// The status code. Default: 200.
    #[serde(default = "ok")]
    pub status: u16,
    /// The body.
    pub body: String,
    /// The interval between two bytes. Default: 1000.
    #[serde(default = "one_second")]
    pub interval_ms: u64,
    /// The delay before the response.
    #[serde(default)]
    pub delay_ms: u64,
}

/// [`Step::Reset`]: the connection is reset (RST).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reset {
    /// When it resets.
    pub at: ResetAt,
    /// The delay before it starts.
    #[serde(default)]
    pub delay_ms: u64,
}

/// When a [`Reset`] happens.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum ResetAt {
    /// After the request was read; nothing is written.
    Request,
    /// In the middle of the response body.
    Body,
}

/// [`Step::Truncate`]: a response that ends before its content-length.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Truncate {
    /// The status code. Default: 200.
    #[serde(default = "ok")]
    pub status: u16,
    /// The part of the body that is sent.
    #[serde(default)]
    pub body: String,
    /// The content-length minus the length of the body, in bytes.
    pub missing: u64,
    /// The delay before the response.
    #[serde(default)]
    pub delay_ms: u64,
}

/// [`Step::Redirect`]: a redirect to another host of this script, which allows everything and
/// records its requests (see [`HostileGateway::other_seen`](crate::HostileGateway::other_seen)).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// The status code. Default: 302.
    #[serde(default = "found")]
    pub status: u16,
    /// The body of the other host's responses. Default: an `allow` of the wire protocol.
    pub other_body: Option<String>,
    /// The delay before the response.
    #[serde(default)]
    pub delay_ms: u64,
}

/// [`Step::Goaway`]: a GOAWAY frame, then close.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goaway {
    /// When it is sent.
    pub at: ResetAt,
    /// The error code. Default: 0 (`NO_ERROR`).
    #[serde(default)]
    pub code: u32,
    /// Whether the frame's stream id covers the request, which may then have been processed.
    #[serde(default)]
    pub processed: bool,
    /// The delay before it starts.
    #[serde(default)]
    pub delay_ms: u64,
}

/// [`Step::RstStream`]: an RST_STREAM frame; the connection stays open.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RstStream {
    /// When it is sent.
    pub at: ResetAt,
    /// The error code: 7 is `REFUSED_STREAM`, 2 `INTERNAL_ERROR`.
    pub code: u32,
    /// The delay before it starts.
    #[serde(default)]
    pub delay_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RespondMembers {
    #[serde(default = "ok")]
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    header_repeat: Option<HeaderRepeat>,
    body: Option<String>,
    #[serde(default, deserialize_with = "present")]
    json: Option<Value>,
    body_base64: Option<String>,
    body_repeat: Option<Repeat>,
    #[serde(default)]
    close: bool,
    #[serde(default)]
    delay_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Repeat {
    text: Option<String>,
    base64: Option<String>,
    #[serde(default)]
    first_base64: String,
    times: u64,
}

impl TryFrom<RespondMembers> for Respond {
    type Error = String;

    fn try_from(members: RespondMembers) -> Result<Self, Self::Error> {
        let body = match (members.body, members.json, members.body_base64, members.body_repeat) {
            (None, None, None, None) => Body::Empty,
            (Some(text), None, None, None) => Body::Text(text),
            (None, Some(json), None, None) => Body::Json(json),
            (None, None, Some(base64), None) => Body::Bytes(decode("body_base64", &base64)?),
            (None, None, None, Some(Repeat { text, base64, first_base64, times })) => {
                let unit = match (text, base64) {
                    (Some(text), None) => text.into_bytes(),
                    (None, Some(base64)) => decode("body_repeat.base64", &base64)?,
                    _ => {
                        return Err("body_repeat: exactly one of `text` and `base64` must be given".into());
                    }
                };
                Body::Repeat { first: decode("body_repeat.first_base64", &first_base64)?, unit, times }
            }
            _ => {
                return Err(
                    "body: only one of `body`, `json`, `body_base64` and `body_repeat` may be given".into()
                );
            }
        };
        Ok(Self {
            status: members.status,
            headers: members.headers,
            header_repeat: members.header_repeat,
            body,
            close: members.close,
            delay_ms: members.delay_ms,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMembers {
    text: Option<String>,
    base64: Option<String>,
    #[serde(default)]
    keep_alive: bool,
    #[serde(default)]
    delay_ms: u64,
}

impl TryFrom<RawMembers> for Raw {
    type Error = String;

    fn try_from(members: RawMembers) -> Result<Self, Self::Error> {
        let bytes = match (members.text, members.base64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(base64)) => decode("base64", &base64)?,
            _ => return Err("text: exactly one of `text` and `base64` must be given".into()),
        };
        Ok(Self { bytes, keep_alive: members.keep_alive, delay_ms: members.delay_ms })
    }
}

fn read<T: DeserializeOwned>(members: Map<String, Value>) -> Result<T, String> {
    serde_path_to_error::deserialize(Value::Object(members)).map_err(|err| err.to_string())
}

/// Unlike a plain `Option`, distinguishes `null` from missing.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

fn decode(member: &str, base64: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(base64).map_err(|err| format!("{member}: {err}"))
}

fn check_status(status: u16) -> Result<(), String> {
    if (100..=999).contains(&status) {
        Ok(())
    } else {
        Err(format!("status: {status} is not of three digits"))
    }
}

fn check_headers<'h>(headers: impl IntoIterator<Item = (&'h str, &'h str)>) -> Result<(), String> {
    for (name, value) in headers {
        let whole_name = !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(&b));
        if !whole_name || value.contains(['\r', '\n', '\0']) {
            return Err(format!("headers: {name:?} is not a header; the step `raw` sends anything"));
        }
    }
    Ok(())
}

fn once() -> usize {
    1
}

fn ok() -> u16 {
    200
}

fn found() -> u16 {
    302
}

fn one_second() -> u64 {
    1000
}

fn invalid(what: impl Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what.to_string())
}
