//! What a script can say, and how it is read from JSON.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// What a [`HostileGateway`](crate::HostileGateway) shall do.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// Whether anybody listens at all.
    pub listen: Listen,
    /// What the gateway's certificate is worth.
    pub tls: Tls,
    /// The address says `https://` but the gateway speaks plain HTTP.
    pub plain_on_https: bool,
    /// The address says `http://` but the gateway speaks TLS.
    pub tls_on_http: bool,
    /// Within TLS, HTTP/2 is spoken and nothing else.
    pub http2: bool,
    /// Connections are opened (by the system) but never served; with TLS the handshake hangs.
    pub hang_accept: bool,
    /// Connections are reset as soon as they are open.
    pub reset_accept: bool,
    /// A kept-alive connection that is idle this long after an answer is closed.
    pub idle_close_ms: Option<u64>,
    /// What the n-th request is answered, counted over all connections. The last step is repeated; without any,
    /// every request is answered as by [`Respond::default`].
    pub steps: Vec<Step>,
}

impl Script {
    /// Reads a script from JSON.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`], with the member's name in the message.
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

/// What stands in a body for the SHA-256 of the canonical JSON of the request that is answered.
pub(crate) const REQUEST_HASH: &str = "{{request_hash}}";

/// Whether anybody listens on the gateway's port.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Listen {
    /// The gateway does.
    #[default]
    Open,
    /// Nobody does, and connections are refused.
    Refused,
}

/// What the gateway's certificate is worth to a client that trusts [`ca_pem`](crate::HostileGateway::ca_pem).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Tls {
    /// There is none: plain HTTP.
    #[default]
    None,
    /// Signed by that authority, for 127.0.0.1 and localhost.
    Trusted,
    /// Signed by itself.
    SelfSigned,
    /// Like [`Tls::Trusted`], but no longer valid.
    Expired,
    /// Like [`Tls::Trusted`], but for `example.test`.
    WrongHost,
    /// Never shown: the handshake is answered with TLS 1.1, as by a server that knows nothing newer.
    OldProtocol,
}

/// What one request is answered. In JSON an object whose member `do` names the step, with the step's members beside it.
#[derive(Clone, Debug)]
pub enum Step {
    /// A proper answer.
    Respond(Respond),
    /// Some bytes, and the end.
    Raw(Raw),
    /// An answer that never comes, or never ends.
    Hang(Hang),
    /// A proper answer, a byte at a time.
    Trickle(Trickle),
    /// A connection reset.
    Reset(Reset),
    /// An answer shorter than its content-length.
    Truncate(Truncate),
    /// A redirect to another host.
    Redirect(Redirect),
    /// HTTP/2: the connection is ended with a GOAWAY.
    Goaway(Goaway),
    /// HTTP/2: the request's stream is reset.
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

    /// The step as it answers the request of this hash: [`REQUEST_HASH`] in its bodies is replaced.
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
                // What is not text has none.
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

