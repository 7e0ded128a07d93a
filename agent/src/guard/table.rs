//! The kernel's table of flows.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aya::maps::{HashMap as KernelMap, MapData};
use interdict_ebpf::{FlowKey as KernelKey, FlowValue};

use crate::model::{FlowKey, OriginalDst};

use super::flow::{Flow, FlowSource};
use super::heartbeat;
use super::process::{enrich, kernel_address, socket_address};

/// A flow that was not taken for this long (nanoseconds) never will be. The listener did not finish the handshake: its
/// queue was full when the process's last packet came, and the process believes that it is connected.
const STALE_NS: u64 = 60_000_000_000;
/// How often stale flows are removed.
const SWEEP: Duration = Duration::from_secs(30);

/// The kernel's table of flows.
#[derive(Debug)]
pub(super) struct FlowTable(Mutex<KernelMap<MapData, KernelKey, FlowValue>>);

impl FlowTable {
    pub(super) fn new(map: KernelMap<MapData, KernelKey, FlowValue>) -> Self {
        Self(Mutex::new(map))
    }

    /// How many flows have not been taken.
    pub(super) fn len(&self) -> usize {
        self.lock().keys().flatten().count()
    }

    /// Removes the flows that were made before `limit_ns`; how many those were.
    fn remove_older(&self, limit_ns: u64) -> usize {
        let mut table = self.lock();
        let old: Vec<KernelKey> = table
            .iter()
            .flatten()
            .filter(|(_, flow)| flow.at_ns < limit_ns)
            .map(|(key, _)| key)
            .collect();
        old.iter().filter(|key| table.remove(key).is_ok()).count()
    }

    fn lock(&self) -> MutexGuard<'_, KernelMap<MapData, KernelKey, FlowValue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FlowSource for FlowTable {
    fn take(&self, key: &FlowKey, _accepted: BorrowedFd<'_>) -> Option<Flow> {
        let key = KernelKey {
            netns: key.netns.0,
            peer: kernel_address(key.peer.0),
            listener: kernel_address(key.listener.0),
        };
        let value = {
            let mut table = self.lock();
            let value = table.get(&key, 0).ok()?;
            table.remove(&key).ok()?;
            value
        };
        Some(Flow {
            original: OriginalDst(socket_address(&value.original)),
            process: enrich(&value.identity),
        })
    }
}

/// Removes stale flows now and then, so that nobody can fill the table with connections that never arrive.
pub(super) async fn sweep(table: Arc<FlowTable>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let removed = table.remove_older(heartbeat::now().saturating_sub(STALE_NS));
        if removed > 0 {
            tracing::warn!(removed, "connections that never arrived were forgotten");
        }
    }
}
