//! Private keys in PEM form (RFC 7468): from the BEGIN line to the END line, or to the end of the text.

use super::super::view::View;

const BEGIN: &[u8] = b"-----BEGIN";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";
/// Longest label, in bytes: `ENCRYPTED PRIVATE KEY` and the like.
const LABEL: usize = 64;

/// The place of `-----BEGIN` where a word, looked at from `pos`, ends with it at `end`.
pub(in crate::mask) fn start(view: &View<'_>, pos: usize, end: usize) -> Option<usize> {
    let start = end.checked_sub(BEGIN.len())?;
    (start >= pos && view.known(start, end) == BEGIN).then_some(start)
}

/// The end of the BEGIN line of a private key, from the blank behind `-----BEGIN`.
pub(in crate::mask) fn header(view: &View<'_>, blank: usize) -> Option<usize> {
    label_end(view, blank + 1)
}

/// The end of `… PRIVATE KEY-----`.
fn label_end(view: &View<'_>, at: usize) -> Option<usize> {
    let end = view.run(at, LABEL, |b| {
        b.is_ascii_uppercase() || b.is_ascii_digit() || b == b' '
    });
    let label = view.known(at, end);
    let private = label.ends_with(b"PRIVATE KEY") || label.ends_with(b"PRIVATE KEY BLOCK");
    (view.has(end, DASHES) && private).then_some(end + DASHES.len())
}

/// How far the rest of a key reaches from `pos`, and whether it is still open there.
pub(super) fn tail(view: &View<'_>, pos: usize) -> (usize, bool) {
    let mut from = pos;
    while let Some(found) = memchr::memmem::find(view.known(from, view.len()), END) {
        let line = from + found;
        let end = label_end(view, line + END.len());
        if view.take_short() {
            return (line, true);
        }
        if let Some(end) = end {
            return (end, false);
        }
        from = line + END.len();
    }
    if view.is_complete() {
        return (view.len(), false);
    }
    // The last bytes may be the beginning of the END line.
    (view.len().saturating_sub(END.len() - 1).max(pos), true)
}
