//! The public socket. It is bound here, and heard by the front.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getsockname, listen, setsockopt, socket, sockopt,
};
use thiserror::Error;

/// A bound and listening socket.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: OwnedFd,
    /// Where it listens; with the port that the kernel chose, where the config says 0.
    pub address: SocketAddr,
}

/// Why nobody can be heard.
#[derive(Debug, Error)]
pub enum BindError {
    /// The kernel refused.
    #[error("listening on {address}: {step}: {errno}")]
    Call {
        /// Where.
        address: SocketAddr,
        /// Which call.
        step: &'static str,
        /// Its answer.
        errno: Errno,
    },
    /// Another program listens there.
    #[error("listening on {0}: another program does so already; stop it, or change listen.inference")]
    Taken(SocketAddr),
}

/// Connections that the kernel holds until the front takes them.
const BACKLOG: i32 = 1024;

/// Binds and listens.
pub fn bind_and_listen(address: SocketAddr) -> Result<Listener, BindError> {
    let fault = |step| refused(address, step);
    let socket = bound(address)?;
    listen(&socket, Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN)).map_err(fault("listen"))?;
    let bound =
        getsockname::<SockaddrStorage>(std::os::fd::AsRawFd::as_raw_fd(&socket)).map_err(fault("getsockname"))?;
    let port = bound.as_sockaddr_in().map(|v4| v4.port()).or(bound.as_sockaddr_in6().map(|v6| v6.port()));
    let address = SocketAddr::new(address.ip(), port.unwrap_or(address.port()));
    Ok(Listener { socket, address })
}

/// Whether it could, without ever being heard of: nothing listens, not even for a moment.
pub fn try_bind(address: SocketAddr) -> Result<(), BindError> {
    bound(address).map(drop)
}

fn bound(address: SocketAddr) -> Result<OwnedFd, BindError> {
    let fault = |step| refused(address, step);
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None).map_err(fault("socket"))?;
    // A restart must not wait until the kernel has forgotten the connections of the last run.
    setsockopt(&socket, sockopt::ReuseAddr, &true).map_err(fault("SO_REUSEADDR"))?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(address)).map_err(fault("bind"))?;
    Ok(socket)
}

/// What the kernel's answer to that step means.
fn refused(address: SocketAddr, step: &'static str) -> impl Fn(Errno) -> BindError {
    move |errno| match errno {
        Errno::EADDRINUSE => BindError::Taken(address),
        errno => BindError::Call { address, step, errno },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn it_listens_where_it_says() {
        let listener = bind_and_listen("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_ne!(listener.address.port(), 0);
        TcpStream::connect(listener.address).unwrap();
        assert!(matches!(bind_and_listen(listener.address), Err(BindError::Taken(_))));
        assert!(matches!(try_bind(listener.address), Err(BindError::Taken(_))));
        drop(listener.socket);
        try_bind(listener.address).unwrap();
        bind_and_listen(listener.address).unwrap();
    }
}
