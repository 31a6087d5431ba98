//! Explanations of the decisions that the SDK makes when the gate fails.
//!
//! They are part of the reported decision, which parity tests compare byte for byte between
//! languages. They therefore contain no address, port or time; those are in the error message.

use std::borrow::Cow;

use crate::cause::{Cause, CertificateProblem, Hop, ProxyProblem};
use crate::error::Error;
use actpass_protocol::ErrorKind;

/// The explanation of a decision that the SDK makes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Explanation {
    /// One sentence that states the failure.
    pub(crate) summary: Cow<'static, str>,
    /// What to check or do, one sentence each.
    pub(crate) next_steps: Vec<Cow<'static, str>>,
}

impl Explanation {
    pub(crate) fn new(
        summary: impl Into<Cow<'static, str>>,
        next_steps: impl IntoIterator<Item = impl Into<Cow<'static, str>>>,
    ) -> Self {
        Self { summary: summary.into(), next_steps: next_steps.into_iter().map(Into::into).collect() }
    }

    /// Explains `error` by its cause, else by its HTTP status, else by its kind.
    pub(crate) fn of(error: &Error) -> Self {
        match error.cause() {
            Some(cause) => Self::of_cause(cause),
            None => Self::of_kind(error.kind(), error.status()),
        }
    }

    fn of_cause(cause: &Cause) -> Self {
        match cause {
            Cause::AnotherRequest => Self::new(
                "The gateway's response belongs to another request: request_hash does not match.",
                [
                    "Check for a cache or proxy between client and gateway that mixes up responses or rewrites bodies.",
                    "Check the gateway's version and its log.",
                ],
            ),
            Cause::BodyCutShort => Self::new(
                "The gateway's response is incomplete.",
                [
                    "Check the gateway's log, and the proxies and load balancers in front of it, for aborted responses.",
                ],
            ),
            Cause::BodyTooLarge => Self::new(
                "The gateway's response is larger than 1 MiB, so it was not read.",
                ["Check that the base URL leads to an ActPass gateway and not to another service."],
            ),
            Cause::Certificate { of: Hop::Gateway, problem } => Self::of_certificate("gateway", *problem),
            Cause::Certificate { of: Hop::Proxy(setting), problem } => {
                Self::of_certificate(&format!("proxy ({setting})"), *problem)
            }
            Cause::CircuitOpen => Self::new(
                "The circuit is open: earlier calls could not reach the gateway, so no request was sent.",
                [
                    "Retry after the time in the error's retry_after; a single call then probes the gateway.",
                    "Read the errors of the earlier calls: they say why the gateway could not be reached.",
                ],
            ),
            Cause::ConnectTimeout => Self::new(
                "The connection to the gateway was not established within connect_timeout.",
                [
                    "Check that a firewall does not drop packets to the gateway's host and port.",
                    "Raise connect_timeout if the network is slower than that.",
                ],
            ),
            Cause::Interrupted => Self::new(
                "The connection to the gateway closed before the response was complete.",
                [
                    "Check whether the gateway, or a load balancer in front of it, was restarted or closes connections.",
                    "Check that the scheme of the base URL (http or https) is the one that the port serves.",
                ],
            ),
            Cause::InterruptedHandshake => Self::new(
                "The peer at the gateway's address ended the connection during the TLS handshake.",
                [
                    "Check that the port of the base URL serves https and not plain http.",
                    "Check for a firewall or load balancer that cuts the connection.",
                ],
            ),
            Cause::Malformed => Self::new(
                "The gateway's response is not a valid decision; the error names the member.",
                [
                    "Check that the base URL leads to an ActPass gateway.",
                    "Check the gateway's version and its log.",
                ],
            ),
            Cause::NotAnApproval => Self::new(
                "The gateway's response about the approval is invalid; the error says why.",
                [
                    "Check the gateway's version and its log.",
                    "Resume the action with its approval handle once a person has decided.",
                ],
            ),
            Cause::NotAnObject => Self::new(
                "The gateway's response is not a JSON object, so it is not a decision.",
                [
                    "Check that the base URL leads to an ActPass gateway and not to a login page or a proxy's page.",
                    "Check the gateway's version and its log.",
                ],
            ),
            Cause::NotCanonical { path } => Self::new(
                format!(
                    "The integer {path} is beyond ±(2^53-1), so the request has no canonical form and no hash."
                ),
                [format!("Send {path} as a string.")],
            ),
            Cause::NotHttp => Self::new(
                "The peer at the gateway's address does not speak HTTP.",
                ["Check host, port and scheme (http or https) of the base URL."],
            ),
            Cause::NotTls => Self::new(
                "The peer at the gateway's address does not speak TLS.",
                [
                    "Check the port of the base URL, and that the gateway serves https there.",
                    "Check that nothing on the network intercepts the connection.",
                ],
            ),
            Cause::ProofRefused => Self::new(
                "The gateway refused the proof of possession, or the API key without one.",
                [
                    "Check that dpop_key is the private key that the API key is bound to.",
                    "Check this machine's clock, and that the base URL is the gateway's public URL.",
                ],
            ),
            Cause::Proxy { setting, problem } => Self::of_proxy(setting, *problem),
            Cause::Refused => Self::new(
                "The gateway's host refused the connection.",
                ["Check that the gateway runs.", "Check host and port of the base URL."],
            ),
            Cause::TlsHandshake => Self::new(
                "The TLS handshake with the gateway failed.",
                [
                    "Check that the gateway supports TLS 1.2 or 1.3.",
                    "Check the gateway's TLS log; the error says why the handshake failed.",
                ],
            ),
            Cause::Unbound => Self::new(
                "The gateway allowed the action, but its response has no request_hash, which strict mode requires.",
                [
                    "Check the gateway's version: its decisions must carry request_hash.",
                    "Use mode enforce if the gateway cannot send it.",
                ],
            ),
            Cause::Unroutable => Self::new(
                "The network has no route to the gateway.",
                ["Check the network, the VPN and the address of the gateway's host."],
            ),
            Cause::Unresolved => Self::new(
                "The gateway's host name could not be resolved.",
                [
                    "Check the host name in the base URL.",
                    "Check name resolution (DNS, /etc/hosts) on this machine.",
                ],
            ),
        }
    }

