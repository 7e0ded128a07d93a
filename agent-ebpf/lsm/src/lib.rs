//! What both sides of the second object's maps agree on, and its pure verdicts.
//!
//! The programs (`main.rs`) are attached to the cgroup of one run (`BPF_LSM_CGROUP`, Linux 6.0), so they see what the
//! processes below it do and nothing else. Each denies with EPERM, and each is optional: the agent says what is open
//! without it. At most ten different hooks of this kind can be attached on a host (`CGROUP_LSM_NUM`): there are ten here.
//!
//! | program | denies |
//! |---|---|
//! | `on_socket_create` | sockets of families whose traffic no hook governs |
//! | `on_unix_stream_connect`, `on_unix_may_send` | Unix sockets of processes outside the run, unless allowed by name |
//! | `on_file_receive` | sockets that were made outside the run and are passed in |
//! | `on_ptrace_access_check` | reading, tracing and stealing descriptors of processes outside |
//! | `on_task_kill` | signals to processes outside |
//! | `on_bpf` | every `bpf()` |
//! | `on_file_open`, `on_task_alloc` | moving to another cgroup: writing in cgroup2, `CLONE_INTO_CGROUP` |
//! | `on_inode_unlink` | taking pins out of bpffs |
//!
//! Kernel structures are read at offsets that the agent takes from the kernel's own BTF: Rust emits no relocations. What
//! cannot be read counts as outside.
#![cfg_attr(not(test), no_std)]

/// Longest name of a Unix socket (`sun_path`, unix(7)).
pub const NAME: usize = 108;

/// Where a field is not known.
pub const UNKNOWN: u32 = u32::MAX;

/// Where kernel structures keep what the programs read, in bytes; [`UNKNOWN`] where the kernel does not say.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// `task_struct.cgroups`
    pub task_cgroups: u32,
    /// `css_set.dfl_cgrp`
    pub css_set_cgroup: u32,
    /// `cgroup.self`
    pub cgroup_self: u32,
    /// `cgroup_subsys_state.parent`
    pub css_parent: u32,
    /// `cgroup.kn`
    pub cgroup_kn: u32,
    /// `kernfs_node.id`
    pub kn_id: u32,
    /// `socket.sk`
    pub socket_sk: u32,
    /// `sock.sk_cgrp_data`
    pub sock_cgroup_data: u32,
    /// `sock_cgroup_data.cgroup`
    pub cgroup_data_cgroup: u32,
    /// `unix_sock.addr`
    pub unix_addr: u32,
    /// `unix_address.len`
    pub address_len: u32,
    /// `unix_address.name`
    pub address_name: u32,
    /// `file.f_inode`
    pub file_inode: u32,
    /// `file.f_mode`
    pub file_mode: u32,
    /// `file.private_data`
    pub file_private: u32,
    /// `inode.i_mode`
    pub inode_mode: u32,
    /// `inode.i_sb`
    pub inode_sb: u32,
    /// `super_block.s_magic`
    pub sb_magic: u32,
}

/// A program that can deny.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `socket_create`; the event's number is the family.
    SocketCreate = 1,
    /// `unix_stream_connect`; the event has the socket's name.
    UnixStreamConnect = 2,
    /// `unix_may_send`; the event has the socket's name.
    UnixMaySend = 3,
    /// `file_receive`.
    FileReceive = 4,
    /// `ptrace_access_check`; the number is its mode.
    PtraceAccessCheck = 5,
    /// `task_kill`; the number is the signal.
    TaskKill = 6,
    /// `bpf`; the number is its command.
    Bpf = 7,
    /// `file_open`.
    FileOpen = 8,
    /// `task_alloc`.
    TaskAlloc = 9,
    /// `inode_unlink`.
    InodeUnlink = 10,
}

/// Something was denied.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Thread group id.
    pub tgid: u32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// A [`Hook`].
    pub hook: u32,
    /// What the hook was asked about; see [`Hook`].
    pub number: u32,
    /// How many bytes of `name` count.
    pub name_len: u32,
    /// Cgroup (v2) id.
    pub cgroup: u64,
    /// The process's own word, NUL-padded.
    pub comm: [u8; 16],
    /// The name of a Unix socket as its owner bound it; an abstract one begins with NUL.
    pub name: [u8; NAME],
    /// Always zero.
    pub pad: [u8; 4],
}

const _: () = assert!(size_of::<Event>() == 160 && size_of::<Offsets>() == 72);

const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const AF_NETLINK: u32 = 16;

/// Whether a governed process may have sockets of the family: those that hooks govern, or that stay on the host.
#[must_use]
#[inline(always)]
pub const fn family_allowed(family: u32) -> bool {
    matches!(family, AF_UNIX | AF_INET | AF_INET6 | AF_NETLINK)
}

/// `PTRACE_MODE_NOAUDIT` (include/linux/ptrace.h): a question that is asked by the way, as `ps` does for every process.
const NOAUDIT: u32 = 4;

/// Whether the denial of a look at another process is worth a record.
#[must_use]
#[inline(always)]
pub const fn look_is_told(mode: u32) -> bool {
    mode & NOAUDIT == 0
}

/// `S_IFMT` and `S_IFSOCK` (inode(7)).
const TYPE: u16 = 0o170_000;
const SOCKET: u16 = 0o140_000;

/// Whether a file of this mode is a socket.
#[must_use]
#[inline(always)]
pub const fn is_socket(mode: u16) -> bool {
    mode & TYPE == SOCKET
}

/// `CGROUP2_SUPER_MAGIC` and `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
pub const CGROUP2: u64 = 0x6367_7270;
/// See [`CGROUP2`].
pub const BPFFS: u64 = 0xcafe_4a11;

/// `FMODE_WRITE` (include/linux/fs.h).
const WRITE: u32 = 2;

/// Whether an open file can be written to.
#[must_use]
#[inline(always)]
pub const fn is_writable(mode: u32) -> bool {
    mode & WRITE != 0
}

/// `CLONE_INTO_CGROUP` (include/uapi/linux/sched.h).
const INTO_CGROUP: u64 = 1 << 33;

/// Whether a new process would start in a cgroup of its parent's choice.
#[must_use]
#[inline(always)]
pub const fn into_cgroup(flags: u64) -> bool {
    flags & INTO_CGROUP != 0
}

#[cfg(test)]
mod tests;
