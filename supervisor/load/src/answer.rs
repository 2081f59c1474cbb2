//! The head of an answer: its status, and how many bytes of a body follow it.

/// What a head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// Bytes of the head itself, the empty line included.
    pub bytes: usize,
    /// Bytes of the body behind it.
    pub body: u64,
    /// Whether the server will close the connection.
    pub closes: bool,
}

/// Why there is no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It has not all come yet.
    Short,
    /// It is none of HTTP/1.1, or of a body whose length it does not say.
    Bad,
}

/// Reads the head at the start of these bytes.
pub fn read(bytes: &[u8]) -> Result<Head, Fault> {
    let (mut status, mut body, mut closes, mut end) = (None, None, false, 0);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        end += line.len();
        let Some(line) = line.strip_suffix(b"\n") else { return Err(Fault::Short) };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if status.is_none() {
            status = Some(code(line).ok_or(Fault::Bad)?);
        } else if line.is_empty() {
            let status = status.ok_or(Fault::Bad)?;
            // These have no body, whatever their head says.
            let none = matches!(status, 100..200 | 204 | 304).then_some(0);
            return Ok(Head { status, bytes: end, body: none.or(body).ok_or(Fault::Bad)?, closes });
        } else if let Some(value) = value(line, b"content-length:") {
            body = Some(number(value).ok_or(Fault::Bad)?);
        } else if let Some(value) = value(line, b"connection:") {
            closes = value.eq_ignore_ascii_case(b"close");
        }
    }
    Err(Fault::Short)
}

/// The code of `HTTP/1.1 200 OK`.
fn code(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let digits = rest.get(2..5).filter(|_| rest.get(1) == Some(&b' '))?;
    number(digits).and_then(|code| u16::try_from(code).ok())
}

/// What stands behind the name, where the line has that name; in lower case.
fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = line.split_at_checked(name.len())?;
    head.eq_ignore_ascii_case(name).then(|| rest.trim_ascii())
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let text = b"HTTP/1.1 200 OK\r\ndate: x\r\nContent-Length: 12\r\nconnection: close\r\n\r\nbody";
        let end = text.len() - 4;
        assert_eq!(read(text), Ok(Head { status: 200, bytes: end, body: 12, closes: true }));
        for cut in 0..end {
            assert_eq!(read(&text[..cut]), Err(Fault::Short), "{cut}");
        }
    }

    #[test]
    fn what_has_no_length_is_refused() {
        assert_eq!(read(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"), Err(Fault::Bad));
        assert_eq!(read(b"SSH-2.0-x\r\n\r\n"), Err(Fault::Bad));
        assert_eq!(read(b"HTTP/1.1 2\r\n"), Err(Fault::Bad));
        assert_eq!(read(b"HTTP/1.1 204 \r\n\r\n").map(|head| head.body), Ok(0));
    }
}
