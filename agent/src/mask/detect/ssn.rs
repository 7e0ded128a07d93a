//! US social security numbers: `078-05-1120`; nine digits in one piece or with spaces only after words that say so.
//!
//! Never issued (and so no match): area 000, 666 and 900 to 999, group 00, serial 0000.

use super::super::view::View;
use super::context;

const WORDS: &[&[u8]] = &[
    b"ssn",
    b"ssns",
    b"social security",
    b"social_security",
    b"social-security",
    b"socialsecurity",
    b"socialsecuritynumber",
    b"socsec",
];

/// The end of the number at `at`.
pub(super) fn end(view: &View<'_>, at: usize) -> Option<usize> {
    let joined = |b: Option<u8>| matches!(b, Some(b'-' | b'.' | b'+'));
    let longer = joined(view.back(at, 1)) && view.back(at, 2).is_some_and(|b| b.is_ascii_digit());
    if longer {
        return None;
    }
    let mut place = at;
    let mut separator = None;
    let mut parts = [0u32; 3];
    for (index, (part, length)) in parts.iter_mut().zip([3, 2, 4]).enumerate() {
        if index > 0 {
            let next = view.at(place)?;
            let this = matches!(next, b'-' | b' ').then_some(next);
            if *separator.get_or_insert(this) != this {
                return None;
            }
            place += usize::from(this.is_some());
        }
        for _ in 0..length {
            let digit = view.at(place).filter(u8::is_ascii_digit)?;
            *part = *part * 10 + u32::from(digit - b'0');
            place += 1;
        }
    }
    let [area, group, serial] = parts;
    let issued = area != 0 && area != 666 && area < 900 && group != 0 && serial != 0;
    let goes_on = joined(view.at(place)) && view.at(place + 1).is_some_and(|b| b.is_ascii_digit());
    if !issued || !view.ends_at(place) || goes_on {
        return None;
    }
    let dashed = separator.flatten() == Some(b'-');
    (dashed || context::says(view, at, WORDS)).then_some(place)
}
