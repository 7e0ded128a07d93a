//! E-mail addresses: `local@domain.top`, also with letters beyond ASCII (RFC 6531).
//!
//! An address without a dot in its domain (`root@localhost`), or whose last label begins with a digit
//! (`package@1.2.3`), is none.

use super::super::view::View;

/// Longest local part, in bytes (RFC 5321, 4.5.3.1.1). Of a longer word before the `@`, the last so many count.
pub(in crate::mask) const LOCAL: usize = 64;
/// Longest domain, in bytes (RFC 5321, 4.5.3.1.2).
const DOMAIN: usize = 253;

/// Where the local part begins that ends at `at` (the place of the `@`) and not before `pos`.
pub(in crate::mask) fn start(view: &View<'_>, pos: usize, at: usize) -> usize {
    let mut start = at.saturating_sub(LOCAL).max(pos);
    if let Some(dots) = memchr::memmem::rfind(view.known(start, at), b"..") {
        start += dots + 2;
    }
    // An escape's last letters are no part of the word that follows it.
    if view.back(start, 1) == Some(b'\\') {
        start += escape_length(view.known(start, at));
    } else if let [b'%', a, b, ..] = view.known(start, at)
        && a.is_ascii_hexdigit()
        && b.is_ascii_hexdigit()
    {
        start += 3;
    }
    let skipped = view
        .known(start, at)
        .iter()
        .position(|b| b.is_ascii_alphanumeric() || *b == b'_' || *b >= 0xC0);
    skipped.map_or(at, |n| start + n)
}

/// Length of what belongs to a `\` before it.
fn escape_length(after: &[u8]) -> usize {
    match after {
        [b'u', a, b, c, d, ..] if [a, b, c, d].iter().all(|x| x.is_ascii_hexdigit()) => 5,
        [b'n' | b'r' | b't' | b'b' | b'f' | b'v', ..] => 1,
        _ => 0,
    }
}

/// The end of the address whose local part is `start..at`.
pub(in crate::mask) fn end(view: &View<'_>, start: usize, at: usize) -> Option<usize> {
    if start >= at || view.known(at - 1, at) == b"." {
        return None;
    }
    let domain = at + 1;
    let mut end = None;
    let mut label = domain;
    loop {
        let label_end = view.run(label, DOMAIN - (label - domain), in_label);
        // No label has five dashes in a row, but a private key's first line begins with them.
        let whole = view.known(label, label_end);
        let cut = whole.windows(5).position(|window| window == b"-----");
        let (text, label_end) = match cut {
            Some(dashes) => (whole.get(..dashes).unwrap_or_default(), label + dashes),
            None => (whole, label_end),
        };
        if text.is_empty() || text.starts_with(b"-") {
            return end;
        }
        if label > domain && is_top(text) {
            let dashes = text.iter().rev().take_while(|b| **b == b'-').count();
            end = Some(label_end - dashes);
        }
        label = label_end + 1;
        if cut.is_some() || label - domain >= DOMAIN || view.at(label_end) != Some(b'.') {
            return end;
        }
    }
}

fn in_label(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte >= 0x80
}

fn is_top(label: &[u8]) -> bool {
    label.len() >= 2
        && label
            .first()
            .is_some_and(|b| b.is_ascii_alphabetic() || *b >= 0x80)
}
