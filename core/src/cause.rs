//! Why the gate failed: one entry for each cause.

use std::borrow::Cow;

/// What made a call fail, where that is known more precisely than by the error's kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// `request_hash` is the hash of another request.
    AnotherRequest,
    /// The answer ended early, or is not framed as HTTP says.
    BodyCutShort,
    /// The answer is larger than 1 MiB.
    BodyTooLarge,
    /// The certificate of the gateway, or of the proxy, was rejected.
    Certificate { of: Hop, problem: CertificateProblem },
    /// Nothing was sent: the circuit is open.
    CircuitOpen,
    /// The connect timeout passed.
    ConnectTimeout,
    /// The connection ended after it was open.
    Interrupted,
    /// The connection ended within the TLS handshake.
    InterruptedHandshake,
    /// A decision without a member that it must have, or with one of the wrong type.
    Malformed,
    /// The answer about an approval cannot be used.
    NotAnApproval,
    /// The answer is not a JSON object.
    NotAnObject,
    /// The request has an integer at `path` that has no canonical form.
    NotCanonical { path: String },
    /// The peer does not speak HTTP.
    NotHttp,
    /// The peer does not speak TLS.
    NotTls,
    /// The proxy named by `setting` failed.
    Proxy { setting: Cow<'static, str>, problem: ProxyProblem },
    /// Nothing listens at the gateway's address.
    Refused,
    /// The TLS handshake failed, but not because of the certificate.
    TlsHandshake,
    /// `allow` without `request_hash` in `strict`.
    Unbound,
    /// The network has no way to the gateway's address.
    Unroutable,
    /// The gateway's host name has no address.
    Unresolved,
}

/// A hop on the way to the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    Gateway,
    /// The proxy named by this setting.
    Proxy(Cow<'static, str>),
}

/// Why a certificate was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CertificateProblem {
    /// A CA certificate, not given as `ca`, used as a server's own.
    AuthorityAsServer,
    /// A signature is of another key than the authority's, or the server's.
    BadSignature,
    Expired,
    NotYetValid,
    Other,
    Untrusted,
    WrongName,
}

/// How a proxy failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyProblem {
    /// It answered CONNECT with 407, or a SOCKS proxy rejected the user name and password.
    Authentication,
    /// It answered with 403, or a SOCKS proxy's rules do not allow the connection.
    Forbidden,
    /// It could not reach the gateway: 502, 503, 504 or another answer outside 2xx.
    NotConnected,
    /// It answered with something else than HTTP or SOCKS.
    Protocol,
    /// The connection to it ended early.
    Interrupted,
    /// It did not answer in time.
    Timeout,
    /// No connection to it came about.
    Unreachable,
    /// Its host name has no address.
    Unresolved,
}
