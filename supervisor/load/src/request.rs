//! The bytes of one request, head and body, made once.

/// What is sent again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request(Vec<u8>);

/// What a body is.
#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    /// JSON and nothing else.
    Json(&'a [u8]),
    /// By the binary tensor extension: JSON, which may be empty, and the tensors' bytes behind it.
    Binary {
        /// The JSON.
        json: &'a str,
        /// The bytes behind it.
        tensors: &'a [u8],
    },
    /// Bytes that are no protocol's.
    Plain(&'a [u8]),
}

impl Request {
    /// `POST PATH`; `host` is what stands in the header of that name.
    pub fn post(host: &str, path: &str, body: Body<'_>) -> Self {
        let (media, json, parts) = match body {
            Body::Json(json) => ("application/json", None, [json, b""]),
            Body::Binary { json, tensors } => {
                ("application/octet-stream", Some(json.len()), [json.as_bytes(), tensors])
            }
            Body::Plain(bytes) => ("application/octet-stream", None, [bytes, b""]),
        };
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut head = format!("POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: {media}\r\n");
        if let Some(json) = json {
            head += &format!("inference-header-content-length: {json}\r\n");
        }
        head += &format!("content-length: {length}\r\n\r\n");
        let mut bytes = head.into_bytes();
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        Self(bytes)
    }

    /// As it is sent.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_says_how_long_everything_is() {
        let request = Request::post("h:1", "/x", Body::Binary { json: "{}", tensors: &[1, 2, 3] });
        let text = String::from_utf8_lossy(request.bytes()).into_owned();
        assert!(text.starts_with("POST /x HTTP/1.1\r\nhost: h:1\r\n"), "{text}");
        assert!(text.contains("inference-header-content-length: 2\r\ncontent-length: 5\r\n\r\n{}"), "{text}");
        assert!(request.bytes().ends_with(&[1, 2, 3]));
        let json = Request::post("h", "/", Body::Json(b"[]"));
        assert!(json.bytes().ends_with(b"content-type: application/json\r\ncontent-length: 2\r\n\r\n[]"));
    }
}
