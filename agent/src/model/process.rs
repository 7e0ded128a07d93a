//! The process that connected, as the kernel knows it.

use super::address::NetnsCookie;

/// An executable file as the kernel identifies it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Executable {
    /// Device number of the file system.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// The path at the time of reading; for display, never for decisions. Empty when it could not be read.
    pub path: String,
}

/// The process that connected. `tgid` and `start_ns` together are unique for as long as the machine runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Process {
    /// Thread group id (what users call the pid), in the initial pid namespace.
    pub tgid: u32,
    /// Start time in nanoseconds since boot (`/proc/PID/stat` field 22 as nanoseconds); 0 when unknown.
    pub start_ns: u64,
    /// Effective user id at the time of `connect`.
    pub uid: u32,
    /// Effective group id at the time of `connect`.
    pub gid: u32,
    /// The executable; all zero when it ended before it could be read.
    pub exe: Executable,
    /// The cgroup (v2) id.
    pub cgroup: u64,
    /// The network namespace.
    pub netns: NetnsCookie,
    /// `comm`: the process's own word, for display only.
    pub comm: String,
}
