//! Labels: inherited at fork, gone with the process.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;

use super::{LABELS, TGID_OFFSET};

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

#[btf_tracepoint(function = "sched_process_exit")]
fn on_exit(_ctx: BtfTracePointContext) -> i32 {
    let both = bpf_get_current_pid_tgid();
    let (tgid, thread) = ((both >> 32) as u32, both as u32);
    if tgid == thread {
        let _absent = LABELS.remove(tgid);
    }
    0
}

fn tgid_of(task: *const u8) -> Option<u32> {
    // SAFETY: a constant that the loader replaced.
    let offset = unsafe { core::ptr::read_volatile(&raw const TGID_OFFSET) };
    if offset == 0 {
        return None;
    }
    let mut tgid = 0u32;
    // SAFETY: the helper checks the address.
    let failed = unsafe {
        bpf_probe_read_kernel(
            (&raw mut tgid).cast(),
            4,
            task.wrapping_add(offset as usize).cast(),
        )
    };
    (failed == 0).then_some(tgid)
}
