//! Validation of the request's host.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::uri::Authority as UriAuthority;
use http::{HeaderMap, HeaderValue, Uri, Version, header};

use super::App;
use super::client::{Client, client};
use super::error::ApiError;
use super::receive::drain;
use crate::access_log;
use crate::connections::Connection;
use crate::hosts::Authority;

/// HSTS lifetime: one year.
const HSTS: &str = "max-age=31536000";

/// Prefix of the paths of requests that a proxy sends for their authorization.
pub(super) const DESCRIBED: &str = "/ext-authz";

/// Rejects requests for other hosts, before authentication.
pub(super) async fn check(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let connection = request.extensions().get::<Arc<Connection>>().map(Arc::clone);
    let local = connection.as_ref().map(|connection| connection.local.ip());
    if let Some(connection) = &connection {
        let client = client(connection.peer.ip(), request.headers(), &app.trusted_proxies);
        tracing::Span::current().record("peer", tracing::field::display(client));
        access_log::note_peer(client);
        request.extensions_mut().insert(Client(client));
        if app.page.is_logged_in(&app, request.headers()).await {
            connection.authenticate();
        }
    }
    let traceparent = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
    if let Some((traceparent, trace)) = traceparent.and_then(|value| Some((value, trace_id(value)?))) {
        tracing::Span::current().record("trace_id", trace);
        access_log::note_trace(traceparent);
    }
    let refused = match authority(request.version(), request.uri(), request.headers()) {
        // The request is the one to authorize, and its host is data.
        _ if is_described(request.uri().path()) => None,
        Err(problem) => Some(ApiError::InvalidHost(problem)),
        Ok(authority) if app.hosts.accept(&authority, local) => {
            request.extensions_mut().insert(authority);
            None
        }
        Ok(_) => Some(ApiError::WrongHost),
    };
    let mut response = match refused {
        Some(error) => {
            drain(request.into_body());
            error.into_response()
        }
        None => next.run(request).await,
    };
    if app.page.has_tls() {
        let value = HeaderValue::from_static(HSTS);
        response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, value);
    }
    response
}

pub(super) fn is_described(path: &str) -> bool {
    path.strip_prefix(DESCRIBED).is_some_and(|path| path.starts_with('/'))
}

/// Returns the request's authority: the single `Host` header, which must match the authority of the
/// request target if both are present.
pub(super) fn authority(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<Authority, &'static str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (host, None) => host.map(|host| {
            let host = host.to_str().ok().and_then(Authority::parse);
            host.ok_or("host: expected a name or address with an optional port")
        }),
        (_, Some(_)) => return Err("host: expected one value, found two"),
    };
    let host = host.transpose()?;
    let target = uri.authority().map(UriAuthority::as_str).map(|authority| {
        Authority::parse(authority).ok_or("request target: expected a name or address with an optional port")
    });
    match (host, target.transpose()?) {
        (Some(host), Some(target)) if host == target => Ok(host),
        (Some(_), Some(_)) => Err("host: does not match the request target"),
        // HTTP/2 and HTTP/3 carry it in the request target only.
        (None, Some(target)) if version >= Version::HTTP_2 => Ok(target),
        (Some(host), None) => Ok(host),
        (None, _) => Err("host: missing"),
    }
}

/// Returns the trace id of a `traceparent` header.
fn trace_id(value: &str) -> Option<&str> {
    let mut parts = value.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length: usize| {
        text.len() == length
            && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let is_whole = is_hex(version, 2)
        && version != "ff"
        && is_hex(trace, 32)
        && is_hex(span, 16)
        && is_hex(flags, 2)
        && trace.bytes().any(|byte| byte != b'0');
    is_whole.then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_must_name_one_host() {
        let [one, other, user] = ["gateway.example", "other.example", "user@gateway.example"];
        for (version, uri, hosts, expected) in [
            (Version::HTTP_11, "/", &[one][..], Some(one)),
            (Version::HTTP_11, "/", &["Gateway.Example"], Some(one)),
            (Version::HTTP_11, "/", &[], None),
            (Version::HTTP_10, "/", &[], None),
            (Version::HTTP_11, "/", &[one, one], None),
            (Version::HTTP_11, "/", &[one, other], None),
            (Version::HTTP_11, "/", &[user], None),
            (Version::HTTP_11, "/", &[""], None),
            (Version::HTTP_11, "/", &["a, b"], None),
            (Version::HTTP_11, "http://gateway.example/", &[one], Some(one)),
            (Version::HTTP_11, "http://gateway.example/", &[other], None),
            (Version::HTTP_11, "http://gateway.example/", &[], None),
            (Version::HTTP_11, "http://user@gateway.example/", &[one], None),
            (Version::HTTP_2, "https://gateway.example/", &[], Some(one)),
            (Version::HTTP_2, "https://gateway.example/", &[one], Some(one)),
            (Version::HTTP_2, "https://gateway.example/", &[other], None),
            (Version::HTTP_2, "https://gateway.example:1/", &[one], None),
            (Version::HTTP_2, "https://user@gateway.example/", &[], None),
            (Version::HTTP_2, "/", &[], None),
        ] {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, HeaderValue::from_str(host).unwrap());
            }
            let found = authority(version, &uri.parse().unwrap(), &headers).ok();
            assert_eq!(found, expected.and_then(Authority::parse), "{version:?} {uri} {hosts:?}");
        }
    }

    #[test]
    fn parses_w3c_trace_ids() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        assert_eq!(trace_id(&format!("00-{trace}-b7ad6b7169203331-01")), Some(trace));
        assert_eq!(trace_id(&format!("01-{trace}-b7ad6b7169203331-01-more")), Some(trace));
        for wrong in [
            "".to_owned(),
            trace.to_owned(),
            format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            format!("00-{}-b7ad6b7169203331-01", trace.to_uppercase()),
            format!("ff-{trace}-b7ad6b7169203331-01"),
            format!("00-{trace}-b7ad6b7169203331"),
            format!("00-{trace}x-b7ad6b7169203331-01"),
        ] {
            assert_eq!(trace_id(&wrong), None, "{wrong}");
        }
    }
}
