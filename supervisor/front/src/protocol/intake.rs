//! Takes a request in: first the head's door, then the body, bounded in bytes and in time. Nothing of a body is read
//! for a request that the door refuses.

use std::time::Duration;

use axum::body::HttpBody;
use axum::http::{HeaderMap, HeaderName, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::slate::{SHORT, Slate};
use crate::admit::head::Visitor;
use crate::metrics::Metrics;
use crate::pipeline::Pipeline;
use crate::refusal::{Kind, Refusal};
use crate::trace::{Stage, Trace};

/// By this a request asks where its time went.
pub const TRACE: HeaderName = HeaderName::from_static("x-casemate-trace");

/// What the routes share; cheap to clone.
#[derive(Debug, Clone)]
pub struct Intake {
    /// The server behind the protocols.
    pub pipeline: Pipeline,
    /// Every number that is published.
    pub metrics: Metrics,
    /// Whether a request may ask where its time went.
    pub trace: bool,
    /// How long a body may take.
    pub body_time: Duration,
    /// Where short texts are written.
    pub slate: Slate,
}

/// A request that has been read.
#[derive(Debug)]
pub struct Taken {
    /// Its place in the house.
    pub visitor: Visitor,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Bytes,
    /// Where its time goes, if it may know.
    pub trace: Trace,
}

impl Intake {
    /// Admits a request and reads its body. `patience` is how long its client waits, where it has said so.
    pub async fn take<B>(&self, request: hyper::Request<B>, patience: Option<Duration>) -> Result<Taken, Refusal>
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let (head, body) = request.into_parts();
        let trace = self.trace && head.headers.contains_key(TRACE);
        let trace = if trace { Trace::begin() } else { Trace::default() };
        refuse_encodings(&head.headers)?;
        // What hyper will deliver: the Content-Length, or nothing for a chunked body, whatever other headers say.
        let announced = HttpBody::size_hint(&body).exact();
        let visitor = self.pipeline.enter(announced)?.within(patience);
        let reading = collect(body, announced, visitor.body_limit(), self.body_time);
        let body = match patience {
            Some(patience) => timeout(patience, reading).await.map_err(|_| Refusal::impatient(patience))??,
            None => reading.await?,
        };
        // A short one is taken out of the parser's buffer: a few bytes in the queue would keep all of it, up to 256 KiB, also after
        // their client has gone.
        let body = if body.len() <= SHORT { self.slate.copy(&body) } else { body };
        self.metrics.bytes_in(body.len() as u64);
        trace.end(Stage::Read);
        Ok(Taken { visitor, headers: head.headers, body, trace })
    }

    /// Counts a refusal of a request that no model was found for.
    pub fn refused(&self, refusal: Refusal) -> Refusal {
        self.metrics.refused(refusal.kind);
        refusal
    }
}

/// How long a client waits for its answer, in milliseconds, from its request's head on.
pub const TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");

/// What a client says of its patience. It can only shorten what the operator allows.
pub fn patience(headers: &HeaderMap) -> Result<Option<Duration>, Refusal> {
    let mut values = headers.get_all(TIMEOUT).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let digits = value.to_str().ok().filter(|_| values.next().is_none());
    // Ten digits are a hundred days: no operator allows more, and no clock overflows.
    let digits = digits.filter(|text| (1..=10).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()));
    let patience = digits.and_then(|text| text.parse().ok()).filter(|ms| *ms > 0).map(Duration::from_millis);
    let bad = || Refusal::invalid("X-Request-Timeout-Ms must be one whole number of milliseconds, 1 to 9999999999");
    patience.ok_or_else(bad).map(Some)
}

/// Reads a body of at most `limit` bytes within `time`.
pub async fn collect<B>(body: B, announced: Option<u64>, limit: u64, time: Duration) -> Result<Bytes, Refusal>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    if announced.is_some_and(|bytes| bytes > limit) {
        return Err(too_large(limit));
    }
    let slow = || {
        let why = format!("the body was not there after {} ms; send it faster or in smaller parts", time.as_millis());
        Refusal::new(Kind::TooSlow, why)
    };
    tokio::time::timeout(time, read(body, announced, limit)).await.unwrap_or_else(|_| Err(slow()))
}

