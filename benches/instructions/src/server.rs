//! A server in the client's thread, so that the scheduler has no influence.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::samples::response;

/// Starts a server as a task of this runtime and returns its address.
///
/// # Errors
///
/// If it cannot bind.
pub(crate) async fn in_this_thread() -> Result<SocketAddr, std::io::Error> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_all(stream));
        }
    });
    Ok(address)
}

/// Parses requests as little as possible, because the cost is counted with the client.
async fn answer_all(mut stream: tokio::net::TcpStream) {
    let answer = response();
    let mut buffer = vec![0; 256 * 1024];
    let mut filled = 0;
    while let Ok(read @ 1..) = stream.read(buffer.get_mut(filled..).unwrap_or_default()).await {
        filled += read;
        if length(buffer.get(..filled).unwrap_or_default()).is_some_and(|length| filled >= length) {
            filled = 0;
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// The length of the request, once its header section is complete.
fn length(request: &[u8]) -> Option<usize> {
    let (mut at, mut length) = (0, 0);
    loop {
        let rest = request.get(at..)?;
        let line = rest.get(..rest.iter().position(|byte| *byte == b'\n')?)?;
        at += line.len() + 1;
        if line == b"\r" {
            return Some(at + length);
        }
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':').unwrap_or(0));
        if name.eq_ignore_ascii_case(b"content-length") {
            length = std::str::from_utf8(value.get(1..)?).ok()?.trim().parse().ok()?;
        }
    }
}
