//! The only unsafe code of the agent: system calls that no library wraps.
#![expect(
    unsafe_code,
    reason = "SO_NETNS_COOKIE, close_range, adjtimex, seccomp and readiness have no safe wrapper"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::model::NetnsCookie;

/// `SO_NETNS_COOKIE` (Linux 5.14, include/uapi/asm-generic/socket.h).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The cookie of the network namespace that `socket` lives in.
pub(super) fn netns_cookie(socket: impl AsFd) -> io::Result<NetnsCookie> {
    let mut cookie = 0u64;
    let mut length = libc::socklen_t::from(8u8);
    // SAFETY: the descriptor is open for the call, the buffer is eight bytes and lives on this stack, the length says so.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(NetnsCookie(cookie))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `SIOCGSKNS` (Linux 4.10, include/uapi/linux/sockios.h).
const SIOCGSKNS: libc::Ioctl = 0x894c;

/// The network namespace that `socket` lives in.
pub(super) fn namespace_of(socket: impl AsFd) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is open for the call; no memory is passed.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCGSKNS) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

/// Descriptors that the service manager handed over: `count` of them from 3 on (sd_listen_fds(3)), none at a second call.
pub fn inherited_descriptors(count: u8) -> Vec<io::Result<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let take = |number| {
        // SAFETY: no memory is passed. A number that is no descriptor fails here; one that is gets closed on exec.
        let result = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it is open, the service manager gave it to this process, and only this call, which happens once, takes it.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    };
    (3..3 + libc::c_int::from(count)).map(take).collect()
}

/// Closes every descriptor but standard input, output and error at the next `exec` (`close_range`, Linux 5.11): whoever
/// started the agent may have left connected sockets open.
pub(super) fn close_others_on_exec() -> io::Result<()> {
    let flags = libc::c_int::try_from(libc::CLOSE_RANGE_CLOEXEC).unwrap_or_default();
    // SAFETY: no memory is passed; descriptors stay open until `exec`, so no owner of one is disturbed.
    let result = unsafe { libc::close_range(3, libc::c_uint::MAX, flags) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `SECCOMP_IOCTL_NOTIF_RECV` and `_SEND` (include/uapi/linux/seccomp.h): `_IOWR('!', 0, 80 bytes)`, `_IOWR('!', 1, 24 bytes)`.
const NOTIF_RECV: libc::Ioctl = 0xc050_2100_u32 as libc::Ioctl;
const NOTIF_SEND: libc::Ioctl = 0xc018_2101_u32 as libc::Ioctl;
const _: () = assert!(size_of::<libc::seccomp_notif>() == 80 && size_of::<libc::seccomp_notif_resp>() == 24);

/// Installs a system call filter for this thread and all that it becomes and starts (seccomp(2)); the caller has
/// CAP_SYS_ADMIN or no new privileges. With `listen`, the descriptor where stopped calls are told.
pub(super) fn install_filter(
    program: &[seccompiler::sock_filter],
    listen: bool,
) -> io::Result<Option<OwnedFd>> {
    let length = libc::c_ushort::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog {
        len: length,
        // The kernel reads it only. Both types are the kernel's own `struct sock_filter`.
        filter: program.as_ptr().cast_mut().cast(),
    };
    let flags = if listen {
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER
    } else {
        0
    };
    // SAFETY: the program lives through the call, its length is the slice's; the kernel copies and checks it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::c_ulong::from(libc::SECCOMP_SET_MODE_FILTER),
            flags,
            &raw const program,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if !listen {
        return Ok(None);
    }
    let descriptor = libc::c_int::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(descriptor) }))
}

/// A system call that the filter stopped; its caller waits for `refuse`.
#[derive(Debug)]
pub(super) struct Refused {
    id: u64,
    thread: u32,
    call: i64,
    argument: u32,
}

impl Refused {
    /// The thread that made it.
    pub(super) const fn thread(&self) -> u32 {
        self.thread
    }

    /// Its number; calls of the x32 ABI under the number of their 64-bit twins.
    pub(super) const fn call(&self) -> i64 {
        self.call & !0x4000_0000
    }

    /// Its first argument, as far as an `int` holds it.
    pub(super) const fn argument(&self) -> u32 {
        self.argument
    }
}

/// The next call that was stopped. Waits for one.
pub(super) fn next_refused(listener: BorrowedFd<'_>) -> io::Result<Refused> {
    // SAFETY: all zeros is a valid `seccomp_notif`, and what the kernel wants it to be.
    let mut told: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open for the call; the structure has the size that the request names.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_RECV, &raw mut told) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let [first, ..] = told.data.args;
    Ok(Refused {
        id: told.id,
        thread: told.pid,
        call: i64::from(told.data.nr),
        argument: u32::try_from(first & u64::from(u32::MAX)).unwrap_or_default(),
    })
}

/// Lets the stopped call fail with `errno`.
pub(super) fn refuse(listener: BorrowedFd<'_>, refused: &Refused, errno: i32) -> io::Result<()> {
    let mut answer = libc::seccomp_notif_resp {
        id: refused.id,
        val: 0,
        error: -errno,
        flags: 0,
    };
    // SAFETY: the descriptor is open for the call; the structure has the size that the request names.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SEND, &raw mut answer) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// `union bpf_attr` as `BPF_PROG_QUERY` reads it (Linux 4.15, include/uapi/linux/bpf.h).
#[repr(C)]
struct ProgQuery {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
}
const _: () = assert!(size_of::<ProgQuery>() == 32);

/// The ids of all programs that run for processes in `cgroup` where `attach_type` says, in the order in which they run; at most
/// 256.
pub(super) fn effective_programs(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    const BPF_PROG_QUERY: libc::c_long = 16;
    const BPF_F_QUERY_EFFECTIVE: u32 = 1;
    const MOST: u32 = 256;
    let mut ids = [0_u32; MOST as usize];
    let mut query = ProgQuery {
        target_fd: u32::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?,
        attach_type,
        query_flags: BPF_F_QUERY_EFFECTIVE,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr().expose_provenance() as u64,
        prog_cnt: MOST,
        pad: 0,
    };
    // SAFETY: the structure and the array that it points to live through the call, their sizes are those that are named; the kernel
    // writes no more ids than it is told there is room for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            &raw mut query,
            size_of::<ProgQuery>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ids.into_iter().take(query.prog_cnt as usize).collect())
}

/// Whether somebody keeps the clock right, as far as the kernel was told (adjtimex(2)).
///
/// # Errors
/// Where the kernel does not say.
pub fn clock_is_kept() -> io::Result<bool> {
    let mut state = std::mem::MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: all zeros is a valid `timex` that asks for nothing but the state; the kernel fills it.
    let result = unsafe { libc::adjtimex(state.as_mut_ptr()) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        libc::TIME_ERROR => Ok(false),
        _ => Ok(true),
    }
}

/// Readiness of a descriptor that `owner` owns for as long as it lives.
pub(super) fn readable<T: OwnsDescriptor>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: an `OwnsDescriptor` keeps its descriptor open and the same until it is dropped, and `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE) }?)
}

/// A value that owns one descriptor and never replaces or closes it before it is dropped.
pub(super) trait OwnsDescriptor: AsRawFd {}
