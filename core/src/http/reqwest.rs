//! HTTP over a `reqwest` client with the caller's proxies, name resolution and TLS settings.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, retry};

use super::connect_options::ConnectOptions;
use super::tls::Trust;
use super::{GatewayHttp, is_refused_stream};
use crate::config::Config;
use crate::error::Error;
use crate::observe::without_subscriber;
use crate::transport::{Request, Response, SendFuture, Transport, TransportError};

/// Sends requests through a `reqwest` client. Some settings are fixed by the guard contract:
/// redirects are never followed, requests are never repeated, and a proxy carries only TLS tunnels.
pub(crate) struct ReqwestTransport {
    client: Client,
    gateway: GatewayHttp,
}

impl ReqwestTransport {
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config), if the client cannot be built.
    pub(crate) fn new(config: &Config, builder: ClientBuilder) -> Result<Self, Error> {
        let builder = builder
            .redirect(Policy::none())
            .retry(retry::never())
            .referer(false)
            .connect_timeout(config.connect_timeout);
        let builder = match config.base_url.is_https() {
            true => builder,
            false => builder.no_proxy(),
        };
        let problem = "cannot build a client";
        // `build` panics without a TLS provider.
        let client = catch_unwind(AssertUnwindSafe(|| builder.build()))
            .map_err(|_panic| {
                Error::config("reqwest", format_args!("{problem}: no TLS provider is installed"))
            })?
            .map_err(|error| {
                Error::config("reqwest", format_args!("{problem}: {error}")).with_source(error)
            })?;
        let connect_options =
            ConnectOptions { proxy: None, trust: Trust::empty()?, ca_variables: Vec::new() };
        Ok(Self { client, gateway: GatewayHttp::new(config, connect_options) })
    }

    async fn exchange(&self, request: Request) -> Result<Response, TransportError> {
        let sent = self.gateway.requests.request(request)?;
        let failed = |error: reqwest::Error| {
            let is_pre_send = error.is_connect() || is_refused_stream(&error);
            let is_late = error.is_connect() && error.is_timeout();
            let error = error.without_url();
            let error = match is_late {
                // reqwest's own timeout error type is private.
                true => self.gateway.response_error(io::Error::new(io::ErrorKind::TimedOut, error)),
                false => self.gateway.response_error(error),
            };
            TransportError { is_pre_send, error }
        };
        let sent = sent
            .try_into()
            .map_err(|error: reqwest::Error| TransportError { is_pre_send: true, ..failed(error) })?;
        let response = self.client.execute(sent).await.map_err(failed)?;
        // reqwest does not expose when the connection was established.
        self.gateway.read_response(http::Response::from(response), Duration::ZERO).await
    }
}

impl Transport for ReqwestTransport {
    fn send(&self, request: Request) -> SendFuture<'_> {
        Box::pin(without_subscriber(self.exchange(request)))
    }
}

impl fmt::Debug for ReqwestTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReqwestTransport")
            .field("base_url", &self.gateway.requests.base_url().as_str())
            .finish_non_exhaustive()
    }
}
