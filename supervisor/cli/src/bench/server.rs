//! The server that is loaded: where it is, what it serves, and how a request to it looks.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

use casemate_ipc::id::{ModelName, Version};
use casemate_ipc::tensor::TensorSpec;
use casemate_load::Request;
use casemate_load::request::Body;
use serde::Deserialize;
use thiserror::Error;
use ureq::{Agent, http};

use crate::bench::input::Input;
use crate::escape::short;
use crate::exit::Exit;

/// `http://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    host: String,
}

/// A server that answers.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    agent: Agent,
    host: String,
    pub(crate) address: SocketAddr,
}

/// What a model takes.
#[derive(Debug)]
pub(crate) struct Declared {
    pub(crate) inputs: Vec<TensorSpec>,
}

/// Why it cannot be loaded.
#[derive(Debug, Error)]
pub(crate) enum ServerError {
    #[error("{0} has no address")]
    Name(String, #[source] io::Error),
    #[error(
        "no server answers at http://{0}; start one with `casemate serve --config FILE`, or name another with --url"
    )]
    NotThere(String, #[source] Box<ureq::Error>),
    #[error("the server serves no model {model}{}", others(.served))]
    NoModel { model: String, served: Vec<String> },
    #[error("{model} is not ready: {said}")]
    NotReady { model: String, said: String },
    #[error("the server answers {code}: {said}")]
    Code { code: u16, said: String },
    #[error("what the server says of {0} is no declaration of a model")]
    Declaration(String),
}

/// Largest answer that is looked into, in bytes.
const MAX_ANSWER: u64 = 16 << 20;
/// How long a question may take.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Deserialize)]
struct Metadata {
    inputs: Vec<Tensor>,
}

#[derive(Debug, Deserialize)]
struct Tensor {
    name: String,
    datatype: String,
    shape: Vec<i64>,
}

#[derive(Debug, Deserialize)]
struct Complaint {
    error: String,
}

#[derive(Debug, Deserialize)]
struct Served {
    models: Vec<Named>,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

impl Server {
    /// Asks whether it is there.
    pub(crate) fn find(url: &Url) -> Result<Self, ServerError> {
        let host = url.host.clone();
        let found = host.to_socket_addrs().map_err(|cause| ServerError::Name(host.clone(), cause))?;
        let missing = || ServerError::Name(host.clone(), io::ErrorKind::NotFound.into());
        let address = found.into_iter().next().ok_or_else(missing)?;
        let config = Agent::config_builder()
            // What is measured is the server, not what stands before it.
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .no_delay(true)
            .timeout_global(Some(PATIENCE));
        let server = Self { agent: config.build().new_agent(), host, address };
        server.get("/v2/health/live")?;
        Ok(server)
    }

    /// What a model takes.
    pub(crate) fn declared(&self, model: &ModelName, version: Option<&Version>) -> Result<Declared, ServerError> {
        let (code, body) = self.get(&path(model, version))?;
        match code {
            200 => {
                let fault = || ServerError::Declaration(model.to_string());
                let metadata: Metadata = serde_json::from_slice(&body).map_err(|_| fault())?;
                let inputs = metadata.inputs.into_iter().map(Tensor::spec).collect::<Option<Vec<_>>>();
                Ok(Declared { inputs: inputs.filter(|inputs| !inputs.is_empty()).ok_or_else(fault)? })
            }
            404 => Err(ServerError::NoModel { model: named(model, version), served: self.served() }),
            503 => Err(ServerError::NotReady { model: named(model, version), said: complaint(&body) }),
            code => Err(ServerError::Code { code, said: complaint(&body) }),
        }
    }

    /// One request whose answer is looked at.
    pub(crate) fn try_once(
        &self,
        model: &ModelName,
        version: Option<&Version>,
        input: &Input,
    ) -> Result<(), ServerError> {
        let (code, _, body) = self.infer(model, version, input, false)?;
        match code {
            200 => Ok(()),
            503 => Err(ServerError::NotReady { model: named(model, version), said: complaint(&body) }),
            code => Err(ServerError::Code { code, said: complaint(&body) }),
        }
    }

