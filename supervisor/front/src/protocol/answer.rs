//! JSON answers.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;

/// A value as the body of an answer.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => with_type(status, HeaderValue::from_static("application/json"), body),
        // Only a map with keys that are no texts could fail, and no answer has one.
        Err(_) => {
            with_type(StatusCode::INTERNAL_SERVER_ERROR, HeaderValue::from_static("application/json"), Vec::new())
        }
    }
}

/// A body of this media type.
pub fn with_type(status: StatusCode, media_type: HeaderValue, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    response
}
