//! What no network hook sees, kept from the command by a system call filter (seccomp(2)): sockets of other families,
//! `io_uring`, and reading or driving other processes.
//!
//! The child installs it before it becomes the command; every descendant inherits it for good. What it stops is told to
//! the agent (`supervise`), which answers with an error and records it. Nothing is ever let through by that answer, so a
//! process cannot change its arguments in between; without the agent the call fails with ENOSYS.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::sys;

/// Families whose sockets the hooks govern, or that stay on the host.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
/// The x32 ABI of x86-64 has numbers of its own for the same calls (arch/x86/include/uapi/asm/unistd.h).
#[cfg(target_arch = "x86_64")]
pub(super) const ABIS: [i64; 2] = [0, 0x4000_0000];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const ABIS: [i64; 1] = [0];

/// Installs the filter for this process and all that it becomes and starts. The listener is where the agent hears of
/// what was stopped; `None` where somebody else's filter listens already: then the calls fail all the same.
///
/// # Errors
/// Where there is no filter: the command must not start then.
pub(super) fn install() -> io::Result<Option<OwnedFd>> {
    let program = program().map_err(io::Error::other)?;
    match sys::install_filter(&told(program.clone()), true) {
        Ok(listener) => Ok(listener),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            sys::install_filter(&program, false)?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn program() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let other_family = FAMILIES
        .iter()
        .map(|family| is(0, SeccompCmpOp::Ne, *family))
        .collect::<Result<Vec<_>, _>>()?;
    let other_family = SeccompRule::new(other_family)?;
    // To trace oneself for one's parent stays possible; to take hold of somebody does not.
    let takes_hold = [libc::PTRACE_ATTACH, libc::PTRACE_SEIZE]
        .into_iter()
        .map(|request| SeccompRule::new(vec![is(0, SeccompCmpOp::Eq, request.cast_signed())?]))
        .collect::<Result<Vec<_>, _>>()?;
    for abi in ABIS {
        let mut on = |call: i64, conditions: Vec<SeccompRule>| rules.insert(abi + call, conditions);
        on(libc::SYS_socket, vec![other_family.clone()]);
        on(libc::SYS_socketpair, vec![other_family.clone()]);
        on(libc::SYS_ptrace, takes_hold.clone());
        for always in [
            libc::SYS_io_uring_setup,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_getfd,
            libc::SYS_bpf,
        ] {
            on(always, Vec::new());
        }
    }
    let refusal = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, SeccompAction::Allow, refusal, arch)?.try_into()
}

fn is(
    argument: u8,
    operator: SeccompCmpOp,
    value: i32,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    let value = u64::from(value.cast_unsigned());
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

/// The same program, but the agent is told: seccompiler has no action for that.
fn told(mut program: BpfProgram) -> BpfProgram {
    /// `BPF_RET | BPF_K`
    const RETURN: u16 = 0x06;
    let refusal = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    for instruction in &mut program {
        if instruction.code == RETURN && instruction.k == refusal {
            instruction.k = libc::SECCOMP_RET_USER_NOTIF;
        }
    }
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_told() {
        let plain = program().expect("compiles");
        let told = told(plain.clone());
        let returns =
            |all: &BpfProgram, value: u32| all.iter().filter(|i| i.code == 6 && i.k == value).count();
        let refusal = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
        assert!(returns(&plain, refusal) > 0);
        assert_eq!(returns(&told, refusal), 0);
        assert_eq!(
            returns(&told, libc::SECCOMP_RET_USER_NOTIF),
            returns(&plain, refusal)
        );
    }
}
