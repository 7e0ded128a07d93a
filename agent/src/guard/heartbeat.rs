//! Telling the hooks that the agent is alive.

use std::time::Duration;

use aya::maps::{Array, MapData};
use interdict_ebpf::State;
use rustix::time::{ClockId, clock_gettime};

/// Half of a second: six missed beats until the hooks deny.
const BEAT: Duration = Duration::from_millis(500);

/// Tells the hooks that the agent is alive. When it cannot, it stops telling, and after three seconds they deny.
pub(super) async fn beat(mut state: Array<MapData, State>) {
    loop {
        let heartbeat_ns = now();
        if let Err(error) = state.set(0, State { heartbeat_ns }, 0) {
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
