//! Connections that were closed while nothing drove them.

/// Lets a closed connection leave the pool before a request can pick it: the first yield has the thread that drives collect
/// what the sockets have to tell, without waiting, and in the second the connections act on it.
pub(crate) async fn reap_closed_connections() {
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
}
