//! A served port: one accepting thread, and one thread per connection.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::SockRef;

use crate::client_stream::{ClientStream, reset_on_close};
use crate::http2;
use crate::play::{ConnectionFate, play};
use crate::request::{Incoming, RequestReader, Seen};
use crate::shared::{Setup, Shared, Stop, lock};

#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(listener: TcpListener, setup: Setup) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            setup,
            log: Mutex::default(),
            connections: Mutex::default(),
            stop: Stop::default(),
        });
        let accepting = thread::Builder::new().name("hostile-gateway".into()).spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        })?;
        Ok(Self { address, shared, accepting: Some(accepting) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.log).seen.clone()
    }

    pub(crate) fn close_connections(&self) {
        loop {
            let open: Vec<_> = lock(&self.shared.connections).iter().filter_map(Weak::upgrade).collect();
            if open.is_empty() {
                return;
            }
            for stream in open {
                // The connection's thread reads the end and closes. Fails only if it is closed
                // already.
                let _ = stream.shutdown(Shutdown::Read);
            }
            thread::sleep(RETRY);
        }
    }

    pub(crate) fn release(&self) {
        self.shared.stop.release();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.now();
        let Some(accepting) = self.accepting.take() else {
            return;
        };
        // Only a new connection wakes a blocked `accept` on every system.
        while TcpStream::connect_timeout(&self.address, WAKE_TIMEOUT).is_err() && !accepting.is_finished() {
            thread::sleep(RETRY);
        }
        // A panicked thread needs no stopping.
        let _ = accepting.join();
    }
}

struct Connection {
    stream: Weak<TcpStream>,
    thread: JoinHandle<()>,
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut connections: Vec<Connection> = Vec::new();
    for number in 1.. {
        let accepted = listener.accept();
        if shared.is_stopped() {
            break;
        }
        connections.retain(|connection| !connection.thread.is_finished());
        match accepted {
            Ok((stream, _)) if shared.setup.reset_accept => {
                // If the peer has closed already, there is nothing to reset.
                let _ = reset_on_close(&stream);
            }
            // Without a thread to serve it, the connection is closed.
            Ok((stream, _)) => connections.extend(spawn(stream, number, shared).ok()),
            Err(_) => {
                thread::sleep(RETRY);
            }
        }
    }

    // A starting child process may keep the port open for a moment. If a listening socket cannot be
    // shut down, closing it must suffice.
    let _ = SockRef::from(listener).shutdown(Shutdown::Both);

    for connection in connections {
        if let Some(stream) = connection.stream.upgrade() {
            // Fails only if the connection is closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        let _ = connection.thread.join();
    }
}

fn spawn(stream: TcpStream, number: u64, shared: &Arc<Shared>) -> io::Result<Connection> {
    let stream = Arc::new(stream);
    let weak = Arc::downgrade(&stream);
    {
        let mut connections = lock(&shared.connections);
        connections.retain(|connection| connection.strong_count() > 0);
        connections.push(Weak::clone(&weak));
    }
    let shared = Arc::clone(shared);
    let thread = thread::Builder::new().name(format!("hostile-gateway-{number}")).spawn(move || {
        // An error means that the peer left, or the stop.
        let _ = serve(&stream, number, &shared);
    })?;
    Ok(Connection { stream: weak, thread })
}

fn serve(stream: &TcpStream, connection: u64, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match &shared.setup.tls {
        _ if shared.setup.old_protocol => return handshake_tls_1_1(stream),
        Some(config) if shared.setup.http2 => return http2::serve(stream, connection, config, shared),
        _ => {}
    }
    let mut client_stream = ClientStream::new(stream, shared.setup.tls.as_ref())?;
    let mut reader = RequestReader::default();
    loop {
        let request = match reader.next(&mut client_stream) {
            Incoming::Request(request) => request,
            Incoming::Unreadable(bytes) => {
                lock(&shared.log).seen.push(Seen::unreadable(connection, &bytes));
                return client_stream.close();
            }
            Incoming::End => return client_stream.close(),
        };
        let may_keep_alive = !request.asks_to_close();
        let without_body = request.method == "HEAD";

        let request_hash = request.hash();
        let step = shared.record(request.seen(connection)).about(&request_hash);
        let other_host = shared.setup.other_host;
        match play(&step, &mut client_stream, without_body, other_host, &shared.stop)? {
            ConnectionFate::KeepAlive if may_keep_alive => {}
            ConnectionFate::KeepAlive | ConnectionFate::Close => return client_stream.close(),
            ConnectionFate::Reset => return reset_on_close(stream),
        }

        if let Some(idle) = shared.setup.idle_close_ms
            && !reader.more_within(Duration::from_millis(idle), stream, &mut client_stream)?
        {
            return client_stream.close();
        }
    }
}

/// Answers any ClientHello like a server that supports TLS 1.1 at most.
fn handshake_tls_1_1(stream: &TcpStream) -> io::Result<()> {
    let mut stream = stream;
    let mut buf = [0; 4096];
    if stream.read(&mut buf)? == 0 {
        return Ok(());
    }
    stream.write_all(&[SERVER_HELLO_TLS_1_1, &[0x5a; 32], SERVER_HELLO_END].concat())?;
    while stream.read(&mut buf)? > 0 {}
    stream.shutdown(Shutdown::Write)
}

/// A record with a ServerHello, both version 3.2, up to the random bytes.
const SERVER_HELLO_TLS_1_1: &[u8] = &[0x16, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2];
/// No session, TLS_RSA_WITH_AES_128_CBC_SHA, and no compression.
const SERVER_HELLO_END: &[u8] = &[0, 0x00, 0x2f, 0];
const RETRY: Duration = Duration::from_millis(10);
const WAKE_TIMEOUT: Duration = Duration::from_millis(500);
