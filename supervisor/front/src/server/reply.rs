//! A refusal on the wire: one table from what happened to the status code.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::protocol::answer::json;
use crate::refusal::{Kind, Refusal};

/// Carries [`Kind::code`]: the same word whatever a protocol's body looks like.
pub const ERROR_CODE: HeaderName = HeaderName::from_static("x-casemate-error");

/// The status code of each kind.
pub const fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Method => StatusCode::METHOD_NOT_ALLOWED,
        Kind::TooSlow => StatusCode::REQUEST_TIMEOUT,
        Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        // A model's own failure is no fault of the gateway to it: 502 is for answers that broke the contract.
        Kind::ModelError | Kind::ModelMemory | Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Kind::WorkerDied | Kind::BadOutput => StatusCode::BAD_GATEWAY,
        Kind::Busy | Kind::Overload | Kind::NotReady | Kind::BreakerOpen => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Deadline => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// The body of an error, as the Open Inference Protocol has it.
#[derive(Debug, Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = json(status(self.kind), &ErrorBody { error: &self.message });
        let headers = response.headers_mut();
        headers.insert(ERROR_CODE, HeaderValue::from_static(self.kind.code()));
        if let Some(after) = self.retry_after {
            // Whole seconds, never 0: that would mean "at once".
            let seconds = after.as_secs().saturating_add(u64::from(after.subsec_nanos() > 0)).max(1);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;

    use super::*;
    use crate::refusal::Fault;

    #[test]
    fn the_status_says_whose_fault_it_is() {
        for kind in Kind::ALL {
            assert_eq!(status(kind).is_client_error(), kind.fault() == Fault::Client, "{kind:?}");
            assert!(status(kind).is_client_error() || status(kind).is_server_error(), "{kind:?}");
        }
    }

    #[tokio::test]
    async fn a_refusal_has_a_code_a_message_and_a_time() {
        let refusal = Refusal::new(Kind::Busy, "full \"now\"").retry_after(Duration::from_millis(1200));
        let response = refusal.into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[ERROR_CODE], "busy");
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, r#"{"error":"full \"now\""}"#);
    }
}
