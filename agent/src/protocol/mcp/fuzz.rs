//! What hostile bytes of a server reach, for the fuzzer.

use super::offers::{Sifted, sift};

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