    fn of_certificate(peer: &str, problem: CertificateProblem) -> Self {
        match problem {
            CertificateProblem::AuthorityAsServer => Self::new(
                format!(
                    "The certificate of the {peer} is a CA certificate, which is trusted as a server certificate only if it is passed as ca."
                ),
                [
                    "Pass exactly this certificate as ca, or in the file named by SSL_CERT_FILE.",
                    "Or make a server certificate with basicConstraints CA:FALSE.",
                ],
            ),
            CertificateProblem::BadSignature => Self::new(
                format!(
                    "A signature in the certificate or the handshake of the {peer} does not verify with the expected key."
                ),
                [
                    "If the authority has a new key, pass its new certificate as ca, or name its file in SSL_CERT_FILE.",
                    "Check that the server uses the private key of its certificate.",
                ],
            ),
            CertificateProblem::Expired => Self::new(
                format!("The certificate of the {peer} has expired."),
                ["Renew the certificate.", "Check this machine's clock."],
            ),
            CertificateProblem::NotYetValid => Self::new(
                format!("The certificate of the {peer} is not valid yet."),
                ["Check this machine's clock.", "Check the certificate's validity period."],
            ),
            CertificateProblem::Other => Self::new(
                format!("The certificate of the {peer} was rejected; the error says why."),
                ["Correct or replace the certificate."],
            ),
            CertificateProblem::Untrusted => Self::new(
                format!(
                    "The certificate of the {peer} is not signed by a trusted authority; the error says which are trusted."
                ),
                [
                    "Pass the authority's certificate as ca, or name its file in SSL_CERT_FILE.",
                    "If no private authority is expected, check what intercepts TLS on the network.",
                ],
            ),
            CertificateProblem::WrongName => Self::new(
                format!("The certificate of the {peer} is for another name."),
                [
                    "Use a name that the certificate lists; the error shows them.",
                    "Or issue a certificate whose subjectAltName has this name (openssl req -addext subjectAltName=DNS:NAME or IP:ADDRESS).",
                ],
            ),
        }
    }

    fn of_proxy(setting: &str, problem: ProxyProblem) -> Self {
        let check = format!("Check the value of {setting}.");
        let (summary, steps): (String, Vec<String>) = match problem {
            ProxyProblem::Authentication => (
                format!(
                    "The proxy of {setting} rejected the client's user name and password, or demands them."
                ),
                vec![format!("Set user name and password in {setting}: scheme://user:password@host:port.")],
            ),
            ProxyProblem::Forbidden => (
                format!("The proxy of {setting} does not allow connections to the gateway."),
                vec![
                    "Allow the gateway's host and port at the proxy.".to_owned(),
                    "Or list the gateway's host in NO_PROXY if it can be reached directly.".to_owned(),
                ],
            ),
            ProxyProblem::NotConnected => (
                format!("The proxy of {setting} could not connect to the gateway."),
                vec![
                    "Check that the gateway runs and that the proxy can resolve and reach its host."
                        .to_owned(),
                    "Or list the gateway's host in NO_PROXY if it can be reached directly.".to_owned(),
                ],
            ),
            ProxyProblem::Protocol => (
                format!("The peer named by {setting} does not answer as a proxy."),
                vec![
                    check,
                    "Check the proxy's scheme: http, https, socks4, socks4a, socks5 or socks5h.".to_owned(),
                ],
            ),
            ProxyProblem::Interrupted => (
                format!(
                    "The proxy of {setting} closed the connection before the tunnel to the gateway was open."
                ),
                vec![check, "Check the proxy's log.".to_owned()],
            ),
            ProxyProblem::Timeout => (
                format!("The proxy of {setting} did not open a tunnel to the gateway in time."),
                vec![check, "Check the proxy's load, and that it can reach the gateway.".to_owned()],
            ),
            ProxyProblem::Unreachable => (
                format!("The proxy of {setting} could not be reached."),
                vec![
                    check,
                    "Check that the proxy runs.".to_owned(),
                    "Or list the gateway's host in NO_PROXY if it can be reached directly.".to_owned(),
                ],
            ),
            ProxyProblem::Unresolved => (
                format!("The host name of the proxy of {setting} could not be resolved."),
                vec![check, "Check name resolution (DNS, /etc/hosts) on this machine.".to_owned()],
            ),
        };
        Self::new(summary, steps)
    }

