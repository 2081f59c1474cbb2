//! One connection: a request out, its answer in, and the next one. It is never waited for here, not even for its opening:
//! others have requests that are due.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};

use crate::answer::{self, Fault, Head};

/// An open connection, and what it is at.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    /// Whether the server has taken it.
    open: bool,
    turn: Option<Turn>,
    /// The start of a head that has not come whole.
    head: Vec<u8>,
}

/// What a look at a connection found.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing was asked.
    Idle,
    /// The answer is on its way.
    Waits,
    /// It is here; whether the connection can be used again.
    Done { turn: Turn, status: u16, again: bool },
    /// There is no connection, and never was.
    Unopened { why: io::Error },
    /// It will not come; only where one was asked for.
    Broken { turn: Option<Turn>, why: ErrorKind },
}

/// One request on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    /// When it was to be sent, where that was said before.
    pub(crate) due: Option<Instant>,
    /// When it was sent; until then, when it was given to a connection that was not open yet.
    pub(crate) begun: Instant,
    sent: usize,
    /// The answer's head and the bytes of its body that are still to come.
    answer: Option<(Head, u64)>,
}

/// Longest head.
const MAX_HEAD: usize = 64 << 10;

impl Connection {
    /// Begins to open one.
    pub(crate) fn open(to: SocketAddr) -> io::Result<Self> {
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let stream = TcpStream::from(socket(family, SockType::Stream, flags, None)?);
        stream.set_nodelay(true)?;
        let open = match connect(stream.as_raw_fd(), &SockaddrStorage::from(to)) {
            Ok(()) => true,
            Err(Errno::EINPROGRESS) => false,
            Err(errno) => return Err(errno.into()),
        };
        Ok(Self { stream, open, turn: None, head: Vec::new() })
    }

    /// Whether the server has taken it.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// The request that is on its way.
    pub(crate) fn turn(&self) -> Option<&Turn> {
        self.turn.as_ref()
    }

    /// Makes ready for a request that was due then.
    pub(crate) fn begin(&mut self, due: Option<Instant>, now: Instant) {
        self.head.clear();
        self.turn = Some(Turn { due, begun: now, sent: 0, answer: None });
    }

    /// Writes and reads as far as it goes without waiting.
    pub(crate) fn drive(&mut self, request: &[u8], scratch: &mut [u8]) -> Step {
        if !self.open {
            match self.opened() {
                Ok(true) => self.open = true,
                Ok(false) => return Step::Waits,
                Err(why) => return Step::Unopened { why },
            }
            if let Some(turn) = &mut self.turn {
                turn.begun = Instant::now();
            }
        }
        let Some(turn) = &mut self.turn else { return self.at_rest(scratch) };
        let (fresh, mut fault) = (turn.sent == 0, None);
        while turn.sent < request.len() {
            match (&self.stream).write(request.get(turn.sent..).unwrap_or_default()) {
                Ok(sent) => turn.sent += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The server may have answered and closed before it read everything.
                Err(error) => {
                    fault = Some(error.kind());
                    break;
                }
            }
        }
        if fresh && turn.sent == request.len() {
            // Not answered yet; and once it is, that is an event.
            return Step::Waits;
        }
        self.read(request.len(), fault, scratch)
    }

    /// Whether it is open now.
    fn opened(&self) -> io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn read(&mut self, request: usize, fault: Option<ErrorKind>, scratch: &mut [u8]) -> Step {
        loop {
            let read = match (&self.stream).read(scratch) {
                Ok(0) => return self.broken(fault.unwrap_or(ErrorKind::UnexpectedEof)),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return fault.map_or(Step::Waits, |why| self.broken(why));
                }
                Err(error) => return self.broken(error.kind()),
            };
            match self.take(scratch.get(..read).unwrap_or_default()) {
                Ok(None) => {}
                Ok(Some(head)) => {
                    let Some(turn) = self.turn.take() else { return Step::Idle };
                    return Step::Done { turn, status: head.status, again: !head.closes && turn.sent == request };
                }
                Err(why) => return self.broken(why),
            }
        }
    }

    /// Takes what came; the head once the whole answer is there.
    fn take(&mut self, bytes: &[u8]) -> Result<Option<Head>, ErrorKind> {
        let Some(turn) = &mut self.turn else { return Err(ErrorKind::InvalidData) };
        let (head, left, came) = match turn.answer {
            Some((head, left)) => (head, left, bytes.len()),
            None => {
                // Mostly all of it comes at once, and nothing is kept.
                let whole: &[u8] = if self.head.is_empty() {
                    bytes
                } else {
                    self.head.extend_from_slice(bytes);
                    &self.head
                };
                match answer::read(whole) {
                    Ok(head) => (head, head.body, whole.len() - head.bytes),
                    Err(Fault::Short) if whole.len() <= MAX_HEAD => {
                        if self.head.is_empty() {
                            self.head.extend_from_slice(bytes);
                        }
                        return Ok(None);
                    }
                    Err(_) => return Err(ErrorKind::InvalidData),
                }
            }
        };
        let left = left.checked_sub(came as u64).ok_or(ErrorKind::InvalidData)?;
        turn.answer = Some((head, left));
        Ok((left == 0).then_some(head))
    }

    /// Nothing may come that was not asked for; a server may close.
    fn at_rest(&mut self, scratch: &mut [u8]) -> Step {
        match (&self.stream).read(scratch) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Step::Idle,
            Err(error) => self.broken(error.kind()),
            Ok(_) => self.broken(ErrorKind::UnexpectedEof),
        }
    }

    fn broken(&mut self, why: ErrorKind) -> Step {
        Step::Broken { turn: self.turn.take(), why }
    }
}

impl Turn {
    /// What its latency counts from.
    pub(crate) fn since(&self) -> Instant {
        self.due.unwrap_or(self.begun)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
