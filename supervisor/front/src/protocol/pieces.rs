//! A body that lies in several places: sent from there, in one call of the kernel, without being put together first.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::vec;

use axum::body::HttpBody;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

/// Pieces of a body, in their order.
#[derive(Debug)]
pub struct Pieces {
    first: Bytes,
    others: vec::IntoIter<Bytes>,
    bytes: u64,
}

impl Pieces {
    /// A body of these parts; empty ones are left out.
    pub fn new(first: Bytes, others: Vec<Bytes>) -> Self {
        let bytes = others.iter().chain([&first]).map(|part| part.len() as u64).sum();
        Self { first, others: others.into_iter(), bytes }
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let first = std::mem::take(&mut self.first);
        let part = [first].into_iter().chain(self.others.by_ref()).find(|part| !part.is_empty());
        self.bytes -= part.as_ref().map_or(0, |part| part.len() as u64);
        Poll::Ready(part.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn pieces_are_one_body_of_a_known_length() {
        let part = Bytes::from_static;
        let body = Pieces::new(part(b"head"), vec![part(b""), part(b"tail")]);
        assert_eq!(body.size_hint().exact(), Some(8));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "headtail");
        assert!(Pieces::new(Bytes::new(), Vec::new()).is_end_stream());
    }
}
