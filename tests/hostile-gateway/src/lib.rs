//! A test gateway that misbehaves on request and records requests.
//!
//! A [`Script`] defines the behaviour of the port, the certificate, and the response to each
//! request. [`HostileGateway::start`] serves it on a free port of 127.0.0.1 until the gateway is
//! dropped.
//!
//! ```
//! # struct Client(String);
//! # impl Client { fn preflight(&self) -> std::io::Result<()> {
//! #     use std::io::{Read, Write};
//! #     let mut stream = std::net::TcpStream::connect(self.0.trim_start_matches("https://"))?;
//! #     stream.write_all(b"no handshake\r\n\r\n")?;
//! #     Err(stream.read(&mut [0]).err().unwrap_or(std::io::ErrorKind::ConnectionReset.into()))
//! # } }
//! # fn client_for(base_url: String, _: Option<&str>) -> Client { Client(base_url) }
//! use actpass_hostile_gateway::{HostileGateway, Script};
//! use serde_json::json;
//!
//! let gateway = HostileGateway::start(Script::from_json(json!({
//!     "tls": "trusted",
//!     "steps": [
//!         {"do": "reset", "at": "request"},
//!         {"do": "respond", "json": {"decision": "allow"}},
//!     ],
//! }))?)?;
//!
//! let client = client_for(gateway.base_url(), gateway.ca_pem());
//! assert!(client.preflight().is_err());
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::TcpStream;
//!
//! use actpass_hostile_gateway::{HostileGateway, Script};
//! use serde_json::json;
//!
//! let gateway = HostileGateway::start(Script::from_json(json!({
//!     "steps": [{"do": "truncate", "body": "{\"decision\":\"allow\"}", "missing": 5}],
//! }))?)?;
//!
//! let mut client = TcpStream::connect(gateway.base_url().trim_start_matches("http://"))?;
//! client.write_all(b"GET /health HTTP/1.1\r\nhost: gateway\r\n\r\n")?;
//! let mut answer = String::new();
//! client.read_to_string(&mut answer)?;
//!
//! assert!(answer.contains("content-length: 25\r\n"));
//! assert!(answer.ends_with(r#"{"decision":"allow"}"#));
//! assert_eq!(gateway.seen().len(), 1);
//! # std::io::Result::Ok(())
//! ```

#![forbid(unsafe_code)]

mod certificates;
mod client_stream;
mod dpop;
mod http2;
mod play;
mod request;
mod script;
mod server;
mod shared;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use socket2::{Domain, Socket, Type};

use crate::certificates::Authority;
pub use crate::request::Seen;
pub use crate::script::{
    Body, Dpop, Goaway, Hang, HangAt, HeaderRepeat, Listen, Raw, Redirect, Reset, ResetAt, Respond,
    RstStream, Script, Step, Tls, Trickle, Truncate,
};
use crate::server::Server;
use crate::shared::Setup;

/// A running script. Dropping it closes its ports and connections and stops its threads.
#[derive(Debug)]
pub struct HostileGateway {
    base_url: String,
    ca_pem: Option<String>,
    port: Port,
    other_host: Option<Server>,
}

impl HostileGateway {
    /// Starts `script` on a free port of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] for an invalid script, naming the member; otherwise the
    /// system's error for the socket or the thread.
    pub fn start(script: Script) -> io::Result<Self> {
        script.check()?;

        let https = (script.tls != Tls::None || script.plain_on_https) && !script.tls_on_http;
        let authority = if https || script.tls_on_http { Some(Authority::new()?) } else { None };
        let redirect = script
            .steps
            .iter()
            .find_map(|step| if let Step::Redirect(redirect) = step { Some(redirect) } else { None });
        let other_host = match redirect {
            Some(redirect) => Some(Server::start(listener()?, Setup::other_host(redirect))?),
            None => None,
        };

        let scheme = if https { "https" } else { "http" };
        let (port, address) = if script.listen == Listen::Refused {
            let (socket, address) = refusing_socket()?;
            (Port::Refused { _socket: socket }, address)
        } else if script.hang_accept {
            let listener = listener()?;
            let address = listener.local_addr()?;
            let port = Port::Unserved { _listener: listener };
            (port, address)
        } else {
            let tls = match &authority {
                Some(authority) => authority.server_config(script.tls, script.http2)?,
                None => None,
            };
            let listener = listener()?;
            let address = listener.local_addr()?;
            let setup = Setup {
                dpop: script.dpop.map(|dpop| (dpop, format!("{scheme}://{address}"))),
                tls,
                old_protocol: script.tls == Tls::OldProtocol,
                http2: script.http2,
                reset_accept: script.reset_accept,
                idle_close_ms: script.idle_close_ms,
                steps: script.steps,
                other_host: other_host.as_ref().map(Server::address),
            };
            (Port::Served(Server::start(listener, setup)?), address)
        };

        Ok(Self {
            base_url: format!("{scheme}://{address}"),
            ca_pem: authority.filter(|_| https).map(|authority| authority.pem()),
            port,
            other_host,
        })
    }

    /// The gateway's URL: `http://127.0.0.1:PORT`, or `https://…` with `tls` or `plain_on_https`.
    #[must_use]
    pub fn base_url(&self) -> String {
        self.base_url.clone()
    }

    /// The certificate, in PEM, of the authority that clients should trust. Present if
    /// [`base_url`](Self::base_url) is `https://`, even if the gateway's own certificate is not
    /// signed by it.
    #[must_use]
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// The requests so far, in order of arrival. A request is recorded before it is answered.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        match &self.port {
            Port::Served(server) => server.seen(),
            Port::Unserved { .. } | Port::Refused { .. } => Vec::new(),
        }
    }

    /// Closes all open connections (FIN), including those with a pending request, and waits until
    /// they are closed.
    pub fn close_connections(&self) {
        if let Port::Served(server) = &self.port {
            server.close_connections();
        }
    }

    /// Skips the waits of HTTP/1.1 responses: `delay_ms` and `interval_ms` of current and later
    /// steps.
    pub fn release(&self) {
        if let Port::Served(server) = &self.port {
            server.release();
        }
    }

    /// The requests that the target host of [`Step::Redirect`] received so far.
    #[must_use]
    pub fn other_seen(&self) -> Vec<Seen> {
        self.other_host.as_ref().map(Server::seen).unwrap_or_default()
    }
}

#[derive(Debug)]
enum Port {
    Served(Server),
    Unserved { _listener: TcpListener },
    Refused { _socket: Socket },
}

/// A bound socket that does not listen: connections are refused, and the port stays reserved.
fn refusing_socket() -> io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&any_port().into())?;
    let address = socket
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::other("the bound socket has no internet address"))?;
    Ok((socket, address))
}

fn listener() -> io::Result<TcpListener> {
    TcpListener::bind(any_port())
}

fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}
