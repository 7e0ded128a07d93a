//! The proxy's system call filter (seccomp(2)): it serves connections and writes records, and needs nothing of what is here.
//!
//! A list of what is refused, not of what is allowed: the libraries below (libc's resolver, SQLite, TLS) use other calls
//! with every release, and a proxy that fails on a new one would be run without a filter. Whatever gives authority,
//! reaches other processes or makes new ones is refused; files, network and time are for Landlock and the user.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::filter::ABIS;
use super::sys;

/// Families of the sockets that a proxy opens: the resolver asks netlink, and daemons over Unix sockets.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Never.
const REFUSED: [i64; 66] = [
    // Other programs, other namespaces, other roots.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_kcmp,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // The kernel.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_fanotify_init,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_personality,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // Other users.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_capset,
];
/// Of one architecture only.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: [i64; 5] = [
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: [i64; 0] = [];

/// Installs the filter for this thread and all that it starts.
///
/// # Errors
/// Where there is no filter: nothing must be served then.
pub(super) fn install() -> io::Result<()> {
    let own = std::process::id();
    for program in [refusals(own), no_clone3()] {
        sys::install_filter(&program.map_err(io::Error::other)?, false)?;
    }
    Ok(())
}

fn refusals(own: u32) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let others = FAMILIES
        .iter()
        .map(|family| is(SeccompCmpOp::Ne, u64::from(family.cast_unsigned())))
        .collect::<Result<Vec<_>, _>>()?;
    let other_family = SeccompRule::new(others)?;
    let somebody_else = SeccompRule::new(vec![is(SeccompCmpOp::Ne, u64::from(own))?])?;
    // A thread is one of this process; anything else would be another.
    let thread = u64::from(libc::CLONE_THREAD.cast_unsigned());
    let process = SeccompRule::new(vec![is(SeccompCmpOp::MaskedEq(thread), 0)?])?;
    for abi in ABIS {
        for call in REFUSED.into_iter().chain(REFUSED_HERE) {
            rules.insert(abi + call, Vec::new());
        }
        for call in [libc::SYS_kill, libc::SYS_tgkill] {
            rules.insert(abi + call, vec![somebody_else.clone()]);
        }
        rules.insert(abi + libc::SYS_socket, vec![other_family.clone()]);
        rules.insert(abi + libc::SYS_clone, vec![process.clone()]);
    }
    compile(rules, libc::EPERM)
}

/// Its flags are in memory, where no filter sees them; libc goes on with `clone` where it is told that there is none.
fn no_clone3() -> Result<BpfProgram, BackendError> {
    let rules = ABIS.map(|abi| (abi + libc::SYS_clone3, Vec::new()));
    compile(rules.into(), libc::ENOSYS)
}

fn is(operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, value)
}

fn compile(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Result<BpfProgram, BackendError> {
    let refusal = SeccompAction::Errno(errno.cast_unsigned());
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, SeccompAction::Allow, refusal, arch)?.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_compiles_and_no_call_is_named_twice() {
        assert!(refusals(7).is_ok() && no_clone3().is_ok());
        let mut all: Vec<i64> = REFUSED.into_iter().chain(REFUSED_HERE).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), REFUSED.len() + REFUSED_HERE.len());
    }
}
