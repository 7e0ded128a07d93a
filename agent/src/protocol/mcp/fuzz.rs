//! What hostile bytes of a server reach, for the fuzzer.

use serde_json::{Map, Value};

use crate::model::{Digest, Offer, Timestamp};

use super::offers::{Looks, Sifted, sift};
use super::state;

/// Keeps every other entry, and every other request.
struct EveryOther(u32);

impl Looks for EveryOther {
    fn keeps(&mut self, _offer: &Offer, _entry: &Map<String, Value>) -> bool {
        self.0 = self.0.wrapping_add(1);
        self.0.is_multiple_of(2)
    }

    fn passes(&mut self, _method: &str, _params: Option<&Value>, _id: Option<&Value>) -> bool {
        self.0 = self.0.wrapping_add(1);
        self.0.is_multiple_of(2)
    }

    fn hears(&mut self, _uri: &str) -> bool {
        self.0 = self.0.wrapping_add(1);
        self.0.is_multiple_of(2)
    }

    fn edits(&mut self, _message: &mut Value) -> bool {
        false
    }
}

struct Everything;

impl Looks for Everything {
    fn keeps(&mut self, _offer: &Offer, _entry: &Map<String, Value>) -> bool {
        true
    }

    fn passes(&mut self, _method: &str, _params: Option<&Value>, _id: Option<&Value>) -> bool {
        true
    }

    fn hears(&mut self, _uri: &str) -> bool {
        true
    }

    fn edits(&mut self, _message: &mut Value) -> bool {
        false
    }
}

/// What is left of a list has only what was kept, and looking again changes nothing.
pub(crate) fn offers(data: &[u8]) {
    let Sifted::Changed(shown) = sift(data, true, &mut EveryOther(0)) else {
        return;
    };
    match sift(shown.to_string().as_bytes(), true, &mut Everything) {
        Sifted::AsIs => {}
        Sifted::Changed(twice) => assert_eq!(twice, shown),
        Sifted::Withheld | Sifted::Unreadable => std::process::abort(),
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
