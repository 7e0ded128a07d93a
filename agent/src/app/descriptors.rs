//! How many descriptors the agent may have: two for each connection that it carries.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the agent asks for: enough for half a million connections.
const WANTED: u64 = 1 << 20;

/// Raises the limit as far as it may be; what it was, which is what a governed command gets.
pub(super) fn raise() -> Rlimit {
    let before = getrlimit(Resource::Nofile);
    // The hard limit is root's to raise (CAP_SYS_RESOURCE), up to `fs.nr_open`.
    let hard = before.maximum.map(|most| most.max(WANTED));
    for limit in [hard, before.maximum] {
        let wanted = Rlimit {
            current: limit,
            maximum: limit,
        };
        if setrlimit(Resource::Nofile, wanted).is_ok() {
            return before;
        }
    }
    tracing::warn!(
        current = before.current,
        "the limit of descriptors could not be raised"
    );
    before
}

/// How many sessions there may be at the same time, by the limit of the moment: each has a descriptor on either side, and
/// what the agent itself needs (log, issuers, ClickHouse) is left to it.
pub(super) fn sessions() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(WANTED);
    usize::try_from(limit.saturating_sub(256) / 2)
        .unwrap_or(usize::MAX)
        .max(16)
}
