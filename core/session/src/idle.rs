//! Connections that closed while idle.

/// Removes closed connections from the pool before a request can use one. The first yield lets the
/// driving thread poll the sockets without waiting; in the second the connections handle what
/// arrived.
pub(crate) async fn reap_closed_connections() {
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
}
