//! The agent's side of the filter: what was stopped is answered with an error and becomes a denial.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use interdict_ebpf::Identity;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{ForeignRawFd, Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tokio::sync::mpsc;

use super::denials::Denial;
use super::process::enrich;
use super::sys::{self, Refused};

/// Denials that wait to be recorded; more are counted.
const WAITING: usize = 1024;

/// Where the filter's denials come from.
#[derive(Debug)]
pub(super) struct Stopped {
    pub(super) denials: mpsc::Receiver<Denial>,
    lost: Arc<AtomicU64>,
}

impl Stopped {
    /// How many were not told.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// Where they go.
#[derive(Debug, Clone)]
pub(super) struct Tell {
    denials: mpsc::Sender<Denial>,
    lost: Arc<AtomicU64>,
}

pub(super) fn channel() -> (Tell, Stopped) {
    let (sender, denials) = mpsc::channel(WAITING);
    let lost = Arc::new(AtomicU64::new(0));
    let tell = Tell {
        denials: sender,
        lost: Arc::clone(&lost),
    };
    (tell, Stopped { denials, lost })
}

/// Takes the listener out of the stopped child `pid` and serves it until the last filtered process has ended.
///
/// # Errors
/// Where the child has none, or it cannot be taken.
pub(super) fn supervise(pid: Pid, tell: Tell) -> io::Result<()> {
    let listener = listener(pid)?;
    std::thread::Builder::new().name("filter".into()).spawn(move || {
        if let Err(error) = serve(&listener, &tell) {
            tracing::error!(%error, "stopped system calls are not recorded any more; they fail all the same");
        }
    })?;
    Ok(())
}

/// The child's descriptor of its filter's listener.
fn listener(pid: Pid) -> io::Result<OwnedFd> {
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    for entry in fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()))? {
        let entry = entry?;
        let is_listener = fs::read_link(entry.path())
            .is_ok_and(|link| link.to_string_lossy() == "anon_inode:seccomp notify");
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let (true, Some(number)) = (is_listener, number) {
            let number: ForeignRawFd = number;
            return Ok(pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn serve(listener: &OwnedFd, tell: &Tell) -> io::Result<()> {
    loop {
        let mut ready = [PollFd::new(listener, PollFlags::IN)];
        match poll(&mut ready, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let seen = ready.first().map_or(PollFlags::HUP, PollFd::revents);
        if !seen.contains(PollFlags::IN) {
            // The last process under the filter has ended.
            return Ok(());
        }
        let refused = match sys::next_refused(listener.as_fd()) {
            Ok(refused) => refused,
            // Its process was killed meanwhile.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => continue,
            Err(error) => return Err(error),
        };
        let denial = denial(&refused);
        match sys::refuse(listener.as_fd(), &refused, errno(&refused)) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            Ok(()) | Err(_) => {}
        }
        if tell.denials.try_send(denial).is_err() {
            tell.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// As a kernel without the family would say; EPERM for what is there and not allowed.
fn errno(refused: &Refused) -> i32 {
    match refused.call() {
        libc::SYS_socket | libc::SYS_socketpair => libc::EAFNOSUPPORT,
        _ => libc::EPERM,
    }
}

fn denial(refused: &Refused) -> Denial {
    Denial {
        hook: "seccomp",
        process: enrich(&identity(refused.thread())),
        original: None,
        reason: reason(refused),
    }
}

fn reason(refused: &Refused) -> String {
    match refused.call() {
        libc::SYS_socket | libc::SYS_socketpair => {
            format!("a {} socket cannot be governed", family(refused.argument()))
        }
        libc::SYS_io_uring_setup => "io_uring makes sockets that cannot be governed".into(),
        libc::SYS_ptrace => "another process would be taken hold of (ptrace)".into(),
        libc::SYS_process_vm_readv | libc::SYS_process_vm_writev => {
            "another process's memory would be read or written".into()
        }
        libc::SYS_pidfd_getfd => "another process's descriptor would be taken".into(),
        libc::SYS_bpf => "a governed process gives the kernel no programs".into(),
        call => format!("system call {call}"),
    }
}

/// Few kinds: who tries every family makes one record of those without a name here.
pub(super) fn family(number: u32) -> &'static str {
    match i32::try_from(number).unwrap_or(-1) {
        libc::AF_PACKET => "packet",
        libc::AF_VSOCK => "vsock",
        libc::AF_XDP => "XDP",
        libc::AF_ALG => "kernel cryptography",
        libc::AF_BLUETOOTH => "Bluetooth",
        libc::AF_CAN => "CAN",
        _ => "less usual",
    }
}

/// Who made the call, as far as `/proc` says: the caller waits for the answer, so it is still there.
fn identity(thread: u32) -> Identity {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.split_ascii_whitespace().next());
        number.and_then(|number| number.parse().ok())
    };
    let mut comm = [0; 16];
    let name = status
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("Name:\t"));
    for (to, from) in comm.iter_mut().zip(name.unwrap_or_default().bytes()) {
        *to = from;
    }
    Identity {
        tgid: field("Tgid:").unwrap_or(thread),
        uid: field("Uid:").unwrap_or(u32::MAX),
        gid: field("Gid:").unwrap_or(u32::MAX),
        comm,
        ..Identity::default()
    }
}
