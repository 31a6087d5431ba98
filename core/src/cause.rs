//! Causes of a gate failure.

use std::borrow::Cow;

/// The cause of a failed call, if it is known more precisely than by the error kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// `request_hash` does not match the request.
    AnotherRequest,
    /// The response body is truncated, or its HTTP framing is invalid.
    BodyCutShort,
    /// The response body is larger than 1 MiB.
    BodyTooLarge,
    /// The certificate of the gateway or of the proxy was rejected.
    Certificate { of: Hop, problem: CertificateProblem },
    /// The circuit is open; nothing was sent.
    CircuitOpen,
    /// The connect timeout expired.
    ConnectTimeout,
    /// The connection closed after it was established.
    Interrupted,
    /// The connection closed during the TLS handshake.
    InterruptedHandshake,
    /// A required member of the decision is missing or has the wrong type.
    Malformed,
    /// The response about an approval is invalid.
    NotAnApproval,
    /// The response is not a JSON object.
    NotAnObject,
    /// An integer at `path` in the request has no canonical form.
    NotCanonical { path: String },
    /// The peer does not speak HTTP.
    NotHttp,
    /// The peer does not speak TLS.
    NotTls,
    /// The gateway refused the proof of possession, or the API key without one.
    ProofRefused,
    /// The proxy named by `setting` failed.
    Proxy { setting: Cow<'static, str>, problem: ProxyProblem },
    /// The connection was refused.
    Refused,
    /// The TLS handshake failed for another reason than the certificate.
    TlsHandshake,
    /// `allow` without `request_hash` in `strict`.
    Unbound,
    /// No route to the gateway's address.
    Unroutable,
    /// The gateway's host name does not resolve.
    Unresolved,
}

/// A hop between the client and the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    Gateway,
    /// The proxy named by this setting.
    Proxy(Cow<'static, str>),
}

/// Why a certificate was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CertificateProblem {
    /// A CA certificate that was not passed as `ca` is used as a server certificate.
    AuthorityAsServer,
    /// A signature does not verify with the key of the authority or the server.
    BadSignature,
    Expired,
    NotYetValid,
    Other,
    Untrusted,
    WrongName,
}

/// The failure of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyProblem {
    /// 407 in response to CONNECT, or a SOCKS proxy rejected the user name and password.
    Authentication,
    /// 403, or a SOCKS proxy's ruleset forbids the connection.
    Forbidden,
    /// The proxy could not reach the gateway: 502, 503, 504 or another non-2xx status.
    NotConnected,
    /// The peer speaks neither HTTP nor SOCKS.
    Protocol,
    /// The connection to the proxy closed early.
    Interrupted,
    /// The proxy timed out.
    Timeout,
    /// The proxy is unreachable.
    Unreachable,
    /// The proxy's host name does not resolve.
    Unresolved,
}
