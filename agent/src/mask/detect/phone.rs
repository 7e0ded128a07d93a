//! Phone numbers: `+` and an international number (E.164), the North American notations with punctuation, and other
//! national numbers after a word such as *phone*.

use super::super::view::View;
use super::context;

const WORDS: &[&[u8]] = &[
    b"phone",
    b"phones",
    b"phonenumber",
    b"telephone",
    b"tel",
    b"mobile",
    b"mobil",
    b"cellphone",
    b"fax",
    b"whatsapp",
    b"sms",
    b"msisdn",
    b"telefon",
    b"telefono",
    b"handy",
    b"portable",
];
/// Longest number, in digits (E.164, 6.2.1).
const DIGITS: usize = 15;
/// Shortest number that is looked at, in digits.
pub(super) const SHORTEST: usize = 7;
/// Longest number with its separators, in bytes.
const BYTES: usize = 28;

/// `+49 30 901820 44`, `+1 (415) 555-0132`.
pub(super) fn international(view: &View<'_>, at: usize) -> Option<usize> {
    // Arithmetic (`2 +12345678` is not told apart; `2+12345678` is), and `++`.
    if view
        .back(at, 1)
        .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'+')
    {
        return None;
    }
    longest(view, at + 1, |number| match number.first() {
        Some(0) | None => false,
        // The North American plan and the Russian one have eleven digits with the country code.
        Some(1) => is_american(number.get(1..).unwrap_or_default()),
        Some(7) => number.len() == 11,
        Some(_) => {
            let unassigned = matches!(number, [2, 8, ..] | [8, 3 | 9, ..]);
            number.len() >= 8 && !unassigned
        }
    })
}

/// `(415) 555-0132`.
pub(super) fn in_parentheses(view: &View<'_>, at: usize) -> Option<usize> {
    let close = at + 4;
    if view.run(at + 1, 3, |b| b.is_ascii_digit()) != close || view.at(close)? != b')' {
        return None;
    }
    let rest = close + 1 + usize::from(view.at(close + 1)? == b' ');
    let end = local_part(view, rest, None)?;
    american_at(view, &[at + 1, rest], end)
}

/// `415-555-0132`, `1.415.555.0132`; any other number only where a word says that it is one.
pub(super) fn national(view: &View<'_>, at: usize) -> Option<usize> {
    let joined = matches!(view.back(at, 1), Some(b'-' | b'.' | b'+' | b'/'))
        && view.back(at, 2).is_some_and(|b| b.is_ascii_digit());
    if joined || view.back(at, 1) == Some(b'+') {
        return None;
    }
    if let Some(end) = punctuated(view, at) {
        return Some(end);
    }
    // Without anything before it nothing says that it is one.
    view.back(at, 1)?;
    let mut told = None;
    longest(view, at, |number| {
        let plausible = match number {
            [0, 0, ..] => number.len() >= 10,
            [0, ..] => (SHORTEST..=12).contains(&number.len()),
            [1, rest @ ..] if number.len() == 11 => is_american(rest),
            _ => number.len() >= SHORTEST,
        };
        plausible && *told.get_or_insert_with(|| context::says(view, at, WORDS))
    })
}

fn punctuated(view: &View<'_>, at: usize) -> Option<usize> {
    let trunk = view.at(at)? == b'1' && matches!(view.at(at + 1), Some(b'-' | b'.' | b' '));
    let area = if trunk { at + 2 } else { at };
    if view.run(area, 3, |b| b.is_ascii_digit()) != area + 3 {
        return None;
    }
    let separator = view.at(area + 3).filter(|b| matches!(b, b'-' | b'.'))?;
    let end = local_part(view, area + 4, Some(separator))?;
    american_at(view, &[area, area + 4], end)
}

/// The end of `555-0132`, with the separator that is asked for.
fn local_part(view: &View<'_>, at: usize, separator: Option<u8>) -> Option<usize> {
    if view.run(at, 3, |b| b.is_ascii_digit()) != at + 3 {
        return None;
    }
    let found = view.at(at + 3)?;
    if !matches!(found, b'-' | b'.') || separator.is_some_and(|s| s != found) {
        return None;
    }
    let end = view.run(at + 4, 4, |b| b.is_ascii_digit());
    let goes_on = matches!(view.at(end), Some(b'-' | b'.'))
        && view.at(end + 1).is_some_and(|b| b.is_ascii_alphanumeric());
    (end == at + 8 && view.ends_at(end) && !goes_on).then_some(end)
}

/// `end`, where area code and exchange, at the two places, begin with 2 to 9.
fn american_at(view: &View<'_>, places: &[usize], end: usize) -> Option<usize> {
    let fine = |place: &usize| matches!(view.at(*place), Some(b'2'..=b'9'));
    places.iter().all(fine).then_some(end)
}

/// Ten digits; area code and exchange begin with 2 to 9.
fn is_american(number: &[u8]) -> bool {
    matches!(number, [2..=9, _, _, 2..=9, _, _, _, _, _, _])
}

/// The longest number from `at` that `accept` takes, which ends where a group of digits does.
fn longest(view: &View<'_>, at: usize, mut accept: impl FnMut(&[u8]) -> bool) -> Option<usize> {
    let mut digits = [0u8; DIGITS];
    let mut count = 0;
    let mut place = at;
    let mut end = None;
    let mut open = false;
    while place - at < BYTES {
        let byte = view.at(place);
        match byte {
            Some(digit @ b'0'..=b'9') => {
                let Some(slot) = digits.get_mut(count) else {
                    return end;
                };
                *slot = digit - b'0';
                count += 1;
                let number = digits.get(..count).unwrap_or_default();
                let group_ends = !view.at(place + 1).is_some_and(|b| b.is_ascii_digit());
                if group_ends && !open && view.ends_at(place + 1) && accept(number) {
                    end = Some(place + 1);
                }
            }
            Some(b'(') if !open && count > 0 => open = true,
            Some(b')') if open => open = false,
            Some(b' ' | b'-' | b'.' | b'/') if count > 0 => {
                let next = view.at(place + 1);
                let goes_on = next.is_some_and(|b| b.is_ascii_digit() || (b == b'(' && !open));
                if !goes_on {
                    return end;
                }
            }
            Some(_) | None => return end,
        }
        place += 1;
    }
    end
}
