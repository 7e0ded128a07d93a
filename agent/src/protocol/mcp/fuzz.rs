//! What hostile bytes of a server reach, for the fuzzer.

use crate::model::{Digest, Timestamp};

use super::offers::{Sifted, sift};
use super::state;

/// What is left of a list has only what was kept, and looking again changes nothing.
pub(crate) fn offers(data: &[u8]) {
    let mut seen = 0_u32;
    let Sifted::Changed(shown) = sift(data, &mut |_offer, _entry| {
        seen = seen.wrapping_add(1);
        seen.is_multiple_of(2)
    }) else {
        return;
    };
    let again = sift(shown.to_string().as_bytes(), &mut |_offer, _entry| true);
    match again {
        Sifted::AsIs => {}
        Sifted::Changed(twice) => assert_eq!(twice, shown),
        Sifted::Unreadable => std::process::abort(),
    }
}

/// Nobody but the agent makes a state.
pub(crate) fn states(data: &[u8]) {
    let (Some(key), Ok(text)) = (state::key(), std::str::from_utf8(data)) else {
        return;
    };
    let bound = Digest::of(b"request");
    let now = Timestamp::from_seconds(1);
    assert!(state::open(&key, text, &bound, now).is_err());
    assert!(state::open(&key, &format!("interdict.{text}"), &bound, now).is_err());
}
