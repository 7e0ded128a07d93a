//! The programs, one for each hook (include/linux/lsm_hook_defs.h). 1 allows, 0 denies with EPERM.

use aya_ebpf::macros::lsm_cgroup;
use aya_ebpf::programs::LsmContext;
use interdict_lsm::{
    BPFFS, CGROUP2, Hook, family_allowed, into_cgroup, is_socket, is_writable, look_is_told,
};

use super::kernel::{
    is_allowed, magic_of_file, magic_of_inode, mode_of, name_of, sock_inside, sock_of, socket_of,
    task_inside, tell,
};

const ALLOW: i32 = 1;
const DENY: i32 = 0;

/// `(int family, int type, int protocol, int kern)`: what the kernel makes for itself passes.
#[lsm_cgroup(hook = "socket_create")]
fn on_socket_create(ctx: LsmContext) -> i32 {
    let family: u32 = ctx.arg(0);
    let kern: u32 = ctx.arg(3);
    if kern != 0 || family_allowed(family) {
        return ALLOW;
    }
    tell(Hook::SocketCreate, family, None);
    DENY
}

/// `(struct sock *sock, struct sock *other, struct sock *newsk)`
#[lsm_cgroup(hook = "unix_stream_connect")]
fn on_unix_stream_connect(ctx: LsmContext) -> i32 {
    to_unix(Hook::UnixStreamConnect, Some(ctx.arg(1)))
}

/// `(struct socket *sock, struct socket *other)`
#[lsm_cgroup(hook = "unix_may_send")]
fn on_unix_may_send(ctx: LsmContext) -> i32 {
    to_unix(Hook::UnixMaySend, sock_of(ctx.arg(1)))
}

#[inline(always)]
fn to_unix(hook: Hook, other: Option<*const u8>) -> i32 {
    let Some(other) = other else {
        tell(hook, 0, None);
        return DENY;
    };
    if sock_inside(other) {
        return ALLOW;
    }
    let name = name_of(other);
    if is_allowed(&name.0) {
        return ALLOW;
    }
    tell(hook, 0, Some(&name));
    DENY
}

/// `(struct file *file)`
#[lsm_cgroup(hook = "file_receive")]
fn on_file_receive(ctx: LsmContext) -> i32 {
    let inside = match socket_of(ctx.arg(0)) {
        Some((mode, _)) if !is_socket(mode) => true,
        Some((_, socket)) => sock_of(socket).is_some_and(sock_inside),
        None => false,
    };
    if inside {
        return ALLOW;
    }
    tell(Hook::FileReceive, 0, None);
    DENY
}

/// `(struct task_struct *child, unsigned int mode)`
#[lsm_cgroup(hook = "ptrace_access_check")]
fn on_ptrace_access_check(ctx: LsmContext) -> i32 {
    if task_inside(ctx.arg(0)) {
        return ALLOW;
    }
    let mode: u32 = ctx.arg(1);
    if look_is_told(mode) {
        tell(Hook::PtraceAccessCheck, mode, None);
    }
    DENY
}

/// `(struct task_struct *p, struct kernel_siginfo *info, int sig, const struct cred *cred)`
#[lsm_cgroup(hook = "task_kill")]
fn on_task_kill(ctx: LsmContext) -> i32 {
    if task_inside(ctx.arg(0)) {
        return ALLOW;
    }
    tell(Hook::TaskKill, ctx.arg(2), None);
    DENY
}

/// `(int cmd, union bpf_attr *attr, unsigned int size)`
#[lsm_cgroup(hook = "bpf")]
fn on_bpf(ctx: LsmContext) -> i32 {
    tell(Hook::Bpf, ctx.arg(0), None);
    DENY
}

/// `(struct file *file)`
#[lsm_cgroup(hook = "file_open")]
fn on_file_open(ctx: LsmContext) -> i32 {
    let file: *const u8 = ctx.arg(0);
    if magic_of_file(file) != Some(CGROUP2) || !mode_of(file).is_none_or(is_writable) {
        return ALLOW;
    }
    tell(Hook::FileOpen, 0, None);
    DENY
}

/// `(struct task_struct *task, unsigned long clone_flags)`
#[lsm_cgroup(hook = "task_alloc")]
fn on_task_alloc(ctx: LsmContext) -> i32 {
    let flags: u64 = ctx.arg(1);
    if !into_cgroup(flags) {
        return ALLOW;
    }
    tell(Hook::TaskAlloc, 0, None);
    DENY
}

/// `(struct inode *dir, struct dentry *dentry)`
#[lsm_cgroup(hook = "inode_unlink")]
fn on_inode_unlink(ctx: LsmContext) -> i32 {
    if magic_of_inode(ctx.arg(0)) != Some(BPFFS) {
        return ALLOW;
    }
    tell(Hook::InodeUnlink, 0, None);
    DENY
}
