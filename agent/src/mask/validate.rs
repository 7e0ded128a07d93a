//! Whether a candidate is what it looks like.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::detect::Detector;

/// Bytes before a candidate that may say what it is.
const CONTEXT: usize = 40;

/// Checks `text[start..end]`; the end of the value where it is one (a trailing separator may be cut off).
pub(super) fn check(detector: Detector, text: &[u8], start: usize, end: usize) -> Option<usize> {
    let value = text.get(start..end)?;
    let fine = match detector {
        Detector::PemKey | Detector::StripeKey | Detector::GitHubKey | Detector::SlackKey => true,
        Detector::AnthropicKey | Detector::OpenAiKey | Detector::AwsKey => is_mixed(value),
        Detector::Jwt => is_jwt(value),
        Detector::Email => is_email(value),
        Detector::Iban => return iban_end(value).map(|length| start + length),
        Detector::UsSsn => is_ssn(
            value,
            text.get(start.saturating_sub(CONTEXT)..start).unwrap_or_default(),
        ),
        Detector::Card => is_card(value),
        Detector::Phone => is_phone(value, start.checked_sub(1).and_then(|at| text.get(at)).copied()),
        Detector::Ipv4 => is_ipv4(value, text, start, end),
        Detector::Ipv6 => is_ipv6(value),
    };
    fine.then_some(end)
}

/// Letters and digits: a word of one kind only is no key.
fn is_mixed(value: &[u8]) -> bool {
    let tail = value.get(4..).unwrap_or_default();
    tail.iter().any(u8::is_ascii_digit) && tail.iter().any(u8::is_ascii_alphabetic)
}

/// The header must decode to a JSON object (RFC 7519).
fn is_jwt(value: &[u8]) -> bool {
    let header = value.split(|b| *b == b'.').next().unwrap_or_default();
    let decoded = data_encoding::BASE64URL_NOPAD.decode(header);
    decoded.is_ok_and(|json| json.starts_with(b"{\"") && json.ends_with(b"}"))
}

fn is_email(value: &[u8]) -> bool {
    let Some(at) = memchr::memrchr(b'@', value) else {
        return false;
    };
    let (local, domain) = value.split_at(at);
    let top = domain.rsplit(|b| *b == b'.').next().unwrap_or_default();
    top.len() >= 2
        && top.iter().any(u8::is_ascii_alphabetic)
        && !local.starts_with(b".")
        && !local.ends_with(b".")
        && memchr::memmem::find(local, b"..").is_none()
}

/// ISO 13616: length by country, remainder 1 of 97. The candidate may run on into the next word.
fn iban_end(value: &[u8]) -> Option<usize> {
    let length = iban_length(value.get(..2)?)?;
    let mut seen = 0;
    let mut remainder = 0u32;
    let mut first_four = [0; 4];
    let mut end = 0;
    for (at, byte) in value.iter().enumerate().filter(|(_, b)| **b != b' ') {
        if let Some(slot) = first_four.get_mut(seen) {
            *slot = *byte;
        } else {
            remainder = fold97(remainder, *byte)?;
        }
        seen += 1;
        if seen == length {
            end = at + 1;
            break;
        }
    }
    for byte in first_four {
        remainder = fold97(remainder, byte)?;
    }
    let next = value.get(end).copied().unwrap_or(b' ');
    (seen == length && remainder == 1 && next == b' ').then_some(end)
}

fn fold97(remainder: u32, byte: u8) -> Option<u32> {
    match byte {
        b'0'..=b'9' => Some((remainder * 10 + u32::from(byte - b'0')) % 97),
        b'A'..=b'Z' => Some((remainder * 100 + u32::from(byte - b'A') + 10) % 97),
        _ => None,
    }
}

fn iban_length(country: &[u8]) -> Option<usize> {
    const LENGTHS: &[(&[u8; 2], usize)] = &[
        (b"AD", 24),
        (b"AE", 23),
        (b"AL", 28),
        (b"AT", 20),
        (b"AZ", 28),
        (b"BA", 20),
        (b"BE", 16),
        (b"BG", 22),
        (b"BH", 22),
        (b"BR", 29),
        (b"CH", 21),
        (b"CR", 22),
        (b"CY", 28),
        (b"CZ", 24),
        (b"DE", 22),
        (b"DK", 18),
        (b"DO", 28),
        (b"EE", 20),
        (b"EG", 29),
        (b"ES", 24),
        (b"FI", 18),
        (b"FO", 18),
        (b"FR", 27),
        (b"GB", 22),
        (b"GE", 22),
        (b"GI", 23),
        (b"GL", 18),
        (b"GR", 27),
        (b"GT", 28),
        (b"HR", 21),
        (b"HU", 28),
        (b"IE", 22),
        (b"IL", 23),
        (b"IQ", 23),
        (b"IS", 26),
        (b"IT", 27),
        (b"JO", 30),
        (b"KW", 30),
        (b"KZ", 20),
        (b"LB", 28),
        (b"LC", 32),
        (b"LI", 21),
        (b"LT", 20),
        (b"LU", 20),
        (b"LV", 21),
        (b"MC", 27),
        (b"MD", 24),
        (b"ME", 22),
        (b"MK", 19),
        (b"MR", 27),
        (b"MT", 31),
        (b"MU", 30),
        (b"NL", 18),
        (b"NO", 15),
        (b"PK", 24),
        (b"PL", 28),
        (b"PS", 29),
        (b"PT", 25),
        (b"QA", 29),
        (b"RO", 24),
        (b"RS", 22),
        (b"SA", 24),
        (b"SE", 24),
        (b"SI", 19),
        (b"SK", 24),
        (b"SM", 27),
        (b"TN", 24),
        (b"TR", 26),
        (b"UA", 29),
        (b"VA", 22),
        (b"VG", 24),
        (b"XK", 20),
    ];
    LENGTHS
        .iter()
        .find(|(code, _)| code.as_slice() == country)
        .map(|(_, length)| *length)
}

