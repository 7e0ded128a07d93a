//! The kernel's table of questions to servers of names that are on their way to the agent.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aya::maps::{HashMap as KernelMap, MapData};
use interdict_ebpf::{DatagramKey, FlowKey as KernelKey, FlowValue};

use crate::model::{FlowKey, OriginalDst};

use super::flow::{DatagramSource, Flow};
use super::heartbeat;
use super::process::{enrich, kernel_address, socket_address};

/// A datagram that was not taken for this long (nanoseconds) was dropped on its way.
const STALE_NS: u64 = 10_000_000_000;
/// How often those are removed.
const SWEEP: Duration = Duration::from_secs(5);

/// The kernel's table.
#[derive(Debug)]
pub(super) struct DatagramTable(Mutex<KernelMap<MapData, DatagramKey, FlowValue>>);

impl DatagramTable {
    pub(super) fn new(map: KernelMap<MapData, DatagramKey, FlowValue>) -> Self {
        Self(Mutex::new(map))
    }

    fn remove_older(&self, limit_ns: u64) -> usize {
        let mut table = self.lock();
        let old: Vec<DatagramKey> = table
            .iter()
            .flatten()
            .filter(|(_, flow)| flow.at_ns < limit_ns)
            .map(|(key, _)| key)
            .collect();
        old.iter().filter(|key| table.remove(key).is_ok()).count()
    }

    fn lock(&self) -> MutexGuard<'_, KernelMap<MapData, DatagramKey, FlowValue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DatagramSource for DatagramTable {
    fn take(&self, key: &FlowKey, id: u16, _socket: BorrowedFd<'_>) -> Option<Flow> {
        let key = DatagramKey {
            flow: KernelKey {
                netns: key.netns.0,
                peer: kernel_address(key.peer.0),
                listener: kernel_address(key.listener.0),
            },
            id,
            pad: [0; 6],
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

/// Removes what was dropped on its way now and then, so that nobody can fill the table with it.
pub(super) async fn sweep(table: Arc<DatagramTable>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let removed = table.remove_older(heartbeat::now().saturating_sub(STALE_NS));
        if removed > 0 {
            tracing::debug!(removed, "questions that never arrived were forgotten");
        }
    }
}
