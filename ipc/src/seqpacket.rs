//! A pair of `SOCK_SEQPACKET` sockets, typed by both ends: what one end may send is what the other may receive, so they
//! cannot be wired wrongly. One packet is one frame; a packet that is cut is an error, never half a message.

use std::io::{self, IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv, recvmsg, send, sendmsg,
    socketpair,
};
use thiserror::Error;

use crate::frame::{self, FrameError, MAX_FRAME, Message, SMALL};
use crate::inherited::adopt;

/// One end of a channel: sends `S`, receives `R`.
#[derive(Debug)]
pub struct Channel<S, R> {
    socket: OwnedFd,
    // `fn` so that a channel is Send and Sync whatever its messages are.
    types: PhantomData<fn(S) -> R>,
}

/// Why a message was not sent or received.
#[derive(Debug, Error)]
pub enum ChannelError {
    /// The socket failed; `WouldBlock` on a non-blocking one with nothing to do.
    #[error("socket: {0}")]
    Socket(#[from] io::Error),
    /// The packet is not a message.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Descriptors came that nobody asked for, or another number of them than agreed.
    #[error("a message came with descriptors that it may not carry")]
    Descriptors,
}

// === impl Channel ===

/// Both ends of a new channel, close-on-exec and blocking.
pub fn pair<A: Message, B: Message>() -> io::Result<(Channel<A, B>, Channel<B, A>)> {
    let (left, right) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    Ok((Channel::new(left), Channel::new(right)))
}

impl<S: Message, R: Message> Channel<S, R> {
    /// A channel over a socket that was inherited or received.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, types: PhantomData }
    }

    /// Sends one message.
    ///
    /// Uses `send(2)`, which can carry no descriptors: a worker's filter allows nothing else.
    pub fn send(&self, message: &S) -> Result<(), ChannelError> {
        let (mut small, large);
        small = [0; SMALL];
        let packet = match frame::encode_within(message, &mut small)? {
            Some(packet) => packet,
            None => {
                large = frame::encode(message)?;
                &large
            }
        };
        retry(|| send(self.socket.as_raw_fd(), packet, MsgFlags::MSG_NOSIGNAL))?;
        Ok(())
    }

    /// Sends one message with descriptors.
    pub fn send_with(&self, message: &S, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let packet = frame::encode(message)?;
        let raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &rights[..0] } else { &rights[..] };
        let iov = [IoSlice::new(&packet)];
        retry(|| sendmsg::<()>(self.socket.as_raw_fd(), &iov, rights, MsgFlags::MSG_NOSIGNAL, None))?;
        Ok(())
    }

    /// Receives one message with `recv(2)`; `None` when the other end is closed. For a worker: its front is the more
    /// trusted side, and its filter allows no `recvmsg`.
    pub fn receive_plain(&self, buffer: &mut PacketBuffer) -> Result<Option<R>, ChannelError> {
        // MSG_TRUNC makes the kernel return the packet's real length, so a cut packet is seen.
        let length = retry(|| recv(self.socket.as_raw_fd(), &mut buffer.0, MsgFlags::MSG_TRUNC))?;
        match length {
            0 => Ok(None),
            n => Ok(Some(frame::decode(buffer.0.get(..n).ok_or(FrameError::TooLong(n))?)?)),
        }
    }

    /// Receives one message from an end that may send no descriptors; `None` when the other end is closed.
    ///
    /// Without room for control data the kernel installs none that were sent and sets `MSG_CTRUNC`; that alone is an
    /// error, since an honest peer never sends any.
    pub fn receive(&self, buffer: &mut PacketBuffer) -> Result<Option<R>, ChannelError> {
        let (length, flags) = retry(|| {
            let mut iov = [IoSliceMut::new(&mut buffer.0)];
            let message = recvmsg::<()>(self.socket.as_raw_fd(), &mut iov, None, MsgFlags::MSG_CMSG_CLOEXEC)?;
            Ok((message.bytes, message.flags))
        })?;
        if flags.contains(MsgFlags::MSG_CTRUNC) {
            return Err(ChannelError::Descriptors);
        }
        self.finish(buffer, length, flags)
    }

    /// Receives one message and the descriptors that ride along, `N` at most; `None` when the other end is closed.
    pub fn receive_with<const N: usize>(
        &self,
        buffer: &mut PacketBuffer,
    ) -> Result<Option<(R, Vec<OwnedFd>)>, ChannelError> {
        // Room for all that one message can carry: what is cut off is installed all the same, and then lost to us.
        let mut control = cmsg_space!([i32; SCM_MAX_FD]);
        let (length, flags, fds) = retry(|| {
            let mut iov = [IoSliceMut::new(&mut buffer.0)];
            let socket = self.socket.as_raw_fd();
            let message = recvmsg::<()>(socket, &mut iov, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
            let mut fds = Vec::new();
            for part in message.cmsgs()? {
                if let ControlMessageOwned::ScmRights(raw) = part {
                    fds.extend(raw.into_iter().map(adopt));
                }
            }
            Ok((message.bytes, message.flags, fds))
        })?;
        // What came too much is closed by its drop.
        if flags.contains(MsgFlags::MSG_CTRUNC) || fds.len() > N {
            return Err(ChannelError::Descriptors);
        }
        Ok(self.finish(buffer, length, flags)?.map(|message| (message, fds)))
    }

    /// Makes sends and receives return at once.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let flags = OFlag::from_bits_retain(fcntl(&self.socket, FcntlArg::F_GETFL)?);
        fcntl(&self.socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(())
    }

    /// The socket, to pass it on.
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }

    fn finish(&self, buffer: &PacketBuffer, length: usize, flags: MsgFlags) -> Result<Option<R>, ChannelError> {
        if flags.contains(MsgFlags::MSG_TRUNC) {
            return Err(FrameError::TooLong(length.saturating_add(1)).into());
        }
        match length {
            // An empty packet reads the same as the end; both finish the channel.
            0 => Ok(None),
            n => Ok(Some(frame::decode(&buffer.0[..n])?)),
        }
    }
}

