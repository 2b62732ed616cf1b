//! Ports that stay a server's own while it is down.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range from which systems give ports to outgoing connections (32768 on, on Linux), so that no client's
/// connection takes the port of a server that is being restarted.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A port of loopback that no other test uses, in this process or another, until this is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    // The same port of UDP, which no server here uses, is the flag that it is taken: it falls when this process ends.
    _flag: Option<UdpSocket>,
}

impl Port {
    /// Takes a free one.
    ///
    /// # Panics
    /// When none is free.
    pub fn reserve() -> Port {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Processes begin in different places, so that they seldom try the same port.
        let begin = (std::process::id().wrapping_mul(61) % u32::from(COUNT)) as u16;
        for _ in 0..COUNT {
            let number = FIRST + (begin + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
            let Ok(flag) = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)) else { continue };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Port { number, _flag: Some(flag) };
            }
        }
        panic!("no port of loopback from {FIRST} to {} is free", FIRST + COUNT - 1)
    }

    /// This one, whoever uses it.
    pub fn given(number: u16) -> Port {
        Port { number, _flag: None }
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Where a server on it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_nobody_elses_while_nothing_listens_on_it() {
        let ours: Vec<Port> = (0..50).map(|_| Port::reserve()).collect();

        let theirs: Vec<u16> = (0..50).map(|_| Port::reserve().number()).collect();

        assert!(ours.iter().all(|port| !theirs.contains(&port.number())), "{ours:?} and {theirs:?}");
    }
}
