//! Messages of other protocols to a gateway.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::Uri;

use crate::config::Config;
use crate::error::Error;
use crate::http::{ConnectOptions, HttpTransport};
use crate::observe::without_subscriber;
use crate::transport::Response;
use actpass_protocol::ErrorKind;

/// One path of a gateway, for messages that authenticate themselves, such as the ones of the Agent
/// Control Standard. Proxies, certificates, timeouts and limits are those of a client. The API key
/// is not sent, and nothing is retried. See [`endpoint`](crate::ActPassBuilder::endpoint).
pub struct Endpoint {
    transport: HttpTransport,
    uri: Uri,
    timeout: Duration,
}

impl Endpoint {
    pub(crate) fn new(config: &Config, options: &ConnectOptions, path: &str) -> Result<Self, Error> {
        let uri = Uri::try_from(format!("{}{path}", config.base_url.as_str()))
            .map_err(|error| Error::config("path", format_args!("expected a path: {error}")))?;
        Ok(Self { transport: HttpTransport::new(config, options), uri, timeout: config.timeout })
    }

    /// Posts a message of JSON and reads the response, within the timeout.
    ///
    /// # Errors
    ///
    /// If there is no response: [`ErrorKind::Connection`], [`ErrorKind::Timeout`] or
    /// [`ErrorKind::Response`]. A status of HTTP is not an error.
    pub async fn post(&self, message: impl Into<Bytes>) -> Result<Response, Error> {
        let exchange = without_subscriber(self.transport.post_keyless(self.uri.clone(), message.into()));
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(response) => response.map_err(|failed| failed.error),
            Err(_elapsed) => {
                let message = format!("no response from {} within {:?}", self.uri, self.timeout);
                Err(Error::new(ErrorKind::Timeout, message))
            }
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("uri", &self.uri).finish_non_exhaustive()
    }
}