async fn read<B>(mut body: B, announced: Option<u64>, limit: u64) -> Result<Bytes, Refusal>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|_| Refusal::invalid("the body ended before it was complete, or its chunks are malformed"))?;
        // Trailers are read past.
        let Ok(data) = frame.into_data() else { continue };
        if (whole.len() as u64).saturating_add(data.len() as u64) > limit {
            return Err(too_large(limit));
        }
        if whole.is_empty() {
            // A small body comes in one piece, and is used where it lies.
            if announced == Some(data.len() as u64) {
                return Ok(data);
            }
            whole.reserve(usize::try_from(announced.unwrap_or(0)).unwrap_or(0));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

fn refuse_encodings(headers: &HeaderMap) -> Result<(), Refusal> {
    let identity = |value: &[u8]| value.trim_ascii().is_empty() || value.trim_ascii().eq_ignore_ascii_case(b"identity");
    if headers.get_all(header::CONTENT_ENCODING).iter().all(|value| identity(value.as_bytes())) {
        return Ok(());
    }
    Err(Refusal::invalid("this server takes no compressed bodies; send without Content-Encoding"))
}

fn too_large(limit: u64) -> Refusal {
    Refusal::new(Kind::TooLarge, format!("the body is larger than {limit} bytes, the limit (limits.request_bytes)"))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use axum::body::Body;
    use hyper::body::Frame;

    use super::*;

    /// A body in pieces, of no announced length; stalls at the end where it is told to.
    struct Pieces(Vec<&'static [u8]>, bool);

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.pop() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece))))),
                None if self.1 => Poll::Pending,
                None => Poll::Ready(None),
            }
        }
    }

    async fn run(pieces: Vec<&'static [u8]>, stalls: bool, limit: u64) -> Result<Bytes, Kind> {
        let body = Body::new(Pieces(pieces, stalls));
        collect(body, None, limit, Duration::from_millis(20)).await.map_err(|refusal| refusal.kind)
    }

    #[tokio::test]
    async fn bodies_are_bounded_in_bytes_and_time() {
        assert_eq!(run(vec![b"c", b"ab"], false, 3).await, Ok(Bytes::from_static(b"abc")));
        assert_eq!(run(vec![b"cd", b"ab"], false, 3).await, Err(Kind::TooLarge));
        assert_eq!(run(vec![b"ab"], true, 3).await, Err(Kind::TooSlow));
        let announced = collect(Body::from("abcd"), Some(4), 3, Duration::from_secs(1)).await;
        assert_eq!(announced.map_err(|refusal| refusal.kind), Err(Kind::TooLarge));
        assert_eq!(collect(Body::from("abc"), Some(3), 3, Duration::from_secs(1)).await.unwrap(), "abc");
    }

    #[test]
    fn compressed_bodies_are_refused() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_ENCODING, value.parse().unwrap());
            refuse_encodings(&headers)
        };
        assert!(with("identity").is_ok() && with("").is_ok());
        for bad in ["gzip", "identity, gzip", "br", "deflate"] {
            assert!(with(bad).is_err(), "{bad} passed");
        }
    }

    #[test]
    fn patience_is_one_whole_number_or_a_mistake() {
        let with = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(TIMEOUT, value.parse().unwrap());
            }
            patience(&headers).map_err(|refusal| refusal.kind)
        };
        assert_eq!(with(&[]), Ok(None));
        assert_eq!(with(&["1"]), Ok(Some(Duration::from_millis(1))));
        assert_eq!(with(&["9999999999"]), Ok(Some(Duration::from_millis(9_999_999_999))));
        let bad: [&[&str]; 11] = [
            &[""],
            &["0"],
            &["00"],
            &["-1"],
            &["+1"],
            &["1.5"],
            &["1 "],
            &["1e3"],
            &["5s"],
            &["10000000000"],
            &["5", "5"],
        ];
        for values in bad {
            assert_eq!(with(values), Err(Kind::Invalid), "{values:?}");
        }
    }
}