impl<S, R> AsFd for Channel<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<S, R> AsRawFd for Channel<S, R> {
    fn as_raw_fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }
}

/// Most descriptors that the kernel lets one message carry.
const SCM_MAX_FD: usize = 253;

/// Room for the largest packet; kept between receives.
#[derive(Debug)]
pub struct PacketBuffer(Box<[u8]>);

impl Default for PacketBuffer {
    fn default() -> Self {
        Self(vec![0; MAX_FRAME].into_boxed_slice())
    }
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::{FromWorker, ToWorker};

    /// How many descriptors of this process are this very socket; other tests open their own meanwhile.
    fn copies(socket: &impl AsRawFd) -> usize {
        let name = |fd: String| std::fs::read_link(format!("/proc/self/fd/{fd}")).ok();
        let ours = name(socket.as_raw_fd().to_string());
        let all = std::fs::read_dir("/proc/self/fd").unwrap();
        all.filter(|e| name(e.as_ref().unwrap().file_name().into_string().unwrap()) == ours).count()
    }

    #[test]
    fn messages_and_descriptors_arrive_whole() {
        let (front, worker) = pair::<ToWorker, FromWorker>().unwrap();
        let mut buffer = PacketBuffer::default();
        front.send(&ToWorker::Ping { token: 1 }).unwrap();
        assert_eq!(worker.receive_plain(&mut buffer).unwrap(), Some(ToWorker::Ping { token: 1 }));
        worker.send_with(&FromWorker::Pong { token: 2 }, &[worker.as_fd()]).unwrap();
        let (message, fds) = front.receive_with::<2>(&mut buffer).unwrap().unwrap();
        assert_eq!((message, fds.len()), (FromWorker::Pong { token: 2 }, 1));
        drop(worker);
        drop(fds);
        assert_eq!(front.receive(&mut buffer).unwrap(), None);
    }

    #[test]
    fn unasked_descriptors_are_refused_and_not_kept() {
        let (front, worker) = pair::<ToWorker, FromWorker>().unwrap();
        let mut buffer = PacketBuffer::default();
        let many: Vec<BorrowedFd<'_>> = std::iter::repeat_n(worker.as_fd(), 200).collect();
        worker.send_with(&FromWorker::Pong { token: 2 }, &many).unwrap();
        assert!(matches!(front.receive(&mut buffer), Err(ChannelError::Descriptors)));
        worker.send_with(&FromWorker::Pong { token: 2 }, &many).unwrap();
        assert!(matches!(front.receive_with::<2>(&mut buffer), Err(ChannelError::Descriptors)));
        assert_eq!(copies(&worker), 1);
    }

    #[test]
    fn a_packet_that_is_too_long_is_an_error() {
        let (front, worker) = pair::<ToWorker, FromWorker>().unwrap();
        let mut buffer = PacketBuffer::default();
        let long = vec![0u8; MAX_FRAME + 1];
        send(worker.as_raw_fd(), &long, MsgFlags::empty()).unwrap();
        assert!(matches!(front.receive(&mut buffer), Err(ChannelError::Frame(FrameError::TooLong(_)))));
        send(front.as_raw_fd(), &long, MsgFlags::empty()).unwrap();
        assert!(matches!(worker.receive_plain(&mut buffer), Err(ChannelError::Frame(FrameError::TooLong(_)))));
    }
}
