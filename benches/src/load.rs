//! A closed loop over one connection: the next request goes out when the last answer is whole.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The bytes of one request, sent again and again.
#[derive(Debug)]
pub(crate) struct Request(Vec<u8>);

/// How long answers took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

impl Request {
    /// A body that is one tensor and nothing else.
    pub(crate) fn raw(path: &str, body: &[u8]) -> Self {
        let mut bytes = format!(
            "POST {path} HTTP/1.1\r\nhost: bench\r\ninference-header-content-length: 0\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        Self(bytes)
    }

    /// A head in JSON and the bytes of its tensors after it.
    pub(crate) fn binary(path: &str, head: &str, body: &[u8]) -> Self {
        let mut bytes = format!(
            "POST {path} HTTP/1.1\r\nhost: bench\r\ninference-header-content-length: {}\r\ncontent-length: {}\r\n\r\n{head}",
            head.len(),
            head.len() + body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        Self(bytes)
    }
}

impl Load {
    /// Sends `count` requests after a tenth as many that are not counted.
    pub(crate) fn run(to: SocketAddr, request: &Request, count: usize) -> io::Result<Self> {
        Ok(Self::of(Self::times(to, request, count)?))
    }

    /// The times themselves.
    pub(crate) fn times(to: SocketAddr, request: &Request, count: usize) -> io::Result<Vec<Duration>> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let (mut writer, mut body) = (stream, Vec::new());
        let mut times = Vec::with_capacity(count);
        for turn in 0..count + count / 10 {
            let start = Instant::now();
            writer.write_all(&request.0)?;
            answer(&mut reader, &mut body)?;
            if turn >= count / 10 {
                times.push(start.elapsed());
            }
        }
        Ok(times)
    }

    /// The percentiles of these times.
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
        Self { p50: at(50), p99: at(99) }
    }
}

/// Reads one answer whole; anything but a 200 ends the bench, since its time would mean nothing.
fn answer(reader: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    let (mut line, mut length, mut first) = (String::new(), 0, true);
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        if first && !line.starts_with("HTTP/1.1 200") {
            return Err(io::Error::other(format!("the server answered {line:?}")));
        }
        first = false;
        if line == "\r\n" {
            break;
        }
        let header = line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        if let Some((_, value)) = header {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    body.resize(length, 0);
    reader.read_exact(body)
}
