//! Embedded assets: style sheet, script and icon, each served at a path that contains a hash of its
//! content.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use sha2::{Digest, Sha256};

use super::super::error::ApiError;
use crate::service::ServiceError;

pub(super) static ASSETS: LazyLock<Assets> = LazyLock::new(|| Assets {
    icon: Asset::new("icon", "svg", "image/svg+xml", include_str!("assets/icon.svg")),
    script: Asset::new("page", "js", "text/javascript; charset=utf-8", include_str!("assets/page.js")),
    passkeys: Asset::new(
        "passkeys",
        "js",
        "text/javascript; charset=utf-8",
        include_str!("assets/passkeys.js"),
    ),
    style: Asset::new("page", "css", "text/css; charset=utf-8", include_str!("assets/page.css")),
});

pub(super) struct Assets {
    pub(super) icon: Asset,
    pub(super) passkeys: Asset,
    pub(super) script: Asset,
    pub(super) style: Asset,
}

pub(super) struct Asset {
    /// For example `page-0123456789abcdef.css`.
    name: String,
    content_type: &'static str,
    content: &'static str,
}

impl Asset {
    fn new(stem: &str, extension: &str, content_type: &'static str, content: &'static str) -> Self {
        let hash = hex::encode(Sha256::digest(content));
        let hash = hash.get(..16).unwrap_or_default();
        Self { name: format!("{stem}-{hash}.{extension}"), content_type, content }
    }

    pub(super) fn path(&self) -> String {
        format!("/assets/{}", self.name)
    }
}

pub(super) async fn serve(name: Result<Path<String>, PathRejection>) -> Result<Response, ApiError> {
    let Path(name) = name.map_err(|_| ApiError::InvalidPath)?;
    let assets = &*ASSETS;
    let asset = [&assets.icon, &assets.passkeys, &assets.script, &assets.style]
        .into_iter()
        .find(|asset| asset.name == name);
    let asset = asset.ok_or(ServiceError::NotFound("path"))?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type)),
        // Changed content gets a new path.
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable")),
    ];
    Ok((headers, asset.content).into_response())
}
