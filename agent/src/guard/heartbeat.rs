//! Telling the hooks that the agent is alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aya::maps::{Array, MapData};
use interdict_ebpf::State;
use rustix::time::{ClockId, clock_gettime};

/// Half of a second: six missed beats until the hooks deny.
const BEAT: Duration = Duration::from_millis(500);
/// The proxy says three times within this (nanoseconds) that it is alive.
const PATIENCE_NS: u64 = 1_500_000_000;
/// Nobody's life but this process's own counts.
const ALONE: u64 = u64::MAX;

/// The pulse of an agent that is one process: its own life is all that counts.
pub(super) fn alone() -> Arc<AtomicU64> {
    Arc::new(AtomicU64::new(ALONE))
}

/// Tells the hooks that the agent is alive. When it cannot, it stops telling, and after three seconds they deny. `pulse` is
/// when the proxy was last known to be alive; 0 when it has ended: then they deny at once.
pub(super) async fn beat(mut state: Array<MapData, State>, pulse: Arc<AtomicU64>) {
    let mut ended = false;
    loop {
        let heartbeat_ns = now();
        let heartbeat_ns = match pulse.load(Ordering::Relaxed) {
            ALONE => Some(heartbeat_ns),
            0 if ended => None,
            0 => {
                ended = true;
                Some(0)
            }
            last => (heartbeat_ns.saturating_sub(last) < PATIENCE_NS).then_some(heartbeat_ns),
        };
        if let Some(heartbeat_ns) = heartbeat_ns
            && let Err(error) = state.set(0, State { heartbeat_ns }, 0)
        {
            tracing::error!(%error, "the heartbeat failed: new connections will be denied");
        }
        tokio::time::sleep(BEAT).await;
    }
}

/// Nanoseconds of the clock that the hooks read (`bpf_ktime_get_boot_ns`).
pub(super) fn now() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec)
        .unwrap_or(0)
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}
