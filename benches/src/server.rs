//! Fixed-response servers, to measure a client without a gateway.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rcgen::generate_simple_self_signed;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::Failure;
use crate::samples::response;

/// Starts a plain HTTP server and a TLS server, with one thread per connection, and returns their
/// addresses. Writes the certificate authority to `authority`, in PEM.
///
/// # Errors
///
/// If they cannot bind.
pub fn in_threads(authority: &Path) -> Result<(SocketAddr, SocketAddr), Failure> {
    let certified = generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    std::fs::write(authority, certified.cert.pem())?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)?;
    let config = Arc::new(config);
    let plain = listen(serve)?;
    let secure = listen(move |stream| {
        if let Ok(connection) = ServerConnection::new(Arc::clone(&config)) {
            serve(StreamOwned::new(connection, stream));
        }
    })?;
    Ok((plain, secure))
}

fn listen(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Result<SocketAddr, std::io::Error> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                serve(stream);
            });
        }
    });
    Ok(address)
}

fn serve(stream: impl Read + Write) {
    let answer = response();
    let mut stream = BufReader::new(stream);
    while read_message(&mut stream).is_ok_and(|length| length > 0) {
        let sent = stream.get_mut().write_all(answer.as_bytes()).and_then(|()| stream.get_mut().flush());
        if sent.is_err() {
            return;
        }
    }
}

/// Reads a message's header section and body. Returns its length; 0 at the end of the stream.
///
/// # Errors
///
/// If the connection fails, or the message is invalid.
pub fn read_message(stream: &mut impl BufRead) -> Result<usize, Failure> {
    let (mut line, mut length, mut total) = (String::new(), 0, 0);
    loop {
        line.clear();
        let read = stream.read_line(&mut line)?;
        total += read;
        if read == 0 || line == "\r\n" {
            break;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(total + length)
}
