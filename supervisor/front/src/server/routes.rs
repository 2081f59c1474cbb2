//! Mounts the protocols, and puts around them what every answer has: a request id, no sniffing, and refusals in the
//! protocol's own form for paths and verbs that do not exist.

use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http_body_util::Either;
use hyper::body::Incoming;
use tower::ServiceExt;

use crate::metrics::Metrics;
use crate::protocol::intake::Intake;
use crate::protocol::oip;
use crate::protocol::pieces::Pieces;
use crate::protocol::slate::Slate;
use crate::refusal::{Kind, Refusal};
use crate::server::ops;
use crate::telemetry::escape;

/// A request's mark in both directions.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The body of an answer: that of an inference as it is, all others in axum's box.
pub type Reply = Either<Pieces, Body>;

/// Whoever answers what comes over a connection.
pub trait Answers: Clone + Send + Unpin + 'static {
    /// The answer to one request.
    fn answer(self, request: hyper::Request<Incoming>) -> impl Future<Output = hyper::Response<Reply>> + Send;
}

/// Every route of the public listener.
#[derive(Debug, Clone)]
pub struct Routes {
    router: Router,
    intake: Intake,
}

impl Routes {
    /// The routes over what they share.
    pub fn new(intake: Intake) -> Self {
        let router = oip::router().merge(ops::router()).with_state(intake.clone());
        Self { router: dress(router, intake.metrics.clone(), intake.slate.clone()), intake }
    }
}

impl Answers for Routes {
    /// An inference goes its way at once. The router gives the same answer, after a dozen allocations.
    async fn answer(self, request: hyper::Request<Incoming>) -> hyper::Response<Reply> {
        match oip::target(request.method(), request.uri().path()) {
            Some(target) => {
                let mark = Mark::of(&request);
                let answer = match oip::run(&self.intake, target, request).await {
                    Ok(answer) => answer.map(Either::Left),
                    Err(refusal) => refusal.into_response().map(Either::Right),
                };
                mark.put(&self.intake.slate, answer)
            }
            None => self.router.answer(request).await,
        }
    }
}

impl Answers for Router {
    async fn answer(self, request: hyper::Request<Incoming>) -> hyper::Response<Reply> {
        let answer = self.oneshot(request.map(Body::new)).await.unwrap_or_else(|never| match never {});
        answer.map(Either::Right)
    }
}

/// What every answer has, whatever route gave it.
fn dress(router: Router, metrics: Metrics, slate: Slate) -> Router {
    let no_path = refuse(&metrics, Kind::NotFound, "no such path; /v2 and /casemate/v1/models are where to start");
    let no_verb = refuse(&metrics, Kind::Method, "this path does not take this method; the header Allow says which");
    router
        .method_not_allowed_fallback(move || async move { no_verb() })
        .fallback(move || async move { no_path() })
        .layer(middleware::from_fn_with_state(slate, mark))
}

fn refuse(metrics: &Metrics, kind: Kind, message: &'static str) -> impl Fn() -> Refusal + Clone + Send + 'static {
    let metrics = metrics.clone();
    move || {
        metrics.refused(kind);
        Refusal::new(kind, message)
    }
}

async fn mark(State(slate): State<Slate>, request: Request, next: Next) -> Response {
    let mark = Mark::of(&request);
    mark.put(&slate, next.run(request).await)
}

/// What a request is known by in its answer and in the log.
struct Mark {
    /// The client's own. Otherwise one is made once there is an answer: what waits for a body, or in a queue, holds none.
    id: Option<HeaderValue>,
    /// Verb and path, where somebody reads them.
    logged: Option<(Method, String)>,
}

impl Mark {
    fn of<B>(request: &hyper::Request<B>) -> Self {
        let logged =
            tracing::enabled!(tracing::Level::DEBUG).then(|| (request.method().clone(), escape(request.uri().path())));
        Self { id: given(request.headers()), logged }
    }

    fn put<B>(self, slate: &Slate, mut response: hyper::Response<B>) -> hyper::Response<B> {
        let Self { id, logged } = self;
        let id = id.unwrap_or_else(|| make(slate));
        if let Some((method, path)) = logged {
            let status = response.status().as_u16();
            tracing::debug!(%method, path, status, request_id = id.to_str().unwrap_or_default(), "answered");
        }
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, id);
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

/// The client's own mark, if it is one that may stand in a log: 1 to 128 printable characters.
fn given(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get(REQUEST_ID)?;
    let fits = (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
    fits.then(|| id.clone())
}

/// A mark that this process never gives twice, and that says nothing about how many came before.
fn make(slate: &Slate) -> HeaderValue {
    static KEY: OnceLock<RandomState> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let key = KEY.get_or_init(RandomState::new);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let (high, low) = (key.hash_one(count), key.hash_one((count, "low half")));
    // Writing into memory has no way to fail, and digits may stand in a header.
    let (text, _) = slate.write(|text| write!(text, "{high:016x}{low:016x}"));
    HeaderValue::from_maybe_shared(text).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn ask(method: &str, path: &str, id: Option<&str>) -> (Response<()>, String) {
        let app = dress(Router::new().route("/here", get(|| async { "yes" })), Metrics::new(), Slate::default());
        let mut request = Request::builder().method(method).uri(path);
        if let Some(id) = id {
            request = request.header(REQUEST_ID, id);
        }
        let response = app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (Response::from_parts(head, ()), String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn unknown_paths_and_verbs_are_refused_in_the_protocols_form() {
        let (response, body) = ask("GET", "/nowhere", None).await;
        assert_eq!(
            (response.status().as_u16(), response.headers()["x-casemate-error"].to_str().unwrap()),
            (404, "not_found")
        );
        assert!(body.starts_with(r#"{"error":"#), "{body}");
        let (response, body) = ask("DELETE", "/here", None).await;
        assert_eq!(
            (response.status().as_u16(), response.headers()["x-casemate-error"].to_str().unwrap()),
            (405, "method")
        );
        assert_eq!(response.headers()[header::ALLOW], "GET,HEAD");
        assert!(body.starts_with(r#"{"error":"#), "{body}");
        let (response, body) = ask("GET", "/here", None).await;
        assert_eq!((response.status().as_u16(), body.as_str()), (200, "yes"));
        assert_eq!(response.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    }

    #[tokio::test]
    async fn a_request_id_is_given_back_or_made() {
        let id = |response: &Response<()>| response.headers()[REQUEST_ID].to_str().unwrap().to_owned();
        assert_eq!(id(&ask("GET", "/here", Some("abc-1")).await.0), "abc-1");
        let long = "x".repeat(129);
        let made: Vec<String> = vec![
            id(&ask("GET", "/here", None).await.0),
            id(&ask("GET", "/here", Some("a b")).await.0),
            id(&ask("GET", "/nowhere", Some(&long)).await.0),
        ];
        assert!(made.iter().all(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())), "{made:?}");
        assert!(made[0] != made[1] && made[1] != made[2]);
    }
}
