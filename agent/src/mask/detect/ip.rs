//! IP addresses that can be somebody's: not loopback, unspecified or a netmask.
//!
//! Four numbers with dots are an address unless something says that they are a version: a word before
//! (`version 1.2.3.4`, `v1.2.3.4`), letters joined by a dash (`tool-1.2.3.4`, `1.2.3.4-beta`), or more parts.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::super::view::View;

const VERSION_WORDS: &[&[u8]] = &[b"version", b"ver", b"release", b"revision", b"build", b"oid"];
/// How close before the address such a word must end: `"version": "1.2.3.4"`.
const VERSION_GAP: usize = 4;
/// How far back is looked: the gap, the longest word, and one letter more that would make it another word.
const VERSION_REACH: usize = VERSION_GAP + 9;
/// Longest textual form (RFC 4291, 2.2: eight groups of which the last two are an IPv4 address).
const V6_LONGEST: usize = 45;

/// The end of the IPv4 address at `at`.
pub(super) fn v4(view: &View<'_>, at: usize) -> Option<usize> {
    let before = view.back(at, 1);
    let dashed = before == Some(b'-') && view.back(at, 2).is_some_and(|b| b.is_ascii_alphabetic());
    if dashed || matches!(before, Some(b'.' | b'_')) {
        return None;
    }
    let mut octets = [0u8; 4];
    let mut place = at;
    for (index, octet) in octets.iter_mut().enumerate() {
        if index > 0 {
            if view.at(place)? != b'.' {
                return None;
            }
            place += 1;
        }
        let end = view.run(place, 3, |b| b.is_ascii_digit());
        let text = view.known(place, end);
        if text.len() > 1 && text.first() == Some(&b'0') {
            return None;
        }
        *octet = std::str::from_utf8(text).ok()?.parse().ok()?;
        place = end;
    }
    let goes_on = match view.at(place) {
        Some(b'.') => view.at(place + 1).is_some_and(|b| b.is_ascii_alphanumeric()),
        Some(b'-') => view.at(place + 1).is_some_and(|b| b.is_ascii_alphabetic()),
        Some(b'_') => true,
        Some(_) | None => !view.ends_at(place),
    };
    let address = Ipv4Addr::from(octets);
    let mask = octets.starts_with(&[255]);
    let nobody = address.is_loopback() || address.is_unspecified() || mask;
    (!goes_on && !nobody && !is_version(view, at)).then_some(place)
}

/// Whether a word that announces a version ends shortly before the address.
fn is_version(view: &View<'_>, at: usize) -> bool {
    let near = view.known(at.saturating_sub(VERSION_REACH), at);
    let gap = near.iter().rev().take_while(|b| !b.is_ascii_alphabetic()).count();
    let text = near.get(..near.len() - gap).unwrap_or_default();
    gap <= VERSION_GAP
        && VERSION_WORDS.iter().any(|word| {
            text.split(|b| !b.is_ascii_alphabetic())
                .next_back()
                .is_some_and(|last| last.eq_ignore_ascii_case(word))
        })
}

/// The end of the IPv6 address at `at`.
pub(super) fn v6(view: &View<'_>, at: usize) -> Option<usize> {
    if matches!(view.back(at, 1), Some(b':' | b'.' | b'_')) {
        return None;
    }
    // A form feed or backspace of JSON (RFC 8259, 7), and no digit: the text would not be JSON without its letter.
    if matches!(view.at(at), Some(b'b' | b'f')) && view.back(at, 1) == Some(b'\\') {
        return None;
    }
    // Most words fail here: at most four digits, then a colon.
    let first = view.run(at, 5, |b| b.is_ascii_hexdigit());
    if first - at > 4 || view.at(first)? != b':' {
        return None;
    }
    let end = view.run(at, V6_LONGEST + 1, |b| {
        b.is_ascii_hexdigit() || b == b':' || b == b'.'
    });
    if end - at > V6_LONGEST || !view.ends_at(end) || view.at(end) == Some(b'_') {
        return None;
    }
    let text = std::str::from_utf8(view.known(at, end)).ok()?;
    let address = |text: &str| text.parse::<Ipv6Addr>().ok().map(|ip| (ip, text.len()));
    let trimmed = text.strip_suffix(['.', ':']);
    let (ip, length) = address(text).or_else(|| trimmed.and_then(address))?;
    let nobody = ip.is_loopback() || ip.is_unspecified();
    (!nobody && is_likely(view.known(at, at + length))).then_some(at + length)
}

/// Not a path of a programming language (`face::add`), not a hardware address of eight bytes.
fn is_likely(text: &[u8]) -> bool {
    let hardware = text.len() == 23 && text.split(|b| *b == b':').all(|group| group.len() == 2);
    text.len() >= 6 && text.iter().any(u8::is_ascii_digit) && !hardware
}
