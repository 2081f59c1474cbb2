//! What the processes say to each other: frames, their messages, and the descriptors that ride along.

use std::fmt::Debug;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use casemate_front::fleet::sanitise::check_declared;
use casemate_ipc::frame::{self, MAX_FRAME, Message};
use casemate_ipc::launch::{Grant, LaunchReply, LaunchRequest};
use casemate_ipc::seqpacket::{PacketBuffer, pair};
use casemate_ipc::tensor::{MAX_NAME, MAX_RANK, TensorSpec};
use casemate_ipc::work::{FromWorker, ToWorker};
use casemate_ipc::zygote::{Cradle, FromNewborn, FromZygote, ToZygote};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// A whole packet, as any kind of message.
pub fn frame(packet: &[u8]) {
    decode::<LaunchRequest>(packet);
    decode::<LaunchReply>(packet);
    decode::<ToWorker>(packet);
    decode::<FromWorker>(packet);
    decode::<Grant>(packet);
    decode::<ToZygote>(packet);
    decode::<FromZygote>(packet);
    decode::<Cradle>(packet);
    decode::<FromNewborn>(packet);
}

/// The bodies of what a front and a worker say.
pub fn work(body: &[u8]) {
    decode::<ToWorker>(&framed::<ToWorker>(body));
    let Some(FromWorker::Verified { declared, inside: _ }) = decode::<FromWorker>(&framed::<FromWorker>(body)) else {
        return;
    };
    if check_declared(&declared).is_ok() {
        let fits = |spec: &TensorSpec| spec.name.len() <= MAX_NAME && spec.dims.len() <= MAX_RANK;
        let signature = &declared.signature;
        assert!(signature.inputs.iter().chain(&signature.outputs).all(fits), "an impossible declaration is believed");
        for spec in signature.inputs.iter().chain(&signature.outputs) {
            assert!(spec.check(&spec.smallest()).is_ok() && spec.smallest().bytes(spec.dtype).is_ok(), "{spec}");
            assert_eq!(spec.to_string().parse::<TensorSpec>().as_ref(), Ok(spec));
        }
    }
}

/// The bodies of what a front and the launcher say, of what a worker is born with, and of what a zygote says and hears.
pub fn launch(body: &[u8]) {
    decode::<ToZygote>(&framed::<ToZygote>(body));
    decode::<FromZygote>(&framed::<FromZygote>(body));
    decode::<Cradle>(&framed::<Cradle>(body));
    decode::<FromNewborn>(&framed::<FromNewborn>(body));
    decode::<LaunchRequest>(&framed::<LaunchRequest>(body));
    decode::<LaunchReply>(&framed::<LaunchReply>(body));
    decode::<Grant>(&framed::<Grant>(body));
}

/// A packet with descriptors over a real socket. The first byte is how many ride along, the second how it is received.
pub fn channel(data: &[u8]) {
    let [count, how, packet @ ..] = data else { return };
    let (front, worker) = pair::<ToWorker, FromWorker>().unwrap();
    front.set_nonblocking().unwrap();
    let (reader, writer) = nix::unistd::pipe().unwrap();
    post(&worker, packet, &writer, usize::from(*count).min(253));
    drop(worker);
    let mut buffer = PacketBuffer::default();
    let carried = match how % 3 {
        0 => front.receive(&mut buffer).map(|message| message.map(|_| Vec::new())),
        1 => front.receive_plain(&mut buffer).map(|message| message.map(|_| Vec::new())),
        _ => front.receive_with::<2>(&mut buffer).map(|message| message.map(|(_, fds)| fds)),
    };
    if let Ok(Some(fds)) = carried {
        let wanted = if how % 3 == 2 { usize::from(*count) } else { 0 };
        assert!(fds.len() == wanted && wanted <= 2, "{} descriptors for {count} sent", fds.len());
        // `recv` drops what rides along without a word; `recvmsg` without room for it is an error.
        assert!(how % 3 != 0 || *count == 0, "{count} descriptors went unnoticed");
    }
    drop((writer, front));
    assert!(is_hung_up(&reader), "a descriptor stays behind");
}

fn post(socket: &impl AsRawFd, packet: &[u8], rider: &OwnedFd, count: usize) {
    let raw = vec![rider.as_raw_fd(); count];
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if count == 0 { &rights[..0] } else { &rights[..] };
    // A packet that the kernel does not take is no packet.
    let _ = sendmsg::<()>(socket.as_raw_fd(), &[std::io::IoSlice::new(packet)], rights, MsgFlags::MSG_NOSIGNAL, None);
}

/// Whether nobody holds the other end of a pipe any more, which counts no descriptor of any other thread.
fn is_hung_up(reader: &impl AsFd) -> bool {
    let reader: BorrowedFd<'_> = reader.as_fd();
    let mut polled = [PollFd::new(reader, PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO).unwrap();
    polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

/// Decodes, and holds what comes of it to the bytes: two packets never mean the same message.
fn decode<M: Message + Debug>(packet: &[u8]) -> Option<M> {
    let message = frame::decode::<M>(packet).ok()?;
    assert!(packet.len() <= MAX_FRAME);
    assert_eq!(frame::encode(&message).unwrap(), packet, "{message:?}");
    Some(message)
}

/// A body with the header that belongs to it, so that a mutation of the length is not the only one that matters.
fn framed<M: Message>(body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x5E, 0xCA, 1, M::KIND];
    packet.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    packet.extend(body);
    packet
}
