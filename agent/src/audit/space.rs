//! Whether the disk of the log has room for what is not a must.
//!
//! Below the configured free space nothing new is forwarded (or only with metadata, where a target says so). What is kept free is for
//! the records that are owed all the same: outcomes of what was forwarded, refusals, ends. When that is gone too, nothing can be recorded and
//! nothing is forwarded.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Free space as it was last seen.
#[derive(Debug)]
pub(super) struct Space {
    free: AtomicU64,
    kept: u64,
}

/// The disk is nearly full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NearlyFull {
    free: u64,
    kept: u64,
}

impl fmt::Display for NearlyFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { free, kept } = self;
        write!(
            f,
            "only {free} bytes are free where the audit log lives ({kept} are kept free)"
        )
    }
}

impl Space {
    pub(super) const fn new(kept: u64) -> Self {
        Self {
            free: AtomicU64::new(u64::MAX),
            kept,
        }
    }

    /// Looks again. Where it cannot, what was seen before stays: writing will tell.
    pub(super) fn look(&self, dir: &Path) {
        match rustix::fs::statvfs(dir) {
            Ok(stat) => {
                let free = stat.f_bavail.saturating_mul(stat.f_frsize);
                let before = self.free.swap(free, Ordering::Relaxed);
                match (before < self.kept, free < self.kept) {
                    (false, true) => {
                        tracing::error!(
                            free,
                            kept = self.kept,
                            "the disk of the audit log is nearly full: nothing new is forwarded, or only with metadata recorded where a target says so"
                        );
                    }
                    (true, false) => tracing::warn!(free, "the disk of the audit log has room again"),
                    (true, true) | (false, false) => {}
                }
            }
            Err(error) => tracing::warn!(%error, "the room for the audit log cannot be seen"),
        }
    }

    /// Free bytes as they were last seen.
    pub(super) fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Whether there is room for what is new.
    pub(super) fn check(&self) -> Result<(), NearlyFull> {
        let (free, kept) = (self.free(), self.kept);
        if free < kept {
            return Err(NearlyFull { free, kept });
        }
        Ok(())
    }
}
