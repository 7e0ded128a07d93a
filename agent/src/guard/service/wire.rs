//! What guard and proxy of the service tell each other: as strict and bounded as the words of a run (`guard/link`).

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::super::link::WireDenial;

/// Largest configuration, in bytes.
pub(super) const MAX_CONFIG: u64 = 16 * 1024 * 1024;

/// What kind of socket health and figures are served at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Tcp,
    Unix,
}

/// What the guard tells the proxy, in this order of beginning; workloads have numbers that are not given out again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Told {
    /// Who guards, whom the proxy becomes, and which file the configuration came from. Its text comes beside it, and then
    /// the control socket and that of health and figures, where there are any.
    Begin {
        guard: u32,
        uid: u32,
        gid: u32,
        file: String,
        control: bool,
        health: Option<Kind>,
    },
    /// Another configuration; its text comes beside it.
    Change { change: u32 },
    /// A changed configuration is none; why. The one before stays.
    Wrong { reason: String },
    /// The hooks that workloads have.
    Started { attached: Vec<String> },
    /// A workload's tables are there: it is to be served.
    Workload {
        workload: u32,
        name: String,
        attached: Vec<String>,
    },
    /// The listeners of a network namespace come beside it, in the order of their addresses; then those for questions for
    /// names (UDP).
    Listen {
        workload: u32,
        netns: u64,
        listeners: Vec<SocketAddr>,
        names: Vec<SocketAddr>,
    },
    /// Its processes have left the namespace.
    Unlisten { workload: u32, netns: u64 },
    /// A cgroup is governed.
    Governed {
        workload: u32,
        cgroup: String,
        processes: u64,
        closed: u64,
    },
    /// It is not any more.
    Released {
        workload: u32,
        cgroup: String,
        reason: String,
    },
    /// A pod that acts for itself is governed: who it is, the directory of its cgroup, and the file of its token.
    Pod {
        workload: u32,
        uid: String,
        namespace: String,
        name: String,
        service_account: String,
        directory: String,
        token: String,
    },
    /// It is not any more.
    PodGone { workload: u32, uid: String },
    /// Something was denied.
    Denied { workload: u32, denial: Box<WireDenial> },
    /// How many denials were not told, in all.
    Lost { workload: u32, lost: u64 },
    /// It is configured no longer: what waits is served, and then it ends.
    Dismissed { workload: u32 },
    /// All that there is to govern is governed.
    Ready {},
    /// The end; with `hand_over`, what waits to be accepted is the next agent's.
    Stop { hand_over: bool },
}

/// What the proxy tells the guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Said {
    /// It is alive: the heartbeat may go on.
    Alive {},
    /// The configuration is in force; that of the beginning is number 0.
    Accepted { change: u32 },
    /// It is not; why. The one before stays.
    Refused { change: u32, reason: String },
    /// The workload's connections can be served: the kernel knows its targets.
    Serving { workload: u32 },
    /// They cannot; why.
    Broken { workload: u32, reason: String },
    /// Its last session has ended.
    Ended { workload: u32 },
    /// It cannot go on; why.
    Failed { message: String },
    /// Somebody asked its process to stop: that is for the guard to do.
    Stopping {},
    /// The last record is on the disk.
    Done {},
}

/// A promise for the fuzzer: bytes are a message of either side or none, and a message is written as it was read.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn promise(data: &[u8]) {
    use super::super::link::parse;
    fn again<M: serde::de::DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(data: &[u8]) {
        if let Ok(message) = parse::<M>(data) {
            let written = serde_json::to_vec(&message).unwrap_or_default();
            assert_eq!(parse::<M>(&written).ok(), Some(message));
        }
    }
    again::<Told>(data);
    again::<Said>(data);
}
