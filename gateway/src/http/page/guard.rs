//! Browser protections: form origin and CSRF checks, and security headers.

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

use super::super::App;
use super::super::error::ApiError;
use super::super::receive::{drain, read};
use super::PageError;

/// Maximum form size: a percent-encoded note of 2000 characters plus the other fields.
const FORM_BYTES: usize = 32 * 1024;

const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
        form-action 'self'; base-uri 'none'; frame-ancestors 'none'; \
        require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    // With no-referrer, browsers send `Origin: null` for the page's own forms.
    (header::REFERRER_POLICY, "same-origin"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
    (HeaderName::from_static("x-robots-tag"), "noindex"),
];

/// Adds the security headers to every response of the page.
pub(super) async fn security_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Returns whether a form was sent over https, provided that it comes from this gateway's own page.
///
/// Browsers report the origin of a form in headers that pages cannot change. It must match the
/// request's `Host`. A proxy that terminates TLS makes the gateway see http where the browser uses
/// https.
pub(super) fn same_origin(headers: &HeaderMap, uri: &Uri, tls: bool) -> Result<bool, PageError> {
    let detail = |name: HeaderName| {
        let mut values = headers.get_all(name).iter();
        let value = values.next().and_then(|value| value.to_str().ok());
        value.filter(|_| values.next().is_none())
    };
    let site = headers.get("sec-fetch-site");
    let host = uri.authority().map(http::uri::Authority::as_str).or_else(|| detail(header::HOST));
    let (Some(host), Some((scheme, from))) =
        (host, detail(header::ORIGIN).and_then(|origin| origin.split_once("://")))
    else {
        return Err(PageError::Origin);
    };
    let secure = scheme == "https";
    let ours = secure || (scheme == "http" && !tls);
    match ours && from.eq_ignore_ascii_case(host) && site.is_none_or(|site| site == "same-origin") {
        true => Ok(secure),
        false => Err(PageError::Origin),
    }
}

/// The fields of a form: each of `names` exactly once, `repeated` any number of times, no others.
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    pub(super) async fn read(
        app: &App,
        headers: &HeaderMap,
        body: Body,
        names: &[&str],
        repeated: Option<&str>,
    ) -> Result<Self, PageError> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            drain(body);
            return Err(PageError::Form);
        }
        let reading = tokio::time::timeout(app.body_timeout, read(body, FORM_BYTES));
        let body = reading.await.map_err(|_| ApiError::BodyTimeout)??;
        let fields: Vec<(String, String)> = form_urlencoded::parse(&body).into_owned().collect();
        let mut single: Vec<_> = fields.iter().map(|(name, _)| &**name).collect();
        single.retain(|name| Some(*name) != repeated);
        let whole = single.len() == names.len() && names.iter().all(|name| single.contains(name));
        whole.then_some(Self(fields)).ok_or(PageError::Form)
    }

    /// Returns the values of a repeated field.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn field(&self, name: &str) -> &str {
        self.0.iter().find_map(|(found, value)| (found == name).then_some(value.as_str())).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_same_origin_forms_only() {
        for (origin, host, site, tls, secure) in [
            ("http://127.0.0.1:8787", "127.0.0.1:8787", None, false, Some(false)),
            ("http://127.0.0.1:8787", "127.0.0.1:8787", Some("same-origin"), false, Some(false)),
            ("https://gateway.example", "gateway.example", Some("same-origin"), true, Some(true)),
            ("https://gateway.example", "Gateway.Example", Some("same-origin"), false, Some(true)),
            ("http://gateway.example", "gateway.example", None, true, None),
            ("https://evil.example", "gateway.example", None, true, None),
            ("https://gateway.example:444", "gateway.example", None, true, None),
            ("https://gateway.example.evil.example", "gateway.example", None, true, None),
            ("https://sub.gateway.example", "gateway.example", Some("same-site"), true, None),
            ("https://gateway.example", "gateway.example", Some("same-site"), true, None),
            ("https://gateway.example", "gateway.example", Some("none"), true, None),
            ("ftp://gateway.example", "gateway.example", None, false, None),
            ("null", "null", None, false, None),
            ("null", "gateway.example", Some("same-origin"), true, None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            headers.insert(header::HOST, HeaderValue::from_static(host));
            if let Some(site) = site {
                headers.insert("sec-fetch-site", HeaderValue::from_static(site));
            }
            let found = same_origin(&headers, &Uri::from_static("/login"), tls).ok();
            assert_eq!(found, secure, "{origin} {host} {site:?} {tls}");
        }
    }

    #[test]
    fn rejects_form_without_origin() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("gateway.example"));
        assert!(same_origin(&headers, &Uri::from_static("/login"), false).is_err());
        headers.insert(header::ORIGIN, HeaderValue::from_static("https://gateway.example"));
        assert!(same_origin(&headers, &Uri::from_static("/login"), false).is_ok());
        headers.append(header::ORIGIN, HeaderValue::from_static("https://evil.example"));
        assert!(same_origin(&headers, &Uri::from_static("/login"), false).is_err());
    }

    #[test]
    fn reads_http2_authority_from_uri() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, HeaderValue::from_static("https://gateway.example"));
        let uri = Uri::from_static("https://gateway.example/login");
        assert_eq!(same_origin(&headers, &uri, true).ok(), Some(true));
        let other = Uri::from_static("https://other.example/login");
        assert!(same_origin(&headers, &other, true).is_err());
    }
}
