//! Words before a number that say what it is.

use super::super::view::View;

/// How many bytes before a number are looked at; less than what a view can look back.
const REACH: usize = 40;

/// Whether one of `words` (lower case) stands shortly before `at`, as a word of its own: also as part of a name such
/// as `user_ssn` or `customerSSN`, but not inside another word (`classname`).
pub(super) fn says(view: &View<'_>, at: usize, words: &[&[u8]]) -> bool {
    let before = view.before(at);
    let text = before
        .get(before.len().saturating_sub(REACH)..)
        .unwrap_or_default();
    let mut last = None;
    text.iter().enumerate().any(|(place, next)| {
        let begins = begins(last, *next);
        last = Some(*next);
        let rest = text.get(place..).unwrap_or_default();
        begins && words.iter().any(|word| starts(rest, *next, word))
    })
}

/// Whether a word begins with `next`, behind `last`: at the edge of letters, or at a capital after a small letter.
fn begins(last: Option<u8>, next: u8) -> bool {
    let inside = last.is_some_and(|b| b.is_ascii_alphabetic());
    let capital = next.is_ascii_uppercase() && last.is_some_and(|b| b.is_ascii_lowercase());
    next.is_ascii_alphabetic() && (!inside || capital)
}

/// Whether `word` stands at the beginning of `rest`, whose first byte is `first`, and does not go on in small letters.
fn starts(rest: &[u8], first: u8, word: &[u8]) -> bool {
    word.first() == Some(&first.to_ascii_lowercase())
        && rest
            .get(..word.len())
            .is_some_and(|found| found.eq_ignore_ascii_case(word))
        && !rest.get(word.len()).is_some_and(u8::is_ascii_lowercase)
}
