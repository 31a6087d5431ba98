//! Requests to the outside: no redirects, no proxy, and no private address unless permitted.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{io, net, vec};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tower_service::Service;

use super::addresses::{is_public, literal};

/// Failure of a request to the outside. Never contains the URL.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum SenderError {
    /// The host has only private addresses.
    #[error("the host has a private address, which danger_allow_private_address does not permit")]
    Private,
    /// The request timed out.
    #[error("no response within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The receiver refuses the message or this gateway.
    #[error("{0}")]
    Refused(String),
    /// The connection or the response failed.
    #[error("{0}")]
    Failed(String),
}

/// A host to send requests to.
#[derive(Clone)]
pub(crate) struct Target {
    client: Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>,
    allow_private: bool,
    timeout: Duration,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Target(..)")
    }
}

impl Target {
    /// Creates a target that trusts `authorities`, or the system's.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no usable authority.
    pub(crate) fn new(
        authorities: Option<&[CertificateDer<'static>]>,
        allow_private: bool,
        timeout: Duration,
    ) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        let (usable, _) = match authorities {
            Some(given) => roots.add_parsable_certificates(given.iter().cloned()),
            None => roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
        };
        if usable == 0 && authorities.is_some() {
            return Err("contains no usable certificate".to_owned());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new_with_resolver(Resolver { inner: GaiResolver::new(), allow_private });
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let connector = HttpsConnector::from((tcp, tls));
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), allow_private, timeout })
    }

    /// Sends a request and reads a response of up to `max_bytes`.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no complete response in time.
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        max_bytes: usize,
    ) -> Result<Response<Bytes>, SenderError> {
        if !self.allow_private && is_private_literal(request.uri()) {
            return Err(SenderError::Private);
        }
        let answered = async {
            let response = self.client.request(request).await.map_err(|error| describe(&error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, max_bytes).collect().await;
            let body = body.map_err(|error| SenderError::Failed(chain(&*error)))?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        let answered = tokio::time::timeout(self.timeout, answered).await;
        answered.map_err(|_| SenderError::Timeout(self.timeout))?
    }
}

/// A literal address is not resolved.
fn is_private_literal(url: &Uri) -> bool {
    url.host().and_then(literal).is_some_and(|address| !is_public(address))
}

fn describe(error: &hyper_util::client::legacy::Error) -> SenderError {
    let mut source = error.source();
    while let Some(error) = source {
        if error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            .is_some_and(|error| error.is::<Private>())
        {
            return SenderError::Private;
        }
        source = error.source();
    }
    SenderError::Failed(chain(error))
}

/// Returns an error with its sources.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[derive(Debug, thiserror::Error)]
#[error("private address")]
struct Private;

/// Resolves names to permitted addresses. The connection is made to the addresses that were
/// checked, so a second answer of the name server changes nothing.
#[derive(Clone, Debug)]
struct Resolver {
    inner: GaiResolver,
    allow_private: bool,
}

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<net::SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (found, allow_private) = (self.inner.call(name), self.allow_private);
        Box::pin(async move {
            let addresses: Vec<_> =
                found.await?.filter(|address| allow_private || is_public(address.ip())).collect();
            match addresses.is_empty() {
                true => Err(io::Error::other(Private)),
                false => Ok(addresses.into_iter()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    #[tokio::test]
    async fn name_with_private_address_is_refused_unless_permitted() {
        for allow_private in [false, true] {
            let mut resolver = Resolver { inner: GaiResolver::new(), allow_private };
            let found = resolver.call(Name::from_str("localhost").unwrap()).await;
            match allow_private {
                true => assert!(found.unwrap().all(|address| address.ip().is_loopback())),
                false => assert!(found.unwrap_err().get_ref().unwrap().is::<Private>()),
            }
        }
        let target = Target::new(None, false, Duration::from_secs(5)).unwrap();
        for url in
            ["http://localhost:9/", "http://127.0.0.1:9/", "http://[::1]:9/", "http://169.254.169.254/"]
        {
            let request = Request::get(url).body(Full::default()).unwrap();
            assert!(matches!(target.send(request, 1).await, Err(SenderError::Private)), "{url}");
        }
    }
}