    /// Whether the step can be played over HTTP/2, or over HTTP/1.1.
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
    // By hand, as the derived code for tagged enums forgets which member an error is about.
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

/// [`Step::Respond`]: a proper answer, after which the connection is kept alive.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "RespondMembers")]
pub struct Respond {
    /// The status code; 200 unless given.
    pub status: u16,
    /// Header names and values. The right content-length is added unless they name `content-length` or
    /// `transfer-encoding`, and `content-type: application/json` unless they name `content-type`.
    pub headers: BTreeMap<String, String>,
    /// A header that is written many times, or is very long, after the others.
    pub header_repeat: Option<HeaderRepeat>,
    /// The body, written as it is, also when the headers announce something else.
    pub body: Body,
    /// Announces that the connection is closed after the answer, and closes it.
    pub close: bool,
    /// How long to wait before answering.
    pub delay_ms: u64,
}

impl Respond {
    /// Whether its headers name this one.
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

/// `header_repeat` of a [`Respond`]: `lines` headers of this name, each with `text` `times` over as its value.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderRepeat {
    /// The header's name.
    pub name: String,
    /// What is repeated in its value.
    pub text: String,
    /// How often; 1 unless given.
    #[serde(default = "once")]
    pub times: usize,
    /// How many such headers; 1 unless given.
    #[serde(default = "once")]
    pub lines: usize,
}

/// The body of a [`Respond`].
#[derive(Clone, Debug, Default)]
pub enum Body {
    /// No body.
    #[default]
    Empty,
    /// A text: `body` in JSON.
    Text(String),
    /// Any JSON, written without spaces: `json`.
    Json(Value),
    /// Any bytes: `body_base64`.
    Bytes(Vec<u8>),
    /// `first`, and then `unit`, `times` over: `body_repeat`. It is made while it is sent, so it may be larger than the
    /// memory.
    Repeat {
        /// What comes before.
        first: Vec<u8>,
        /// What is repeated.
        unit: Vec<u8>,
        /// How often.
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
            .ok_or_else(|| "body_repeat: is longer than a content-length can say".into())
    }
}

/// [`Step::Raw`]: the request is read, then these bytes are written and the connection is closed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(try_from = "RawMembers")]
pub struct Raw {
    /// What is written: `text` or `base64` in JSON.
    pub bytes: Vec<u8>,
    /// Leaves the connection open for the next request, whatever the bytes say.
    pub keep_alive: bool,
    /// How long to wait before writing.
    pub delay_ms: u64,
}

/// [`Step::Hang`]: stops somewhere and waits until the peer closes or the gateway is stopped.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hang {
    /// Where.
    pub at: HangAt,
    /// How long to wait before beginning.
    #[serde(default)]
    pub delay_ms: u64,
}

/// Where a [`Hang`] stops.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum HangAt {
    /// ConnectionFate the request was read; nothing is written.
    Request,
    /// In the middle of the answer's headers.
    Headers,
    /// In the middle of the answer's body.
    Body,
}

/// [`Step::Trickle`]: a proper answer whose body comes one byte at a time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trickle {
    /// The status code; 200 unless given.
    #[serde(default = "ok")]
    pub status: u16,
    /// The body.
    pub body: String,
    /// How long to wait between two bytes; 1000 unless given.
    #[serde(default = "one_second")]
    pub interval_ms: u64,
    /// How long to wait before answering.
    #[serde(default)]
    pub delay_ms: u64,
}

/// [`Step::Reset`]: the connection is reset (RST).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reset {
    /// When.
    pub at: ResetAt,
    /// How long to wait before beginning.
    #[serde(default)]
    pub delay_ms: u64,
}

/// When a [`Reset`] happens.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum ResetAt {
    /// ConnectionFate the request was read; nothing is written.
    Request,
    /// In the middle of the answer's body.
    Body,
}

/// [`Step::Truncate`]: an answer that ends before its content-length is reached.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Truncate {
    /// The status code; 200 unless given.
    #[serde(default = "ok")]
    pub status: u16,
    /// What is sent of the body.
    #[serde(default)]
    pub body: String,
    /// How many bytes more than those the content-length says.
    pub missing: u64,
    /// How long to wait before answering.
    #[serde(default)]
    pub delay_ms: u64,
}

/// [`Step::Redirect`]: a redirect to another host of this script, which allows everything and records what it was
/// sent (see [`HostileGateway::other_seen`](crate::HostileGateway::other_seen)).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// The status code; 302 unless given.
    #[serde(default = "found")]
    pub status: u16,
    /// How long to wait before answering.
    #[serde(default)]
    pub delay_ms: u64,
}

/// [`Step::Goaway`]: a GOAWAY frame, and the connection is closed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goaway {
    /// When.
    pub at: ResetAt,
    /// The error code; 0 (`NO_ERROR`) unless given.
    #[serde(default)]
    pub code: u32,
    /// Whether the frame says that the request may have been processed.
    #[serde(default)]
    pub processed: bool,
    /// How long to wait before beginning.
    #[serde(default)]
    pub delay_ms: u64,
}

/// [`Step::RstStream`]: a RST_STREAM frame; the connection stays.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RstStream {
    /// When.
    pub at: ResetAt,
    /// The error code: 7 is `REFUSED_STREAM`, 2 `INTERNAL_ERROR`.
    pub code: u32,
    /// How long to wait before beginning.
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

/// Unlike an `Option` of its own, this tells `null` from nothing.
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
