//! How a connection to the gateway comes about: through the system's proxy where there is one, then TLS, all in bounded
//! time.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::config::Config;
use crate::error::Error;
use crate::tls;

/// A peer that is gone without a word is noticed after a minute, also where a call may wait for longer.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 3;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Connecting<S> = Pin<Box<dyn Future<Output = Result<S, BoxError>> + Send>>;
/// A connection to the gateway, or to the proxy on the way to it.
type Hop = MaybeHttpsStream<TokioIo<TcpStream>>;

/// Makes connections, each within the connect timeout.
#[derive(Clone)]
pub(crate) struct Connector {
    route: HttpsConnector<Route>,
    timeout: Duration,
}

impl Connector {
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(config.connect_timeout));
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE));
        tcp.set_keepalive_retries(Some(KEEPALIVE_PROBES));
        let is_https = config.base_url.is_https();
        let tls = match (is_https, config.extra_ca.as_slice()) {
            (false, _) => tls::none()?,
            (true, []) => tls::shared()?,
            (true, extra) => tls::with_extra_ca(extra)?,
        };
        // A proxy would see the key. Over https it sees a tunnel, so there the system's proxy settings hold.
        let proxies = is_https.then(|| Proxies::new(&tls));
        let route = Route { tcp, proxies };
        Ok(Self { route: HttpsConnector::from((route, tls)), timeout: config.connect_timeout })
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<Hop>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.route.poll_ready(context)
    }

    fn call(&mut self, gateway: Uri) -> Self::Future {
        let connecting = tokio::time::timeout(self.timeout, self.route.call(gateway));
        Box::pin(async move {
            connecting.await.unwrap_or_else(|_elapsed| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
        })
    }
}

/// The system's proxies, and how to speak to those that are spoken to over TLS.
#[derive(Clone)]
struct Proxies {
    system: Arc<Matcher>,
    tls: Arc<ClientConfig>,
}

impl Proxies {
    fn new(gateway: &ClientConfig) -> Self {
        let mut tls = gateway.clone();
        tls.alpn_protocols.clear();
        Self { system: Arc::new(Matcher::from_system()), tls: Arc::new(tls) }
    }
}

/// The way to the gateway below TLS: straight, or by a tunnel.
#[derive(Clone)]
struct Route {
    tcp: HttpConnector,
    proxies: Option<Proxies>,
}

impl Service<Uri> for Route {
    type Response = Hop;
    type Error = BoxError;
    type Future = Connecting<Hop>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, gateway: Uri) -> Self::Future {
        let proxies = self.proxies.as_ref();
        let Some((proxy, tls)) =
            proxies.and_then(|proxies| Some((proxies.system.intercept(&gateway)?, proxies.tls.clone())))
        else {
            let connecting = self.tcp.call(gateway);
            return Box::pin(async move { Ok(connecting.await?.into()) });
        };
        let mut tunnel = Tunnel::new(proxy.uri().clone(), HttpsConnector::from((self.tcp.clone(), tls)));
        if let Some(authorization) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(authorization.clone());
        }
        let connecting = tunnel.call(gateway);
        Box::pin(async move { Ok(connecting.await?) })
    }
}
