//! A server with the one model, at one setting: asked, and timed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use casemate_config::model::ModelConfig;
use casemate_config::{Config, ConfigError};
use casemate_ipc::convolution::Convolution;
use casemate_ipc::id::ModelName;
use casemate_ipc::tensor::{DType, TensorSpec};
use casemate_manifest::Manifest;
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;
use toml::{Table, Value};
use ureq::http::Response;
use ureq::{Agent, Body};

use super::advice::Duel;
use crate::demo::server::{Server, ServerError};
use crate::escape::short;
use crate::scratch::{Scratch, ScratchError, waived_by_default};
use crate::stop::Stop;

/// The model's name in the private store.
pub(super) const NAME: &str = "subject";

/// A running server.
#[derive(Debug)]
pub(super) struct Trial {
    server: Server,
    agent: Agent,
    base: String,
    inputs: Vec<TensorSpec>,
    stop: Stop,
}

/// What the operator has said about the model, all of which holds for its trials too.
#[derive(Debug)]
pub(super) struct Operator {
    /// The model's own name.
    pub(super) name: ModelName,
    /// The config; the defaults where there is none.
    pub(super) path: Option<PathBuf>,
}

/// Why nothing was measured.
#[derive(Debug, Error)]
pub(crate) enum TrialError {
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    #[error("cannot write the config")]
    Config(#[source] io::Error),
    #[error("the config is refused with {threads} threads for one operation")]
    Refused {
        threads: u32,
        #[source]
        cause: ConfigError,
    },
    #[error("{error}{lines}")]
    Server { error: ServerError, lines: String },
    #[error("the server did not answer")]
    Http(#[from] Box<ureq::Error>),
    #[error("the server answered {code}: {text}")]
    Code { code: u16, text: String },
    #[error("the server's answer is not as expected")]
    Json(#[from] serde_json::Error),
    #[error("interrupted")]
    Interrupted,
}

/// How long a worker may take to get ready, its convolutions included.
const READY: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(25);
/// Largest answer, in bytes.
const MAX_ANSWER: u64 = 256 << 20;
/// One setting is measured so long, and so often at the least.
const LONG: Duration = Duration::from_millis(1500);
const LEAST: usize = 5;
/// Two settings are asked in turns, each so long, so often.
const SHORT: Duration = Duration::from_millis(200);
const ROUNDS: usize = 7;

#[derive(Debug, Deserialize)]
struct Status {
    #[serde(default)]
    state: String,
    reason: Option<String>,
    #[serde(default)]
    convolutions: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    outputs: Vec<Output>,
}

#[derive(Debug, Deserialize)]
struct Output {
    #[serde(default)]
    data: serde_json::Value,
}

impl Trial {
    /// Starts it, and waits until the model can be asked.
    pub(super) fn start(
        launcher: &Path,
        scratch: &Scratch,
        operator: &Operator,
        manifest: &Manifest,
        threads: u32,
        stop: &Stop,
    ) -> Result<Self, TrialError> {
        let path = operator.config(scratch, threads)?;
        let log = path.with_file_name(format!(
            "launcher-{}.log",
            fs::read_dir(path.with_file_name("")).map_or(0, Iterator::count)
        ));
        let failed = |error, server: Option<&Server>| TrialError::Server {
            error,
            lines: server.map_or_else(String::new, Server::last_lines),
        };
        let mut server = Server::start(launcher, &path, &log).map_err(|error| failed(error, None))?;
        let agent = Agent::config_builder().proxy(None).max_redirects(0).http_status_as_error(false).no_delay(true);
        let agent = agent.timeout_global(Some(READY)).build().new_agent();
        let until = Instant::now() + READY;
        let mut base = None;
        loop {
            if stop.asked() {
                return Err(TrialError::Interrupted);
            }
            if let Some(error) = server.ended() {
                return Err(failed(error, Some(&server)));
            }
            if Instant::now() > until {
                let error = ServerError::Late { what: "the model to get ready", seconds: READY.as_secs() };
                return Err(failed(error, Some(&server)));
            }
            base = base.or_else(|| server.address().map(|address| format!("http://{address}")));
            if let Some(base) = &base {
                let status = agent.get(format!("{base}/casemate/v1/models/{NAME}/versions/1")).call();
                let status = status.ok().and_then(|answer| read(answer).ok());
                match status.and_then(|text| serde_json::from_slice::<Status>(&text).ok()) {
                    Some(status) if status.state == "ready" => break,
                    Some(Status { state, reason, .. }) if state == "failed" => {
                        let reason = short(&reason.unwrap_or_else(|| "it does not say why".to_owned()), 400);
                        return Err(failed(ServerError::GivenUp(reason), None));
                    }
                    _ => {}
                }
            }
            std::thread::sleep(PAUSE);
        }
        let base = base.unwrap_or_default();
        Ok(Self { server, agent, base, inputs: manifest.inputs.clone(), stop: stop.clone() })
    }

    /// Asks once, and gives every number that came back.
    pub(super) fn ask(&mut self, rows: u32, size: u64) -> Result<Vec<f64>, TrialError> {
        let answer: Answer = serde_json::from_slice(&self.send(&self.request(rows, size, false))?)?;
        let numbers = answer.outputs.iter().filter_map(|output| output.data.as_array()).flatten();
        // What is no number in JSON may be NaN, and is compared as one.
        Ok(numbers.map(|number| number.as_f64().unwrap_or(f64::NAN)).collect())
    }

    /// The median time of an answer, in seconds.
    pub(super) fn measure(&mut self, rows: u32, size: u64) -> Result<f64, TrialError> {
        let request = self.request(rows, size, true);
        self.send(&request)?;
        self.median(&request, LONG, LEAST)
    }

    /// How much faster another one answers one row, in turns with this one: what else the machine does changes meanwhile.
    pub(super) fn against(&mut self, other: &mut Self, size: u64) -> Result<Duel, TrialError> {
        let request = self.request(1, size, true);
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push((self.median(&request, SHORT, 1)?, other.median(&request, SHORT, 1)?));
        }
        Ok(Duel { rounds })
    }

    fn median(&mut self, request: &(usize, Vec<u8>), long: Duration, least: usize) -> Result<f64, TrialError> {
        let mut times = Vec::new();
        let begun = Instant::now();
        while times.len() < least || begun.elapsed() < long {
            if self.stop.asked() {
                return Err(TrialError::Interrupted);
            }
            let asked = Instant::now();
            self.send(request)?;
            times.push(asked.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }

    /// What it ran without oneDNN, and could have run with it.
    pub(super) fn convolutions(&self) -> Result<Vec<Convolution>, TrialError> {
        let url = format!("{}/casemate/v1/models/{NAME}/versions/1", self.base);
        let status: Status = serde_json::from_slice(&read(self.agent.get(url).call().map_err(Box::new)?)?)?;
        // What is out of bounds is left out, as a worker would leave it.
        Ok(status.convolutions.iter().filter_map(|line| line.parse().ok()).collect())
    }

    /// Ends it.
    pub(super) fn stop(self) {
        self.server.stop();
    }

    fn send(&self, (json, body): &(usize, Vec<u8>)) -> Result<Vec<u8>, TrialError> {
        let request = self.agent.post(format!("{}/v2/models/{NAME}/infer", self.base));
        let request = request.header("Content-Type", "application/octet-stream");
        let request = request.header("Inference-Header-Content-Length", json.to_string());
        // Nobody works on for a trial that has given up.
        let request = request.header("X-Request-Timeout-Ms", READY.as_millis().to_string());
        read(request.send(&body[..]).map_err(Box::new)?)
    }

    /// A request by the binary tensor extension, and the length of its JSON.
    fn request(&self, rows: u32, size: u64, binary: bool) -> (usize, Vec<u8>) {
        let mut inputs = Vec::new();
        let mut tail = Vec::new();
        for spec in &self.inputs {
            let dim = |(at, dim): (usize, &Option<u64>)| dim.unwrap_or(if at == 0 { rows.into() } else { size });
            let shape: Vec<u64> = spec.dims.iter().enumerate().map(dim).collect();
            let count = usize::try_from(shape.iter().product::<u64>()).unwrap_or(0);
            let from = tail.len();
            (0..count).for_each(|at| element(spec.dtype, at, &mut tail));
            let bytes = tail.len() - from;
            inputs.push(json!({
                "name": spec.name, "shape": shape, "datatype": spec.dtype, "parameters": { "binary_data_size": bytes },
            }));
        }
        let json = json!({ "inputs": inputs, "parameters": { "binary_data_output": binary } }).to_string();
        (json.len(), [json.as_bytes(), &tail].concat())
    }
}

/// Numbers between nought and one where there are any; zeros where a number may be an index.
fn element(dtype: DType, at: usize, into: &mut Vec<u8>) {
    // Below 1000 both casts are exact.
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let number = ((at * 7919) % 1000) as f64 / 1000.0;
    match dtype {
        #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
        DType::Fp32 => into.extend((number as f32).to_le_bytes()),
        DType::Fp64 => into.extend(number.to_le_bytes()),
        other => into.resize(into.len() + other.size(), 0),
    }
}

/// The largest distance of two answers, relative to the largest number in the first; infinite where they are not alike.
pub(super) fn apart(before: &[f64], after: &[f64]) -> f64 {
    if before.len() != after.len() || before.iter().zip(after).any(|(a, b)| a.is_nan() != b.is_nan()) {
        return f64::INFINITY;
    }
    let largest = before.iter().map(|number| number.abs()).fold(f64::MIN_POSITIVE, f64::max);
    before.iter().zip(after).map(|(a, b)| (a - b).abs() / largest).fold(0.0, f64::max)
}

impl Operator {
    /// Writes the config of a trial: the operator's, with what it says of this model, and so many threads.
    fn config(&self, scratch: &Scratch, threads: u32) -> Result<PathBuf, TrialError> {
        let path = match &self.path {
            Some(config) => scratch.like(config, Some(self.name.as_str()), &[NAME])?,
            None => scratch.defaults(&waived_by_default())?,
        };
        set_threads(&path, threads).map_err(TrialError::Config)?;
        Ok(path)
    }

    /// How its workers are to be, with one thread for each operation.
    pub(super) fn settings(&self, scratch: &Scratch) -> Result<ModelConfig, TrialError> {
        let text = fs::read_to_string(self.config(scratch, 1)?).map_err(TrialError::Config)?;
        let config = Config::parse(&text).map_err(|cause| TrialError::Refused { threads: 1, cause })?;
        let name = NAME.parse().map_err(|_| TrialError::Config(io::ErrorKind::InvalidInput.into()))?;
        Ok(config.model(&name))
    }
}

fn set_threads(path: &Path, threads: u32) -> io::Result<()> {
    let mut table: Table = toml::from_str(&fs::read_to_string(path)?).map_err(io::Error::other)?;
    let models = table.entry("models").or_insert_with(|| Table::new().into()).as_table_mut();
    let model = models.map(|models| models.entry(NAME).or_insert_with(|| Table::new().into()));
    if let Some(model) = model.and_then(Value::as_table_mut) {
        model.insert("threads".to_owned(), Value::from(threads));
        // A zygote's worker does without the sizes that are being tried.
        model.insert("spawn".to_owned(), Value::from("exec"));
    }
    fs::write(path, toml::to_string(&table).map_err(io::Error::other)?)
}

fn read(mut response: Response<Body>) -> Result<Vec<u8>, TrialError> {
    let code = response.status().as_u16();
    let body = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec().map_err(Box::new)?;
    if code == 200 {
        return Ok(body);
    }
    Err(TrialError::Code { code, text: short(&String::from_utf8_lossy(&body), 400) })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use casemate_ipc::launch::RunTimeCode;

    use super::*;

    #[test]
    fn a_trial_is_as_the_operator_wants_the_model() {
        let scratch = Scratch::new().unwrap();
        let mut own = tempfile::NamedTempFile::new().unwrap();
        let text = "store = \"/srv\"\n[limits]\nthreads = 7\n[models.iris]\nversions = \"all\"\nrun_time_code = \"allowed\"\n\
                    threads = 3\ninstances = 2\nworkers = 2\ncores = [0, 1]\nmemory_mib = 128\nmax_batch_size = 4\n\
                    deadline_ms = 900\ncpus = 1.5\ntenant = \"garden\"\n[models.rose]\ninstances = 5\n";
        own.write_all(text.as_bytes()).unwrap();
        let operator = |name: &str, path| Operator { name: name.parse().unwrap(), path };
        let iris = operator("iris", Some(own.path().to_owned()));
        let wanted = Config::parse(text).unwrap().model(&iris.name);
        let trial = iris.settings(&scratch).unwrap();
        assert_eq!((trial.run_time_code, trial.instances, &*trial.cores), (RunTimeCode::Allowed, 2, &[0, 1][..]));
        // All of it, but for what is being tuned and which versions there are.
        assert_eq!(trial, ModelConfig { threads: 1, versions: trial.versions.clone(), ..wanted });
        let four = Config::parse(&fs::read_to_string(iris.config(&scratch, 4).unwrap()).unwrap()).unwrap();
        assert_eq!((four.model(&NAME.parse().unwrap()).threads, four.limits.threads), (4, 7));
        // Nothing is said of this one.
        assert_eq!(operator("lily", Some(own.path().to_owned())).settings(&scratch).unwrap().instances, 1);
        assert_eq!(operator("lily", None).settings(&scratch).unwrap().threads, 1);
    }

    #[test]
    fn answers_are_compared_by_their_largest_number() {
        assert_eq!(apart(&[1.0, -100.0], &[1.0, -100.0]), 0.0);
        assert_eq!(apart(&[1.0, -100.0], &[2.0, -100.0]), 0.01);
        assert_eq!(apart(&[1.0], &[1.0, 2.0]), f64::INFINITY);
        assert_eq!(apart(&[f64::NAN], &[1.0]), f64::INFINITY);
        assert_eq!(apart(&[f64::NAN], &[f64::NAN]), 0.0);
        assert_eq!(apart(&[0.0], &[0.0]), 0.0);
    }
}
