//! The steps that handlers share: a body parsed, work kept off the threads that serve connections, the store asked in time.

use actpass_protocol::Json;

use super::App;
use super::error::ApiError;
use crate::auth::Key;
use crate::store::{Author, StoreError, Subject};

/// Bodies above this many bytes are worked on beside the threads that serve connections.
const LARGE: usize = 64 * 1024;

pub(super) fn parse(raw: &[u8]) -> Result<Json, ApiError> {
    Json::parse(raw).map_err(|error| ApiError::InvalidJson(error.to_string()))
}

/// Does `job` here if the body is small, or else where it holds up no connection.
pub(super) async fn work<T: Send + 'static>(
    app: &App,
    body_bytes: usize,
    job: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match body_bytes > LARGE {
        true => heavy(app, job).await,
        false => job(),
    }
}

pub(super) async fn heavy<T: Send + 'static>(
    app: &App,
    job: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let _permit = app.heavy.acquire().await.map_err(|_| ApiError::Internal)?;
    tokio::task::spawn_blocking(job).await.map_err(|_| ApiError::Internal)?
}

/// A store that does not answer is one that does not work.
pub(super) async fn in_time<T>(
    app: &App,
    asked: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, ApiError> {
    match tokio::time::timeout(app.store_timeout, asked).await {
        Ok(answer) => Ok(answer?),
        Err(_) => {
            tracing::error!("the store did not answer in time");
            Err(ApiError::Unavailable)
        }
    }
}

/// Whether the key, or whoever acted for the agent that it is bound to, caused the event about `id`.
pub(super) async fn is_own(app: &App, key: &Key, subject: Subject, id: &str) -> Result<bool, ApiError> {
    let author = Author { key_name: &key.name, agent: key.bound_agent() };
    in_time(app, app.store.caused(&key.tenant.id, subject, id, author)).await
}
