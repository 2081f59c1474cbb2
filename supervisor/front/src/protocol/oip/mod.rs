//! Open Inference Protocol v2 over HTTP: routes, health, metadata, and the trip of one inference.

pub mod binary;
mod head;
pub mod json;
mod lift;

use std::io::Write;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use casemate_ipc::id::{ModelName, Version};
use casemate_ipc::tensor::TensorSpec;
use serde::Serialize;
use serde_json::json;

use self::binary::JSON_LENGTH;
use self::json::{Envelope, Rendered, Wanted};
use super::answer::json;
use super::intake::{self, Intake};
use super::pieces::Pieces;
use super::slate::SHORT;
use crate::admit::head::Clock;
use crate::refusal::{Kind, Refusal};
use crate::response::InferResponse;
use crate::status::State as ModelState;
use crate::trace::Stage;

/// Every route of the protocol.
pub fn router() -> Router<Intake> {
    Router::new()
        .route("/v2", get(server))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/{model}", get(metadata))
        .route("/v2/models/{model}/ready", get(model_ready))
        .route("/v2/models/{model}/infer", post(infer))
        .route("/v2/models/{model}/versions/{version}", get(metadata))
        .route("/v2/models/{model}/versions/{version}/ready", get(model_ready))
        .route("/v2/models/{model}/versions/{version}/infer", post(infer))
}

/// The model that a path names.
#[derive(Debug)]
pub struct Target {
    /// Its name.
    pub model: ModelName,
    /// Its version, where the path names one.
    pub version: Option<Version>,
}

impl FromRequestParts<Intake> for Target {
    type Rejection = Refusal;

    /// What cannot be a name is no model's name: 404, as for any other that is not served.
    async fn from_request_parts(parts: &mut Parts, intake: &Intake) -> Result<Self, Refusal> {
        let params = RawPathParams::from_request_parts(parts, intake).await.ok();
        let find = |key: &str| params.iter().flatten().find(|(k, _)| *k == key).map(|(_, value)| value.to_owned());
        let unknown = || intake.refused(Refusal::new(Kind::NotFound, "no such model; see /casemate/v1/models"));
        let model = find("model").and_then(|name| name.parse().ok()).ok_or_else(unknown)?;
        let version = find("version").map(|version| version.parse().map_err(|_| unknown())).transpose()?;
        Ok(Self { model, version })
    }
}

// === inference ===

async fn infer(State(intake): State<Intake>, target: Target, request: Request) -> Result<Response, Refusal> {
    Ok(run(&intake, target, request).await?.map(Body::new))
}

/// What an inference's path names, where it is written plainly; whatever is not plain is the router's.
pub fn target(method: &Method, path: &str) -> Option<Target> {
    let path = path.strip_prefix("/v2/models/")?.strip_suffix("/infer").filter(|_| method == Method::POST)?;
    match path.split_once("/versions/") {
        Some((model, version)) => Some(Target { model: model.parse().ok()?, version: Some(version.parse().ok()?) }),
        None => Some(Target { model: path.parse().ok()?, version: None }),
    }
}

/// The trip of one inference.
pub async fn run<B>(
    intake: &Intake,
    target: Target,
    request: hyper::Request<B>,
) -> Result<hyper::Response<Pieces>, Refusal>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let _running = intake.metrics.request_begun();
    let patience = intake::patience(request.headers()).map_err(|refusal| intake.refused(refusal))?;
    intake.pipeline.knock(&target.model, target.version.as_ref(), patience)?;
    let taken = intake.take(request, patience).await.map_err(|refusal| intake.refused(refusal))?;
    let (visitor, body, trace, mut headers) = (taken.visitor, taken.body, taken.trace, taken.headers);
    let json_length = binary::json_length(&headers).map_err(|refusal| intake.refused(refusal))?;
    // Their room is for the answer's, as hyper has that of an answer for the next request's.
    headers.clear();
    let Target { model, version } = target;
    let envelope = Envelope { model, version, json_length, most: visitor.body_limit() };
    // Of the tensors behind a short JSON only BOOL is looked at, value by value.
    let text = json_length.and_then(|length| usize::try_from(length).ok()).unwrap_or(body.len());
    let long = text > LONG || body.len() > LARGE;
    let clock = visitor.clock();
    let (parsed, visitor) = if long {
        let (model, version) = (envelope.model.clone(), envelope.version.clone());
        // The room for its bytes goes along, and is given back with them.
        let work = move || (json::parse(envelope, &body), visitor);
        let done = intake.pipeline.at_desk((&model, version.as_ref()), clock, work).await;
        done.map_err(|refusal| intake.refused(refusal))?
    } else {
        (json::parse(envelope, &body), visitor)
    };
    let (request, wanted) = parsed.map_err(|refusal| intake.refused(refusal))?;
    trace.end(Stage::Parse);
    let tell = |answer| tell(intake, clock, answer, wanted);
    let told = intake.pipeline.infer(visitor, request, &trace, tell).await;
    // Of all that it refuses only this has no model to be counted at.
    let told = told.map_err(|refusal| if refusal.kind == Kind::NotFound { intake.refused(refusal) } else { refusal });
    let Rendered { body, tail, json_length } = told?;
    let mut response = hyper::Response::new(Pieces::new(body, tail));
    let media_type = if json_length.is_some() { "application/octet-stream" } else { "application/json" };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    if let Some(length) = json_length {
        // Writing into memory has no way to fail, and digits may stand in a header.
        let (digits, _) = intake.slate.write(|text| write!(text, "{length}"));
        headers.extend(HeaderValue::from_maybe_shared(digits).ok().map(|length| (JSON_LENGTH, length)));
    }
    trace.end(Stage::Render);
    let timing = trace.header().and_then(|text| HeaderValue::try_from(text).ok());
    headers.extend(timing.map(|timing| (TIMING, timing)));
    *response.headers_mut() = headers;
    Ok(response)
}

