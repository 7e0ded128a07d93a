//! Reading kernel structures, and telling the agent.
#![expect(unsafe_code, reason = "kernel structures and helpers are raw pointers")]

use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_uid_gid, bpf_probe_read_kernel,
};
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, PerCpuArray, RingBuf};
use interdict_lsm::{Event, Hook, NAME, Offsets, UNKNOWN};

/// The helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Set by the loader from the kernel's own BTF. A program whose fields are not known is not attached.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets {
    task_cgroups: UNKNOWN,
    css_set_cgroup: UNKNOWN,
    cgroup_self: UNKNOWN,
    css_parent: UNKNOWN,
    cgroup_kn: UNKNOWN,
    kn_id: UNKNOWN,
    socket_sk: UNKNOWN,
    sock_cgroup_data: UNKNOWN,
    cgroup_data_cgroup: UNKNOWN,
    unix_addr: UNKNOWN,
    address_len: UNKNOWN,
    address_name: UNKNOWN,
    file_inode: UNKNOWN,
    file_mode: UNKNOWN,
    file_private: UNKNOWN,
    inode_mode: UNKNOWN,
    inode_sb: UNKNOWN,
    sb_magic: UNKNOWN,
};
/// The id of the run's cgroup; set by the loader. None has the id 0.
#[unsafe(no_mangle)]
static RUN: u64 = 0;

/// Names of Unix sockets outside that may be used all the same, NUL-padded.
#[map]
static ALLOWED: HashMap<[u8; NAME], u8> = HashMap::with_max_entries(256, 0);
#[map]
static DENIED: RingBuf = RingBuf::with_byte_size(128 * 1024, 0);
/// Denials that the ring had no room for.
#[map]
static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// How deep below the run's cgroup a process can be found. Deeper counts as outside.
const DEPTH: usize = 24;

/// One of the offsets.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a constant that the loader replaced.
        unsafe { core::ptr::read_volatile(&raw const OFFSETS.$field) }
    };
}

/// A field of a kernel structure; `None` where it cannot be read.
#[inline(always)]
fn field<T>(structure: *const u8, offset: u32) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the helper checks the address, and fills the value or says that it could not.
    unsafe {
        let from = structure.wrapping_add(offset as usize).cast();
        let failed = bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, from);
        (failed == 0).then(|| value.assume_init())
    }
}

/// Whether the cgroup is the run's or below it.
#[inline(always)]
fn below_run(mut cgroup: *const u8) -> bool {
    // SAFETY: a constant that the loader replaced.
    let run = unsafe { core::ptr::read_volatile(&raw const RUN) };
    for _ in 0..DEPTH {
        if cgroup.is_null() {
            return false;
        }
        let id =
            field::<*const u8>(cgroup, offset!(cgroup_kn)).and_then(|kn| field::<u64>(kn, offset!(kn_id)));
        if id == Some(run) {
            return true;
        }
        let Some(parent) = field::<*const u8>(cgroup, offset!(cgroup_self) + offset!(css_parent)) else {
            return false;
        };
        cgroup = parent.wrapping_sub(offset!(cgroup_self) as usize);
    }
    false
}

/// Whether the process belongs to the run.
#[inline(always)]
pub(crate) fn task_inside(task: *const u8) -> bool {
    let cgroup = field::<*const u8>(task, offset!(task_cgroups))
        .and_then(|set| field::<*const u8>(set, offset!(css_set_cgroup)));
    cgroup.is_some_and(below_run)
}

/// Whether the socket was made in the run.
#[inline(always)]
pub(crate) fn sock_inside(sock: *const u8) -> bool {
    let cgroup = field::<*const u8>(sock, offset!(sock_cgroup_data) + offset!(cgroup_data_cgroup));
    cgroup.is_some_and(below_run)
}

/// The `sock` of a `socket`.
#[inline(always)]
pub(crate) fn sock_of(socket: *const u8) -> Option<*const u8> {
    field(socket, offset!(socket_sk))
}

/// Mode and socket of an open file.
#[inline(always)]
pub(crate) fn socket_of(file: *const u8) -> Option<(u16, *const u8)> {
    let inode: *const u8 = field(file, offset!(file_inode))?;
    Some((
        field(inode, offset!(inode_mode))?,
        field(file, offset!(file_private))?,
    ))
}

/// How a file was opened.
#[inline(always)]
pub(crate) fn mode_of(file: *const u8) -> Option<u32> {
    field(file, offset!(file_mode))
}

/// The kind of file system that an inode is of.
#[inline(always)]
pub(crate) fn magic_of_inode(inode: *const u8) -> Option<u64> {
    field::<*const u8>(inode, offset!(inode_sb)).and_then(|sb| field(sb, offset!(sb_magic)))
}

/// The kind of file system that an open file is of.
#[inline(always)]
pub(crate) fn magic_of_file(file: *const u8) -> Option<u64> {
    magic_of_inode(field(file, offset!(file_inode))?)
}

/// The name that a Unix socket was bound to, and its length; empty where it has none.
#[inline(always)]
pub(crate) fn name_of(sock: *const u8) -> ([u8; NAME], u32) {
    let mut name = [0; NAME];
    let address = field::<*const u8>(sock, offset!(unix_addr)).unwrap_or(core::ptr::null());
    if address.is_null() {
        return (name, 0);
    }
    // The family comes first.
    let mut length = field::<u32>(address, offset!(address_len))
        .unwrap_or(0)
        .saturating_sub(2);
    if length > NAME as u32 {
        length = NAME as u32;
    }
    let from = address.wrapping_add(offset!(address_name) as usize + 2);
    // SAFETY: the helper checks the address; the length is within the buffer.
    let failed = unsafe { bpf_probe_read_kernel(name.as_mut_ptr().cast(), length, from.cast()) };
    if failed != 0 {
        return ([0; NAME], 0);
    }
    (name, length)
}

/// Whether the agent was told to allow it.
#[inline(always)]
pub(crate) fn is_allowed(name: &[u8; NAME]) -> bool {
    // SAFETY: the map holds plain numbers.
    unsafe { ALLOWED.get(name) }.is_some()
}

/// Tells the agent; a full ring loses the report, never the denial.
#[inline(always)]
pub(crate) fn tell(hook: Hook, number: u32, name: Option<&([u8; NAME], u32)>) {
    let Some(mut entry) = DENIED.reserve::<Event>(0) else {
        if let Some(slot) = LOST.get_ptr_mut(0) {
            // SAFETY: the slot is this processor's own.
            unsafe { *slot += 1 };
        }
        return;
    };
    // SAFETY: helpers without arguments.
    let (ids, cgroup) = unsafe { (bpf_get_current_uid_gid(), bpf_get_current_cgroup_id()) };
    let (name, name_len) = match name {
        Some((name, length)) => (*name, *length),
        None => ([0; NAME], 0),
    };
    entry.write(Event {
        tgid: (bpf_get_current_pid_tgid() >> 32) as u32,
        uid: ids as u32,
        gid: (ids >> 32) as u32,
        hook: hook as u32,
        number,
        name_len,
        cgroup,
        comm: bpf_get_current_comm().unwrap_or([0; 16]),
        name,
        pad: [0; 4],
    });
    entry.submit(0);
}
