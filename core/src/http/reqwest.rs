//! HTTP over a client of the caller's: `reqwest`, with its proxies, name resolution and TLS settings.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, retry};

use super::tls::Trust;
use super::way::Way;
use super::{Gateway, was_refused};
use crate::config::Config;
use crate::error::Error;
use crate::observe::unobserved;
use crate::transport::{Answer, Failure, Request, SendFuture, Transport};

/// Sends by a `reqwest` client. What would break the contract is not the caller's to set: redirects are never followed,
/// requests never repeated, and nothing but a tunnel of TLS goes through a proxy.
pub(crate) struct ReqwestTransport {
    client: Client,
    gateway: Gateway,
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
        let problem = "expected settings of which a client can be made";
        // It panics without a TLS provider.
        let client = catch_unwind(AssertUnwindSafe(|| builder.build()))
            .map_err(|_panic| Error::config("reqwest", format_args!("{problem}, found no TLS provider")))?
            .map_err(|error| {
                Error::config("reqwest", format_args!("{problem}: {error}")).with_source(error)
            })?;
        let way = Way { proxy: None, trust: Trust::nobody()?, ca_variables: Vec::new() };
        Ok(Self { client, gateway: Gateway::new(config, way) })
    }

    async fn exchange(&self, request: Request) -> Result<Answer, Failure> {
        let sent = self.gateway.request(request)?;
        let failed = |error: reqwest::Error| {
            let never_sent = error.is_connect() || was_refused(&error);
            let is_late = error.is_connect() && error.is_timeout();
            let error = error.without_url();
            let error = match is_late {
                // Its own kind of error for that is private.
                true => self.gateway.no_answer(io::Error::new(io::ErrorKind::TimedOut, error)),
                false => self.gateway.no_answer(error),
            };
            Failure { never_sent, error }
        };
        let sent =
            sent.try_into().map_err(|error: reqwest::Error| Failure { never_sent: true, ..failed(error) })?;
        let response = self.client.execute(sent).await.map_err(failed)?;
        // When a connection was open is not known here.
        self.gateway.answer(http::Response::from(response), Duration::ZERO).await
    }
}

impl Transport for ReqwestTransport {
    fn send(&self, request: Request) -> SendFuture<'_> {
        Box::pin(unobserved(self.exchange(request)))
    }
}

impl fmt::Debug for ReqwestTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReqwestTransport")
            .field("base_url", &self.gateway.base_url.as_str())
            .finish_non_exhaustive()
    }
}
