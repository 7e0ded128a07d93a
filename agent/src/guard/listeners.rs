//! The agent's listeners in a network namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use interdict_ebpf::{DNS_SLOTS, LISTENER_PORTS, Listener};
use socket2::{Domain, Protocol, Socket, Type};

use crate::model::{ListenerAddr, NetnsCookie};

use super::error::GuardError;
use super::sys;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// The listeners of the namespace that the agent itself runs in: 127.0.0.1 and, where there is IPv6, `::1`, each on
/// several ports that the kernel chose. Never `SO_REUSEPORT`: another process of the same user could share the port.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) netns: NetnsCookie,
    pub(super) sockets: Vec<(TcpListener, ListenerAddr)>,
    /// For questions to servers of names: of each family [`DNS_SLOTS`] ports that follow each other.
    pub(super) dns: Vec<(UdpSocket, ListenerAddr)>,
}

/// How often ports that follow each other are looked for.
const ATTEMPTS: usize = 64;

impl Listeners {
    /// Opens them, non-blocking.
    ///
    /// # Errors
    /// Where not even 127.0.0.1 can be listened on.
    pub(super) fn open() -> Result<Self, GuardError> {
        let mut sockets = Vec::new();
        for _ in 0..LISTENER_PORTS {
            sockets.push(listen((Ipv4Addr::LOCALHOST, 0).into())?);
        }
        let failed = |source| GuardError::Listen {
            address: "127.0.0.1".into(),
            source,
        };
        let first = sockets
            .first()
            .ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
        let netns = sys::netns_cookie(&first.0).map_err(failed)?;
        for _ in 0..LISTENER_PORTS {
            match listen((Ipv6Addr::LOCALHOST, 0).into()) {
                Ok(v6) => sockets.push(v6),
                // Then native IPv6 destinations are denied: they cannot be redirected.
                Err(error) => {
                    tracing::info!(%error, "no IPv6 loopback here");
                    break;
                }
            }
        }
        let dns = Self::names(sockets.iter().any(|(_, address)| address.0.is_ipv6()))?;
        Ok(Self { netns, sockets, dns })
    }

    /// Those that an agent before opened, in one namespace; `None` where there is none.
    ///
    /// # Errors
    /// Where one of them is no listener of a namespace.
    pub(super) fn kept(sockets: Vec<TcpListener>) -> std::io::Result<Option<Self>> {
        let Some(first) = sockets.first() else {
            return Ok(None);
        };
        let netns = sys::netns_cookie(first)?;
        let addressed = |socket: TcpListener| {
            socket.set_nonblocking(true)?;
            let address = ListenerAddr(socket.local_addr()?);
            Ok((socket, address))
        };
        let sockets = sockets
            .into_iter()
            .map(addressed)
            .collect::<std::io::Result<_>>()?;
        Ok(Some(Self {
            netns,
            sockets,
            dns: Vec::new(),
        }))
    }

    /// Opens the sockets for questions to servers of names, not blocking.
    ///
    /// # Errors
    /// Where there are no ports that follow each other.
    pub(super) fn names(v6: bool) -> Result<Vec<(UdpSocket, ListenerAddr)>, GuardError> {
        let mut dns = consecutive(Ipv4Addr::LOCALHOST.into())?;
        if v6 {
            dns.extend(consecutive(Ipv6Addr::LOCALHOST.into())?);
        }
        Ok(dns)
    }

    /// What the hooks need to know.
    pub(super) fn entry(&self) -> Listener {
        let ports = |v4| {
            let all = || self.sockets.iter().filter(|(_, a)| a.0.is_ipv4() == v4);
            let mut ports = [0; LISTENER_PORTS];
            for (place, (_, address)) in ports.iter_mut().zip(all().cycle()) {
                *place = address.0.port();
            }
            ports
        };
        let first = |v4| {
            let mut all = self.dns.iter().filter(|(_, a)| a.0.is_ipv4() == v4);
            all.next().map_or(0, |(_, address)| address.0.port())
        };
        Listener {
            v4_ports: ports(true),
            v6_ports: ports(false),
            v4_dns: first(true),
            v6_dns: first(false),
        }
    }
}

/// Sockets on ports that follow each other.
fn consecutive(ip: IpAddr) -> Result<Vec<(UdpSocket, ListenerAddr)>, GuardError> {
    let failed = |source| GuardError::Listen {
        address: format!("{ip} (UDP)"),
        source,
    };
    for _ in 0..ATTEMPTS {
        let first = UdpSocket::bind((ip, 0)).map_err(failed)?;
        let port = first.local_addr().map_err(failed)?.port();
        let Some(last) = port.checked_add(DNS_SLOTS - 1) else {
            continue;
        };
        let others = (port + 1..=last).map(|port| UdpSocket::bind((ip, port)));
        let all: std::io::Result<Vec<UdpSocket>> = std::iter::once(Ok(first)).chain(others).collect();
        // Somebody else has one of them.
        let Ok(all) = all else { continue };
        return all
            .into_iter()
            .map(|socket| {
                socket.set_nonblocking(true)?;
                let bound = socket.local_addr()?;
                Ok((socket, ListenerAddr(bound)))
            })
            .collect::<std::io::Result<_>>()
            .map_err(failed);
    }
    Err(failed(std::io::ErrorKind::AddrInUse.into()))
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
