//! The only unsafe code of the agent: system calls that no library wraps.
#![expect(
    unsafe_code,
    reason = "SO_NETNS_COOKIE, close_range, adjtimex and readiness have no safe wrapper"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

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
