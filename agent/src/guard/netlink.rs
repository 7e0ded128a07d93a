//! The few words of netlink that the guard needs (netlink(7), sock_diag(7), rtnetlink(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// Largest answer that is read at once.
const BUFFER: usize = 64 * 1024;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const RTM_NEWLINK: u16 = 16;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// `INET_DIAG_CGROUP_ID` (Linux 5.7).
const CGROUP_ID: u16 = 21;

/// Bytes of `inet_diag_sockid`.
const ID: usize = 48;
/// Bytes of `inet_diag_msg`, which attributes follow.
const MESSAGE: usize = 72;

/// `TCP_ESTABLISHED`, `SYN_SENT`, `SYN_RECV`, `FIN_WAIT1`, `FIN_WAIT2`, `CLOSE_WAIT`, `LAST_ACK`, `CLOSING`, as bits: whatever
/// has a peer. UDP sockets with a peer count as established.
const WITH_PEER: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// A socket that has a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Connected {
    family: u8,
    protocol: u8,
    id: [u8; ID],
    /// Its peer.
    pub(super) peer: SocketAddr,
    /// Its inode, as in `/proc/PID/fd`.
    pub(super) inode: u64,
    /// The cgroup that it was made in; `None` on kernels that do not say.
    pub(super) cgroup: Option<u64>,
}

/// Every TCP and UDP socket of this thread's network namespace that has a peer.
///
/// # Errors
/// The kernel's.
pub(super) fn connected() -> io::Result<Vec<Connected>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
            let (family, protocol) = (narrow(family), narrow(protocol));
            let mut request = vec![family, protocol, 0, 0];
            request.extend(WITH_PEER.to_ne_bytes());
            request.extend([0; ID]);
            let socket = open(Some(netlink::SOCK_DIAG))?;
            ask(&socket, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &request)?;
            answers(&socket, |kind, body| {
                if kind == SOCK_DIAG_BY_FAMILY {
                    found.extend(read(body, protocol));
                }
            })?;
        }
    }
    Ok(found)
}

/// Ends a connection as if its peer had reset it (`CONFIG_INET_DIAG_DESTROY`).
///
/// # Errors
/// Where the kernel cannot, or the socket is gone.
pub(super) fn destroy(connected: &Connected) -> io::Result<()> {
    let Connected {
        family, protocol, id, ..
    } = connected;
    let mut request = vec![*family, *protocol, 0, 0];
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(id);
    let socket = open(Some(netlink::SOCK_DIAG))?;
    ask(&socket, SOCK_DESTROY, NLM_F_ACK, &request)?;
    answers(&socket, |_, _| ())
}

/// Brings the loopback interface of this thread's network namespace up.
///
/// # Errors
/// Where that is not allowed.
pub(super) fn raise_loopback() -> io::Result<()> {
    const UP: u32 = 1;
    // ifinfomsg: family, padding, type, index (the loopback is the first of every namespace), flags, change mask.
    let mut request = vec![0; 4];
    request.extend(1u32.to_ne_bytes());
    request.extend(UP.to_ne_bytes());
    request.extend(UP.to_ne_bytes());
    let socket = open(None)?;
    ask(&socket, RTM_NEWLINK, NLM_F_ACK, &request)?;
    answers(&socket, |_, _| ())
}

fn narrow(number: i32) -> u8 {
    u8::try_from(number).unwrap_or_default()
}

/// `None` is routing (`NETLINK_ROUTE` is 0).
fn open(protocol: Option<rustix::net::Protocol>) -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )?;
    Ok(socket)
}

/// `struct nlmsghdr`, then the body.
fn ask(socket: &OwnedFd, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(16 + body.len()).map_err(io::Error::other)?;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    message.extend(body);
    let kernel = SocketAddrNetlink::new(0, 0);
    sendto(socket, &message, SendFlags::empty(), &kernel)?;
    Ok(())
}

/// Reads answers until the kernel says that there is no more; an error that it says is one here.
fn answers(socket: &OwnedFd, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let (read, _) = recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = buffer.get(..read).unwrap_or_default();
        while let Some((kind, body, after)) = next(rest) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return match code {
                        0 => Ok(()),
                        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                    };
                }
                kind => each(kind, body),
            }
            rest = after;
        }
    }
}

/// The first message of a buffer: its kind, its body, what follows.
fn next(buffer: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*buffer.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*buffer.get(4..)?.first_chunk()?);
    let body = buffer.get(16..length)?;
    let after = buffer.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, after))
}

/// `struct inet_diag_msg` with its attributes.
fn read(body: &[u8], protocol: u8) -> Option<Connected> {
    let family = *body.first()?;
    let id = *body.get(4..)?.first_chunk::<ID>()?;
    let inode = u32::from_ne_bytes(*body.get(MESSAGE - 4..)?.first_chunk()?);
    let mut rest = body.get(MESSAGE..)?;
    let mut cgroup = None;
    while let Some(length) = rest.first_chunk().map(|l| usize::from(u16::from_ne_bytes(*l))) {
        let kind = rest
            .get(2..)
            .and_then(|r| r.first_chunk())
            .map(|k| u16::from_ne_bytes(*k));
        if length < 4 {
            break;
        }
        if kind.is_some_and(|kind| kind & 0x3fff == CGROUP_ID) {
            cgroup = rest
                .get(4..)
                .and_then(|r| r.first_chunk())
                .map(|id| u64::from_ne_bytes(*id));
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    // inet_diag_sockid: two ports, two addresses of 16 bytes, all in network order.
    let [_, _, p, q, ..] = id;
    let far: [u8; 16] = *id.get(20..)?.first_chunk()?;
    let ip = if i32::from(family) == libc::AF_INET {
        IpAddr::V4(Ipv4Addr::from(*far.first_chunk::<4>()?))
    } else {
        IpAddr::V6(far.into())
    };
    Some(Connected {
        family,
        protocol,
        id,
        peer: SocketAddr::new(ip, u16::from_be_bytes([p, q])),
        inode: inode.into(),
        cgroup,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Finds a connection of this very process, and ends it where that is allowed.
    #[test]
    fn a_connection_is_found_and_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listener");
        let mut near = TcpStream::connect(listener.local_addr().expect("address")).expect("connected");
        let port = near.local_addr().expect("address").port();
        let _far = listener.accept().expect("accepted");
        let all = connected().expect("listed");
        let of_port = |c: &&Connected| c.id.first_chunk() == Some(&port.to_be_bytes());
        let found = all.iter().find(of_port).expect("the connection");
        assert!(found.inode > 0);
        assert_eq!(found.peer, listener.local_addr().expect("address"));
        if rustix::process::geteuid().is_root() {
            destroy(found).expect("ended");
            let error = near.read(&mut [0; 1]).expect_err("aborted");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        }
    }

    #[test]
    fn broken_answers_are_no_sockets() {
        for length in 0..100usize {
            let bytes = vec![0xff; length];
            let _no_panic = (read(&bytes, 6), next(&bytes).is_some());
        }
    }
}