/// An answer as the bytes of a body.
async fn tell(intake: &Intake, clock: Clock, answer: InferResponse, wanted: Wanted) -> Result<Rendered, Refusal> {
    let length = json::text_length(&answer, &wanted);
    let rendered = if length > LONG {
        let id = answer.model.clone();
        let work = move || json::render(&answer, &wanted);
        intake.pipeline.at_desk((&id.name, Some(&id.version)), clock, work).await?
    } else if json::room(&answer, &wanted) <= SHORT {
        let (body, (tail, json_length)) = intake.slate.write(|body| json::write(&answer, &wanted, body));
        Rendered { body, tail, json_length }
    } else {
        json::render(&answer, &wanted)
    };
    intake.metrics.bytes_out(rendered.len() as u64);
    Ok(rendered)
}

/// A text that takes longer than a millisecond or so would hold up everybody else's requests.
const LONG: usize = 64 * 1024;
/// The same for bytes that are looked at one by one.
const LARGE: usize = 1 << 20;

/// Where the time of a traced request went.
const TIMING: HeaderName = HeaderName::from_static("server-timing");

// === health and metadata ===

async fn server() -> Response {
    let version = env!("CARGO_PKG_VERSION");
    json(StatusCode::OK, &json!({"name": "casemate", "version": version, "extensions": ["binary_tensor_data"]}))
}

async fn live() -> Response {
    json(StatusCode::OK, &json!({"live": true}))
}

async fn ready(State(intake): State<Intake>) -> Response {
    // The protocol's text calls the key `live`, its clients read `ready`.
    let ready = intake.pipeline.is_ready();
    json(ready_code(ready), &json!({"live": true, "ready": ready}))
}

async fn model_ready(State(intake): State<Intake>, target: Target) -> Result<Response, Refusal> {
    let (model, state) = intake.pipeline.state(&target.model, target.version.as_ref())?;
    let ready = state == ModelState::Ready;
    Ok(json(ready_code(ready), &json!({"name": model.name, "ready": ready})))
}

async fn metadata(State(intake): State<Intake>, target: Target) -> Result<Response, Refusal> {
    let (model, declared) = intake.pipeline.declared(&target.model, target.version.as_ref())?;
    let declared = declared.ok_or_else(|| {
        let why = format!("what {model} takes is known once a worker has verified it; come again");
        Refusal::new(Kind::NotReady, why)
    })?;
    let metadata = Metadata {
        name: &target.model,
        versions: intake.pipeline.versions(&target.model).collect(),
        platform: &declared.platform,
        inputs: declared.signature.inputs.iter().map(tensor).collect(),
        outputs: declared.signature.outputs.iter().map(tensor).collect(),
    };
    Ok(json(StatusCode::OK, &metadata))
}

/// What a model takes and gives, in the protocol's words.
#[derive(Debug, Serialize)]
struct Metadata<'a> {
    name: &'a ModelName,
    versions: Vec<&'a Version>,
    platform: &'a str,
    inputs: Vec<Tensor<'a>>,
    outputs: Vec<Tensor<'a>>,
}

/// One of them; -1 in `shape` is the request's choice.
#[derive(Debug, Serialize)]
struct Tensor<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: Vec<i64>,
}

fn tensor(spec: &TensorSpec) -> Tensor<'_> {
    Tensor { name: &spec.name, datatype: spec.dtype.name(), shape: spec.dims_i64() }
}

fn ready_code(ready: bool) -> StatusCode {
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
