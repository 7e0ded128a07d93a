//! Who acts, and what the agent is told about a denial.

use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_get_current_uid_gid};
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid};
use interdict_ebpf::{Counter, DenialEvent, Hook, Identity, Reason};

use super::{COUNTERS, DENIALS, LABELS};

#[inline(always)]
pub(super) fn identity(netns: u64) -> Identity {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: helpers without arguments; a copy of a plain number.
    unsafe {
        let ids = bpf_get_current_uid_gid();
        Identity {
            tgid,
            uid: ids as u32,
            gid: (ids >> 32) as u32,
            label: LABELS.get(tgid).copied().unwrap_or(0),
            cgroup: bpf_get_current_cgroup_id(),
            netns,
            comm: bpf_get_current_comm().unwrap_or([0; 16]),
        }
    }
}

#[inline(always)]
pub(super) fn denial(hook: Hook, reason: Reason) -> DenialEvent {
    DenialEvent {
        hook: hook as u8,
        reason: reason as u8,
        ..DenialEvent::default()
    }
}

#[inline(always)]
pub(super) fn report(event: &DenialEvent) {
    match DENIALS.reserve::<DenialEvent>(0) {
        Some(mut entry) => {
            entry.write(*event);
            entry.submit(0);
        }
        None => count(Counter::DenialsLost),
    }
}

#[inline(always)]
pub(super) fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the slot is this processor's own.
        unsafe { *slot += 1 };
    }
}
