//! A gateway for tests that misbehaves on request and records what it was sent.
//!
//! A [`Script`] says how: what the port does, what the certificate is worth, and what each request is answered.
//! [`HostileGateway::start`] plays it on a free port of 127.0.0.1 until the gateway is dropped.
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
    Body, Goaway, Hang, HangAt, HeaderRepeat, Listen, Raw, Redirect, Reset, ResetAt, Respond, RstStream,
    Script, Step, Tls, Trickle, Truncate,
};
use crate::server::Server;
use crate::shared::Setup;

/// A running script. Dropping it closes its ports and its connections and ends its threads.
#[derive(Debug)]
pub struct HostileGateway {
    base_url: String,
    ca_pem: Option<String>,
    port: Port,
    other_host: Option<Server>,
}

impl HostileGateway {
    /// Starts to play `script` on a free port of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] for a script that cannot be played, with the member's name in the message;
    /// otherwise what the system said to the socket or the thread.
    pub fn start(script: Script) -> io::Result<Self> {
        script.check()?;

        let https = (script.tls != Tls::None || script.plain_on_https) && !script.tls_on_http;
        let authority = if https || script.tls_on_http { Some(Authority::new()?) } else { None };
        let other_host = if script.steps.iter().any(|s| matches!(s, Step::Redirect(_))) {
            Some(Server::start(listener()?, Setup::other_host())?)
        } else {
            None
        };

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
            let setup = Setup {
                tls,
                old_protocol: script.tls == Tls::OldProtocol,
                http2: script.http2,
                reset_accept: script.reset_accept,
                idle_close_ms: script.idle_close_ms,
                steps: script.steps,
                other_host: other_host.as_ref().map(Server::address),
            };
            let server = Server::start(listener()?, setup)?;
            let address = server.address();
            (Port::Served(server), address)
        };

        let scheme = if https { "https" } else { "http" };
        Ok(Self {
            base_url: format!("{scheme}://{address}"),
            ca_pem: authority.filter(|_| https).map(|authority| authority.pem()),
            port,
            other_host,
        })
    }

    /// Where the script is played: `http://127.0.0.1:PORT`, or `https://…` with `tls` or `plain_on_https`.
    #[must_use]
    pub fn base_url(&self) -> String {
        self.base_url.clone()
    }

    /// The certificate, in PEM, of the authority a client of this gateway should trust. There is one whenever
    /// [`base_url`](Self::base_url) is `https://`, also where the gateway's own certificate is not signed by it.
    #[must_use]
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// What the gateway was sent so far, in order of arrival. A request is in here before it is answered.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        match &self.port {
            Port::Served(server) => server.seen(),
            Port::Unserved { .. } | Port::Refused { .. } => Vec::new(),
        }
    }

    /// Closes the connections that are open (FIN), also those on which a request waits, and returns when that is done.
    pub fn close_connections(&self) {
        if let Port::Served(server) = &self.port {
            server.close_connections();
        }
    }

    /// Ends the waits of HTTP/1.1 answers: the `delay_ms` and `interval_ms` of the steps under way and of all later ones.
    pub fn release(&self) {
        if let Port::Served(server) = &self.port {
            server.release();
        }
    }

    /// What the host that the script's [`Step::Redirect`] points to was sent so far.
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

/// A socket that owns a port without listening on it: a connection to it is refused, and as long as the socket is open
/// the system gives the port to nobody else.
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