/// Never issued: area 000, 666 and 9xx, group 00, serial 0000. Without dashes only where the text says what it is.
fn is_ssn(value: &[u8], before: &[u8]) -> bool {
    let digits: Vec<u8> = value.iter().copied().filter(u8::is_ascii_digit).collect();
    let (Some(area), Some(group), Some(serial)) = (digits.get(..3), digits.get(3..5), digits.get(5..)) else {
        return false;
    };
    let issued =
        area != b"000" && area != b"666" && !area.starts_with(b"9") && group != b"00" && serial != b"0000";
    issued && (value.contains(&b'-') || says_ssn(before))
}

fn says_ssn(before: &[u8]) -> bool {
    let lower = before.to_ascii_lowercase();
    [b"ssn".as_slice(), b"social security", b"social_security"]
        .iter()
        .any(|w| memchr::memmem::find(&lower, w).is_some())
}

/// ISO/IEC 7812: a known issuer's range and length, and the Luhn check digit; the same digit over and over is none.
fn is_card(value: &[u8]) -> bool {
    let digits: Vec<u8> = value
        .iter()
        .filter(|b| b.is_ascii_digit())
        .map(|b| b - b'0')
        .collect();
    let prefix = |n: usize| {
        digits
            .iter()
            .take(n)
            .fold(0u32, |sum, d| sum * 10 + u32::from(*d))
    };
    let (two, three, four) = (prefix(2), prefix(3), prefix(4));
    let issuer = match digits.len() {
        13 => digits.first() == Some(&4),
        14 => matches!(three, 300..=305) || matches!(two, 36 | 38 | 39),
        15 => matches!(two, 34 | 37),
        16 | 18 | 19 => {
            digits.first() == Some(&4)
                || matches!(two, 51..=55 | 62 | 65)
                || (2221..=2720).contains(&four)
                || matches!(four, 6011 | 3528..=3589)
                || matches!(three, 644..=649)
                || matches!(two, 50 | 56..=58 | 63 | 67)
        }
        _ => false,
    };
    let luhn = digits.iter().rev().enumerate().fold(0u32, |sum, (at, digit)| {
        let doubled = u32::from(*digit) * if at % 2 == 1 { 2 } else { 1 };
        sum + doubled / 10 + doubled % 10
    });
    let first = digits.first();
    issuer && luhn.is_multiple_of(10) && !digits.iter().all(|d| Some(d) == first)
}

/// E.164: at most fifteen digits, at least seven; nothing that a longer number or word runs into.
fn is_phone(value: &[u8], before: Option<u8>) -> bool {
    let digits = value.iter().filter(|b| b.is_ascii_digit()).count();
    (8..=15).contains(&digits) && !before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'+')
}

/// Not part of a longer dotted number (a version of five parts), not loopback or unspecified.
fn is_ipv4(value: &[u8], text: &[u8], start: usize, end: usize) -> bool {
    let joins = |at: Option<usize>| {
        at.and_then(|at| text.get(at))
            .is_some_and(|b| *b == b'.' || b.is_ascii_digit())
    };
    let after = text.get(end) == Some(&b'.') && text.get(end + 1).is_some_and(u8::is_ascii_digit);
    let parsed = std::str::from_utf8(value)
        .ok()
        .and_then(|v| v.parse::<Ipv4Addr>().ok());
    !joins(start.checked_sub(1))
        && !after
        && parsed.is_some_and(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

fn is_ipv6(value: &[u8]) -> bool {
    let parsed = std::str::from_utf8(value)
        .ok()
        .and_then(|v| v.parse::<Ipv6Addr>().ok());
    // Times such as 12:34:56 and `::` in code are none.
    value.len() >= 6 && parsed.is_some_and(|ip| !ip.is_loopback() && !ip.is_unspecified())
}
