//! The agent's listeners in a network namespace.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use interdict_ebpf::Listener;
use socket2::{Domain, Protocol, Socket, Type};

use crate::model::{ListenerAddr, NetnsCookie};

use super::error::GuardError;
use super::sys;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// The listeners of the namespace that the agent itself runs in: 127.0.0.1 and, where there is IPv6, `::1`, on ports
/// that the kernel chose. Never `SO_REUSEPORT`: another process of the same user could share the port.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) netns: NetnsCookie,
    pub(super) sockets: Vec<(TcpListener, ListenerAddr)>,
}

impl Listeners {
    /// Opens them, non-blocking.
    ///
    /// # Errors
    /// Where not even 127.0.0.1 can be listened on.
    pub(super) fn open() -> Result<Self, GuardError> {
        let v4 = listen((Ipv4Addr::LOCALHOST, 0).into())?;
        let failed = |source| GuardError::Listen {
            address: "127.0.0.1".into(),
            source,
        };
        let netns = sys::netns_cookie(&v4.0).map_err(failed)?;
        let mut sockets = vec![v4];
        match listen((Ipv6Addr::LOCALHOST, 0).into()) {
            Ok(v6) => sockets.push(v6),
            // Then native IPv6 destinations are denied: they cannot be redirected.
            Err(error) => tracing::info!(%error, "no IPv6 loopback here"),
        }
        Ok(Self { netns, sockets })
    }

    /// What the hooks need to know.
    pub(super) fn entry(&self) -> Listener {
        let port = |v4| {
            self.sockets
                .iter()
                .find(|(_, a)| a.0.is_ipv4() == v4)
                .map_or(0, |(_, a)| a.0.port())
        };
        Listener {
            v4_port: port(true),
            v6_port: port(false),
            pad: 0,
        }
    }
}

fn listen(address: SocketAddr) -> Result<(TcpListener, ListenerAddr), GuardError> {
    let failed = |source| GuardError::Listen {
        address: address.ip().to_string(),
        source,
    };
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).map_err(failed)?;
    if address.is_ipv6() {
        socket.set_only_v6(true).map_err(failed)?;
    }
    socket.bind(&address.into()).map_err(failed)?;
    socket.listen(BACKLOG).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    let listener = TcpListener::from(socket);
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, ListenerAddr(bound)))
}
