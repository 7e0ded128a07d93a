//! The only place that reads the wall clock; everything below takes `now` as an argument.

use crate::model::Timestamp;

/// Nanoseconds since the Unix epoch, UTC. A clock before 1970 reads as 0, one after 2262 as the largest value: both
/// are refused by token checks, so a broken clock fails closed.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that may")]
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_nanos(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}
