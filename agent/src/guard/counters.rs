//! What the hooks count.

use std::sync::Arc;

use aya::maps::{MapData, PerCpuArray};
use interdict_ebpf::Counter;

use super::client::Caller;
use super::error::GuardError;
use super::hooks::map_error;

/// What the hooks have counted since they were attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Denials that were made and could not be reported, because the agent was slower than they came.
    pub denials_lost: u64,
    /// Connections that were refused because too many waited to be accepted.
    pub flows_full: u64,
    /// Connections that were redirected.
    pub redirected: u64,
    /// Questions to servers of names that were dropped because too many waited to be read.
    pub datagrams_full: u64,
}

/// The kernel's counters, one for each processor.
pub(super) struct CounterMap(PerCpuArray<MapData, u64>);

impl CounterMap {
    pub(super) const fn new(map: PerCpuArray<MapData, u64>) -> Self {
        Self(map)
    }

    /// One of them, summed up.
    pub(super) fn read(&self, counter: Counter) -> Result<u64, GuardError> {
        let values = self.0.get(&(counter as u32), 0);
        let values = values.map_err(|e| map_error("COUNTERS", &e))?;
        Ok(values.iter().sum())
    }

    /// All of them.
    pub(super) fn all(&self) -> Result<Counters, GuardError> {
        Ok(Counters {
            denials_lost: self.read(Counter::DenialsLost)?,
            flows_full: self.read(Counter::FlowsFull)?,
            redirected: self.read(Counter::Redirected)?,
            datagrams_full: self.read(Counter::DatagramsFull)?,
        })
    }
}

/// Reads the counters as long as anybody holds it, also when the hooks are gone.
#[derive(Clone)]
pub struct CounterReader(Source);

#[derive(Clone)]
enum Source {
    Own(Arc<CounterMap>),
    Asked(Caller),
}

impl std::fmt::Debug for CounterReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CounterReader").finish_non_exhaustive()
    }
}

impl CounterReader {
    pub(super) const fn own(map: Arc<CounterMap>) -> Self {
        Self(Source::Own(map))
    }

    pub(super) const fn asking(calls: Caller) -> Self {
        Self(Source::Asked(calls))
    }

    /// What the hooks have counted.
    ///
    /// # Errors
    /// Where the kernel's table cannot be read.
    pub fn read(&self) -> Result<Counters, GuardError> {
        match &self.0 {
            Source::Own(map) => map.all(),
            Source::Asked(calls) => calls.counters(),
        }
    }
}
