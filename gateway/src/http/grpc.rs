//! Unary calls of gRPC.
//!
//! A message that cannot be decoded is an error of the caller's protocol and not of gRPC, after which a
//! proxy may forward the request.

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use http_body_util::{BodyExt, Full};
use prost::Message;

use super::error::{ApiError, Code};
use crate::request::InvalidMember;

/// Compression flag and length of a message.
const FRAME_HEADER: usize = 5;

/// Decodes the only message of a body.
pub(super) fn decode<M: Message + Default>(body: &[u8]) -> Result<M, ApiError> {
    let invalid = |problem: String| ApiError::from(InvalidMember::of_body(problem));
    let message =
        message(body).ok_or_else(|| invalid("expected one message without compression".to_owned()))?;
    M::decode(message).map_err(|error| invalid(error.to_string()))
}

fn message(body: &[u8]) -> Option<&[u8]> {
    let (header, message) = body.split_first_chunk::<FRAME_HEADER>()?;
    let [flag, length @ ..] = *header;
    (flag == 0 && usize::try_from(u32::from_be_bytes(length)) == Ok(message.len())).then_some(message)
}

/// Builds the response with a message. `code` is an error for the log.
pub(super) fn respond(message: &impl Message, code: Option<Code>) -> Response {
    let message = message.encode_to_vec();
    let mut frame = BytesMut::with_capacity(FRAME_HEADER + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(&message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(frame.freeze()).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if let Some(code) = code {
        response.extensions_mut().insert(code);
    }
    response
}
