//! The demo's HTTP client: loopback, no proxy, no redirects, small answers, short waits.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;
use ureq::http::Response;
use ureq::{Agent, Body};

/// Largest answer, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// Speaks with one server.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    base: String,
}

/// What the model says about an image.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The likeliest digit.
    pub(crate) digit: i64,
    /// How likely each one is.
    pub(crate) scores: Vec<f64>,
}

/// How the model is served.
#[derive(Debug)]
pub(crate) struct Status {
    /// The layers around its worker, as read from the kernel.
    pub(crate) cage: Vec<Layer>,
    /// The worker's process.
    pub(crate) pid: Option<u32>,
    /// Why the model was given up, where it was.
    pub(crate) failed: Option<String>,
}

/// One layer; as a text, so that a newer server's new layer is shown and not refused.
#[derive(Debug, Deserialize)]
pub(crate) struct Layer {
    pub(crate) layer: String,
    pub(crate) in_force: bool,
    #[serde(default)]
    pub(crate) evidence: String,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    #[error("did not come")]
    Http(#[from] Box<ureq::Error>),
    #[error("is {code}: {text}")]
    Code { code: u16, text: String },
    #[error("is not as expected")]
    Json(#[from] serde_json::Error),
    #[error("lacks the output {0:?}")]
    Output(&'static str),
}

#[derive(Debug, Deserialize)]
struct Answers {
    outputs: Vec<Output>,
}

#[derive(Debug, Deserialize)]
struct Output {
    name: String,
    data: Vec<serde_json::Number>,
}

#[derive(Debug, Deserialize)]
struct RawStatus {
    #[serde(default)]
    state: String,
    reason: Option<String>,
    worker: Option<RawWorker>,
}

#[derive(Debug, Deserialize)]
struct RawWorker {
    #[serde(default)]
    cage: Vec<Layer>,
    pid: Option<u32>,
}

impl Client {
    pub(crate) fn new(server: SocketAddr) -> Self {
        let config = Agent::config_builder()
            // By default the proxy comes from the environment, which knows nothing of this machine's loopback.
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .no_delay(true)
            .timeout_global(Some(Duration::from_secs(10)));
        Self { agent: config.build().new_agent(), base: format!("http://{server}") }
    }

    /// Whether the model can be asked; a server that does not answer is one that is not ready.
    pub(crate) fn is_ready(&self, model: &str) -> bool {
        let answer = self.agent.get(format!("{}/v2/models/{model}/ready", self.base)).call();
        answer.is_ok_and(|response| response.status() == 200)
    }

    /// Asks which digit it is.
    pub(crate) fn infer(&self, model: &str, body: &[u8]) -> Result<Answer, ClientError> {
        let request = self.agent.post(format!("{}/v2/models/{model}/infer", self.base));
        let response = request.header("Content-Type", "application/json").send(body).map_err(Box::new)?;
        let answers: Answers = serde_json::from_slice(&read(response)?)?;
        let output = |name: &'static str| {
            let found = answers.outputs.iter().find(|output| output.name == name && !output.data.is_empty());
            found.map(|output| &output.data).ok_or(ClientError::Output(name))
        };
        let digit = output("digit")?.first().and_then(serde_json::Number::as_i64);
        Ok(Answer {
            digit: digit.ok_or(ClientError::Output("digit"))?,
            scores: output("scores")?.iter().take(10).filter_map(serde_json::Number::as_f64).collect(),
        })
    }

    /// How a version of a model is served.
    pub(crate) fn status(&self, model: &str, version: &str) -> Result<Status, ClientError> {
        let url = format!("{}/casemate/v1/models/{model}/versions/{version}", self.base);
        let status: RawStatus = serde_json::from_slice(&read(self.agent.get(url).call().map_err(Box::new)?)?)?;
        let (cage, pid) = status.worker.map(|worker| (worker.cage, worker.pid)).unwrap_or_default();
        let reason = status.reason.unwrap_or_else(|| "it does not say why".to_owned());
        let failed = (status.state == "failed").then(|| crate::escape::short(&reason, 400));
        Ok(Status { cage, pid, failed })
    }
}

fn read(mut response: Response<Body>) -> Result<Vec<u8>, ClientError> {
    let code = response.status().as_u16();
    let body = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec().map_err(Box::new)?;
    if code == 200 {
        return Ok(body);
    }
    Err(ClientError::Code { code, text: crate::escape::short(&String::from_utf8_lossy(&body), 400) })
}