    /// The same, traced or not: status, headers, body.
    pub(crate) fn infer(
        &self,
        model: &ModelName,
        version: Option<&Version>,
        input: &Input,
        traced: bool,
    ) -> Result<(u16, http::HeaderMap, Vec<u8>), ServerError> {
        let url = format!("http://{}{}/infer", self.host, path(model, version));
        let mut request = self.agent.post(url).header("content-type", "application/octet-stream");
        request = request.header("inference-header-content-length", input.json.len().to_string());
        if traced {
            request = request.header("x-casemate-trace", "1");
        }
        let body = [input.json.as_bytes(), &input.tensors].concat();
        let mut answer = request.send(&body).map_err(|cause| self.not_there(cause))?;
        let body = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
        Ok((answer.status().as_u16(), answer.headers().clone(), body.unwrap_or_default()))
    }

    /// What the load sends.
    pub(crate) fn request(&self, model: &ModelName, version: Option<&Version>, input: &Input) -> Request {
        let body = Body::Binary { json: &input.json, tensors: &input.tensors };
        Request::post(&self.host, &format!("{}/infer", path(model, version)), body)
    }

    fn get(&self, path: &str) -> Result<(u16, Vec<u8>), ServerError> {
        let answer = self.agent.get(format!("http://{}{path}", self.host)).call();
        let mut answer = answer.map_err(|cause| self.not_there(cause))?;
        let body = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
        Ok((answer.status().as_u16(), body.map_err(|cause| self.not_there(cause))?))
    }

    fn not_there(&self, cause: ureq::Error) -> ServerError {
        ServerError::NotThere(self.host.clone(), Box::new(cause))
    }

    /// The names of its models, as far as it says them.
    fn served(&self) -> Vec<String> {
        let answer = self.get("/casemate/v1/models").ok();
        let served = answer.and_then(|(_, body)| serde_json::from_slice::<Served>(&body).ok());
        let mut names: Vec<String> =
            served.into_iter().flat_map(|served| served.models).map(|model| model.name).collect();
        names.dedup();
        names
    }
}

impl Tensor {
    fn spec(self) -> Option<TensorSpec> {
        let dims =
            self.shape.into_iter().map(|dim| if dim == -1 { Some(None) } else { u64::try_from(dim).ok().map(Some) });
        TensorSpec::new(self.name, self.datatype.parse().ok()?, dims.collect::<Option<_>>()?).ok()
    }
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("http://").ok_or("must be http://HOST:PORT; there is no TLS")?;
        let host = rest.trim_end_matches('/');
        if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.:[]_".contains(&byte)) {
            return Err("must be http://HOST:PORT, without a path".to_owned());
        }
        let bare = !host.contains(':') || host.ends_with(']');
        Ok(Self { host: if bare { format!("{host}:80") } else { host.to_owned() } })
    }
}

fn path(model: &ModelName, version: Option<&Version>) -> String {
    let version = version.map(|version| format!("/versions/{version}")).unwrap_or_default();
    format!("/v2/models/{model}{version}")
}

fn named(model: &ModelName, version: Option<&Version>) -> String {
    version.map_or_else(|| model.to_string(), |version| format!("{model}/{version}"))
}

/// The protocol's own form of a refusal, or what came in its place.
fn complaint(body: &[u8]) -> String {
    let said = serde_json::from_slice::<Complaint>(body).map(|complaint| complaint.error);
    short(&said.unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned()), 400)
}

fn others(served: &[String]) -> String {
    const SHOWN: usize = 20;
    let names: Vec<String> = served.iter().take(SHOWN).map(|name| short(name, 63)).collect();
    match names.len() {
        0 => "; it serves none".to_owned(),
        SHOWN => format!("; it serves {}, …", names.join(", ")),
        _ => format!("; it serves {}", names.join(", ")),
    }
}

impl ServerError {
    /// The number for the shell.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Name(..) | Self::NotThere(..) | Self::NotReady { .. } => Exit::Unavailable,
            Self::NoModel { .. } => Exit::NoInput,
            Self::Code { .. } | Self::Declaration(_) => Exit::Failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_url_is_a_host_and_a_port() {
        let host = |text: &str| text.parse::<Url>().map(|url| url.host);
        assert_eq!(host("http://127.0.0.1:8080").as_deref(), Ok("127.0.0.1:8080"));
        assert_eq!(host("http://localhost/").as_deref(), Ok("localhost:80"));
        assert_eq!(host("http://[::1]:1").as_deref(), Ok("[::1]:1"));
        assert_eq!(host("http://[::1]").as_deref(), Ok("[::1]:80"));
        for bad in ["https://a", "127.0.0.1:8080", "http://", "http://a/b", "http://a b"] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }
}
