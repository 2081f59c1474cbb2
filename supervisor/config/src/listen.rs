//! Where the server may listen: loopback, and nothing else, until there are TLS and authentication to go with more (D1, D2).

use std::net::SocketAddr;

use thiserror::Error;

/// Why an address is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ListenError {
    /// Not a numeric address with a port. Names are not resolved: what they mean can change behind the operator's back.
    #[error(
        "listen.{key} = {text:?} is not an address and port; write the address in numbers, for example 127.0.0.1:8080 \
         or [::1]:8080"
    )]
    Address {
        /// Which listener.
        key: &'static str,
        /// What was written.
        text: String,
    },
    /// Every address of the machine.
    #[error(
        "listen.{key} = {text:?} would accept connections from everywhere; this version listens on loopback only \
         (127.0.0.1 or [::1]), put a TLS-terminating proxy on this host in front of it"
    )]
    Wildcard {
        /// Which listener.
        key: &'static str,
        /// What was written.
        text: String,
    },
    /// An address that others can reach.
    #[error(
        "listen.{key} = {text:?} can be reached from other machines; this version listens on loopback only \
         (127.0.0.1 or [::1]), put a TLS-terminating proxy on this host in front of it"
    )]
    Exposed {
        /// Which listener.
        key: &'static str,
        /// What was written.
        text: String,
    },
}

/// An address that only this host can reach.
pub fn loopback(key: &'static str, text: &str) -> Result<SocketAddr, ListenError> {
    let address: SocketAddr =
        text.trim().parse().map_err(|_| ListenError::Address { key, text: text.chars().take(200).collect() })?;
    let ip = address.ip().to_canonical();
    if ip.is_unspecified() {
        return Err(ListenError::Wildcard { key, text: text.to_owned() });
    }
    if !ip.is_loopback() {
        return Err(ListenError::Exposed { key, text: text.to_owned() });
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d2_every_spelling_of_everywhere_is_refused() {
        let bad = [
            "0.0.0.0:8080",
            "[::]:8080",
            "[::ffff:0.0.0.0]:8080",
            "0:8080",
            "*:8080",
            ":8080",
            "8080",
            "",
            "localhost:8080",
            "example.org:80",
            "10.0.0.1:8080",
            "192.168.1.1:80",
            "8.8.8.8:80",
            "[::ffff:10.0.0.1]:80",
            "[2001:db8::1]:80",
            "[fe80::1]:80",
            "127.0.0.1",
            "http://127.0.0.1:8080",
            "127.1:8080",
            "0x7f000001:80",
        ];
        for text in bad {
            assert!(loopback("inference", text).is_err(), "{text:?} passed");
        }
        for text in ["127.0.0.1:8080", "127.0.0.2:0", "[::1]:8080", "[::ffff:127.0.0.1]:80"] {
            assert!(loopback("inference", text).is_ok(), "{text:?} was refused");
        }
    }
}
