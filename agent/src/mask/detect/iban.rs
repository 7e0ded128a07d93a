//! International bank account numbers (ISO 13616): length by country, and the remainder 1 of 97.

use super::super::view::View;

/// Longest: Saint Lucia's 32 and Malta's 31; the standard allows 34.
const LONGEST: usize = 34;

/// Country codes and lengths of the SWIFT registry.
#[rustfmt::skip]
const LENGTHS: &[([u8; 2], usize)] = &[
    (*b"AD", 24), (*b"AE", 23), (*b"AL", 28), (*b"AT", 20), (*b"AZ", 28), (*b"BA", 20), (*b"BE", 16), (*b"BG", 22),
    (*b"BH", 22), (*b"BI", 27), (*b"BR", 29), (*b"BY", 28), (*b"CH", 21), (*b"CR", 22), (*b"CY", 28), (*b"CZ", 24),
    (*b"DE", 22), (*b"DJ", 27), (*b"DK", 18), (*b"DO", 28), (*b"EE", 20), (*b"EG", 29), (*b"ES", 24), (*b"FI", 18),
    (*b"FK", 18), (*b"FO", 18), (*b"FR", 27), (*b"GB", 22), (*b"GE", 22), (*b"GI", 23), (*b"GL", 18), (*b"GR", 27),
    (*b"GT", 28), (*b"HN", 28), (*b"HR", 21), (*b"HU", 28), (*b"IE", 22), (*b"IL", 23), (*b"IQ", 23), (*b"IS", 26),
    (*b"IT", 27), (*b"JO", 30), (*b"KW", 30), (*b"KZ", 20), (*b"LB", 28), (*b"LC", 32), (*b"LI", 21), (*b"LT", 20),
    (*b"LU", 20), (*b"LV", 21), (*b"LY", 25), (*b"MC", 27), (*b"MD", 24), (*b"ME", 22), (*b"MK", 19), (*b"MN", 20),
    (*b"MR", 27), (*b"MT", 31), (*b"MU", 30), (*b"NI", 28), (*b"NL", 18), (*b"NO", 15), (*b"OM", 23), (*b"PK", 24),
    (*b"PL", 28), (*b"PS", 29), (*b"PT", 25), (*b"QA", 29), (*b"RO", 24), (*b"RS", 22), (*b"RU", 33), (*b"SA", 24),
    (*b"SC", 31), (*b"SD", 18), (*b"SE", 24), (*b"SI", 19), (*b"SK", 24), (*b"SM", 27), (*b"SO", 23), (*b"ST", 25),
    (*b"SV", 28), (*b"TL", 23), (*b"TN", 24), (*b"TR", 26), (*b"UA", 29), (*b"VA", 22), (*b"VG", 24), (*b"XK", 20),
    (*b"YE", 30),
];

/// The end of the account number at `at`: in one piece, or in groups of four with spaces or dashes; upper or lower
/// case.
pub(super) fn end(view: &View<'_>, at: usize) -> Option<usize> {
    let digit = |place| view.at(place).filter(u8::is_ascii_digit);
    let country = [
        view.at(at)?.to_ascii_uppercase(),
        view.at(at + 1)
            .filter(u8::is_ascii_alphabetic)?
            .to_ascii_uppercase(),
    ];
    digit(at + 2)?;
    digit(at + 3)?;
    let length = length_of(country)?;
    let mut characters = [0u8; LONGEST];
    let mut place = at;
    let mut separator = None;
    for (index, slot) in characters.iter_mut().take(length).enumerate() {
        if index > 0 && index % 4 == 0 {
            let this = view.at(place).filter(|b| matches!(b, b' ' | b'-'));
            if *separator.get_or_insert(this) != this {
                return None;
            }
            place += usize::from(this.is_some());
        }
        *slot = view
            .at(place)
            .filter(u8::is_ascii_alphanumeric)?
            .to_ascii_uppercase();
        place += 1;
    }
    let number = characters.get(..length)?;
    (remainder(number)? == 1 && view.ends_at(place)).then_some(place)
}

fn length_of(country: [u8; 2]) -> Option<usize> {
    let index = LENGTHS.binary_search_by_key(&country, |(code, _)| *code).ok()?;
    LENGTHS.get(index).map(|(_, length)| *length)
}

/// The number with its first four characters moved to the end, letters as two digits, modulo 97.
fn remainder(number: &[u8]) -> Option<u32> {
    let (head, tail) = number.split_at_checked(4)?;
    Some(tail.iter().chain(head).fold(0, |rest, byte| {
        let value = u32::from(*byte);
        match byte {
            b'0'..=b'9' => (rest * 10 + value - 48) % 97,
            _ => (rest * 100 + value - 55) % 97,
        }
    }))
}
