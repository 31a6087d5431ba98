//! Fixed-response servers, to measure a client without a gateway.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
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

/// Starts a gRPC server on one thread, and returns its address. It answers every call with an empty
/// message.
///
/// # Errors
///
/// If it cannot bind.
pub fn grpc() -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || match runtime.block_on(accept_grpc(listener)) {
        Ok(never) => match never {},
        Err(error) => eprintln!("the gRPC server ended: {error}"),
    });
    Ok(address)
}

async fn accept_grpc(listener: TcpListener) -> Result<Infallible, std::io::Error> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(serve_grpc(stream));
    }
}

async fn serve_grpc(stream: tokio::net::TcpStream) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        tokio::spawn(answer_grpc(request, respond));
    }
    Ok(())
}

async fn answer_grpc(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let mut body = request.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    let mut head = Response::new(());
    head.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let mut stream = respond.send_response(head, false)?;
    // Not compressed, and no bytes.
    stream.send_data(Bytes::from_static(&[0; 5]), false)?;
    let status = [(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))];
    stream.send_trailers(HeaderMap::from_iter(status))
}
