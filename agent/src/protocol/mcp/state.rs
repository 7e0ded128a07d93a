//! What a client brings back with its next try (`requestState`, MCP 2026-07-28): how often it was asked already. Signed,
//! and good for the same request of the same principal only, and for a while.

use aws_lc_rs::hmac;
use data_encoding::BASE64URL_NOPAD;

use crate::model::{Digest, Timestamp};

/// How every state of the agent begins; others are the server's.
const PREFIX: &str = "interdict.";
/// How long a state is good, in seconds: longer than anybody looks at a question.
const GOOD_FOR: i64 = 3600;

/// Why a state is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum StateError {
    #[error("its \"requestState\" is not one of Interdict's, or belongs to another request")]
    Foreign,
    #[error("its \"requestState\" is too old")]
    Old,
}

/// Whether a state claims to be the agent's.
pub(super) fn is_ours(state: &str) -> bool {
    state.starts_with(PREFIX)
}

/// A key of this run.
pub(super) fn key() -> Option<hmac::Key> {
    hmac::Key::generate(hmac::HMAC_SHA256, &aws_lc_rs::rand::SystemRandom::new()).ok()
}

/// The state of a request that was asked about `round` times. `bound` is the digest of who asks for what.
pub(super) fn seal(key: &hmac::Key, round: u8, bound: &Digest, now: Timestamp) -> String {
    let until = now.as_millis().div_euclid(1000).saturating_add(GOOD_FOR);
    let tag = BASE64URL_NOPAD.encode(hmac::sign(key, &signed(round, until, bound)).as_ref());
    format!("{PREFIX}{round}.{until}.{tag}")
}

/// How often it was asked about.
pub(super) fn open(key: &hmac::Key, state: &str, bound: &Digest, now: Timestamp) -> Result<u8, StateError> {
    let rest = state.strip_prefix(PREFIX).ok_or(StateError::Foreign)?;
    let mut parts = rest.splitn(3, '.');
    let (round, until, tag) = (parts.next(), parts.next(), parts.next());
    let round: u8 = round
        .and_then(|text| text.parse().ok())
        .ok_or(StateError::Foreign)?;
    let until: i64 = until
        .and_then(|text| text.parse().ok())
        .ok_or(StateError::Foreign)?;
    let tag = tag.and_then(|text| BASE64URL_NOPAD.decode(text.as_bytes()).ok());
    let tag = tag.ok_or(StateError::Foreign)?;
    hmac::verify(key, &signed(round, until, bound), &tag).map_err(|_unspecified| StateError::Foreign)?;
    if now.as_millis().div_euclid(1000) > until {
        return Err(StateError::Old);
    }
    Ok(round)
}

fn signed(round: u8, until: i64, bound: &Digest) -> Vec<u8> {
    let mut all = b"interdict mcp state".to_vec();
    all.push(round);
    all.extend_from_slice(&until.to_be_bytes());
    all.extend_from_slice(bound.as_bytes());
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_state_is_good_for_its_request_and_a_while() {
        let (key, other) = (key().expect("key"), key().expect("key"));
        let (mine, yours) = (Digest::of(b"mine"), Digest::of(b"yours"));
        let now = Timestamp::from_seconds(1_800_000_000);
        let state = seal(&key, 2, &mine, now);
        assert!(is_ours(&state));
        assert_eq!(open(&key, &state, &mine, now), Ok(2));
        assert_eq!(open(&key, &state, &yours, now), Err(StateError::Foreign));
        assert_eq!(open(&other, &state, &mine, now), Err(StateError::Foreign));
        let later = Timestamp::from_seconds(1_800_000_000 + GOOD_FOR + 1);
        assert_eq!(open(&key, &state, &mine, later), Err(StateError::Old));
        for changed in [
            state.replace("interdict.2", "interdict.0"),
            state.replace(".18000", ".19000"),
            format!("{state}A"),
            "interdict.".into(),
            "eyJ".into(),
        ] {
            assert_eq!(
                open(&key, &changed, &mine, now),
                Err(StateError::Foreign),
                "{changed}"
            );
        }
    }

    proptest! {
        #[test]
        fn nobody_else_makes_one(text in "\\PC{0,80}", numbers in "interdict\\.[0-9]{0,5}\\.[0-9]{0,20}\\.[A-Za-z0-9_-]{0,50}") {
            let key = key().expect("key");
            for text in [text, numbers] {
                prop_assert!(open(&key, &text, &Digest::of(b""), Timestamp::from_seconds(0)).is_err());
            }
        }
    }
}
