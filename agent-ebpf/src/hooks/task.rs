//! Labels: inherited at fork, gone with the process.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;

use super::{LABELS, LIVE_OFFSET, SIGNAL_OFFSET, TGID_OFFSET};

/// A child inherits its parent's label.
#[btf_tracepoint(function = "sched_process_fork")]
fn on_fork(ctx: BtfTracePointContext) -> i32 {
    let parent: *const u8 = ctx.arg(0);
    let child: *const u8 = ctx.arg(1);
    if let (Some(parent), Some(child)) = (tgid_of(parent), tgid_of(child))
        && parent != child
    {
        // SAFETY: a copy of a plain number.
        let label = unsafe { LABELS.get(parent) }.copied();
        if let Some(label) = label {
            // A full table loses the label, never the guard: the hooks are bound to the cgroup.
            let _full = LABELS.insert(child, label, BPF_ANY as u64);
        }
    }
    0
}

/// Runs for each thread: the label goes with the last of them, which need not be the first one.
#[btf_tracepoint(function = "sched_process_exit")]
fn on_exit(ctx: BtfTracePointContext) -> i32 {
    let both = bpf_get_current_pid_tgid();
    let (tgid, thread) = ((both >> 32) as u32, both as u32);
    let last = match live_threads(ctx.arg(0)) {
        // Already without this one (do_exit, kernel/exit.c).
        Some(live) => live == 0,
        None => tgid == thread,
    };
    if last {
        let _absent = LABELS.remove(tgid);
    }
    0
}

fn tgid_of(task: *const u8) -> Option<u32> {
    // SAFETY: a constant that the loader replaced.
    let offset = unsafe { core::ptr::read_volatile(&raw const TGID_OFFSET) };
    field(task, offset)
}

fn live_threads(task: *const u8) -> Option<u32> {
    // SAFETY: constants that the loader replaced.
    let (signal, live) = unsafe {
        (
            core::ptr::read_volatile(&raw const SIGNAL_OFFSET),
            core::ptr::read_volatile(&raw const LIVE_OFFSET),
        )
    };
    field(field(task, signal)?, live)
}

/// A field of a kernel structure; `None` where its place is not known.
#[inline(always)]
fn field<T>(structure: *const u8, offset: u32) -> Option<T> {
    if offset == 0 {
        return None;
    }
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the helper checks the address, and fills the value or says that it could not.
    unsafe {
        let from = structure.wrapping_add(offset as usize).cast();
        let failed = bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, from);
        (failed == 0).then(|| value.assume_init())
    }
}