    fn of_kind(kind: ErrorKind, status: Option<u16>) -> Self {
        match kind {
            ErrorKind::Argument => {
                Self::new("An argument is invalid.", ["Correct the argument that the error names."])
            }
            ErrorKind::Authentication => Self::new(
                "The gateway does not know the API key.",
                [
                    "Check the API key and that it belongs to this gateway.",
                    "Check that the base URL is the intended gateway's.",
                ],
            ),
            ErrorKind::Config => {
                Self::new("A client setting is invalid.", ["Correct the setting that the error names."])
            }
            ErrorKind::Connection => Self::new(
                "The gateway could not be reached.",
                ["Check what the error says.", "Check that the gateway runs and that the base URL is right."],
            ),
            ErrorKind::Internal => Self::new(
                "The SDK failed because of a defect.",
                ["Report it with the error message and the SDK version."],
            ),
            ErrorKind::Permission => Self::new(
                "The API key lacks permission to request this decision.",
                ["Check the role of the API key at the gateway."],
            ),
            ErrorKind::RateLimit => Self::new(
                "The API key's rate limit is exceeded.",
                ["Slow down, or raise the key's limit at the gateway."],
            ),
            ErrorKind::Response => Self::new(
                "The gateway's response is not a decision.",
                [
                    "Check that the base URL leads to an ActPass gateway.",
                    "Check the gateway's version and its log.",
                ],
            ),
            ErrorKind::Status => Self::of_status(status.unwrap_or_default()),
            ErrorKind::Timeout => Self::new(
                "The gateway did not respond before the deadline.",
                [
                    "Check the gateway's load and the network to it.",
                    "Raise the timeout if the deadline is too short for this network.",
                ],
            ),
        }
    }

    fn of_status(status: u16) -> Self {
        match status {
            300..=399 => Self::new(
                "The gateway answered with a redirect, and redirects are never followed.",
                [
                    "Set the base URL to the final scheme and host of the gateway.",
                    "Check for a login page or a load balancer in front of the gateway.",
                ],
            ),
            404 | 405 => Self::new(
                "The gateway's address has no such API path.",
                [
                    "Check that the base URL leads to an ActPass gateway and does not contain an API path.",
                    "Check the gateway's version.",
                ],
            ),
            409 => Self::new(
                "The request conflicts with an earlier one; the error says how.",
                [
                    "Use a new idempotency key for a request that differs from the earlier one.",
                    "If the error mentions an approval or a credential, repeat the request with a new idempotency key.",
                ],
            ),
            413 => Self::new(
                "The request is larger than the gateway accepts.",
                ["Send smaller args, or raise the gateway's limit."],
            ),
            422 => Self::new(
                "The gateway rejected a member of the request; the error names it.",
                ["Correct the member that the error names."],
            ),
            400..=499 => Self::new(
                "The gateway rejected the request; the error shows its status and message.",
                [
                    "Check that the base URL leads to an ActPass gateway.",
                    "Check the gateway's log and the proxies in front of it.",
                ],
            ),
            501 => Self::new(
                "The gateway does not support what the request needs; the error says what.",
                ["Check the gateway's settings: passports and vaulted credentials need a master key."],
            ),
            502 | 504 => Self::new(
                "A proxy or load balancer in front of the gateway got no response from it.",
                [
                    "Check that the gateway runs and that its load balancer or reverse proxy can reach it.",
                    "Retry later.",
                ],
            ),
            503 => Self::new(
                "The gateway is temporarily unavailable.",
                ["Retry later.", "Check the gateway's health (/healthz), its storage and its log."],
            ),
            _ => Self::new(
                "The gateway failed to answer the request.",
                ["Check the gateway's log; the error shows the status, the message and the request id."],
            ),
        }
    }
}
