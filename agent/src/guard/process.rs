//! From what the kernel wrote down to a `Process`. `/proc` is for enrichment only: the start time is compared, so that
//! a reused process id is not taken for the one that connected.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;

use interdict_ebpf::{Address, Identity};

use crate::model::{Executable, NetnsCookie, Process};

/// Ticks of `/proc/PID/stat` a second (USER_HZ, fixed at 100 for user space on every supported architecture).
const NANOS_PER_TICK: u64 = 10_000_000;

/// The process behind `identity`.
pub(super) fn enrich(identity: &Identity) -> Process {
    let (start_ns, exe) = look(identity.tgid);
    let comm = identity.comm.split(|b| *b == 0).next().unwrap_or_default();
    Process {
        tgid: identity.tgid,
        start_ns,
        uid: identity.uid,
        gid: identity.gid,
        exe,
        cgroup: identity.cgroup,
        netns: NetnsCookie(identity.netns),
        comm: String::from_utf8_lossy(comm).into_owned(),
    }
}

fn look(tgid: u32) -> (u64, Executable) {
    let before = start(tgid);
    let exe = executable(tgid);
    // The same start before and after: the executable is that process's.
    match (before, start(tgid)) {
        (Some(a), Some(b)) if a == b => (a, exe.unwrap_or_default()),
        _ => (0, Executable::default()),
    }
}

fn start(tgid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{tgid}/stat")).ok()?;
    // The second field may hold anything, brackets too: fields count from the last bracket.
    let (_, rest) = stat.rsplit_once(") ")?;
    let ticks: u64 = rest.split_ascii_whitespace().nth(19)?.parse().ok()?;
    Some(ticks.saturating_mul(NANOS_PER_TICK))
}

fn executable(tgid: u32) -> Option<Executable> {
    let link = format!("/proc/{tgid}/exe");
    let meta = fs::metadata(&link).ok()?;
    let path = fs::read_link(&link).ok()?;
    Some(Executable {
        device: meta.dev(),
        inode: meta.ino(),
        path: path.to_string_lossy().into_owned(),
    })
}

/// The kernel half's address as a socket address; v4-mapped addresses become IPv4.
pub(super) fn socket_address(address: &Address) -> SocketAddr {
    SocketAddr::new(
        IpAddr::V6(Ipv6Addr::from(address.ip)).to_canonical(),
        address.port,
    )
}

/// A socket address in the kernel half's form.
pub(super) fn kernel_address(address: SocketAddr) -> Address {
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    Address::v6(ip.octets(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_and_nobody_is_not_invented() {
        let identity = Identity {
            tgid: std::process::id(),
            comm: *b"me\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            ..Identity::default()
        };
        let me = enrich(&identity);
        assert_eq!(me.comm, "me");
        assert!(me.start_ns > 0 && me.exe.inode > 0 && !me.exe.path.is_empty());
        let gone = enrich(&Identity {
            tgid: u32::MAX,
            ..Identity::default()
        });
        assert_eq!((gone.start_ns, gone.exe.path.as_str()), (0, ""));
    }

    #[test]
    fn addresses_read_back() {
        for text in ["10.0.0.7:5432", "[2001:db8::7]:53"] {
            let address: SocketAddr = text.parse().expect("address");
            assert_eq!(socket_address(&kernel_address(address)), address);
        }
    }
}
